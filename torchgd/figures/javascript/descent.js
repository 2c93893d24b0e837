// The model, ŷ = Σ w·φ with φ = ∂ŷ/∂w, its loss and gradient, and one step of a descent.

const powers = run.names.map((name) => ({ w2: 2, w1: 1, w: 1, b: 0 })[name]);
const phi = (x) => powers.map((power) => (power === 2 ? x * x : power === 1 ? x : 1));
const predict = (w, x) => phi(x).map((f, p) => w[p] * f).reduce((sum, term) => sum + term);
const everyone = () => [...run.x.keys()];
const mean = (terms) => (terms.length === 1 ? 0 + terms[0] : addUp(terms)) / terms.length;

// The samples of step k, in order.
function batchOf(k) {
  const count = run.x.length, size = state.batch, first = (k % Math.ceil(count / size)) * size;
  return [...Array(Math.min(size, count - first)).keys()].map((i) => first + i);
}
const batches = () => [...Array(Math.ceil(run.x.length / state.batch)).keys()].map(batchOf);

// loss = (1/n) Σ r² and ∂loss/∂w = Σ (1/n)·2r·φ with r = ŷ − y, rounded in torch's order.
function lossAndGradient(w, samples, targets = run.y) {
  const n = samples.length, r = samples.map((i) => predict(w, run.x[i]) - targets[i]);
  const sum = (terms) => (n === 1 ? 0 + terms[0] : addUp(terms));
  const loss = sum(r.map((ri) => ri * ri)) / n;
  const gradient = w.map((_, p) =>
    sum(samples.map((i, k) => (1 / n) * (r[k] + r[k]) * phi(run.x[i])[p])));
  return { loss, gradient };
}
const meanLoss = (w) => lossAndGradient(w, everyone()).loss;

// v ← μ·v + g (the first step sets v ← g); w ← w − α·v. `other` makes g another, or the update.
function step(from, other = {}) {
  const samples = batchOf(from.k), { loss, gradient: right } = lossAndGradient(from.w, samples);
  const g = other.gradient ? other.gradient(right, from, samples) : right;
  const { rate, momentum } = state, update = other.update || fma;
  const v = momentum === 0 ? null : from.v ? from.v.map((vp, p) => vp * momentum + g[p]) : g;
  const w = from.w.map((wp, p) => update(-rate, (v || g)[p], wp));
  const before = { w: from.w, v: from.v, loss, gradient: g, samples, rate, momentum };
  return { k: from.k + 1, w, v, right, taken: g, before };
}
function initially(w) {
  const zeros = w.map(() => 0);
  return { k: 0, w: [...w], v: null, right: zeros, taken: zeros, before: null };
}

// The classic mistakes, as changes of a right gradient g of n samples. `from` has the gradient of
// the step before, the `right` one and the one `taken`.
const plus = (a, b) => a.map((value, p) => value + b[p]);
const scaled = (g, factor) => g.map((value) => factor * value);
const MISTAKES = {
  "no-zero-grad": { gradient: (g, from) => plus(from.taken, g) },
  "double-backward": { gradient: (g, from) => (from.k % 2 ? plus(g, from.taken) : g) },
  "stale-grad": { gradient: (g, from) => from.right },
  half: { gradient: (g) => g.map((value) => value / 2) },
  sum: { gradient: (g, from, samples) => scaled(g, samples.length) },
  "mean-of-a-scalar": { gradient: (g, from, samples) => scaled(g, samples.length) },
  broadcast: { gradient: (g, from, samples) => {
    const ofAll = mean(samples.map((i) => run.y[i]));
    return lossAndGradient(from.w, samples, run.y.map(() => ofAll)).gradient;
  } },
  "last-batch-loss": { reports: (from) => lossAndGradient(from.w, batchOf(from.k)).loss },
  sign: { gradient: (g) => g.map((value) => -value) },
  sequential: { gradient: (g, from, samples) => {
    const w = [...from.w];
    return w.map((_, p) => {
      const own = lossAndGradient(w, samples).gradient[p];
      w[p] = fma(-state.rate, own, w[p]);
      return own;
    });
  } },
  "two-roundings": { update: (minusRate, g, w) => w + minusRate * g },
};

// Your own derivative in the weight p, in the place of the right one.
const yours = (p, of) => ({
  gradient: (g, from, samples) =>
    g.map((value, q) =>
      q === p ? mean(samples.map((i) => of({ x: run.x[i], y: run.y[i], w: from.w }))) : value),
});

// The first `count` steps from the start: loss, weights and gradients of each; then the last w.
window.pathOf = (count, mistake) => {
  let at = initially(run.start);
  return [...Array(count).keys()].map(() => {
    at = step(at, MISTAKES[mistake]);
    return [at.before.loss, ...at.before.w, ...at.before.gradient];
  }).concat([[...at.w]]);
};
