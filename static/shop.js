// The shop window. The server has drawn it; this keeps its stock as it is, opens what is launched
// in time, and buys.
import { announce, badge, calmly, call, clock, customer, el, find, follow, money, number, posted, put, say, when } from "./page.js";
import { change, notBefore, now, purchase, quantity, receipt, refusal, size, unanswered } from "./till.js";

const page = find("main");
const list = document.getElementById("discs");
const LOW = Number(page.dataset.low);
const buys = "cart" in page.dataset;
const REST = 1_000; // ms after a purchase in which the next click is still the same
const TICK = 200;
const MOST_LINES = 100; // of a cart

const discs = new Map(); // SKU → its element
const levels = new Map(); // SKU → the newest stock that was told
const busy = new Set(); // elements whose purchase is under way
const dirty = new Set();

// --- what is shown -------------------------------------------------------------------------

function stateOf({ opens, available }) {
  if (opens) return "soon";
  if (available === "") return "uncounted";
  if (available === "0") return "out";
  return Number(available) <= LOW ? "low" : "plenty";
}

const nameOf = (disc) => find(".name", disc).textContent;

/** Take over what is known of a disc's stock, if it is newer than what stands there. */
function level(disc) {
  const told = levels.get(disc.dataset.sku);
  if (!told || told.version <= Number(disc.dataset.version)) return;
  disc.dataset.version = told.version;
  disc.dataset.available = told.available;
}

function draw(disc) {
  level(disc);
  const { state: before, available } = disc.dataset;
  const state = (disc.dataset.state = stateOf(disc.dataset));
  const left = find(".left", disc);
  put(left, leftOf(state, disc.dataset.opens, available));
  left.title = state === "soon" ? clock(disc.dataset.opens) : "";
  if (buys && !busy.has(disc)) offer(disc, state);
  if (state !== before && disc.contains(document.activeElement)) tellChange(disc, before, state);
}

function leftOf(state, opens, available) {
  if (state === "soon") return say("shop.opens", { time: countdown(Date.parse(opens) - now()) });
  if (state === "uncounted" || state === "out") return say(`left.${state}`);
  return say(`left.${state}`, { n: Number(available) });
}

/** What the buttons say and whether they do anything; the focus stays on them. */
function offer(disc, state) {
  const label = { soon: "shop.soon", out: "left.out" }[state] ?? "shop.buy";
  put(find(".buy", disc), say(label));
  shut(find(".buy", disc), state === "soon" || state === "out");
  shut(find(".add", disc), state === "out");
}

function shut(button, wanted) {
  if (wanted) button.setAttribute("aria-disabled", "true");
  else button.removeAttribute("aria-disabled");
}

function tellChange(disc, before, state) {
  if (state === "out") announce(say("shop.sold_out_now", { name: nameOf(disc) }));
  else if (before === "soon") announce(say("shop.opened_now", { name: nameOf(disc) }));
}

const drawAll = calmly(50, () => {
  const wanted = [...dirty];
  dirty.clear();
  wanted.forEach(draw);
});

function stain(disc) {
  dirty.add(disc);
  drawAll();
}

// --- launches --------------------------------------------------------------------------------

function countdown(ms) {
  const left = Math.max(0, Math.ceil(ms / 1_000));
  const [days, hours, minutes] = [Math.floor(left / 86_400), Math.floor(left / 3_600) % 24, Math.floor(left / 60) % 60];
  const rest = [hours, minutes, left % 60].map((part) => String(part).padStart(2, "0")).join(":");
  return days ? say("shop.days", { n: days, rest }) : rest;
}

let timer = null;

/** While something is to be launched: look at the clock, and write what differs. */
function watch() {
  clearTimeout(timer);
  const soon = [...discs.values()].filter((disc) => disc.dataset.opens);
  for (const disc of soon) {
    if (Date.parse(disc.dataset.opens) <= now()) delete disc.dataset.opens;
    draw(disc);
  }
  if (soon.length) timer = setTimeout(watch, document.hidden ? 1_000 : TICK);
}

document.addEventListener("visibilitychange", watch);

// --- buying ----------------------------------------------------------------------------------

function tell(disc, kind, ...what) {
  const place = find(".outcome", disc);
  place.className = `outcome ${kind}`;
  place.replaceChildren(...what);
  if (what.length) announce(`${nameOf(disc)}: ${place.textContent}`);
}

const asking = (disc) => () => {
  if (disc && find(".outcome", disc).textContent !== say("shop.asking")) tell(disc, "", say("shop.asking"));
};

async function buy(disc) {
  const { sku, cents } = disc.dataset;
  const body = { items: [{ sku, quantity: 1 }], total_cents: Number(cents) };
  const wish = { path: "/api/v1/orders", body, sku };
  await settle(disc, () => purchase(wish, asking(disc)));
}

/** Carry a purchase through and say what became of it. `disc` null: it is not shown here. */
async function settle(disc, ask) {
  if (!disc) return ask().catch(() => {}); // the orders tell
  busy.add(disc);
  put(find(".buy", disc), say("shop.buying"));
  shut(find(".buy", disc), true);
  try {
    const order = await ask();
    tell(disc, "good", ...receipt(order, money(order.total_cents, order.currency)));
  } catch (error) {
    tell(disc, "bad", ...(await whyNot(disc, error)));
  } finally {
    setTimeout(() => {
      busy.delete(disc);
      stain(disc);
    }, REST);
  }
}

async function whyNot(disc, error) {
  if (error.code === "out_of_stock") {
    const { available } = error.errors[0];
    disc.dataset.available = available;
    stain(disc);
    return [available ? say("shop.too_few", { n: available }) : say("shop.sold_out_first")];
  }
  if (error.code === "not_on_sale") {
    return [say((await readAgain(disc)) ? "shop.not_yet" : "cart.gone")];
  }
  if (error.code === "version_mismatch" && (await readAgain(disc))) {
    return [say("shop.repriced", { price: find(".price", disc).textContent })];
  }
  return refusal(error);
}

/** Whether it is still in the catalogue; it was changed since the page was made. */
async function readAgain(disc) {
  try {
    const found = await call("GET", `/api/v1/products/${encodeURIComponent(disc.dataset.sku)}`);
    disc.dataset.cents = found.price_cents;
    put(find(".price", disc), money(found.price_cents, found.currency));
    const opens = found.available_from;
    if (opens && Date.parse(opens) > now()) disc.dataset.opens = opens;
    watch();
    return true;
  } catch (error) {
    return error.status !== 404;
  }
}

async function add(disc) {
  const { sku } = disc.dataset;
  try {
    await change(sku, (n) => n + 1, asking(disc));
    tell(disc, "good", say("shop.in_cart", { n: quantity(sku) }), " ", el("a", { href: "/cart" }, say("nav.cart")));
  } catch (error) {
    tell(disc, "bad", ...whyNotAdded(disc, error));
  }
}

function whyNotAdded({ dataset: { most } }, error) {
  const { parameter, pointer } = error.errors?.[0] ?? {};
  if (parameter === "sku") return [say(size() < MOST_LINES ? "cart.other_currency" : "shop.cart_full")];
  if (pointer !== "#/quantity") return refusal(error);
  return [most ? say("cart.too_many", { n: Number(most) }) : say("cart.too_dear")];
}

function clicked(event) {
  const button = event.target.closest("button");
  const disc = button?.closest(".disc");
  if (!disc || event.detail > 1) return; // the second half of a double click
  const does = button.classList.contains("buy") ? buy : add;
  if (button.getAttribute("aria-disabled") !== "true") does(disc);
  else if (disc.dataset.state === "out" && !busy.has(disc)) tell(disc, "bad", say("left.out"));
}

function resume() {
  for (const { sku, ask } of unanswered()) {
    const disc = discs.get(sku);
    if (disc) tell(disc, "", say("shop.resumed"));
    settle(disc, () => ask(asking(disc)));
  }
}

// --- his orders ------------------------------------------------------------------------------

const orders = document.getElementById("orders");

function order({ type, data }) {
  if (!orders) return;
  const known = [...orders.children].find((row) => row.dataset.id === data.id);
  if (known && Number(known.dataset.version) >= data.version) return;
  if (known) {
    known.dataset.version = data.version;
    find(".badge", known).replaceWith(badge(data.status, say(`status.${data.status}`)));
  } else if (type === "order.created") {
    orders.prepend(row(data));
    document.getElementById("none").hidden = true;
    while (orders.childElementCount > Number(orders.dataset.most)) orders.lastElementChild.remove();
  }
}

/** Of the event that made it: no other tells its lines. */
function row({ id, version, reference, status, items, total_cents: total, currency, created_at: created }) {
  const facts = [say("orders.discs", { n: items.reduce((sum, item) => sum + item.quantity, 0) })];
  if (total !== null) facts.push(money(total, currency));
  return el(
    "li",
    { dataset: { id, version } },
    el("a", { href: `/track/${id}` }, posted(reference ?? id.slice(-12))),
    " ",
    badge(status, say(`status.${status}`)),
    el("br"),
    el("span", { className: "small" }, `${facts.join(" · ")} · `, when(created)),
  );
}

// --- more of it ------------------------------------------------------------------------------

function adopt(disc) {
  discs.set(disc.dataset.sku, disc);
  if (disc.dataset.opens || levels.has(disc.dataset.sku)) stain(disc);
}

/** The next page is one of the server's own: its discs are taken over as they are. */
async function fetchMore(event) {
  const link = event.currentTarget;
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.ariaBusy === "true") return;
  link.ariaBusy = "true";
  put(link, say("shop.more_busy"));
  try {
    const answer = await fetch(link.href);
    if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
    take(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    location.assign(link.href); // the browser knows how to say what is wrong
  }
}

function take(next) {
  notBefore(find("main", next).dataset.now);
  const found = [...next.querySelectorAll(".disc")].filter(({ dataset }) => !discs.has(dataset.sku));
  list.append(...found);
  found.forEach(adopt);
  document.getElementById("further").replaceChildren(...document.importNode(find("#further", next), true).childNodes);
  leadOn();
  watch();
  announce(say("shop.more_came", { n: found.length }));
  (find("#more") ?? document.getElementById("list")).focus({ preventScroll: true });
}

const leadOn = () => find("#more")?.addEventListener("click", fetchMore);

// --- live ------------------------------------------------------------------------------------

function stock({ time, data: { sku, version, available } }) {
  notBefore(time);
  const known = levels.get(sku);
  if (known && known.version >= version) return;
  levels.set(sku, { version, available });
  if (discs.has(sku)) stain(discs.get(sku));
}

list.querySelectorAll(".disc").forEach(adopt);
if (buys) {
  list.addEventListener("click", clicked);
  list.addEventListener("keydown", (event) => {
    if (event.repeat && event.target.closest("button")) event.preventDefault(); // a key held down
  });
}
document.getElementById("filters").addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
});
orders?.querySelectorAll("time").forEach((time) => time.replaceWith(when(time.dateTime)));
leadOn();
watch();
if (buys) resume();
follow({
  topics: customer ? ["stock", `customer:${customer}`] : ["stock"],
  after: page.dataset.cursor,
  on: {
    "stock.changed": stock,
    "order.*": order,
    reset: () => setTimeout(() => location.reload(), Math.random() * 2_000), // the page is too old
  },
});
