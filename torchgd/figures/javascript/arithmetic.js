// Arithmetic as torch does it, so that each number has the same bits as in the recorded run.

// A number as [m, e], m·2ᵉ with a whole m.
function parts(value) {
  const bits = new BigUint64Array(new Float64Array([value]).buffer)[0];
  const exponent = Number((bits >> 52n) & 2047n), low = bits & ((1n << 52n) - 1n);
  const whole = exponent === 0 ? low : low | (1n << 52n);
  return [bits >> 63n ? -whole : whole, Math.max(exponent, 1) - 1075];
}

// a·b + c, rounded once: exactly, in whole numbers times a power of two, and then to 53 bits.
function fma(a, b, c) {
  if (![a, b, c].every(Number.isFinite)) return a * b + c;
  const [p, i] = parts(a), [q, j] = parts(b), [r, k] = parts(c), e = Math.min(i + j, k);
  const exact = (p * q << BigInt(i + j - e)) + (r << BigInt(k - e));
  if (exact === 0n) return a * b + c;
  const size = exact < 0n ? -exact : exact;
  const shift = Math.max(size.toString(2).length - 53, -1074 - e);
  let whole = size, power = e;
  if (shift > 0) {
    const left = BigInt(shift), rest = size & ((1n << left) - 1n), half = 1n << (left - 1n);
    whole = size >> left;
    if (rest > half || (rest === half && whole & 1n)) whole += 1n;
    power = e + shift;
  }
  const found = Number(whole) * 2 ** Math.min(power, 900) * 2 ** Math.max(power - 900, 0);
  return exact < 0n ? -found : found;
}

// Σ in torch's order: in vectors, four of them at once; what is left over comes first.
function addUp(terms, length = run.lanes || 1) {
  const lanes = terms.length >= length ? length : 1, vectors = Math.floor(terms.length / lanes);
  const sums = [0, 1, 2, 3].map(() => new Array(lanes).fill(0));
  for (let k = 0; k < vectors; k++)
    for (let lane = 0; lane < lanes; lane++)
      sums[k < vectors - (vectors % 4) ? k % 4 : 0][lane] += terms[k * lanes + lane];
  let total = 0;
  for (let k = vectors * lanes; k < terms.length; k++) total += terms[k];
  for (let lane = 0; lane < lanes; lane++)
    total += sums[0][lane] + sums[1][lane] + sums[2][lane] + sums[3][lane];
  return total;
}

// How many floats lie between two: none if they have the same bits.
function ulpsApart(a, b) {
  const [i, j] = [a, b].map((value) => new BigInt64Array(new Float64Array([value]).buffer)[0]);
  const inOrder = (n) => (n < 0n ? -(n & ((1n << 63n) - 1n)) : n);
  const apart = inOrder(i) - inOrder(j);
  return Number(apart < 0n ? -apart : apart);
}
