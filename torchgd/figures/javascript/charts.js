// Axes, marks and handles of a chart, of 400 by 260 units.

const NS = "http://www.w3.org/2000/svg";
function draw(parent, tag, attributes, text) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}
const write = (parent, text, x, y, anchor = "middle", more = {}) =>
  draw(parent, "text", { x, y, "text-anchor": anchor, ...more }, text);
const drawPath = (parent, kind, points, more = {}) =>
  draw(parent, "path", { class: kind, d: pathThrough(points), ...more });

const minus = (text) => text.replaceAll("-", "−");
const full = (value) => minus(String(value));
const digits = (value, count) =>
  minus(Number.isFinite(value) ? String(Number(value.toPrecision(count))) : String(value));
const short = (value) => digits(value, 6);
function inTens(value, count) { // 8·10⁷⁸
  const [mantissa, power] = value.toExponential(count - 1).split("e");
  return `${minus(String(Number(mantissa)))}·${tenTo(Number(power))}`;
}
function compact(value, count = 4) { // in so many digits, and of no great length
  const text = digits(value, count), isLong = text.includes("e") || text.length > 8;
  return Number.isFinite(value) && isLong ? inTens(value, count) : text;
}
const bracket = (value) => (value < 0 ? `(${full(value)})` : full(value));

// The largest of 1, 2 and 5 times a power of ten that is at most the value.
function roundBelow(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [5, 2, 1].map((n) => n * power).find((n) => n <= value * (1 + 1e-9)) || power;
}
// Round numbers from low to high, four to nine of them.
function ticks(low, high) {
  const by = roundBelow((high - low) / 4), start = Math.ceil(low / by - 1e-9);
  const count = Math.floor(high / by + 1e-9) - start + 1;
  return [...Array(Math.max(0, Math.min(count, 20))).keys()].map((k) => [(start + k) * by, by]);
}
function tickText([value, by]) { // in as many digits as tell it from its neighbours
  if (value === 0) return "0";
  const [size, least] = [value, by].map((v) => Math.floor(Math.log10(Math.abs(v)) + 1e-9));
  const count = Math.max(1, Math.min(15, size - least + 1)), text = digits(value, count);
  return text.length < 7 && !text.includes("e") ? text : inTens(value, count);
}
// 10ᵏ at every so many whole k that there are seven at most.
function tensOf(low, high) {
  const by = Math.ceil((high - low) / 6), start = Math.ceil(low / by - 1e-9);
  const count = Math.floor(high / by + 1e-9) - start + 1;
  return [...Array(count).keys()].map((k) => (start + k) * by);
}
const tenTo = (k) => (k === 0 ? "1" : `10${k < 0 ? "⁻" : ""}${raised(Math.abs(k))}`);

// What is drawn anew, and the handles, which stay: one of them may be in use.
function layers(svg) {
  if (!svg.children.length) [1, 2].forEach(() => draw(svg, "g", {}));
  return svg.children;
}

const BOX = { left: 62, right: 384, top: 12, bottom: 216 };
// Axes from xs[0] to xs[1] and ys[0] to ys[1]: where a value lies, and which one lies at a place.
function frame(svg, xs, ys, names, { bottom = BOX.bottom, yTicks } = {}) {
  const [picture] = layers(svg);
  picture.replaceChildren();
  const { left, right, top } = BOX, middle = (top + bottom) / 2;
  const fx = (x) => left + ((x - xs[0]) / (xs[1] - xs[0])) * (right - left);
  const fy = (y) => bottom - ((y - ys[0]) / (ys[1] - ys[0])) * (bottom - top);
  const across = ticks(...xs), longest = Math.max(...across.map((tick) => tickText(tick).length));
  // Of texts that would overlap, as many are left out as need be.
  const every = Math.max(1, Math.ceil(((7.5 * longest + 8) * across.length) / (right - left)));
  for (const tick of across.filter((_, k) => k % every === 0)) {
    draw(picture, "path", { class: "rule", d: `M${fx(tick[0])} ${top}V${bottom}` });
    write(picture, tickText(tick), fx(tick[0]), bottom + 17);
  }
  for (const [y, text] of yTicks || ticks(...ys).map((tick) => [tick[0], tickText(tick)])) {
    draw(picture, "path", { class: "rule", d: `M${left} ${fy(y)}H${right}` });
    write(picture, text, left - 5, fy(y) + 4, "end");
  }
  draw(picture, "path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` });
  write(picture, names[0], (left + right) / 2, bottom + 36);
  write(picture, names[1], 12, middle, "middle", { transform: `rotate(-90 12 ${middle})` });
  const clip = draw(draw(picture, "defs", {}), "clipPath", { id: `clip-${svg.id}` });
  draw(clip, "rect", { x: left, y: top, width: right - left, height: bottom - top });
  const inside = draw(picture, "g", { "clip-path": `url(#clip-${svg.id})` });
  const within = (value, a, b) => Math.max(Math.min(a, b), Math.min(Math.max(a, b), value));
  const back = {
    x: (px) => within(xs[0] + ((px - left) / (right - left)) * (xs[1] - xs[0]), ...xs),
    y: (py) => within(ys[0] + ((bottom - py) / (bottom - top)) * (ys[1] - ys[0]), ...ys),
  };
  return { fx, fy, picture, inside, back };
}
const bounded = (v) => (Number.isNaN(v) ? 1e5 : Math.max(-1e5, Math.min(1e5, v)));
const pathThrough = (points) =>
  points.map(([x, y], k) => `${k ? "L" : "M"}${bounded(x).toFixed(2)} ${bounded(y).toFixed(2)}`)
    .join("");
const along = ([low, high], count) =>
  [...Array(count + 1).keys()].map((k) => low + ((high - low) * k) / count);
// A place within the axes: what lies beyond is marked at the edge.
const onChart = (x, y) => [
  Math.max(BOX.left, Math.min(BOX.right, bounded(x))),
  Math.max(BOX.top, Math.min(BOX.bottom, bounded(y))),
];
function triangle(parent, x, y) { // of another descent
  const [px, py] = onChart(x, y);
  drawPath(parent, "other mark", [[px, py - 7], [px + 6.5, py + 5], [px - 6.5, py + 5]]);
}
function arrow(parent, kind, [x, y], [toX, toY]) {
  const length = Math.hypot(toX - x, toY - y) || 1;
  const [u, v] = [(toX - x) / length, (toY - y) / length];
  const tip = (side) => [toX - 9 * u + side * 4 * v, toY - 9 * v - side * 4 * u];
  drawPath(parent, kind, [[x, y], [toX, toY]]);
  if (length > 3) drawPath(parent, `${kind} mark`, [[toX, toY], tip(1), tip(-1)]);
}

const ARROWS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
  PageUp: [0, 10], PageDown: [0, -10],
};
// A dot in a circle of 28 units, 44 pixels on a phone, which is dragged by pointer or moved by the
// arrow keys. It has a `label`, and a `value` in a range in the data's units, which `text` says in
// words; these keep still while the descent runs, for a screen reader would read each of them.
function handle(svg, [cx, cy], { kind, id, r = 7, label, value, range, text, move, nudge }) {
  const there = at(id), handles = layers(svg)[1];
  const node = there || draw(handles, "g", { id, class: "handle", tabindex: 0, role: "slider" });
  if (!there) {
    draw(node, "circle", { r: 28 });
    draw(node, "circle", { r });
    node.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS)) return;
      event.preventDefault();
      node.nudge(...ARROWS[event.key]);
    });
  }
  Object.assign(node, { move, nudge });
  const key = [cx, cy, kind, text, range, Boolean(state.running)].join();
  if (node.drawn === key) return; // of a thousand, most are as they were
  node.drawn = key;
  const said = { label, valuenow: value, valuemin: range[0], valuemax: range[1], valuetext: text };
  if (!state.running)
    for (const [name, to] of Object.entries(said)) node.setAttribute(`aria-${name}`, to);
  ["reach", kind].forEach((name, k) => {
    for (const [where, to] of Object.entries({ class: name, cx, cy }))
      node.children[k].setAttribute(where, to);
  });
}

// Of handles that overlap, the pointer takes the nearest.
function dragging(svg) {
  const placeOf = (event) => {
    const box = svg.getBoundingClientRect(), unit = 400 / box.width;
    return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
  };
  // Else a touch on a handle, which lies within a picture, becomes a scroll.
  const keep = (event) => { if (event.target.closest(".handle")) event.preventDefault(); };
  svg.addEventListener("touchstart", keep, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".handle")) return;
    event.preventDefault();
    const [x, y] = placeOf(event), far = (node) => {
      const dot = node.lastChild;
      return Math.hypot(dot.getAttribute("cx") - x, dot.getAttribute("cy") - y);
    };
    const [nearest] = [...svg.querySelectorAll(".handle")].sort((a, b) => far(a) - far(b));
    const over = new AbortController(), until = { signal: over.signal };
    nearest.focus();
    window.addEventListener("pointermove", (moved) => nearest.move(...placeOf(moved)), until);
    for (const name of ["pointerup", "pointercancel"])
      window.addEventListener(name, () => over.abort(), until);
  });
}
