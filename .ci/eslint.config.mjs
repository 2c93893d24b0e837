// The page's script is one, in ten files: what one defines another uses.
import js from "@eslint/js";

const browser = [
  "document", "window", "setInterval", "clearInterval", "setTimeout", "clearTimeout",
  "AbortController",
];
const ours = ["run", "at"]; // play.html defines them before the script

export default [
  js.configs.recommended,
  {
    languageOptions: {
      sourceType: "script",
      globals: Object.fromEntries([...browser, ...ours].map((name) => [name, "readonly"])),
    },
    rules: {
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
      eqeqeq: "error",
    },
  },
];
