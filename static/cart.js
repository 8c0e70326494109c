// The page of the cart: its lines with their live stock, and the till.
import { announce, calmly, call, clock, customer, find, follow, money, put, say } from "./page.js";
import { change, checkOut, empty, look, notBefore, now, receipt, refusal, took, unanswered } from "./till.js";

const page = find("main");
const till = document.getElementById("till");
const lines = document.getElementById("lines");
const outcome = document.getElementById("outcome"); // of the till
const bill = document.getElementById("receipt"); // of what was bought last
const buy = document.getElementById("buy");
const SOON = 300; // ms in which further steps of a quantity are waited for

let cart = null; // what is shown
const levels = new Map(); // SKU → the newest stock that was told
const steps = new Map(); // SKU → a change that is not asked for yet

const lineOf = (sku) => [...lines.children].find((line) => line.dataset.sku === sku);
const mostOf = (sku) => cart?.items.find((item) => item.sku === sku)?.max_per_order;
const nameOf = (line) => find(".name", line).textContent;

function tell(kind, ...what) {
  outcome.className = `outcome ${kind}`;
  outcome.replaceChildren(...what);
}

/** Say at a line what became of a change of it. */
function tellAt(line, kind, ...what) {
  const place = find(".outcome", line);
  place.className = `outcome small ${kind}`;
  put(place, ...what);
}

// --- what is shown -------------------------------------------------------------------------

/** Show a cart. What is in it and not on this page came from elsewhere: the server draws that. */
function show(shape) {
  cart = took(shape);
  const known = new Set(cart.items.map(({ sku }) => sku));
  if ([...known].some((sku) => !lineOf(sku))) return location.reload();
  for (const line of [...lines.children]) if (!known.has(line.dataset.sku)) remove(line);
  cart.items.forEach(judge);
  cart.items.forEach(draw);
  total();
  till.hidden = cart.items.length === 0;
  document.getElementById("nothing").hidden = !till.hidden;
}

function remove(line) {
  const next = line.nextElementSibling ?? line.previousElementSibling;
  const held = line.contains(document.activeElement);
  line.remove();
  if (held) (next ? find(".out", next) : page).focus();
}

function draw(item) {
  const line = lineOf(item.sku);
  const { price_cents: price, currency, quantity } = item;
  put(find(".each", line), price === null ? "" : money(price, currency));
  put(find(".amount", line), price === null ? "–" : money(price * quantity, currency));
  const why = problem(item);
  put(find(".problem", line), why);
  const field = find(".many", line);
  if (!steps.has(item.sku) && field.value !== String(quantity)) field.value = quantity;
  if (why) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

function problem({ problem: kind, available, max_per_order: most, available_from: opens }) {
  if (kind === null) return "";
  if (kind === "out_of_stock") return available ? say("cart.too_few", { n: available }) : say("left.out");
  if (kind === "max_per_order") return tooMany(most);
  if (kind === "not_on_sale") return say("shop.from", { time: clock(opens) });
  return say(`cart.${kind}`);
}

const tooMany = (most) => (most ? say("cart.too_many", { n: most }) : say("cart.too_dear"));

function total() {
  const counted = cart.items.filter(({ price_cents: price, currency }) => price !== null && currency === cart.currency);
  const sum = counted.reduce((all, { price_cents: price, quantity }) => all + price * quantity, 0);
  put(document.getElementById("total"), cart.currency ? money(sum, cart.currency) : "");
}

/** What the stock says of a line now; all else that may be wrong with it stays. */
function judge(item) {
  const told = levels.get(item.sku);
  if (told) item.available = told.available;
  if (item.problem !== null && item.problem !== "out_of_stock") return;
  const before = item.problem;
  item.problem = item.available !== null && item.available < item.quantity ? "out_of_stock" : null;
  if (item.problem && !before) announce(`${nameOf(lineOf(item.sku))}: ${problem(item)}`);
}

const judgeAll = calmly(50, () => {
  cart?.items.forEach(judge);
  cart?.items.forEach(draw);
});

// --- changes ---------------------------------------------------------------------------------

async function set(line, quantity) {
  const { sku } = line.dataset;
  clearTimeout(steps.get(sku)?.timer);
  steps.delete(sku);
  try {
    const shape = await change(sku, () => quantity, () => tellAt(line, "", say("cart.unsure")));
    if (!steps.size) show(shape);
    tellAt(line, "");
    if (!quantity) announce(say("cart.taken_out", { name: nameOf(line) }));
  } catch (error) {
    if (!steps.size) show(await look().catch(() => cart));
    const many = error.errors?.[0]?.pointer === "#/quantity";
    const why = many ? [tooMany(mostOf(sku))] : refusal(error);
    if (line.isConnected) tellAt(line, "bad", ...why);
    else tell("bad", `${nameOf(line)}: `, ...why);
  }
}

/** Ask for a quantity once nobody steps further. */
function step(line, wanted) {
  const { sku } = line.dataset;
  const quantity = Math.min(10_000, Math.max(1, wanted));
  find(".many", line).value = quantity;
  clearTimeout(steps.get(sku)?.timer);
  const now = () => set(line, quantity);
  steps.set(sku, { now, timer: setTimeout(now, SOON) });
}

function clicked({ target }) {
  const button = target.closest("button");
  const line = button?.closest(".entry");
  if (!line) return;
  const stands = Number(find(".many", line).value) || 1;
  if (button.classList.contains("less")) step(line, stands - 1);
  else if (button.classList.contains("greater")) step(line, stands + 1);
  else set(line, 0);
}

function typed({ target }) {
  const line = target.closest(".entry");
  const wanted = /^[0-9]{1,5}$/.test(target.value) ? Number(target.value) : null;
  if (wanted === null) show(cart);
  else if (wanted === 0) set(line, 0);
  else step(line, wanted);
}

// --- the till ----------------------------------------------------------------------------------

const asking = () => {
  if (outcome.textContent !== say("shop.asking")) tell("", say("shop.asking"));
};

async function settle(ask) {
  buy.setAttribute("aria-disabled", "true");
  put(buy, say("cart.busy"));
  tell("", say("cart.busy"));
  bill.hidden = true;
  try {
    present(await ask());
    tell("");
  } catch (error) {
    tell("bad", ...whyNot(error));
  }
  show(await look().catch(() => cart));
  put(buy, say("cart.buy"));
  buy.removeAttribute("aria-disabled");
}

function present(order) {
  put(bill, ...receipt(order, money(order.total_cents, order.currency)));
  bill.hidden = false;
  bill.focus(); // the till that was used goes
}

function whyNot(error) {
  if (error.code === "version_mismatch") return [say("cart.changed")];
  if (error.code === "out_of_stock" || error.code === "not_on_sale") return [say("cart.mend")];
  if (error.code === "invalid") return [say(error.errors.length ? "cart.mend" : "cart.nothing")];
  return refusal(error);
}

async function bought(event) {
  if (buy.getAttribute("aria-disabled") === "true" || event.detail > 1 || cart === null) return;
  await settle(async () => {
    await Promise.all([...steps.values()].map((one) => one.now()));
    return checkOut(cart, asking);
  });
}

function resume() {
  for (const { ask } of unanswered()) {
    tell("", say("shop.resumed"));
    settle(() => ask(asking));
  }
}

// --- live --------------------------------------------------------------------------------------

function stock({ time, data: { sku, version, available } }) {
  notBefore(time);
  if (levels.get(sku)?.version >= version) return;
  levels.set(sku, { version, available });
  if (lineOf(sku)) judgeAll();
}

/** As it is now: after a while away, or when something in it is launched. */
async function again() {
  if (steps.size || document.hidden) return;
  try {
    show(await look());
    const opens = cart.items.map(({ available_from: at }) => (at ? Date.parse(at) - now() : 0)).filter((ms) => ms > 0);
    if (opens.length) setTimeout(again, Math.min(...opens, 86_400_000) + 50);
  } catch {
    // What stands here stays; a change or the till says what is wrong.
  }
}

lines.addEventListener("click", clicked);
lines.addEventListener("change", typed);
buy.addEventListener("click", bought);
document.getElementById("empty").addEventListener("click", async () => {
  try {
    show(await empty(() => tell("", say("cart.unsure"))));
    tell("");
  } catch (error) {
    tell("bad", ...refusal(error));
  }
});
document.addEventListener("visibilitychange", again);
await again();
resume();
follow({
  topics: ["stock"],
  after: page.dataset.cursor,
  on: { "stock.changed": stock, reset: again },
});
