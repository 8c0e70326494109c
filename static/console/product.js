// One product: what it is, how many there are, and each delivery, count and sale of it.
import {
  Refused, Unreachable, account, action, badge, call, calmly, el, every, find, follow, language,
  money, number, onAddress, pager, params, posted, put, region, rows, say, sure, when,
} from "/static/page.js";
import { counted, newest, stateOf } from "/static/console/levels.js";
import { Terms } from "/static/console/terms.js";

const REFETCH = 1_000; // ms
const REREAD = 2_000; // the ledger
const LOOK = 30; // seconds: a product has no events of its own

const { dataset } = find("#main");
const { sku } = dataset;
const sold = "sold" in dataset;
const PRODUCT = `/api/v1/products/${encodeURIComponent(sku)}`;
const STOCK = `${PRODUCT}/stock`;
const signed = new Intl.NumberFormat(language, { signDisplay: "exceptZero" });

let product = null;
let stock = null;
let told = null; // the data of the newest event

const present = () => newest(stock, told);

// --- what it is ----------------------------------------------------------------------------

function drawProduct() {
  const { name, price_cents, currency, available_from, max_per_order, active, attributes } = product;
  const facts = {
    name: posted(name),
    price: money(price_cents, currency),
    from: available_from === null ? say("product.at_once") : when(available_from, { full: true }),
    most: max_per_order === null ? say("product.no_bound") : number(max_per_order),
    sale: badge(active ? "on" : "off", say(active ? "product.on" : "product.off")),
    attributes: el("pre", {}, JSON.stringify(attributes, null, 2)),
    updated: when(product.updated_at, { full: true }),
  };
  for (const [fact, content] of Object.entries(facts)) put(find(`#product-${fact}`), content);
  put(find("#title"), name);
}

const refreshProduct = region(
  "product",
  async (signal) => {
    if (!sold) return false;
    take(await call("GET", PRODUCT, { signal }));
    return true;
  },
  { empty: say("product.missing") },
);

/** A Product as it is now; its form follows, but for what somebody is changing. */
function take(found) {
  product = found;
  drawProduct();
  if (edit && !edit.terms.changed.length) edit.begin(found);
  sale?.show();
  if (found.stock) takeStock(found.stock);
}

// --- how many there are --------------------------------------------------------------------

function drawLevel() {
  const level = present();
  if (!level) return;
  const state = stateOf(level);
  for (const name of ["available", "on_hand", "reserved", "low_at"]) {
    put(find(`#${name}`), counted(level[name]));
  }
  put(find("#state"), badge(state, say(`level.${state}`)));
  for (const form of [adjusting, low]) form?.look();
}

function takeStock(found) {
  if (stock === null || found.version >= stock.version) stock = found;
  drawLevel();
}

const refreshLevel = region(
  "level",
  async (signal) => {
    if (!("counted" in dataset)) return false;
    takeStock(await call("GET", STOCK, { signal }));
    return true;
  },
  { empty: say("uncounted.text") },
);

/** After a change made here: the answer is the Stock. */
function changed(found) {
  dataset.counted = "";
  takeStock(found);
  refreshLevel();
  refreshLedger();
}

// --- the ledger ------------------------------------------------------------------------------

const why = ({ reason, reference }) =>
  [reason, reference].filter((text) => text !== null).flatMap((text) => [posted(text), " "]);

const who = ({ order, actor }) => [
  ...(order ? [el("a", { href: `/admin/messages/${order}` }, say("ledger.order")), " "] : []),
  posted(actor),
];

const movements = rows(find("#movements"), {
  key: (line) => line.id,
  numeric: [0, 3, 4],
  cells: (line) => [
    number(line.number),
    when(line.time),
    say(`ledger.${line.kind}`),
    signed.format(line.change),
    number(line.on_hand),
    why(line),
    who(line),
  ],
});

const refreshLedger = region(
  "ledger",
  async (signal) => {
    if (!("counted" in dataset)) return false;
    const cursor = params().get("cursor");
    const query = new URLSearchParams({ sort: "newest", ...(cursor ? { cursor } : {}) });
    const page = await call("GET", `${STOCK}/movements?${query}`, { signal });
    movements.show(page.items);
    pager("pages", page.next_cursor);
    return page.items.length > 0;
  },
  { empty: say("ledger.empty") },
);

// --- changes of the product --------------------------------------------------------------------

const versioned = () => ({ "If-Match": `"${product.version}"` });
const is = (error, code) => error instanceof Refused && error.code === code;

/** The form of what a product is: sends what was changed, if nobody else did meanwhile. */
function editing(form) {
  const terms = new Terms(form);
  let version = null; // of what the form shows

  function begin(found) {
    terms.settle(found);
    version = found.version;
    shown?.show();
  }

  function request() {
    if (version === null || !form.matches(":valid")) return null;
    const headers = { "If-Match": `"${version}"` };
    return { method: "PATCH", path: PRODUCT, headers, body: terms.values(terms.changed) };
  }

  function done(found) {
    begin(found);
    take(found);
    return say("product.saved");
  }

  async function wrong(error) {
    if (!is(error, "version_mismatch")) return null;
    const found = await call("GET", PRODUCT);
    terms.fill(found);
    version = found.version;
    take(found);
    return say("product.conflict");
  }

  const shown = action(form, request, { done, wrong });
  return { terms, begin };
}

function selling(form) {
  const button = find("button", form);

  function request() {
    if (product === null) return null;
    const headers = versioned();
    if (product.active) return { method: "DELETE", path: PRODUCT, headers };
    return { method: "PATCH", path: PRODUCT, headers, body: { active: true } };
  }

  const confirm = ({ method }) =>
    method !== "DELETE" ||
    sure({ text: say("product.take_off_text"), yes: say("product.take_off") });

  async function done(_, { method }) {
    take(await call("GET", PRODUCT));
    return say(method === "DELETE" ? "product.taken_off" : "product.put");
  }

  async function wrong(error) {
    if (is(error, "below_reserved")) {
      takeStock(await call("GET", STOCK));
      return say("product.promised", { n: stock.reserved });
    }
    if (!is(error, "version_mismatch")) return null;
    await refreshProduct();
    return say("product.changed");
  }

  const shown = action(form, request, { confirm, done, wrong });

  function show() {
    put(button, say(product.active ? "product.take_off" : "product.put_on"));
    button.classList.toggle("stop", product.active);
    form.hidden = false;
    shown.show();
  }

  return { show };
}

// --- changes of the stock ----------------------------------------------------------------------

/**
 * One delivery has one key, kept until it is known what became of it: sent again, it is
 * received once. Also over a reload, which is what people do when no answer comes.
 */
function receiving(form) {
  const place = `receive:${account}:${sku}`;
  const fields = [...form.elements].filter((field) => field.name);
  const kept = JSON.parse(sessionStorage.getItem(place));
  let key = kept?.key ?? fresh();

  function fresh() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function settled() {
    sessionStorage.removeItem(place);
    key = fresh();
  }

  function request() {
    const [quantity, reason, reference] = fields.map((field) => field.value.trim());
    if (!form.matches(":valid")) return null;
    const body = { quantity: Number(quantity) };
    if (reason) body.reason = reason;
    if (reference) body.reference = reference;
    return { method: "POST", path: `${STOCK}/receive`, headers: { "Idempotency-Key": key }, body };
  }

  function run(method, path, wanted) {
    const values = fields.map((field) => field.value);
    sessionStorage.setItem(place, JSON.stringify({ key, values }));
    return call(method, path, wanted);
  }

  function done(found) {
    settled();
    form.reset();
    changed(found);
    return say("receive.done", { n: found.on_hand });
  }

  function wrong(error) {
    if (is(error, "idempotency_key_reused")) {
      settled();
      refreshLevel();
      refreshLedger();
      return say("receive.reused");
    }
    const open = error instanceof Unreachable || error.status >= 500;
    return open ? say("receive.unknown") : null;
  }

  if (kept) fields.forEach((field, place) => (field.value = kept.values[place]));
  const shown = action(form, request, { run, done, wrong });
  if (kept) shown.tell("bad", say("receive.kept"));
}

/** Compare and set: what was on hand when somebody began to type is what he expects. */
function adjustment(form) {
  const [field, reason] = ["on_hand", "reason"].map((name) => form.elements.namedItem(name));
  let expected = null; // null: nobody is counting

  function look() {
    form.hidden = false;
    if (field.value === "") expected = null;
    const { on_hand: now } = stock;
    const value = number(expected ?? now);
    const moved = expected !== null && expected !== now;
    put(find("#expected"), say(`adjust.${moved ? "moved" : "expected"}`, { value, now: number(now) }));
    shown.show();
  }

  function request() {
    if (stock === null || !form.matches(":valid")) return null;
    const body = {
      on_hand: Number(field.value),
      expected_on_hand: expected ?? stock.on_hand,
      reason: reason.value.trim(),
    };
    return { method: "POST", path: `${STOCK}/adjust`, body };
  }

  function done(found) {
    form.reset();
    changed(found);
    return say("adjust.done", { n: found.on_hand });
  }

  async function wrong(error, { body }) {
    if (!is(error, "version_mismatch") && !is(error, "below_reserved")) return null;
    takeStock(await call("GET", STOCK));
    if (is(error, "below_reserved")) return say("adjust.below", { n: stock.reserved });
    expected = stock.on_hand;
    look();
    const value = number(body.expected_on_hand);
    return say("adjust.lost", { value, now: number(stock.on_hand) });
  }

  const shown = action(form, request, { done, wrong });
  field.addEventListener("input", () => {
    expected ??= stock?.on_hand ?? null;
    if (stock) look();
  });
  return { look };
}

function lowering(form) {
  const field = form.elements.namedItem("low_at");
  let shownAt = ""; // what was filled in by us

  function look() {
    form.hidden = false;
    const now = stock.low_at === null ? "" : String(stock.low_at);
    if (field.value === shownAt) field.value = now;
    shownAt = now;
    shown.show();
  }

  function request() {
    if (stock === null || !form.matches(":valid")) return null;
    const body = { low_at: field.value === "" ? null : Number(field.value) };
    return { method: "PATCH", path: STOCK, body };
  }

  function done(found) {
    changed(found);
    return found.low_at === null ? say("low.never") : say("low.done", { n: found.low_at });
  }

  const shown = action(form, request, { done });
  return { look };
}

const made = (id, make) => (find(id) ? make(find(id)) : null);
const edit = made("#edit", editing);
const sale = made("#sale", selling);
const adjusting = made("#adjust", adjustment);
const low = made("#low", lowering);
made("#receive", receiving);

// --- live ---------------------------------------------------------------------------------------

const reload = calmly(REFETCH, refreshLevel);
const reread = calmly(REREAD, () => params().has("cursor") || refreshLedger());

function catchUp() {
  reload();
  reread();
}

onAddress(refreshLedger);
every(LOOK, refreshProduct);
follow({
  topics: [`stock:${sku}`],
  on: {
    "stock.changed"({ data }) {
      told = data;
      dataset.counted = "";
      drawLevel();
      catchUp();
    },
    reset: catchUp,
    state: ({ name }) => name === "live" && catchUp(),
  },
});
refreshLevel();
