// What is said of the step, of the rates and of the numbers' bits.

function residualOf(w, x, y) { // 1·2² + 3·2 + 1 − 4
  const factors = [() => "", (v) => bracket(v), (v) => `${bracket(v)}²`];
  const term = (value, q) => [bracket(value), factors[powers[q]](x)].filter(Boolean).join("·");
  return `${w.map(term).join(" + ")} − ${bracket(y)}`;
}
// ∂loss/∂w by its formula, once it is found or asked for, with the numbers of a single sample. Of
// several weights the residual, which all have, is written once.
function derivativeSaid(p, last) {
  const head = `∂loss/∂${run.names[p]}`, value = full(last.gradient[p]), n = last.samples.length;
  if (!knows(p)) return `${head} = ${value}`;
  const alone = powers.length === 1, residual = alone ? `(${run.formula} − y)` : "(ŷ − y)";
  const factor = ["", "x", "x²"][powers[p]], [i] = last.samples, x = run.x[i];
  if (n > 1) return `${head} = (2/${n}) Σ ${factor}${residual} = ${value}`;
  const number = ["", `${bracket(x)}·`, `${bracket(x)}²·`][powers[p]];
  const r = alone ? `(${residualOf(last.w, x, run.y[i])})` : bracket(predict(last.w, x) - run.y[i]);
  return `${head} = 2${factor}${residual} = 2·${number}${r} = ${value}`;
}
function updatesSaid(p, last) { // of v, where there is a momentum, and of w
  const name = run.names[p], alone = last.momentum === 0, g = `∂loss/∂${name}`;
  const value = last.gradient[p], taken = alone ? value : now().v[p];
  const kept = last.v ? `${full(last.momentum)}·${bracket(last.v[p])} + ${bracket(value)} = ` : "";
  const numbers = `${full(last.w[p])} − ${full(last.rate)}·${bracket(taken)}`;
  const update = `${name} ← ${name} − α·${alone ? g : "v"} = ${numbers} = ${full(now().w[p])}`;
  return alone ? [update] : [`v ← ${last.v ? `μ·v + ${g}` : g} = ${kept}${full(taken)}`, update];
}
function stepSaid() { // in lines
  const last = now().before;
  if (!last) return ["Press Step."];
  const n = last.samples.length, [i] = last.samples, x = run.x[i], y = run.y[i];
  const residual = `ŷ − y = ${residualOf(last.w, x, y)} = ${full(predict(last.w, x) - y)}`;
  return [
    ...(n === 1 && powers.length > 1 ? [residual] : []),
    ...run.names.flatMap((_, p) => [derivativeSaid(p, last), ...updatesSaid(p, last)]),
    `the loss of ${n === 1 ? `sample ${i + 1}` : `these ${n} samples`} was ${full(last.loss)}`,
    ...(state.other ? otherSaid() : []),
  ];
}
// Of the other descent: its gradient, its weight, and how far that is from the right one.
function otherSaid() {
  const { w, before } = otherNow(), { title, own } = state.other;
  return run.names.map((name, p) => {
    const ulps = ulpsApart(w[p], now().w[p]), apart = w[p] - now().w[p];
    const counted = `${ulps} ULP${ulps === 1 ? "" : "s"} apart`;
    const few = Object.is(w[p], now().w[p]) ? "the same bits" : counted;
    const formula = own && own.p === p ? `${own.text} = ` : "";
    const g = `∂loss/∂${name} = ${formula}${full(before.gradient[p])}`;
    const far = Number.isFinite(apart) ? `${short(Math.abs(apart))} apart` : "it has diverged";
    const how = ulps < 1e6 && Number.isFinite(apart) ? few : far;
    return `${title}: ${g}, ${name} = ${full(w[p])}, ${how}`;
  });
}
const finite = () => [...now().w, now().before ? now().before.loss : 0].every(Number.isFinite);
// That it diverged, or grows: a descent is to lower the loss.
function warning() {
  const shown = lastFinite(), charts = shown === now() ? "" : ` The charts show step ${shown.k}.`;
  if (!finite()) return `The descent has diverged: press Back, or Reset.${charts}`;
  const factor = now().mean / state.history[0].mean;
  const many = factor < Infinity ? compact(factor, 2) : "more than 10³⁰⁸";
  return factor > 10 ? `The loss grows: it is ${many} times that of the start.${charts}` : "";
}
// For a screen reader, when a step was taken by hand.
const statusSaid = () =>
  [`Step ${now().k}.`, ...run.names.map((name, p) => `${name} = ${short(now().w[p])}.`),
    `The mean loss is ${short(now().mean)}.`, warning()].join(" ").trim();

function growth(factor) {
  return factor > 1 + TIE ? "it grows" : factor < 1 - TIE ? "it shrinks" : "it does not grow";
}
function rateSaid() {
  const { rho, best } = state.known, factor = rho(state.rate);
  const unknown = view.unique ? "" :
    " The data do not determine the weights: there is no one minimum.";
  const isNear = Math.abs(factor - 1) > TIE && short(factor) === "1";
  const by = Number.isFinite(factor) ? digits(factor, isNear ? 12 : 6) : "more than float64 holds";
  const here = state.rate === 0 ? "It stands still." :
    `In the end an epoch multiplies w's distance from where it leads by ρ = ${by}: ` +
    `${growth(factor)}.`;
  const where = best ? inDigits(best) : "", before = where.startsWith("from") ? "" : "at ";
  const fastest = best ? `; it shrinks fastest ${before}${where}` : "";
  at("rate-said").textContent =
    `α = ${full(state.rate)}. ${here} Rates are ${stableSaid(state.known)}${fastest}.${unknown}`;
  const aloud = `α = ${short(state.rate)}, ρ = ${by}: ${growth(factor)}`;
  at("rate").setAttribute("aria-valuetext", aloud);
}
function stableSaid({ stable, end }) {
  if (!stable.length) return "not stable";
  const [[low, high], ...others] = stable, last = stable[stable.length - 1][1];
  const between = ([a, b]) => `from ${short(a)} to ${short(b)}`;
  if (high === Infinity) return "all stable";
  const named = others.slice(0, 2).map(between).join(" and "), left = others.length - 2;
  const more = left > 0 ? `, and in ${left} more intervals, the last up to ${short(last)}` : "";
  const unseen = end < Infinity ? ` (above ${short(end)} none is looked for)` : "";
  const begins = low === 0 ? `up to ${short(high)}` : between([low, high]);
  return `stable ${begins}${named && `, and again ${named}`}${more}${unseen}`;
}
function inDigits([low, high]) {
  for (const count of [6, 5, 4, 3])
    if (low.toPrecision(count) === high.toPrecision(count)) return digits(low, count);
  return `from ${digits(low, 4)} to ${digits(high, 4)}`;
}

// What runs here, and why the numbers may not be the run's, or PyTorch's, to the last bit.
function aboutSaid() {
  const size = state.batch, batch = size === run.x.length ? "full batch" : `batch size ${size}`;
  const other = size > run.terms ? `more than ${run.terms} terms torch adds in another order, ` +
    "n of them by at most n·ε·Σ|terms| apart"
    : run.lanes === 0 ? "in which order torch adds several terms there is not known" : "";
  const sums = size === 1 ? "" : other, unlike = run.unlike.join("; ");
  const machine = "PyTorch's on the machine that wrote this page";
  const which = `${run.names.join(", ")} ${run.names.length === 1 ? "brings" : "bring"}`;
  at("about").textContent = `${run.title}, ${batch}: ŷ = ${run.formula}. Which ${which} ŷ ` +
    "closest to the data? The loss, (1/N) Σ (ŷ − y)², says how far it is: each step goes down it.";
  at("bits").textContent = [
    unlike && `Its numbers are not the run's: ${unlike}.`,
    sums ? `Not every bit is ${machine}: ${sums}.`
      : unlike ? "" : `Every number here has the same bits as ${machine}.`,
  ].filter(Boolean).join(" ");
}

// A mistake in words, with what would make it seen where it changes nothing.
function mistakeSaid(name) {
  if (!name) return "";
  const scales = ["sum", "mean-of-a-scalar", "broadcast"].includes(name), all = run.x.length;
  const rounds = name === "two-roundings" ? " Many steps are rounded to the same bits." : "";
  const unseen = scales && state.batch === 1 && all > 1 ? "one sample a step: choose a larger batch"
    : name === "sequential" && powers.length === 1 ?
      "one weight: python scripts/compare.py --mistake sequential shows it"
    : name === "last-batch-loss" && state.batch === all ? "one batch: choose a smaller one" : "";
  return `${run.mistakes[name]}${rounds}${unseen && ` It changes nothing with ${unseen}.`}`;
}
