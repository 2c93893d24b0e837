// What is known beforehand: least squares, and how large a rate is stable, and which is best.

// By elimination with pivots; null where there is no one solution.
function solve(matrix, right) {
  const n = right.length, rows = matrix.map((row, i) => [...row, right[i]]);
  for (let c = 0; c < n; c++) {
    const left = [...Array(n - c).keys()].map((i) => i + c);
    const best = left.sort((i, j) => Math.abs(rows[j][c]) - Math.abs(rows[i][c]))[0];
    if (Math.abs(rows[best][c]) < 1e-12) return null;
    [rows[c], rows[best]] = [rows[best], rows[c]];
    for (let i = 0; i < n; i++) {
      if (i === c) continue;
      const factor = rows[i][c] / rows[c][c];
      rows[i] = rows[i].map((a, j) => a - factor * rows[c][j]);
    }
  }
  return rows.map((row, i) => row[n] / row[i]);
}
function hessian(samples) {
  const all = samples.map((i) => phi(run.x[i]));
  const entry = (a, b) => (2 / all.length) * all.reduce((sum, f) => sum + f[a] * f[b], 0);
  return [...powers.keys()].map((a) => [...powers.keys()].map((b) => entry(a, b)));
}
function leastSquares() {
  const all = everyone();
  const right = powers.map((_, p) =>
    (2 / all.length) * all.reduce((sum, i) => sum + phi(run.x[i])[p] * run.y[i], 0));
  return solve(hessian(all), right);
}

// Of a symmetric matrix, by rotations that make it diagonal.
function eigenvalues(matrix) {
  const m = matrix.map((row) => [...row]), n = m.length;
  for (let sweep = 0; sweep < 20; sweep++)
    for (let i = 0; i < n; i++)
      for (let j = i + 1; j < n; j++) {
        const turn = 0.5 * Math.atan2(2 * m[i][j], m[i][i] - m[j][j]);
        const c = Math.cos(turn), s = Math.sin(turn);
        for (const row of m) [row[i], row[j]] = [c * row[i] + s * row[j], c * row[j] - s * row[i]];
        const [a, b] = [m[i], m[j]];
        m[i] = a.map((v, k) => c * v + s * b[k]);
        m[j] = b.map((v, k) => c * v - s * a[k]);
      }
  return m.map((row, i) => row[i]);
}

// a, b and the product are (n, n), row after row.
function times(a, b, n) {
  const c = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let k = 0; k < n; k++)
      for (let j = 0; j < n; j++) c[i * n + j] += a[i * n + k] * b[k * n + j];
  return c;
}

// |largest eigenvalue|, by squaring again and again.
function radius(matrix, n) {
  if (n === 1) return Number.isFinite(matrix[0]) ? Math.abs(matrix[0]) : Infinity;
  let m = matrix, log = 0;
  for (let k = 1; k <= 40; k++) {
    m = times(m, m, n);
    if (!m.every(Number.isFinite)) return Infinity;
    const size = m.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    if (size === 0) return 0;
    for (let i = 0; i < n * n; i++) m[i] /= size;
    log += Math.log(size) / 2 ** k;
  }
  return Math.exp(log);
}

// A step's matrix: I − αH, or with momentum that of (w, αv).
function stepMatrix(h, rate, mu) {
  const P = h.length, n = mu === 0 ? P : 2 * P, map = new Float64Array(n * n);
  for (let i = 0; i < P; i++)
    for (let j = 0; j < P; j++) {
      const unit = i === j ? 1 : 0, g = rate * h[i][j];
      map[i * n + j] = unit - g;
      if (mu === 0) continue;
      map[i * n + P + j] = -mu * unit;
      map[(P + i) * n + j] = g;
      map[(P + i) * n + P + j] = mu * unit;
    }
  return map;
}

// ρ(α), by which an epoch multiplies the error in the end.
function epochFactor(hessians) {
  const mu = state.momentum, n = powers.length * (mu === 0 ? 1 : 2);
  return (rate) => {
    let whole = null;
    for (const h of hessians) {
      const map = stepMatrix(h, rate, mu);
      whole = whole ? times(map, whole, n) : map;
    }
    return radius(whole, n);
  };
}

// Which rates are stable, ρ ≤ 1, and where ρ is least: by the rule of torchgd/theory/rates.py,
// which says why.
const TIE = 1e-9, RATIO = 1.01, POINTS = 4000, MOST = 300, HIGH = 1e4;
const GOLDEN = (Math.sqrt(5) - 1) / 2;
function rates() {
  const hessians = batches().map(hessian), rho = epochFactor(hessians), mu = state.momentum;
  const isPositive = (v, _, values) =>
    v > 8 * values.length * 2 ** -52 * Math.max(...values.map(Math.abs));
  const positive = hessians.map(eigenvalues).flatMap((values) => values.filter(isPositive));
  if (!positive.length) return { rho, stable: [[0, Infinity]], end: Infinity, best: null };
  const steepest = Math.max(...positive);
  if (hessians.length * (powers.length * (mu === 0 ? 1 : 2)) ** 2 > MOST)
    return { rho, ...firstInterval(rho, (mu === 0 ? 2 : 0.01) / steepest), best: null };
  const low = (0.01 * Math.max((1 - Math.sqrt(mu)) ** 2, 1e-12)) / steepest;
  const bound = (2 * (1 + mu)) / Math.min(...positive);
  const count = Math.ceil(Math.log(bound / low) / Math.log(RATIO)) + 1;
  const scanned = [...Array(Math.min(count, POINTS)).keys()].map((k) => low * RATIO ** k);
  const points = withExtremes(rho, scanned), least = Math.min(...points.map(([, f]) => f));
  return {
    rho,
    stable: below(rho, points, 1 + TIE),
    end: count <= POINTS ? Infinity : scanned[POINTS - 1],
    best: least < 1 - TIE ? below(rho, points, least + TIE)[0] : null,
  };
}
function firstInterval(rho, start) {
  const stable = (rate) => rho(rate) <= 1 + TIE;
  let low = start;
  while (!stable(low)) {
    low /= 10;
    if (low < 1e-12 * start) return { stable: [], end: start };
  }
  let high = 1.1 * low;
  while (stable(high)) [low, high] = [high, 1.1 * high];
  const end = high;
  for (let k = 0; k < 30; k++) {
    const middle = (low + high) / 2;
    if (stable(middle)) low = middle; else high = middle;
  }
  return { stable: [[0, low]], end };
}

// A minimum, or a maximum below 1, may lie between two rates.
function withExtremes(rho, scanned) {
  const factors = scanned.map(rho), points = scanned.map((rate, k) => [rate, factors[k]]);
  for (const [sign, most] of [[1, HIGH], [-1, 1 + TIE]])
    for (let k = 1; k < scanned.length - 1; k++) {
      const here = factors[k];
      const left = sign * (factors[k - 1] - here), right = sign * (factors[k + 1] - here);
      if (!(left >= 0 && right >= 0 && left + right > TIE && here <= most)) continue;
      let a = scanned[k - 1], b = scanned[k + 1];
      for (let round = 0; round < 50; round++) {
        const x = b - GOLDEN * (b - a), y = a + GOLDEN * (b - a);
        if (sign * rho(x) < sign * rho(y)) b = y; else a = x;
      }
      points.push([(a + b) / 2, rho((a + b) / 2)]);
    }
  return points.sort((p, q) => p[0] - q[0]);
}

// The intervals where ρ is at most the level.
function below(rho, points, level) {
  const inside = points.map(([, factor]) => factor <= level), ends = inside[0] ? [0] : [];
  for (let k = 1; k < points.length; k++) {
    if (inside[k] === inside[k - 1]) continue;
    const [a, b] = [points[k - 1][0], points[k][0]];
    let [into, out] = inside[k] ? [b, a] : [a, b];
    for (let round = 0; round < 40; round++) {
      const middle = (into + out) / 2;
      if (rho(middle) <= level) into = middle; else out = middle;
    }
    ends.push(into);
  }
  if (inside[inside.length - 1]) ends.push(points[points.length - 1][0]);
  const found = [];
  for (let k = 0; k < ends.length; k += 2)
    if (ends[k + 1] - ends[k] > 1e-6 * ends[k + 1] || level < 1)
      found.push([ends[k], ends[k + 1]]);
  return found;
}
