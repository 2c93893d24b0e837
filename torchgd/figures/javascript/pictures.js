// The pictures: the loss over the weights, the data and ŷ, the loss by step, ρ over α, and the
// chain rule. In all of them the data and their loss are black, the descent is blue, the sample of
// the step that comes next and its slope are green, and another descent is orange.

let view = null; // kept while it descends, so that the axes keep still; wider where it must be

function around(values, centre, room) {
  const half = room * (Math.max(...values.map((v) => Math.abs(v - centre))) || 1);
  return [centre - half, centre + half];
}
function look(room = 1.3) {
  const found = leastSquares(), best = found || now().w, [i, j] = run.plane;
  const ends = [run.start, state.history[0].w, lastFinite().w];
  const side = (p) => around(ends.map((w) => w[p]), best[p], room);
  view = { best, unique: found !== null, i: side(i), j: j === null ? null : side(j) };
  const spread = (values, part) => {
    const [low, high] = [Math.min(...values), Math.max(...values)], wide = high - low || 1;
    return [low - part * wide, high + part * wide];
  };
  view.x = spread(run.x, 0.15);
  view.y = spread([...run.y, ...run.x.map((x) => predict(best, x))], 0.25);
  view.steps = 10;
  highest(ends, 1.1);
}
// The losses at these weights fit on the axis.
function highest(ends, room) {
  const losses = ends.flatMap((w) => [meanLoss(w), lossAndGradient(w, batchOf(now().k)).loss]);
  const all = everyone().slice(0, 12).map((n) => lossAndGradient(state.history[0].w, [n]).loss);
  const seen = [...losses, ...(state.batch < run.x.length ? all : [])].filter(Number.isFinite);
  view.loss = [0, room * Math.min(Math.max(...seen), 1e300) || 1];
}
// Take a wider view where the descent, or a sample, is beyond its edge.
function widen() {
  const { w } = lastFinite(), [i, j] = run.plane;
  const beyond = (v, [low, high]) => v < low || v > high;
  const data = run.x.some((x, n) => beyond(x, view.x) || beyond(run.y[n], view.y));
  if (beyond(w[i], view.i) || (j !== null && beyond(w[j], view.j)) || data) look(data ? 1.3 : 2);
  if (lossAndGradient(w, batchOf(now().k)).loss > view.loss[1]) highest([w], 2);
  while (view.steps < now().k) view.steps = roundBelow(2.5 * view.steps);
}
const lastFinite = () =>
  state.history.findLast((at) => at.w.every((v) => Math.abs(v) < 1e150)) || state.history[0];

function drawLoss() {
  if (run.plane[1] === null) drawParabola(); else drawContours();
}
function drawParabola() {
  const [name] = run.names, { w } = lastFinite(), samples = batchOf(now().k);
  const { fx, fy, picture, inside, back } =
    frame(at("loss"), view.i, view.loss, [name, "loss"]);
  const curve = (kind, loss) =>
    drawPath(inside, kind, along(view.i, 80).map((v) => [fx(v), fy(loss([v]))]));
  const ofOne = (n) => (v) => lossAndGradient(v, [n]).loss;
  if (state.batch < run.x.length)
    for (const n of everyone().slice(0, 12)) curve("thin", ofOne(n));
  curve("data", meanLoss);
  if (samples.length < run.x.length) curve("turn", (v) => lossAndGradient(v, samples).loss);
  for (const [path, kind] of descents())
    drawPath(inside, `${kind} faint`, path.map((s) => [fx(s.w[0]), fy(lossOf(s))]));
  const here = lossAndGradient(w, samples), half = (view.i[1] - view.i[0]) / 6;
  const tangent = (d) => [fx(w[0] + d), fy(here.loss + here.gradient[0] * d)];
  drawPath(inside, "turn", [-half, half].map(tangent), { id: "tangent" });
  if (finite()) arrow(inside, "turn", tangent(0), tangent(step(now()).w[0] - w[0]));
  const other = otherNow();
  if (other) triangle(picture, fx(other.w[0]), fy(lossOf(other)));
  const moved = (v) => place({ [name]: v }), by = (view.i[1] - view.i[0]) / 100;
  handle(at("loss"), onChart(fx(w[0]), fy(here.loss)), {
    kind: "model", id: "weight", label: `the weight ${name}`, value: w[0], range: view.i,
    text: `${name} = ${short(w[0])}, loss ${short(meanLoss(w))}`,
    move: (px) => moved(back.x(px)), nudge: (dx, dy) => moved(w[0] + (dx + dy) * by),
  });
  const one = samples.length < run.x.length;
  at("loss-caption").textContent =
    `Black: the mean loss${one ? "; thin: each sample's; green: the next step's" : ""}, with its ` +
    `slope; blue: the way so far. The arrow is the next step. Drag the dot, or use the arrow keys.`;
}
function drawContours() {
  const [i, j] = run.plane, [a, b] = [run.names[i], run.names[j]], { w } = lastFinite();
  const { fx, fy, picture, inside, back } = frame(at("loss"), view.i, view.j, [a, b]);
  for (const ring of rings(i, j)) {
    const points = ring.map(([u, v]) => [fx(view.best[i] + u), fy(view.best[j] + v)]);
    drawPath(inside, "thin", points);
  }
  if (view.unique) write(inside, "★", fx(view.best[i]), fy(view.best[j]) + 5);
  for (const [path, kind] of descents())
    drawPath(inside, kind, path.map((s) => [fx(s.w[i]), fy(s.w[j])]));
  const next = step(now()).w;
  if (finite())
    arrow(inside, "turn", [fx(w[i]), fy(w[j])], [fx(next[i]), fy(next[j])].map(bounded));
  const other = otherNow();
  if (other) triangle(picture, fx(other.w[i]), fy(other.w[j]));
  const [wide, tall] = [view.i, view.j].map(([low, high]) => (high - low) / 100);
  const others = run.names.filter((name) => name !== a && name !== b);
  handle(at("loss"), onChart(fx(w[i]), fy(w[j])), {
    kind: "model", id: "weight", label: `the weights ${a} and ${b}`, value: w[i], range: view.i,
    text: `${a} = ${short(w[i])}, ${b} = ${short(w[j])}, loss ${short(meanLoss(w))}`,
    move: (px, py) => place({ [a]: back.x(px), [b]: back.y(py) }),
    nudge: (dx, dy) => place({ [a]: w[i] + dx * wide, [b]: w[j] + dy * tall }),
  });
  at("loss-caption").textContent =
    `Lines of equal loss${others.length ? `, with ${others.join(" and ")} as at ★` : ""}; ★ is ` +
    `the lowest point. The arrow is the next step. Drag the dot, or use the arrow keys.`;
}
// Level lines of ½ dᵀHd, which are ellipses.
function rings(i, j) {
  const h = hessian(everyone()), [a, b, c] = [h[i][i], h[i][j], h[j][j]];
  const mid = (a + c) / 2, off = Math.hypot((a - c) / 2, b), turn = 0.5 * Math.atan2(2 * b, a - c);
  const width = ([low, high]) => (high - low) ** 2 / 8;
  return [...Array(9).keys()].map((k) => {
    const level = (width(view.i) * a + width(view.j) * c) * 4 ** -k;
    return along([0, 2 * Math.PI], 60).map((t) => {
      const u = Math.cos(t) * Math.sqrt((2 * level) / (mid + off));
      const v = Math.sin(t) * Math.sqrt((2 * level) / Math.max(mid - off, 1e-12));
      return [u * Math.cos(turn) - v * Math.sin(turn), u * Math.sin(turn) + v * Math.cos(turn)];
    });
  });
}

function drawFit() {
  const { w } = lastFinite(), turns = batchOf(now().k), few = turns.length < run.x.length;
  const { fx, fy, inside, back } =
    frame(at("fit"), view.x, view.y, [labelled("x"), labelled("y")]);
  const curve = (weights, kind) =>
    drawPath(inside, kind, along(view.x, 60).map((x) => [fx(x), fy(predict(weights, x))]));
  if (view.unique) curve(view.best, "thin");
  for (const n of few || turns.length < 13 ? turns : []) {
    const from = fy(predict(w, run.x[n])), to = fy(run.y[n]);
    drawPath(inside, "turn", [[fx(run.x[n]), from], [fx(run.x[n]), to]]);
  }
  if (otherNow()) curve(otherNow().w, "other");
  curve(w, "model");
  const [wide, tall] = [view.x, view.y].map(([low, high]) => (high - low) / 100);
  run.x.forEach((x, n) => {
    const moved = (nx, ny) => { run.x[n] = nx; run.y[n] = ny; changed(); };
    handle(at("fit"), onChart(fx(x), fy(run.y[n])), {
      r: run.x.length > 100 ? 3 : 7,
      kind: few && turns.includes(n) ? "data turn" : "data",
      id: `sample-${n}`, label: `sample ${n + 1}`,
      value: run.y[n], range: view.y,
      text: `x = ${withUnit(x, "x")}, y = ${withUnit(run.y[n], "y")}`,
      move: (px, py) => moved(back.x(px), back.y(py)),
      nudge: (dx, dy) => moved(x + dx * wide, run.y[n] + dy * tall),
    });
  });
}
const labelled = (axis) => {
  const [name, unit] = run.axes[axis];
  return unit ? `${name} [${unit}]` : name;
};
const withUnit = (value, axis) => `${short(value)} ${run.axes[axis][1]}`.trim();

// log₁₀ of what is left of the loss above its minimum; what is nothing lies on the axis below.
function drawCurve() {
  const least = view.unique ? meanLoss(view.best) : 0;
  const { reports } = state.other ? state.other.change : {};
  const logarithm = (v) => (v > 0 ? Math.log10(v) : v <= 0 ? -Infinity : Infinity); // NaN is much
  const left = (s) => logarithm(s.mean - least);
  const lost = reports ? (s) => logarithm(reports(s) - least) : left;
  const paths = descents().map(([path, kind]) => [path.map(kind === "other" ? lost : left), kind]);
  const seen = paths.flatMap(([path]) => path).filter(Number.isFinite);
  const top = Math.ceil((seen.length ? Math.max(...seen) : 0) + 0.1);
  const low = Math.min(...seen, top - 1);
  const bottom = top - 4 * Math.max(1, Math.ceil((top - low) / 4));
  const { fx, fy, picture, inside } = frame(at("curve"), [0, view.steps], [bottom, top],
    ["step", "loss − its minimum"], { yTicks: tensOf(bottom, top).map((k) => [k, tenTo(k)]) });
  const height = (y) => (y === Infinity ? BOX.top : Number.isFinite(y) ? fy(y) : BOX.bottom);
  for (const [path, kind] of paths) {
    drawPath(inside, kind, path.map((y, k) => [fx(k), height(y)]));
    const [x, y] = onChart(fx(path.length - 1), height(path[path.length - 1]));
    if (kind === "other") triangle(picture, x, y);
    else draw(picture, "circle", { class: "model", r: 5, cx: x, cy: y });
  }
  const here = `the mean loss is ${short(now().mean)} at step ${now().k}`;
  if (state.running) return; // a screen reader hears of it afterwards
  at("curve").setAttribute("aria-label", `${here}, its minimum ${short(least)}`);
}

// ρ over the rates of the slider that stands above it.
function drawRho() {
  const svg = at("rho"), top = sliderTop(), { rho, stable } = state.known, bottom = 102, most = 2;
  const { fx, fy, picture, inside } = frame(svg, [0, top], [0, most], ["α", "ρ"], { bottom });
  for (const [low, high] of stable) {
    const x = fx(Math.min(low, top)), width = fx(Math.min(high, top)) - x;
    draw(inside, "rect", { class: "stable", x, y: BOX.top, width, height: bottom - BOX.top });
  }
  draw(inside, "path", { class: "axis", d: `M${BOX.left} ${fy(1)}H${BOX.right}` });
  if (!state.known.drawn) state.known.drawn = along([0, top], 240).map((rate) => [rate, rho(rate)]);
  const points = state.known.drawn.map(([rate, factor]) => [fx(rate), fy(Math.min(factor, 1e3))]);
  drawPath(inside, "model", points);
  const factor = Math.min(rho(state.rate), most);
  const [cx, cy] = [fx(Math.min(state.rate, top)), fy(factor)];
  draw(picture, "circle", { class: "model", id: "rho-now", r: 6, cx, cy });
}

// A nudge of a weight moves ŷ ∂ŷ/∂w times as far, and that moves the loss ∂loss/∂ŷ times as far.
function nudged() {
  const p = Number(at("nudged").value), [n] = batchOf(now().k), { w } = lastFinite();
  const by = Number(at("nudge").value) * view.nudge, x = run.x[n], y = run.y[n];
  const moved = w.map((v, q) => (q === p ? v + by : v));
  const values = [w[p], predict(w, x), (predict(w, x) - y) ** 2];
  const after = [w[p] + by, predict(moved, x), (predict(moved, x) - y) ** 2];
  const factors = [phi(x)[p], 2 * (values[1] - y)];
  return { p, n, by, values, after, factors, name: run.names[p] };
}
function drawChain() {
  view.nudge = roundBelow((view.i[1] - view.i[0]) / 10);
  const svg = at("chain"), { p, n, by, values, after, factors, name } = nudged();
  svg.replaceChildren();
  const moves = values.map((value, k) => after[k] - value), four = (value) => compact(value);
  const most = Math.max(...moves.map(Math.abs)) || 1, rows = [32, 108, 184], middle = 185;
  // By the root, so that the smallest of three is seen beside the largest.
  const long = (move) => 120 * Math.sign(move) * Math.sqrt(Math.min(1, Math.abs(move) / most));
  [[name, "model"], ["ŷ", "model"], ["loss", "data"]].forEach(([quantity, kind], k) => {
    const row = rows[k], to = middle + (long(moves[k]) || 0);
    draw(svg, "path", { class: "rule", d: `M40 ${row}H384` });
    write(svg, quantity, 8, row + 5, "start");
    draw(svg, "circle", { class: kind, r: 5, cx: middle, cy: row });
    arrow(svg, "turn", [middle, row], [to, row]);
    const move = `${moves[k] < 0 ? "−" : "+"}${four(Math.abs(moves[k]))}`;
    write(svg, `${four(values[k])} → ${four(after[k])}, that is ${move}`, middle, row - 12);
  });
  const partial = `∂ŷ/∂${name} = ${["1", "x", "x²"][powers[p]]} = `;
  const formulas = knows(p) ? [partial, "∂loss/∂ŷ = 2(ŷ − y) = "] : ["", ""];
  factors.forEach((factor, k) => {
    draw(svg, "path", { class: "rule", d: `M${middle} ${rows[k] + 8}V${rows[k + 1] - 28}` });
    const said = `× ${formulas[k]}${four(factor)}`;
    write(svg, said, middle + 8, (rows[k] + rows[k + 1]) / 2, "start");
  });
  const [inner, outer] = factors, last = inner < 0 ? `(${four(inner)})` : four(inner);
  const product = `${four(outer)}·${last} = ${four(inner * outer)}`;
  write(svg, `∂loss/∂${name} = ${product}, of sample ${n + 1}`, 200, 224);
  const slope = four(inner * outer * by);
  write(svg, `the slope says ${slope}, the loss moves by ${four(moves[2])}`, 200, 246);
  if (state.running) return;
  const texts = [...svg.querySelectorAll("text")].map((node) => node.textContent);
  svg.setAttribute("aria-label", texts.join("; "));
  at("nudge").setAttribute("aria-valuetext", `${name} by ${four(by)}`);
}
