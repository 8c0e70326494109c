// Where a text stops being JSON: `JSON.parse` says it in words that differ, or not at all.

const SPACE = /[\t\n\r ]*/y;
const SCALAR =
  /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

class Reader {
  at = 0;

  constructor(text) {
    this.text = text;
  }

  get next() {
    this.#match(SPACE);
    return this.text[this.at];
  }

  /** Reads one value. Throws where it is none; `at` is the place then. */
  value() {
    const next = this.next;
    if (next === "{") this.#list("}", () => this.#member());
    else if (next === "[") this.#list("]", () => this.value());
    else if (!this.#match(SCALAR)) throw new SyntaxError();
  }

  #member() {
    if (this.next !== '"' || !this.#match(SCALAR)) throw new SyntaxError();
    this.#take(":");
    this.value();
  }

  #list(end, item) {
    this.at++;
    if (this.next === end) this.at++;
    else do item(); while (this.#take(`,${end}`) === ",");
  }

  #take(wanted) {
    const { next } = this;
    if (next === undefined || !wanted.includes(next)) throw new SyntaxError();
    this.at++;
    return next;
  }

  #match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text)?.[0] ?? "";
    this.at += found.length;
    return found !== "";
  }
}

/** Where the first thing stands that does not belong there, both from 1; null if it is JSON. */
export function fault(text) {
  const reader = new Reader(text);
  try {
    reader.value();
    if (reader.next === undefined) return null;
  } catch {
    // at the place
  }
  const lines = text.slice(0, reader.at).split("\n");
  return { line: lines.length, column: [...lines.at(-1)].length + 1 };
}
