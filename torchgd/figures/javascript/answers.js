// Your own ∂loss/∂w beside the right one, by the rules of torchgd/proof/answers.py: exactly, in
// fractions, at points where formulas of this size that differ hardly ever agree.

const SYMBOLS = ["x", "y", ...run.names];
const cached = new Map();
function formulaOf(text) { // a formula of the page's own
  if (!cached.has(text)) cached.set(text, treeOf(text));
  return cached.get(text);
}
const exact = (tree) => (point) => evaluate(tree, point, FRACTIONS);
const combined = (sign, f, g) => (point) => {
  const [a, b] = [f(point), g(point)];
  return a === null || b === null ? null : FRACTIONS[sign](a, b);
};
function withPrediction(point) {
  return { ...point, ŷ: evaluate(formulaOf(run.formula), point, FRACTIONS) };
}
const pointOf = (values) =>
  withPrediction(Object.fromEntries(SYMBOLS.map((name, k) => [name, values[k]])));
let seed = 1; // of Park and Miller's generator
const drawn = () => (seed = (seed * 48271) % 2147483647);
const TRIED = [...Array(16)].map(() =>
  pointOf(SYMBOLS.map(() =>
    fraction(BigInt((50 + (drawn() % 251)) * (drawn() % 2 ? -1 : 1)), 97n))));

// A formula's value if it is the same at all points, else null.
function constant(formula) {
  const values = TRIED.map(formula).filter((value) => value !== null), [one] = values;
  const same = values.length >= 4 && values.every(([p, q]) => p === one[0] && q === one[1]);
  return same ? one : null;
}
const is = (value, p, q = 1n) => value !== null && value[0] === p && value[1] === q;

// "" if it is ∂loss/∂w of this weight, and otherwise what is wrong with it.
function judge(name, tree) {
  const of = run.answers[name], answer = exact(tree), right = exact(formulaOf(of.right));
  if (is(constant(combined("/", answer, right)), 1n)) return "";
  const apart = (formula) => constant(combined("-", answer, exact(formulaOf(formula))));
  const slip = of.slips.find(([formula]) => is(apart(formula), 0n));
  if (slip) return slip[1];
  const ratio = (formula) => constant(combined("/", answer, exact(formulaOf(formula))));
  const other = of.known.find(([formula]) => is(ratio(formula), 1n));
  const hints = [...hintsOf(name, answer, right)].join("; ");
  const said = [hints, other ? `this is ${other[1]}` : ""].filter(Boolean).join(": ");
  return said || counterexample(answer, right);
}

// Of 2x(ŷ − y) = 2x(w·x − y), one formula or several that are equal: the tree of the first that is
// wrong, or of the last, and what is wrong with it.
function judgeEach(name, answer) {
  let tree = null, wrong = "";
  for (const side of answer.split("=")) {
    tree = parse(side);
    wrong = judge(name, tree);
    if (wrong) break;
  }
  return [tree, wrong];
}

// Hints if answer/right is a number, a product of powers, or a factor of the chain rule.
function* hintsOf(name, answer, right) {
  if (is(constant(answer), 0n)) {
    yield `0 would say that the loss does not depend on ${name}`;
    return;
  }
  const [formula, said] = run.answers[name].partial;
  let ratio = combined("/", answer, right);
  const completed = combined("*", ratio, exact(formulaOf(formula)));
  if (constant(ratio) === null && constant(completed) !== null) {
    yield `the chain rule's factor ${said} is missing`;
    ratio = completed;
  }
  const { number: [p, q], many, missing } = monomial(ratio), size = p < 0n ? -p : p;
  if (missing) yield `a factor ${missing} is missing`;
  if (many) yield `a factor ${many} is too many`;
  if (p < 0n) yield "the sign is reversed";
  if (size < q) yield `a factor ${decimal(fraction(q, size))} is missing`;
  if (size > q) yield `a factor ${decimal([size, q])} is too many`;
}

// c, n and d of a ratio c·n/d, n and d products of powers; else 1. Doubling a variable multiplies
// a monomial by 2 to its power in that variable.
function monomial(ratio) {
  const powersIn = {}, none = { number: [1n, 1n], many: "", missing: "" };
  const two = [2n, 1n], superscript = (n) => (n === 1 ? "" : raised(n));
  for (const name of SYMBOLS) {
    const doubled = (point) =>
      ratio(withPrediction({ ...point, [name]: FRACTIONS["*"](two, point[name]) }));
    const by = constant(combined("/", doubled, ratio));
    const power = by && [...Array(201).keys()].map((n) => n - 100)
      .find((n) => is(by, ...FRACTIONS["**"](two, BigInt(n))));
    if (power === undefined || power === null) return none;
    powersIn[name] = power;
  }
  const size = (name) => Math.abs(powersIn[name]), isPower = (name) => size(name) !== 1;
  const product = (sign) => [...SYMBOLS].sort().sort((a, b) => isPower(a) - isPower(b))
    .filter((name) => sign * powersIn[name] > 0)
    .map((name) => name + superscript(size(name))).join("·"); // in sympy's order
  const rest = (point) => SYMBOLS.reduce((value, name) =>
    value && FRACTIONS["*"](value, FRACTIONS["**"](point[name], BigInt(-powersIn[name]))),
    ratio(point));
  return { number: constant(rest) || [1n, 1n], many: product(1), missing: product(-1) };
}
const raised = (n) => [...String(n)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");

// A point at which the two differ, and both values there.
function counterexample(answer, right) {
  for (const numbers of orders([2n, 3n, 5n, 7n, 11n, 13n, -1n, 1n], SYMBOLS.length)) {
    const point = pointOf(numbers.map((n) => [n, 1n])), [a, b] = [answer(point), right(point)];
    if (a === null || b === null || (a[0] === b[0] && a[1] === b[1])) continue;
    const where = SYMBOLS.map((name, k) => `${name} = ${numbers[k]}`).join(", ");
    return `at ${where} it is ${decimal(a)}, and the right one ${decimal(b)}`;
  }
  return "it is no number where the right one is";
}
function* orders(items, count) { // the first ones change last
  if (count === 0) yield [];
  else
    for (const item of items)
      for (const rest of orders(items.filter((other) => other !== item), count - 1))
        yield [item, ...rest];
}
function decimal([p, q]) {
  const limit = 10n ** 10n, isShort = p < limit && -p < limit && q < limit;
  if (isShort) return q === 1n ? String(p) : `${p}/${q}`;
  return (Number((p * limit ** 2n) / q) / 1e20).toPrecision(6);
}
