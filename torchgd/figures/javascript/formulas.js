// A formula in x, y, ŷ and the weights: it is read as data, and has a value at any point, in
// fractions or in floats. The grammar is that of torchgd/proof/answers.py.

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const spelled = Object.keys(reading.names).sort((a, b) => b.length - a.length);
const KINDS = { name: `(?:${spelled.map(escaped).join("|")})(?![0-9])`, ...reading.kinds };
const TOKEN = new RegExp(
  Object.entries(KINDS).map(([kind, pattern]) => `(?<${kind}>${pattern})`).join("|"), "gu");

function notUnderstood(rest) {
  const [word] = /^[A-Za-z0-9_ŷ]+/.exec(rest) || [first(rest, 1)], said = quoted(first(word, 20));
  if (new RegExp(`^(?:${spelled.map(escaped).join("|")})[0-9]+$`, "u").test(word))
    return new Error(`${said} is ambiguous: write x^2 for a power and 2*x for a product`);
  const number = word.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const isKnown = word.codePointAt(0) < 128 || word.includes("ŷ");
  const name = isKnown ? "" : ` (U+${number})`;
  const names = ["x", "y", ...run.names, "ŷ"].join(", ");
  return new Error(`${said}${name} is not understood: use numbers, ${names}, + - * / ^ ( )`);
}

// Each token after its kind; factors side by side get a * between them.
function* tokensOf(text) {
  let before = "";
  text = plain(asLearnersWrite(text, ["x", "y", ...run.names])).replaceAll("^", "**");
  for (const found of text.matchAll(TOKEN)) {
    const kind = Object.keys(KINDS).find((name) => found.groups[name] !== undefined);
    if (kind === "unknown" || kind === "exponential") throw notUnderstood(text.slice(found.index));
    if (["name", "number", "closing"].includes(before)) {
      if (kind === "number" && before !== "closing")
        throw new Error(`${quoted(found[0])} follows without a sign: write ^ or * before it`);
      if (["name", "number", "opening"].includes(kind)) yield ["sign", "*"];
    }
    yield [kind, found[0]];
    before = kind;
  }
}

// sum = product (+ product)…   product = factor (· factor)…   factor = −factor, or a base^factor
function treeOf(text) {
  const tokens = [...tokensOf(text)], wrong = new Error("it is no formula: check its signs");
  let k = 0;
  const next = (...signs) => k < tokens.length && signs.includes(tokens[k][1]);
  const joined = (part, ...signs) => {
    let tree = part();
    while (next(...signs)) tree = { sign: tokens[k++][1], left: tree, right: part() };
    return tree;
  };
  const sum = () => joined(product, "+", "-");
  const product = () => joined(factor, "*", "/");
  const factor = () => {
    if (next("+", "-")) return { sign: tokens[k++][1], of: factor() };
    const base = atom();
    return next("**") ? { sign: tokens[k++][1], left: base, right: factor() } : base;
  };
  const atom = () => {
    if (k === tokens.length) throw wrong;
    const [kind, token] = tokens[k++];
    if (kind === "name") return { name: reading.names[token] };
    if (kind === "number") return { number: token };
    if (kind !== "opening") throw wrong;
    if (next(")")) return { empty: tokens[k++] };
    const inner = sum();
    if (!next(")")) throw wrong;
    k += 1;
    return inner;
  };
  const tree = sum();
  if (k < tokens.length) throw wrong;
  return tree;
}

function exponentOf(tree) {
  const whole = tree.sign === "-" && tree.of ? tree.of : tree;
  if (!/^[0-9]+$/.test(whole.number))
    throw new Error("a power is an integer, such as the 2 of x^2");
  return BigInt(whole.number) * (whole === tree ? 1n : -1n);
}

// At least 1; each digit of a number counts, so that it bounds the size of all results.
function degreeOf(tree) {
  const larger = (a, b) => (a > b ? a : b);
  if (tree.sign === "**") {
    const exponent = exponentOf(tree.right), size = exponent < 0n ? -exponent : exponent;
    return larger(1n, degreeOf(tree.left) * size);
  }
  if (tree.of) return degreeOf(tree.of);
  if (tree.sign === "*" || tree.sign === "/") return degreeOf(tree.left) + degreeOf(tree.right);
  if (tree.sign) return larger(degreeOf(tree.left), degreeOf(tree.right));
  return BigInt(tree.number ? tree.number.length : tree.name === "ŷ" ? reading.prediction : 1);
}

// A fraction is [p, q], q > 0, in lowest terms; null is what a division by 0 gives.
function fraction(p, q) {
  if (q === 0n) return null;
  let [a, b] = [p < 0n ? -p : p, q < 0n ? -q : q];
  while (b) [a, b] = [b, a % b];
  return q < 0n ? [-p / a, -q / a] : [p / a, q / a];
}
const FRACTIONS = {
  number: (text) => {
    const [whole, digits = ""] = text.split(".");
    return fraction(BigInt(whole + digits), 10n ** BigInt(digits.length));
  },
  "+": ([p, q], [r, s]) => fraction(p * s + r * q, q * s),
  "-": ([p, q], [r, s]) => fraction(p * s - r * q, q * s),
  "*": ([p, q], [r, s]) => fraction(p * r, q * s),
  "/": ([p, q], [r, s]) => fraction(p * s, q * r),
  "**": ([p, q], n) => (n < 0n ? fraction(q ** -n, p ** -n) : fraction(p ** n, q ** n)),
};
const FLOATS = {
  number: Number,
  "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b, "/": (a, b) => a / b,
  "**": (a, n) => a ** Number(n),
};

function evaluate(tree, point, numbers) {
  if (tree.empty) throw new Error("'()' is not expected there");
  if (tree.number) return numbers.number(tree.number);
  if (tree.name) return point[tree.name];
  if (tree.of) {
    const value = evaluate(tree.of, point, numbers);
    return value !== null && tree.sign === "-" ? numbers["-"](numbers.number("0"), value) : value;
  }
  const left = evaluate(tree.left, point, numbers);
  const right = tree.sign === "**" ? exponentOf(tree.right) : evaluate(tree.right, point, numbers);
  return left === null || right === null ? null : numbers[tree.sign](left, right);
}

// A learner's formula, which is of no great size, or an Error that says what is wrong with it.
function parse(text) {
  const length = [...text].length;
  if (length > reading.longest)
    throw new Error(`${length} characters: an answer has at most ${reading.longest}`);
  const tree = treeOf(text), degree = degreeOf(tree);
  if (degree > reading.highest)
    throw new Error(`a degree of ${degree}: the highest is ${reading.highest}`);
  if (TRIED.every((point) => evaluate(tree, point, FRACTIONS) === null))
    throw new Error("it divides by 0");
  return tree;
}
