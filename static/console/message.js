// One order: how it stands, its way through the queues, what an admin may do with it.
import {
  action,
  acts,
  badge,
  calmly,
  call,
  copyButton,
  duration,
  el,
  find,
  follow,
  money,
  number,
  posted,
  put,
  region,
  rows,
  say,
  when,
  words,
} from "/static/page.js";

const { message: id, buyer, linkDays } = find("main").dataset;
const names = JSON.parse(find("main").dataset.names); // of the items that are products, by SKU
const path = `/api/v1/messages/${id}`;
const PAGE = 200; // steps, as many as the service gives at once
const PAGES = 5; // of them that are read without being asked for
const FOLD = 3; // rounds of claim and return, from which on they are told as one
const OVER = ["completed", "failed", "cancelled", "expired"];

let message = null;

// --- how it stands ---------------------------------------------------------------------

const at = (instant) => (instant === null ? null : when(instant, { full: true }));
const link = (text, page, query) =>
  text === null ? null : el("a", { href: `${page}?${new URLSearchParams(query)}` }, posted(text));
const listed = (name) => link(message[name], "/admin/messages", { [name]: message[name] });

/** By the names in the template; null: there is nothing to say. */
function facts() {
  const { status, worker, attempts, lost_leases: lost } = message;
  const held = status === "processing";
  return {
    queue: el("a", { href: `/admin/queues/${encodeURIComponent(message.queue)}` }, message.queue),
    customer: buyer ? [listed("customer"), " · ", posted(buyer)] : listed("customer"),
    reference: listed("reference"),
    group: listed("group"),
    priority: number(message.priority),
    worker: held ? posted(worker) : null,
    lease: held ? at(message.lease_expires_at) : null,
    available: status === "pending" ? at(message.available_at) : null,
    expires: at(message.expires_at),
    attempts: number(attempts),
    lost: number(lost),
    created: at(message.created_at),
    updated: at(message.updated_at),
    finished: at(message.finished_at),
    version: number(message.version),
    key: message.idempotency_key === null ? null : posted(message.idempotency_key),
  };
}

function drawFacts() {
  for (const [name, value] of Object.entries(facts())) {
    const node = find(`[data-fact="${name}"]`);
    node.hidden = value === null;
    put(find("dd", node), ...(value === null ? [] : [value].flat()));
  }
}

function drawStatus() {
  put(find("#status"), badge(message.status));
  find("#asked").hidden = !(message.cancel_requested && message.status === "processing");
  find("#why").hidden = message.last_error === null;
  put(find("#why h2"), say(message.status === "failed" ? "message.why" : "message.why_before"));
  put(find("#error"), message.last_error ?? "");
}

function named(sku) {
  if (!Object.hasOwn(names, sku)) return posted(sku);
  const product = el("a", { href: `/admin/stock/${encodeURIComponent(sku)}` }, posted(sku));
  return [posted(names[sku]), " ", el("span", { className: "small" }, product)];
}

const items = rows(find("#bought"), {
  key: ({ place }) => place,
  cells: ({ sku, quantity, amount_cents: cents }) => [
    named(sku),
    number(quantity),
    cents === null ? "–" : money(cents, message.currency),
  ],
  numeric: [1, 2],
  head: 0,
});

function drawItems() {
  items.show(message.items.map((item, place) => ({ ...item, place })));
  put(find("#total"), message.total_cents === null ? "–" : money(message.total_cents, message.currency));
}

function drawPayload() {
  const parts = { metadata: message.metadata, lines: message.items, result: message.result };
  for (const [name, value] of Object.entries(parts)) {
    const node = find(`#${name}`);
    node.hidden = value === null;
    put(find("pre", node), JSON.stringify(value, null, 2));
  }
}

for (const name of ["metadata", "lines", "result"]) {
  const node = find(`#${name}`);
  node.append(copyButton(() => find("pre", node).textContent));
}

const refresh = region("order", async (signal) => {
  const found = await call("GET", path, { signal });
  if (message !== null && found.version < message.version) return;
  message = found;
  drawStatus();
  drawFacts();
  drawItems();
  drawPayload();
  drawActions();
});

// --- its way -----------------------------------------------------------------------------

const steps = new Map(); // by id, oldest first
let cursor = null; // of the newest page, which is read again for what came since
let unread = null; // of the next page, while there is one
let wanted = PAGES;

/** Read on from the newest page that was read; gives whether there is more. */
async function readOn(signal) {
  for (;;) {
    const query = new URLSearchParams({ limit: PAGE, ...(cursor && { cursor }) });
    const page = await call("GET", `${path}/history?${query}`, { signal });
    page.items.forEach((step) => steps.set(step.id, step));
    unread = page.next_cursor;
    if (unread === null || steps.size >= wanted * PAGE) return;
    cursor = unread;
  }
}

/** The steps with how long the state before each of them lasted, in ms. */
function timed() {
  let since = null;
  return [...steps.values()].map((step) => {
    const now = Date.parse(step.time);
    if (step.type === "order.cancel_requested") return { ...step, took: null };
    const took = since === null ? null : Math.max(0, now - since);
    since = now;
    return { ...step, took };
  });
}

/** Its stays in queues, each with its steps; a forward is the first step of the next stay. */
function stays() {
  const found = [];
  for (const step of timed()) {
    if (!found.length || step.type === "order.forwarded") {
      found.push({ key: step.id, queue: step.queue, steps: [] });
    }
    found.at(-1).steps.push(step);
  }
  found.forEach((stay, place) => {
    const last = stay.steps.at(-1);
    const end = found[place + 1]?.steps[0] ?? (OVER.includes(last.status) ? last : null);
    stay.took = end && Date.parse(end.time) - Date.parse(stay.steps[0].time);
  });
  return found;
}

const returned = ({ type, status }) => type === "order.requeued" && status === "pending";
const claimed = ({ type }) => type === "order.processing";

/** Steps in a row of claims and returns, but the last such round, become one entry. */
function folded(all) {
  const found = [];
  let rounds = [];
  const flush = () => {
    const kept = rounds.length > FOLD ? rounds.pop() : null;
    if (kept) found.push({ key: `fold-${rounds[0][0].id}`, rounds });
    found.push(...(kept ?? rounds.flat()));
    rounds = [];
  };
  for (let place = 0; place < all.length; place++) {
    const [step, next] = [all[place], all[place + 1]];
    if (claimed(step) && next && returned(next)) {
      rounds.push([step, next]);
      place++;
    } else {
      flush();
      found.push(step);
    }
  }
  flush();
  return found;
}

const length = (ms) => (ms < 1_000 ? say("message.ms", { n: ms }) : duration(ms / 1_000));

/** What the state before a step was spent with. */
function lasted({ took, previous_status: before }) {
  return took === null ? [] : [" · ", say(`message.took.${before}`, { time: length(took) })];
}

/** `{name}` in words stands for an element, so that what was posted stays text of its own. */
function sentence(text, parts) {
  return text.split(/\{(\w+)\}/).map((part, place) => (place % 2 ? (parts[part] ?? "–") : part));
}

function told(step) {
  const keys = [`message.event.${step.type}.${step.reason}`, `message.event.${step.type}`];
  const text = words[keys[0]] ?? words[keys[1]] ?? step.type;
  return sentence(text, {
    queue: posted(step.queue),
    previous: posted(step.previous_queue),
    worker: posted(step.worker),
  });
}

/** Whose account did it, unless it is named like the worker that was told already. */
function actor({ type, actor: name, worker }) {
  if (name === null || (type === "order.processing" && name === worker)) return "";
  return el("span", { className: "small" }, ...sentence(words["message.by"], { actor: posted(name) }));
}

function drawStep(node, step) {
  const result = step.result === null ? null : JSON.stringify(step.result);
  node.dataset.status = step.status;
  put(
    node,
    el("p", {}, ...told(step), " ", actor(step)),
    el("p", { className: "small" }, at(step.time), ...lasted(step)),
    ...(step.error === null ? [] : [el("p", { className: "said fault" }, posted(step.error))]),
    ...(result === null ? [] : [el("p", { className: "said id" }, posted(result))]),
  );
}

/** Rounds as one entry, filled when it is opened; it stays open when more come. */
function drawFold(node, { rounds }) {
  if (!node.firstChild) node.append(el("details", {}, el("summary"), el("ol", { className: "way" })));
  const details = node.firstChild;
  const error = rounds.at(-1)[1].error;
  const summary = say("message.rounds", { n: rounds.length });
  put(find("summary", node), summary, ...(error === null ? [] : [" ", posted(error, { className: "fault" })]));
  details.ontoggle = () => details.open && keep(find("ol", node), rounds.flat(), drawStep);
  details.ontoggle();
}

const drawEntry = (node, entry) => (entry.rounds ? drawFold : drawStep)(node, entry);

function drawStay(node, stay) {
  if (!node.firstChild) node.append(el("h3"), el("ol", { className: "way" }));
  const took = stay.took === null ? [] : [" ", el("span", { className: "small" }, length(stay.took))];
  put(find("h3", node), posted(stay.queue), ...took);
  keep(find("ol", node), folded(stay.steps), drawEntry);
}

/** The items of a list by their key: one that was there stays the same element. */
function keep(list, entries, draw) {
  const known = new Map([...list.children].map((node) => [node.dataset.key, node]));
  entries.forEach((entry, place) => {
    const key = entry.key ?? entry.id;
    const node = known.get(key) ?? el("li", { dataset: { key } });
    known.delete(key);
    draw(node, entry);
    if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null);
  });
  known.forEach((node) => node.remove());
}

const refreshWay = region("steps", async (signal) => {
  await readOn(signal);
  keep(find("#visits"), stays(), drawStay);
  find("#more").hidden = unread === null;
  return steps.size > 0;
});

find("#more").addEventListener("click", () => {
  cursor = unread;
  wanted = steps.size / PAGE + PAGES;
  refreshWay();
});

// --- what an admin may do ------------------------------------------------------------------

const forms = {};
const offered = {
  retry: () => ["failed", "cancelled", "expired"].includes(message?.status),
  cancel: () => ["pending", "processing"].includes(message?.status) && !message.cancel_requested,
};

/** Only if it is still as it is shown: what was decided on is what happens. */
function guarded(verb, body) {
  if (!offered[verb]()) return null;
  return { method: "POST", path: `${path}/${verb}`, headers: { "If-Match": `"${message.version}"` }, body };
}

/** Whatever comes of it, what is shown then is how it stands. */
async function act(...what) {
  try {
    return await call(...what);
  } finally {
    await Promise.all([refresh(), refreshWay()]);
  }
}

/** What cannot be done is not shown, but what came of it stays. */
function drawActions() {
  for (const [name, { show }] of Object.entries(forms)) {
    const [form, open] = [find(`#${name}`), offered[name]()];
    const [outcome, focused] = [find(".outcome", form), form.contains(document.activeElement)];
    find(".ask", form).hidden = !open;
    form.hidden = !open && outcome.textContent === "";
    if (focused && !open) outcome.focus();
    show();
  }
}

function reasonGiven() {
  const reason = find("#cancel").elements.reason.value.trim();
  return reason ? { reason } : undefined;
}

const ended = ({ status }) => say(status === "cancelled" ? "message.cancel.done" : "message.cancel.asked");

const linked = () => ({
  method: "POST",
  path: "/api/v1/events/tickets",
  body: { topics: [`order:${id}`], expires_in: linkDays * 86_400 },
});

function showLink({ ticket, expires_at: expires, url }) {
  const address = new URL(`/track/${id}?${new URLSearchParams({ ticket })}`, url).href;
  const field = el("pre", { className: "id", tabIndex: 0, "aria-label": say("message.link.title") }, address);
  const node = find("#linked");
  const until = el("p", { className: "small" }, say("message.link.until"), " ", at(expires));
  node.replaceChildren(field, copyButton(() => address), until);
  node.hidden = false;
  return say("message.link.done");
}

if (acts) {
  const revived = () => say("message.retry.done");
  forms.retry = action(find("#retry"), () => guarded("retry"), { run: act, done: revived });
  forms.cancel = action(find("#cancel"), () => guarded("cancel", reasonGiven()), { run: act, done: ended });
  action(find("#link"), linked, { done: showLink });
  document.querySelectorAll("#actions .outcome").forEach((node) => (node.tabIndex = -1));
}

// --- live ------------------------------------------------------------------------------------

const soon = calmly(300, () => Promise.all([refresh(), refreshWay()]));

refresh();
refreshWay();
follow({
  topics: [`order:${id}`],
  on: {
    "order.*": soon,
    reset: soon,
    // What happened while nothing came.
    state: ({ name }) => name === "live" && soon(),
  },
});
