// The fields of a product that can be changed (templates/terms.html): from what the API says
// to what stands in a form, and back.
import { digits, find, language, say } from "/static/page.js";

const NAMES = ["name", "price_cents", "currency", "available_from", "max_per_order", "attributes"];

/** "9,90" → 990; what is no amount is kept from being sent by the field's pattern. */
const cents = (text, currency) => Math.round(Number(text.replace(",", ".")) * 10 ** digits(currency));

const [, mark] = (1.1).toLocaleString(language);
const amount = (value, currency) =>
  (value / 10 ** digits(currency)).toFixed(digits(currency)).replace(".", mark);

/** An instant as a field for local times writes it. */
function local(instant) {
  if (instant === null) return "";
  const at = new Date(instant);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

const WRITTEN = {
  price_cents: amount,
  available_from: local,
  max_per_order: (value) => (value === null ? "" : String(value)),
  attributes: (value) => JSON.stringify(value, null, 2),
};
const READ = {
  price_cents: cents,
  available_from: (text) => (text === "" ? null : new Date(text).toISOString()),
  max_per_order: (text) => (text === "" ? null : Number(text)),
  attributes: (text) => JSON.parse(text || "{}"),
};

const written = (name, product) => (WRITTEN[name] ?? String)(product[name], product.currency);

/** The fields of a product in a form. */
export class Terms {
  #form;
  #shown = {}; // what stood in each field when it was filled

  constructor(form) {
    this.#form = form;
    for (const name of NAMES) this.#shown[name] = this.#field(name).value;
    form.addEventListener("input", () => this.#check());
  }

  #field(name) {
    return this.#form.elements.namedItem(name);
  }

  #check() {
    const field = this.#field("attributes");
    let fine = false;
    try {
      const value = READ.attributes(field.value);
      fine = typeof value === "object" && value !== null && !Array.isArray(value);
    } catch {
      // no JSON yet
    }
    field.setCustomValidity(fine ? "" : say("product.attributes_wrong"));
  }

  /** The fields that somebody changed since they were filled. */
  get changed() {
    return NAMES.filter((name) => this.#field(name).value !== this.#shown[name]);
  }

  /** What stands in some fields, as the API takes it. */
  values(names = NAMES) {
    const currency = this.#field("currency").value;
    const value = (name) => (READ[name] ?? String)(this.#field(name).value.trim(), currency);
    return Object.fromEntries(names.map((name) => [name, value(name)]));
  }

  /**
   * Show a product, and leave what somebody changed as he wrote it; where that is something
   * else than what is there by now, that is said below it.
   */
  fill(product) {
    for (const name of NAMES) {
      const [field, before, after] = [this.#field(name), this.#shown[name], written(name, product)];
      this.#shown[name] = after;
      find(".meanwhile", field.parentElement)?.remove();
      if (field.value === before) field.value = after;
      else if (after !== before && after !== field.value) this.#tell(field, after);
    }
  }

  #tell(field, value) {
    const note = document.createElement("p");
    note.className = "meanwhile small";
    note.textContent = say("product.now", { value: value || "–" });
    field.after(note);
  }

  /** Forget what was changed: it was saved. */
  settle(product) {
    for (const name of NAMES) this.#shown[name] = this.#field(name).value = written(name, product);
    this.#form.querySelectorAll(".meanwhile").forEach((node) => node.remove());
  }
}
