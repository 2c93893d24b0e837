// From the notations that people use to a plain one, by the tables of torchgd/proof/notations.py,
// which has these functions, too. Both are tested with the same answers.

const reading = run.reading;
const patterns = (table) =>
  table.map(([written, meant]) => [new RegExp(written, "gu"), meant.replaceAll("\\1", "$1")]);
const LATEX = patterns(reading.latex), LEARNERS = patterns(reading.learners);
const SEVERAL = new RegExp(reading.several, "u"), DERIVATIVE = new RegExp(reading.derivative, "u");
const SIGNS = new Map(reading.signs), BRACKETS = new Map([["(", ")"], ["[", "]"], ["{", "}"]]);

// As Python's repr writes a text.
function quoted(text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`);
  const code = (c) => {
    const number = c.codePointAt(0).toString(16);
    return number.length > 2 ? `\\u${number.padStart(4, "0")}` : `\\x${number.padStart(2, "0")}`;
  };
  return mark + escaped.replaceAll("\n", "\\n").replace(/[\p{Cc}\p{Cf}]/gu, code) + mark;
}
const first = (text, count) => [...text].slice(0, count).join("");

// x_val, X, x_i and forward(x) are x and ŷ, where no parameter is called so.
function asLearnersWrite(text, names) {
  const several = SEVERAL.exec(text);
  if (several && !names.includes(several[0]))
    throw new Error("give it for one sample, without a sum and without 1/N");
  for (const [written, meant] of LEARNERS) {
    written.lastIndex = 0;
    const found = written.exec(text);
    if (found && !names.includes(found[0].trim())) text = text.replace(written, meant);
  }
  return text;
}

// 2x^{2}\left(ŷ − y\right)½ is 2x^(2)(ŷ - y)(1/2).
function plain(text) {
  text = withoutFractions(text.normalize("NFC"));
  for (const [written, meant] of LATEX) text = text.replace(written, meant);
  text = text.replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹]+/gu, (digits) => `^${digits.normalize("NFKC")}`);
  const mixed = (_, whole, part) => `(${whole || 0}+${part.normalize("NFKC")})`;
  text = text.replace(/([0-9]*)([¼-¾⅐-⅞])/gu, mixed);
  return roundBrackets([...text].map((sign) => SIGNS.get(sign) || sign).join(""));
}
function withoutFractions(text) { // \frac{a}{b} is ((a)/(b))
  for (let found; (found = /\\[dt]?frac(?![A-Za-z])/u.exec(text));) {
    const [top, more] = group(text.slice(found.index + found[0].length).trimStart());
    const [bottom, rest] = group(more.trimStart());
    text = `${text.slice(0, found.index)}((${top})/(${bottom}))${rest}`;
  }
  return text;
}
function group(text) { // what is within the first braces, or else the first character; the rest
  const signs = [...text];
  let depth = 0;
  for (let k = 0; k < signs.length; k++) {
    depth += (signs[k] === "{") - (signs[k] === "}");
    if (depth !== 0) continue;
    const found = signs.slice(0, k + 1).join("").replace(/^\{/, "").replace(/\}$/, "");
    return [found, signs.slice(k + 1).join("")];
  }
  throw new Error(`after \\frac there is no whole group: ${quoted(first(text, 20))}`);
}
function roundBrackets(text) {
  const awaited = [], closing = [...BRACKETS.values()];
  for (const sign of text) {
    if (BRACKETS.has(sign)) awaited.push(BRACKETS.get(sign));
    else if (closing.includes(sign) && awaited.pop() !== sign)
      throw new Error(`it is no formula (${quoted(sign)} closes nothing): check its brackets`);
  }
  if (awaited.length) {
    const missing = quoted(awaited[awaited.length - 1]);
    throw new Error(`it is no formula (${missing} is missing): check its brackets`);
  }
  return text.replace(/[[{]/g, "(").replace(/[\]}]/g, ")");
}

// W=FORMULA, ∂loss/∂W=FORMULA or \frac{dL}{dW}=FORMULA as the weight's name and the formula; the
// name may go unsaid.
function assignment(text, unsaid) {
  const at = text.indexOf("=");
  if (at < 0) return [unsaid, text];
  const known = reading.weights, names = Object.keys(known).sort((a, b) => b.length - a.length);
  for (const name of names)
    for (const head of [name, `∂loss/∂${name}`]) {
      const trimmed = text.trim(), after = trimmed.slice(head.length).trimStart();
      if (trimmed.startsWith(head) && after.startsWith("=")) return [known[name], after.slice(1)];
    }
  const said = plain(text.slice(0, at)).replace(/[()\s]/g, "").replace(DERIVATIVE, "");
  if (!Object.hasOwn(known, said))
    throw new Error(
      `${quoted(first(said, 60))} is none of the parameters, ${run.names.join(", ")}`);
  return [known[said], text.slice(at + 1)];
}
