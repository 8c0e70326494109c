// Buying, once. A purchase has a key of its own from the click on, and is asked for with that key
// until it is known what became of it: over a broken line, a restart, a page that was reloaded.
import { Refused, Unreachable, account, call, customer, el, explain, find, number, remedy, say, tellTime } from "./page.js";

const CART = "/api/v1/cart";
const KEPT = `filaviva-purchases:${account}`; // in this browser, while nobody knows
const USED = 5 * 60_000; // ms; a session ends after 30 minutes without use
const RESUMED = 10 * 60_000; // ms after which nobody expects a purchase any more
const FIRST_WAIT = 300;
const LONGEST_WAIT = 4_000;

// --- the service's clock -----------------------------------------------------------------

// A launch is by the service's clock. This counts on from what it was when the page was made, by
// a clock that nobody sets: how far the device's own is out does not matter. It is never ahead:
// the page cannot have been made after its first byte came.
const [opened] = performance.getEntriesByType("navigation");
let zero = Date.parse(find("main").dataset.now) - opened.responseStart;
let apart = Date.now() - performance.now();

export const now = () => zero + performance.now();

/** An event or an answer of this time: it is not earlier now. */
export function notBefore(stamp) {
  zero = Math.max(zero, Date.parse(stamp) - performance.now());
}

// The counter may stand still while the device sleeps: then the two clocks have moved apart.
document.addEventListener("visibilitychange", async () => {
  const gap = Date.now() - performance.now();
  if (document.hidden || Math.abs(gap - apart) < 2_000) return;
  apart = gap;
  const answer = await fetch("/livez", { method: "HEAD" }).catch(() => null);
  const told = Date.parse(answer?.headers.get("Date") ?? "");
  if (!Number.isNaN(told)) zero = told - performance.now();
});

tellTime(find("main").dataset.now);

// Whoever waits here for a launch is still signed in when it comes, also from a hidden tab.
if (customer) setInterval(() => fetch("/api/v1/auth/me", { method: "HEAD" }).catch(() => {}), USED);

// --- asking until it is known -------------------------------------------------------------

/** Whether an error leaves open what happened: the same is to be asked again. */
function isOpen(error) {
  if (error instanceof Unreachable) return true;
  if (!(error instanceof Refused)) return false;
  return error.status >= 500 || error.status === 429 || error.code === "idempotency_in_progress";
}

/** Wait before the next try: for as long as was said, and no longer than the device is offline. */
function pause(ms) {
  return new Promise((resolve) => {
    const go = () => {
      clearTimeout(timer);
      removeEventListener("online", go);
      resolve();
    };
    const timer = setTimeout(go, ms * (0.5 + Math.random() / 2));
    addEventListener("online", go);
  });
}

/** Try `work` until it is known what became of it; `waiting` is told when that takes long. */
async function insist(work, waiting) {
  for (let wait = FIRST_WAIT; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
    try {
      return await work();
    } catch (error) {
      if (!isOpen(error)) throw error;
      waiting(error);
      await pause(error.wait ? error.wait * 1_000 : wait);
    }
  }
}

// --- purchases -----------------------------------------------------------------------------

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // `randomUUID` wants https
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return found.filter((one) => Math.abs(Date.now() - one.at) < RESUMED);
  } catch {
    return []; // no storage here, or not ours
  }
}

function keep(purchases) {
  try {
    if (purchases.length) localStorage.setItem(KEPT, JSON.stringify(purchases));
    else localStorage.removeItem(KEPT);
  } catch {
    // The page has to stay open then.
  }
}

const forget = (key) => keep(kept().filter((one) => one.key !== key));

/**
 * Buy: `{path, body, version?}`, with what the page wants to know again (`sku`). Gives the
 * order; throws a Refused, after which nothing was bought.
 */
export async function purchase(wish, waiting) {
  const mine = { ...wish, key: newKey(), at: Date.now() };
  keep([...kept(), mine]);
  return ask(mine, waiting);
}

async function ask({ key, path, body, version }, waiting, open = false) {
  const match = version === undefined ? {} : { "If-Match": `"${version}"` };
  const headers = { "Idempotency-Key": key, ...match };
  try {
    const order = await insist(
      () => call("POST", path, { body, headers }),
      (error) => {
        open = true;
        waiting(error);
      },
    );
    forget(key);
    return order;
  } catch (error) {
    // Signed out half-way: it may have been bought. Asked again after the sign-in.
    if (!(open && error.status === 401)) forget(key);
    throw error;
  }
}

/** What a page before this one asked for and got no answer to: each with `ask(waiting)`. */
export function unanswered() {
  return kept().map((one) => ({ ...one, ask: (waiting) => ask(one, waiting, true) }));
}

// --- the cart -------------------------------------------------------------------------------

let cart = null; // as the service told it last
let turn = Promise.resolve(); // one change after the other

export const size = () => cart?.items.length ?? 0;
export const quantity = (sku) => cart?.items.find((line) => line.sku === sku)?.quantity ?? 0;

export function took(shape) {
  cart = shape;
  const all = cart.items.reduce((sum, line) => sum + line.quantity, 0);
  find("#count").textContent = all ? number(all) : "";
  return cart;
}

export const look = async () => took(await call("GET", CART));

/**
 * Change a line: `wanted(quantity)` says how many there shall be (0: none). Nothing that another
 * tab did meanwhile is undone. Gives the cart.
 */
export function change(sku, wanted, waiting = () => {}) {
  const mine = turn.then(() => changed(sku, wanted, waiting));
  turn = mine.catch(() => {});
  return mine;
}

async function changed(sku, wanted, waiting) {
  let sent = null; // asked for, and not answered
  return insist(async () => {
    for (;;) {
      if (cart === null) await look();
      if (sent !== null && quantity(sku) === sent) return cart; // it had been heard
      sent = null;
      const next = wanted(quantity(sku));
      try {
        return took(await put(sku, next));
      } catch (error) {
        cart = null;
        if (isOpen(error)) sent = next;
        if (error.status !== 412) throw error;
      }
    }
  }, waiting);
}

function put(sku, next) {
  const headers = { "If-Match": `"${cart.version}"` };
  const path = `${CART}/items/${encodeURIComponent(sku)}`;
  return next ? call("PUT", path, { body: { quantity: next }, headers }) : call("DELETE", path, { headers });
}

export const empty = (waiting) =>
  insist(async () => took(await call("DELETE", CART)), waiting);

/** Buy all that the caller has seen in the cart. */
export async function checkOut(seen, waiting) {
  return purchase({ path: `${CART}/checkout`, body: { total_cents: seen.total_cents }, version: seen.version }, waiting);
}

// --- words -----------------------------------------------------------------------------------

/** Why nothing was bought; with a way to sign in where that is what is missing. */
export function refusal(error) {
  if (error.code === "customer_inactive") return [say("shop.inactive")];
  return [explain(error), " ", remedy(error) ?? ""];
}

/** What was bought, and where to follow it. */
export function receipt(order, total) {
  const way = new URL(order.tracking.url).pathname; // his sign-in opens it, here
  return [say("shop.bought", { total }), " ", el("a", { href: way }, say("shop.follow"))];
}
