// Keeps the page of an order up to date. The server has drawn all of it; this changes what
// changes, from the order's events, and writes nothing that stands there already.
import { connect } from "./filaviva.js";
import {
  Unreachable, account, calmly, call, clock, el, explain, find, number, params, patiently, put, remedy, say, sure, tellTime, when, words,
} from "./page.js";

const page = find("main");
const { order, stream: url, cursor, now } = page.dataset;
const part = (id) => document.getElementById(id);

// --- what is shown -------------------------------------------------------------------

let seen = {
  version: Number(page.dataset.version),
  status: page.dataset.status,
  queue: page.dataset.queue,
  cancel_requested: !part("asked").hidden,
};
let answered = null; // the order as a call told it, which its events have not told yet
let place; // null: it has none; undefined: what the server drew
const fresh = []; // events that are not drawn yet

const draw = calmly(50, () => {
  const events = fresh.splice(0);
  for (const { type, time, data } of events) {
    showSteps(type, data);
    showHistory(type, time, data);
  }
  if (events.length) showStatus(latest());
  if (place !== undefined) showPlace();
});

/** How it stands, by whoever told it last. */
const latest = () => (answered !== null && answered.version > seen.version ? answered : seen);

function showStatus({ status, queue, cancel_requested: asked, updated_at: changed, late = false }) {
  const about = late ? "about.late" : `about.${status}`;
  set(part("status"), "status", status);
  put(part("status"), words[`status.${status}`] ?? status);
  put(part("about"), about in words ? say(about, { queue }) : "");
  part("asked").toggleAttribute("hidden", !asked);
  put(part("changed"), when(changed, { full: true }));
  offerCancel();
}

function showPlace() {
  part("place").toggleAttribute("hidden", place === null);
  if (place === null) return;
  const { position, position_exact: exact, eta_seconds: seconds } = place;
  const text = say(exact ? "place.exact" : "place.beyond", { place: number(position) });
  put(part("place"), exact && seconds !== null ? text + say("place.time", { time: wait(seconds) }) : text);
}

function wait(seconds) {
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? say("unit.minutes", { n: minutes }) : say("unit.hours", { n: Math.ceil(minutes / 60) });
}

function showSteps(type, { status, queue }) {
  const steps = part("steps");
  const last = steps.lastElementChild;
  if (type === "order.forwarded") {
    last.removeAttribute("aria-current");
    mark(last, "done");
    steps.append(el("li", { "aria-current": "step" }, el("span", {}, queue)));
    trim(steps, Number(page.dataset.steps), "firstElementChild");
  }
  const ended = status === "completed" ? "done" : status;
  mark(steps.lastElementChild, status === "pending" || status === "processing" ? "here" : ended);
}

function mark(step, state) {
  if (step.dataset.state === state) return;
  step.dataset.state = state;
  const said = state === "done" ? say("track.done") : words[`status.${state}`];
  find(".unseen", step)?.remove();
  if (state !== "here") step.append(el("span", { className: "unseen" }, `, ${said}`));
}

function showHistory(type, time, { queue, previous_queue: previous, reason }) {
  const key = `event.${type}.${reason}` in words ? `event.${type}.${reason}` : `event.${type}`;
  const text = say(key, { queue, previous: previous ?? queue });
  part("history").prepend(el("li", {}, el("span", {}, text), " ", el("time", { dateTime: time }, clock(time))));
  trim(part("history"), Number(page.dataset.history), "lastElementChild");
}

function set(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

function trim(list, most, end) {
  while (list.childElementCount > most) list[end].remove();
}

// --- what comes ----------------------------------------------------------------------

function take({ type, time, data }) {
  if (!(`event.${type}` in words) || data.version <= seen.version) return;
  if (data.status !== "pending" || data.queue !== seen.queue) place = null; // until it is told anew
  seen = { ...data, late: data.status === "completed" && seen.cancel_requested };
  fresh.push({ type, time, data });
  draw();
  if (data.status === "completed") stream.close();
}

function move(told) {
  if (latest().status !== "pending") return;
  place = told.position === null ? null : told;
  draw();
}

// What was missed cannot be told one by one: the server draws the page anew.
function redraw() {
  setTimeout(() => location.reload(), Math.random() * 2_000);
}

// --- the line to the service -----------------------------------------------------------

const tell = patiently(({ name, reason }) => {
  const state = { connecting: "connecting", retrying: "waiting", ended: end(reason) }[name] ?? name;
  set(part("line"), "state", state);
  put(part("line"), words[`track.${state}`] ?? words[`line.${state}`]);
});

function end(reason) {
  if (reason === "closed") return "over";
  if (account !== null) return "ended"; // it was a sign-in that opened the page, not a link
  return reason === "expired" ? "expired" : "revoked";
}

// --- his own order -------------------------------------------------------------------------

const own = part("cancel"); // of whoever is signed in as its customer

function offerCancel() {
  if (!own) return;
  const { cancel_requested: asked, status } = latest();
  const over = asked || !["pending", "processing"].includes(status);
  if (over && own.contains(document.activeElement)) part("status").focus({ preventScroll: true });
  own.hidden = over;
}

async function cancel() {
  if (!(await sure({ text: say("track.cancel_text"), yes: say("track.cancel") }))) return;
  const outcome = find(".outcome", own);
  put(outcome, say("act.busy"));
  try {
    answer(await call("POST", `/api/v1/orders/${order}/cancel`, { body: {} }));
    put(outcome, "");
  } catch (error) {
    const why = error instanceof Unreachable ? say("act.unsure") : explain(error);
    outcome.replaceChildren(why, " ", remedy(error) ?? "");
  } finally {
    stream?.hurry();
  }
}

/** Its status is shown at once, also while the stream is away; the event tells the rest. */
function answer(order) {
  if (order.version <= seen.version) return;
  answered = order;
  if (order.status !== "pending") place = null;
  showStatus(order);
  if (place !== undefined) showPlace();
}

// --- the link ----------------------------------------------------------------------------

/** The address of this page for somebody without an account. */
async function link() {
  const address = new URL(location.pathname, location.origin);
  address.searchParams.set("ticket", params().get("ticket") ?? (await ticket()));
  return address.href;
}

async function ticket() {
  const body = { topics: [`order:${order}`], expires_in: page.dataset.linkDays * 86_400 };
  return (await call("POST", "/api/v1/events/tickets", { body })).ticket;
}

async function copy() {
  try {
    const address = await link();
    await navigator.clipboard.writeText(address).then(
      () => put(part("shared"), say("track.copied")),
      () => offer(address),
    );
  } catch (error) {
    put(part("shared"), explain(error));
  }
}

/** Where a page may not copy by itself, one copies by hand. */
function offer(address) {
  const field = part("address");
  field.value = address;
  field.parentElement.hidden = false;
  field.select();
}

async function share() {
  try {
    await navigator.share({ title: document.title, url: await link() });
  } catch (error) {
    if (error.name !== "AbortError") put(part("shared"), explain(error));
  }
}

// --- at last -------------------------------------------------------------------------------

const [visit] = performance.getEntriesByType("navigation");
tellTime(now, Date.now() - performance.now() + (visit?.responseStart ?? 0));
put(part("changed"), when(find("#changed time").dateTime, { full: true }));
part("history").querySelectorAll("time").forEach((time) => put(time, clock(time.dateTime)));

offerCancel();
own?.querySelector("button").addEventListener("click", cancel);
part("link").hidden = false;
part("copy").addEventListener("click", copy);
part("share").addEventListener("click", share);
part("share").hidden = !navigator.share;

let stream = null;
if (seen.status !== "completed") {
  stream = connect({
    url,
    account: account ?? "",
    after: cursor,
    on: { "order.*": take, position: move, reset: redraw, state: tell },
  });
}
