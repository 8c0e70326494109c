// A form that posts a purchase: once, however often it is sent.
import {
  action,
  badge,
  call,
  calmly,
  copyButton,
  digits,
  el,
  find,
  follow,
  money,
  params,
  posted,
  Refused,
  region,
  say,
  Unreachable,
} from "/static/page.js";
import { fault } from "./json.js";

const SHOWN = 10; // purchases that were posted from here
const KNOWN = 1_000; // products
const SUGGESTED = 50;

const form = document.getElementById("post");
const fields = form.elements;
const lines = document.getElementById("items");
const products = new Map(); // what is known of the catalogue, by SKU
const unknown = new Set(); // SKUs that are none of it

// --- the queues --------------------------------------------------------------------------

/** All of a list, or the first `most` of it. */
async function all(path, limit, signal, most = Infinity) {
  const found = [];
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit, ...(cursor && { cursor }) });
    const page = await call("GET", `${path}?${query}`, { signal });
    found.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor !== null && found.length < most);
  return found;
}

/** The live queues; the chosen one stays chosen while it is there. */
async function drawQueues(signal) {
  const queues = await all("/api/v1/queues", 1_000, signal);
  const chosen = fields.queue.value || params().get("queue") || "orders";
  const options = queues.map(({ name }) => el("option", { value: name, selected: name === chosen }, name));
  fields.queue.replaceChildren(...options);
  post.show();
}

// --- the items ---------------------------------------------------------------------------

const field = (line, name) => find(`[data-field="${name}"]`, line);

/** Their names are the pointers by which the service says what is wrong. */
function number() {
  [...lines.children].forEach((line, place) => {
    line.ariaLabel = say("post.item", { n: place + 1 });
    for (const input of line.querySelectorAll("[data-field]")) {
      input.name = `items/${place}/${input.dataset.field}`;
      input.id = `post-${place}-${input.dataset.field}`;
      find("label", input.parentElement).htmlFor = input.id;
    }
    find(".about", line).id = `post-${place}-about`;
    field(line, "sku").setAttribute("aria-describedby", `post-${place}-about`);
    const remove = find("button", line);
    remove.ariaLabel = say("post.remove", { n: place + 1 });
    remove.hidden = lines.children.length === 1;
  });
  post?.show();
}

function addLine() {
  const line = document.getElementById("item").content.firstElementChild.cloneNode(true);
  find("button", line).addEventListener("click", () => removeLine(line));
  line.addEventListener("input", (event) => changed(line, event.target));
  field(line, "sku").addEventListener("change", () => recognise(line));
  lines.append(line);
  number();
  checkAmount(line);
  return line;
}

function removeLine(line) {
  const next = line.nextElementSibling ?? line.previousElementSibling;
  line.remove();
  number();
  field(next, "sku").focus();
}

function changed(line, input) {
  if (input.dataset.field === "sku") suggest(input.value);
  if (input.dataset.field !== "amount_cents") return price(line);
  input.dataset.own = input.value;
  checkAmount(line);
}

/** An amount has as many digits as its currency. */
function checkAmount(line) {
  const amount = field(line, "amount_cents");
  const n = digits(fields.currency.value);
  amount.step = (10 ** -n).toFixed(n);
  amount.setCustomValidity(""); // of the last look
  const fault = amount.validity.stepMismatch ? say("post.amount_digits", { n, currency: fields.currency.value }) : "";
  amount.setCustomValidity(fault);
  amount.ariaInvalid = String(fault !== "");
}

/** What the catalogue says of a line; its amount, unless somebody wrote another. */
function price(line) {
  const product = products.get(field(line, "sku").value);
  const amount = field(line, "amount_cents");
  const cents = product && product.price_cents * field(line, "quantity").value;
  const own = Boolean(amount.dataset.own);
  if (!own) amount.value = product && product.currency === fields.currency.value ? (cents / unit()).toFixed(digits(product.currency)) : "";
  checkAmount(line);
  find(".about", line).replaceChildren(...about(product, field(line, "sku").value));
  post?.show();
}

function about(product, sku) {
  if (product) return [posted(product.name), ` · ${money(product.price_cents, product.currency)}`];
  return unknown.has(sku) ? [say("post.unknown_sku")] : [];
}

/** Ask for the product that a line names, where the suggestions had none. */
async function recognise(line) {
  const { value: sku, validity } = field(line, "sku");
  if (!sku || !validity.valid || products.has(sku)) return;
  try {
    know([await call("GET", `/api/v1/products/${encodeURIComponent(sku)}`)]);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    if (error.status === 404) unknown.add(sku);
    price(line);
  }
}

// The first of the catalogue, once somebody is about to name something; beyond that by name.
let asked = null;
let typed = "";
const begin = () => suggesting(() => all("/api/v1/products", 200, undefined, KNOWN));
const look = calmly(250, () => {
  asked?.abort();
  asked = new AbortController();
  const query = new URLSearchParams({ q: typed, limit: SUGGESTED });
  suggesting(async () => (await call("GET", `/api/v1/products?${query}`, asked)).items);
});

async function suggesting(read) {
  try {
    know(await read());
  } catch (error) {
    const known = error instanceof Refused || error instanceof Unreachable || error.name === "AbortError";
    if (!known) throw error; // else there are no suggestions, and no harm
  }
}

function suggest(text) {
  typed = text;
  if (text !== "" && !products.has(text)) look();
}

function know(found) {
  const news = found.filter(({ sku }) => !products.has(sku));
  for (const product of news) products.set(product.sku, product);
  const options = news.map(({ sku, name }) => el("option", { value: sku }, name));
  document.getElementById("skus").append(...options);
  [...lines.children].forEach(price);
}

// --- what is posted ----------------------------------------------------------------------

/** Also where there is no `crypto.randomUUID`: over plain http. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  fields.idempotency_key.value = `console-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

const unit = () => 10 ** digits(fields.currency.value);
const whole = (input) => (input.value === "" ? undefined : Number(input.value));
function cents({ value, validity }) {
  if (value === "") return undefined;
  return validity.stepMismatch ? value * unit() : Math.round(value * unit());
}

function metadata() {
  const text = fields.metadata.value;
  if (text.trim() === "") return undefined;
  return fault(text) === null ? JSON.parse(text) : undefined;
}

/** Where it is no JSON, in words; empty while it is. */
function metadataFault() {
  const text = fields.metadata.value;
  if (text.trim() === "") return "";
  const place = fault(text);
  if (place !== null) return say("post.metadata_place", place);
  return /^\s*\{/.test(text) ? "" : say("post.metadata_object");
}

function checkMetadata() {
  const text = metadataFault();
  fields.metadata.setCustomValidity(text);
  fields.metadata.ariaInvalid = String(text !== "");
  const said = document.getElementById("metadata-fault");
  if (said.textContent !== text) said.textContent = text;
}

function purchase() {
  return {
    customer: fields.customer.value,
    items: [...lines.children].map((line) => ({
      sku: field(line, "sku").value,
      quantity: whole(field(line, "quantity")),
      amount_cents: cents(field(line, "amount_cents")),
    })),
    currency: fields.currency.value,
    reference: fields.reference.value || undefined,
    priority: whole(fields.priority),
    group: fields.group.value || undefined,
    delay_seconds: whole(fields.delay_seconds),
    expires_at: fields.expires_at.value ? new Date(fields.expires_at.value).toISOString() : undefined,
    metadata: metadata(),
    idempotency_key: fields.idempotency_key.value,
  };
}

function request() {
  if (!fields.queue.value || !fields.customer.value) return null;
  const path = `/api/v1/queues/${fields.queue.value}/messages`;
  return { method: "POST", path, body: purchase() };
}

// --- what became of it -------------------------------------------------------------------

function done(message) {
  tellPosted(message);
  const { queue, currency } = Object.fromEntries(new FormData(form));
  form.reset();
  lines.replaceChildren();
  addLine();
  newKey();
  checkMetadata();
  fields.queue.value = queue;
  fields.currency.value = currency;
  return say("post.done");
}

function wrong(error) {
  if (error instanceof Unreachable) return say("post.unsure");
  if (error.code !== "idempotency_key_reused") return null;
  const anew = () => {
    newKey();
    post.show();
    post.tell("");
  };
  const button = el("button", { type: "button", className: "quiet", on: { click: anew } }, say("post.new_key"));
  return el("span", {}, say("post.key_reused"), " ", button);
}

const ends = []; // of what is followed, the oldest first

/** One that was posted, with its status live. */
function tellPosted({ id, reference, queue, status, tracking }) {
  const list = document.getElementById("posted");
  document.getElementById("results").hidden = false;
  const state = el("span", {}, badge(status));
  const line = el(
    "li",
    {},
    el("a", { href: `/admin/messages/${id}` }, say("post.order"), " ", posted(reference ?? id.slice(-12))),
    " · ",
    el("a", { href: `/admin/queues/${queue}` }, queue),
    " ",
    state,
    el("p", {}, el("a", { href: tracking.url }, say("post.follow")), " ", say("post.copy_link"), " "),
    el("div", {}, el("pre", {}, tracking.url), copyButton(() => tracking.url)),
  );
  const told = ({ data }) => state.replaceChildren(badge(data.status));
  const end = follow({
    topics: [`order:${id}`],
    snapshot: true,
    on: { "order.*": told, snapshot: ({ items }) => items.forEach((order) => told({ data: order })) },
  });
  list.prepend(line);
  ends.push(end);
  if (ends.length > SHOWN) {
    ends.shift()();
    list.lastElementChild.remove();
  }
}

// --- the form ----------------------------------------------------------------------------

const more = document.getElementById("more");
let post = null;
newKey();
addLine();
fields.metadata.addEventListener("input", checkMetadata);
fields.currency.addEventListener("input", () => [...lines.children].forEach(price));
document.getElementById("add").addEventListener("click", () => field(addLine(), "sku").focus());
// A field in a part that is shut cannot say what is wrong with it.
form.addEventListener("invalid", ({ target }) => (more.open ||= more.contains(target)), { capture: true });
lines.addEventListener("focusin", begin, { once: true });
post = action(form, request, { done, wrong });
const again = region("queues", drawQueues);
follow({ topics: ["queues"], on: { "queue.created": again, "queue.deleted": again, reset: again } });
again();
