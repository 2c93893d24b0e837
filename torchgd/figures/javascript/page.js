// What is going on now, and what each control does.

const state = {
  rate: run.lr, momentum: run.momentum, batch: run.batch_size, other: null, found: new Set(),
  history: [], others: [], running: null, waiting: null,
};
const now = () => state.history[state.history.length - 1];
const otherNow = () => state.others[state.others.length - 1];
const descents = () =>
  [[state.history, "model"], [state.others, "other"]].filter(([path]) => path.length);
const knows = (p) => at("formulas").checked || state.found.has(p);
function lossOf(s) { // of the samples whose turn it is
  if (s.loss === undefined) s.loss = lossAndGradient(s.w, batchOf(s.k)).loss;
  return s.loss;
}
function measured(s) {
  s.mean = meanLoss(s.w);
  return s;
}
function begin(w = run.start) {
  state.history = [measured(initially(w))];
  state.others = state.other ? [measured(initially(w))] : [];
}
function forward() {
  const other = state.other && measured(step(otherNow(), state.other.change));
  state.history.push(measured(step(now())));
  if (other) state.others.push(other);
}

function show() {
  widen();
  for (const picture of [drawLoss, drawFit, drawCurve, drawRho, drawChain]) picture();
  at("number").textContent = now().k;
  at("said").replaceChildren(...stepSaid().map((line) => {
    const written = document.createElement("div");
    written.textContent = line;
    return written;
  }));
  at("warning").textContent = warning();
  at("back").disabled = state.history.length === 1;
  at("step").disabled = at("run").disabled = !finite();
}
function sliderTop() { // all stable intervals, unless that leaves the first one no room
  const { stable, end } = state.known, lowest = stable.length ? stable[0][1] : end;
  const last = Math.max(lowest, ...stable.map(([, high]) => high));
  if (!Number.isFinite(lowest)) return 1;
  return Math.max(1.5 * lowest, last < 20 * lowest ? 1.1 * last : 0);
}
function slider() {
  at("rate").value = Math.round((1000 * state.rate) / sliderTop());
  at("rate-number").value = state.rate;
  rateSaid();
}
function changed() { // the data; the rates take long, and follow when they keep still
  const found = leastSquares();
  Object.assign(view, { unique: found !== null, best: found || view.best });
  begin(now().w);
  show();
  clearTimeout(state.waiting);
  state.waiting = setTimeout(rated, 150);
}
function rated() {
  state.known = rates();
  slider();
  drawRho();
}
function place(weights) {
  begin(run.names.map((name, p) => weights[name] ?? lastFinite().w[p]));
  show();
}
function again(w = state.history[0].w) {
  begin(w);
  look();
  state.known = rates();
  slider();
  aboutSaid();
  show();
}
function descendBeside(other) { // from where the right descent began
  state.other = other;
  again();
}

// ---- Steps.

function stepped() {
  show();
  at("status").textContent = statusSaid();
}
function pause() {
  clearInterval(state.running);
  state.running = null;
  at("run").textContent = "Run";
  stepped();
}
at("step").onclick = () => { if (finite()) { forward(); stepped(); } };
at("back").onclick = () => {
  if (state.history.length === 1) return;
  state.history.pop();
  state.others.pop();
  stepped();
};
at("run").onclick = () => {
  if (state.running) return pause();
  at("run").textContent = "Pause";
  state.running = setInterval(() => {
    forward();
    if (finite()) show(); else pause();
  }, 60);
};
at("reset").onclick = () => {
  if (state.running) pause();
  run.x = [...given.x];
  run.y = [...given.y];
  const { lr: rate, momentum, batch_size: batch } = run;
  Object.assign(state, { rate, momentum, batch, other: null });
  at("batch").value = batch;
  at("momentum").value = momentum;
  at("own").value = at("own-said").textContent = at("mistake-said").textContent = "";
  at("mistake").value = "";
  at("use-own").checked = false;
  again(run.start);
  at("status").textContent = statusSaid();
};
document.addEventListener("keydown", (event) => {
  const { type, tagName } = event.target, typing = ["text", "number"].includes(type);
  if (typing || tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = { s: "step", b: "back", r: "run" }[event.key.toLowerCase()];
  if (button) at(button).click();
});

// ---- The options of the descent.

at("rate").oninput = () => {
  state.rate = Number(((Number(at("rate").value) * sliderTop()) / 1000).toPrecision(4));
  at("rate-number").value = state.rate;
  rateSaid();
  show();
};
at("rate-number").oninput = () => {
  const rate = at("rate-number").valueAsNumber;
  if (!(rate >= 0)) {
    at("rate-said").textContent = `Type a number, 0 or more; α stays ${full(state.rate)}.`;
    return;
  }
  state.rate = rate;
  at("rate").value = Math.round((1000 * rate) / sliderTop());
  rateSaid();
  show();
};
at("momentum").onchange = () => {
  const momentum = at("momentum").valueAsNumber;
  if (!(momentum >= 0 && momentum <= 0.99)) {
    at("rate-said").textContent = `Type a number from 0 to 0.99; μ stays ${full(state.momentum)}.`;
    at("momentum").value = state.momentum;
    return;
  }
  state.momentum = momentum;
  again();
};
at("batch").onchange = () => {
  state.batch = Number(at("batch").value);
  at("mistake-said").textContent = mistakeSaid(at("mistake").value);
  again();
};
at("formulas").onchange = at("nudge").oninput = at("nudged").onchange = show;

// ---- Another descent beside the right one: with your derivative, or with a mistake.

function ownChanged() {
  const text = at("own").value.trim();
  const own = text ? answered(text, run.names[Number(at("of").value)]) : null;
  at("own-said").textContent = own ? own.said : "";
  if (own && own.right) state.found.add(own.p);
  if (!at("use-own").checked) {
    if (state.other && state.other.own) return descendBeside(null);
    return show();
  }
  at("mistake").value = at("mistake-said").textContent = "";
  if (!own || !own.tree) return descendBeside(null);
  const of = (point) =>
    evaluate(own.tree, { ...point, ...named(point.w), ŷ: predict(point.w, point.x) }, FLOATS);
  return descendBeside({ title: "yours", own, change: yours(own.p, of) });
}
const named = (w) => Object.fromEntries(run.names.map((name, p) => [name, w[p]]));
// An answer's weight, its formula, whether it is right, and what is said of it.
function answered(text, unsaid) {
  try {
    const [name, formula] = assignment(text, unsaid), p = run.names.indexOf(name);
    const [tree, wrong] = judgeEach(name, formula), of = `∂loss/∂${name}`;
    at("of").value = p;
    const said = wrong ? `✗ ${of}: wrong: ${wrong}` : `✓ ${of}: right`;
    return { p, text: formula.trim(), tree, right: !wrong, said };
  } catch (error) {
    return { said: `✗ ${error.message}` };
  }
}
at("own").oninput = at("of").onchange = at("use-own").onchange = ownChanged;
at("mistake").onchange = () => {
  const name = at("mistake").value;
  at("use-own").checked = false;
  at("mistake-said").textContent = mistakeSaid(name);
  descendBeside(name ? { title: name, change: MISTAKES[name] } : null);
};

// ---- At first.

function choice(select, value, text) {
  const option = document.createElement("option");
  Object.assign(option, { value, textContent: text });
  at(select).append(option);
}
const given = { x: [...run.x], y: [...run.y] };
for (const size of [...new Set([1, run.batch_size, run.x.length])].sort((a, b) => a - b)) {
  const whole = size === run.x.length ? `all ${size}` : String(size);
  choice("batch", size, size === 1 ? "one sample" : whole);
}
run.names.forEach((name, p) => { choice("of", p, name); choice("nudged", p, name); });
choice("mistake", "", "none");
for (const name of Object.keys(run.mistakes)) choice("mistake", name, name);
at("batch").value = state.batch;
at("momentum").value = state.momentum;
at("such-as").textContent = `3x²(${run.names[0]} − y)`;
for (const chart of ["loss", "fit"]) dragging(at(chart));
again(run.start);
