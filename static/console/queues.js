// All queues: exact counts, live; the worst first, or as the address says.
import {
  action,
  acts,
  badge,
  call,
  calmly,
  duration,
  el,
  every,
  filters,
  find,
  follow,
  now,
  number,
  onAddress,
  pager,
  params,
  put,
  Refused,
  region,
  rows,
  say,
  Unreachable,
  when,
} from "/static/page.js";

const STATUSES = ["pending", "processing", "completed", "failed", "cancelled", "expired"];
const TROUBLES = ["failing", "late", "paused", "dead"]; // the worst first
const LATELY = 15; // minutes
const MOST = 1_000; // queues of a page
const STANDS = 5_000; // ms that the order of the rows stands at least
const LIST_S = 15; // for what no event tells: the last claim, and what became due
const RATES_S = 15;

const queues = new Map(); // those of this page, by name
const everywhere = new Map(); // the counts of all queues, by name
let complete = false; // `everywhere` has all
const rates = new Map(); // minute by minute, by name; empty: nobody told them yet
let wanted = null; // which part of all this page has, and between which names it lies
let first = "";
let last = null;
let askedAt = -Infinity;

// --- what is known of a queue ------------------------------------------------------------

const sum = (numbers) => numbers.reduce((total, n) => total + n, 0);
const since = (seconds) => (seconds === null ? null : now() - seconds * 1_000);
const waits = ({ oldest }) => (oldest === null ? 0 : Math.max(0, (now() - oldest) / 1_000));

/** A queue as the list has it. Counts that came by the stream meanwhile are not older. */
function take(found) {
  const { oldest_pending_seconds: seconds, ...shape } = found;
  const told = JSON.stringify(found);
  const queue = { countedAt: -Infinity, ...queues.get(shape.name), gone: false };
  if (queue.told !== told) changed.add(shape.name);
  const { counts, oldest } = queue;
  Object.assign(queue, shape, { oldest: since(seconds), told });
  if (queue.countedAt > askedAt) Object.assign(queue, { counts, oldest });
  queues.set(queue.name, queue);
  everywhere.set(queue.name, queue.counts);
}

function vanish(queue) {
  Object.assign(queue, { gone: true, told: null });
  changed.add(queue.name);
}

/** How much of each of TROUBLES a queue has. */
function troubles(queue) {
  const waited = queue.paused ? 0 : waits(queue);
  return {
    failing: sum((rates.get(queue.name)?.failed ?? []).slice(-LATELY)),
    late: waited > queue.lease_seconds ? waited / queue.lease_seconds : 0,
    paused: queue.paused ? queue.counts.pending : 0,
    dead: queue.counts.failed,
  };
}

// --- their order -------------------------------------------------------------------------

const VALUES = {
  ...Object.fromEntries(STATUSES.map((status) => [status, ({ counts }) => counts[status]])),
  in: ({ name }) => sum(rates.get(name)?.in ?? []),
  out: ({ name }) => sum(rates.get(name)?.out ?? []),
  oldest: waits,
  claimed: ({ last_claim_at: at }) => (at === null ? 0 : Date.parse(at)),
};

const byName = (one, other) => (one.name < other.name ? -1 : 1);

function worseFirst(one, other) {
  const differs = TROUBLES.find((name) => one.trouble[name] !== other.trouble[name]);
  return differs ? other.trouble[differs] - one.trouble[differs] : 0;
}

/** The column that the rows are in order by, and whether it is turned round. */
function chosen() {
  const [, turned, column] = /^(-?)(\w+)$/.exec(params().get("sort")) ?? [];
  const known = column === "name" || Object.hasOwn(VALUES, column);
  return { column: known ? column : "state", turned: turned === "-" };
}

function sorted() {
  const { column, turned } = chosen();
  const value = VALUES[column];
  const others = column === "name" ? byName : worseFirst;
  const first = value ? (one, other) => value(other) - value(one) : others;
  for (const queue of queues.values()) queue.trouble = troubles(queue);
  const way = turned ? -1 : 1;
  return [...queues.values()].sort((one, other) => way * first(one, other) || byName(one, other));
}

/** The heads of the columns lead to their order, and from there to the reverse. */
function drawHeads() {
  const { column, turned } = chosen();
  for (const head of document.querySelectorAll("th[data-sort]")) {
    const mine = head.dataset.sort === column;
    const sort = `${mine && !turned ? "-" : ""}${head.dataset.sort}`;
    const query = params();
    if (sort === "state") query.delete("sort");
    else query.set("sort", sort);
    find("a", head).href = `?${query}`;
    if (mine) head.ariaSort = (column === "name") === turned ? "descending" : "ascending";
    else head.removeAttribute("aria-sort");
  }
}

// --- drawing -----------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH] = [60, 16];

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Numbers minute by minute as a line, with the same in words. */
function spark(numbers) {
  const most = Math.max(...numbers);
  const told = { sum: number(sum(numbers)), most: number(most), last: number(numbers.at(-1)) };
  const across = (minute) => ((minute * WIDE) / (numbers.length - 1)).toFixed(1);
  const up = (n) => (HIGH - 1 - (n / Math.max(most, 1)) * (HIGH - 2)).toFixed(1);
  const points = numbers.map((n, minute) => `${across(minute)},${up(n)}`).join(" ");
  const about = { class: "spark", role: "img", "aria-label": say("queues.trend", told) };
  const box = { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none" };
  return svg("svg", { ...about, ...box }, svg("polyline", { points }));
}

const rate = (numbers) => (numbers ? [number(sum(numbers)), " ", spark(numbers)] : "–");

function state(queue) {
  const { failing, late, dead } = troubles(queue);
  const found = [
    failing ? badge("failed", say("queues.failing", { n: failing })) : null,
    late ? badge("pending", say("queues.late")) : null,
    queue.paused ? badge("paused", say("queues.paused")) : null,
    dead && !failing ? badge("failed", say("queues.dead")) : null,
  ].filter(Boolean);
  if (queue.gone) return badge("cancelled", say("queues.gone"));
  return found.length ? found.flatMap((one) => [one, " "]) : badge("completed", say("queues.fine"));
}

function cells(queue) {
  const { name, counts } = queue;
  return [
    queue.gone ? name : el("a", { href: `/admin/queues/${name}` }, name),
    state(queue),
    ...STATUSES.map((status) => number(counts[status])),
    rate(rates.get(name)?.in),
    rate(rates.get(name)?.out),
    queue.oldest === null ? "–" : duration(waits(queue)),
    when(queue.last_claim_at),
  ];
}

const body = document.getElementById("rows");
const numeric = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const table = rows(body, { key: ({ name }) => name, cells, numeric, head: 0 });
const changed = new Set(); // names of rows that are to be written
let order = new Set();
let arrangedAt = -Infinity;

/** Somebody is about to use a row: it stays where it is. */
const held = () => body.contains(document.activeElement) || body.matches(":hover");

/** Write what changed; bring the rows in order if they may move. */
function draw() {
  const rests = held() || performance.now() - arrangedAt < STANDS;
  const news = [...queues.keys()].filter((name) => !order.has(name));
  if (!rests) arrange();
  else if (news.length) show([...order, ...news].map((name) => queues.get(name)));
  for (const name of changed) if (queues.has(name)) table.update(queues.get(name));
  changed.clear();
  drawTotals();
}

function arrange() {
  for (const { name, gone } of [...queues.values()]) {
    if (gone) queues.delete(name);
  }
  arrangedAt = performance.now();
  show(sorted());
}

function show(items) {
  order = new Set(items.map(({ name }) => name));
  table.show(items, ({ name }) => changed.has(name));
  changed.clear();
}

function drawTotals() {
  if (!complete) return;
  const counts = [...everywhere.values()];
  for (const node of document.querySelectorAll("[data-total]")) {
    const { total } = node.dataset;
    put(node, number(total === "count" ? counts.length : sum(counts.map((one) => one[total]))));
  }
}

const drawSoon = calmly(1_000, draw);

// --- the list ----------------------------------------------------------------------------

/** The part of all queues that the address asks for. */
function part() {
  const query = new URLSearchParams({ limit: MOST });
  const [prefix, cursor] = ["prefix", "cursor"].map((name) => params().get(name));
  if (prefix) query.set("prefix", prefix.toLowerCase());
  if (cursor) query.set("cursor", cursor);
  return query;
}

/** Whether a queue that the list did not have stands in this part of all. */
function belongs(name) {
  const inside = name >= first && (last === null || name <= last);
  return inside && name.startsWith(part().get("prefix") ?? "");
}

async function load(signal) {
  askedAt = performance.now();
  const asked = part();
  const { items, next_cursor: next } = await call("GET", `/api/v1/queues?${asked}`, { signal });
  const another = String(asked) !== wanted;
  if (another) queues.clear();
  if (asked.size === 1 && next === null) everywhere.clear();
  complete ||= asked.size === 1 && next === null;
  keep(items);
  wanted = String(asked);
  first = asked.has("cursor") && items.length ? items[0].name : "";
  last = next === null ? null : items.at(-1).name;
  document.getElementById("part").hidden = next === null && !asked.has("cursor");
  pager("pages", next);
  if (another) arrange();
  draw();
  return items.length > 0;
}

/** What the list does not have any more stays until the rows may move. */
function keep(items) {
  const names = new Set(items.map(({ name }) => name));
  for (const queue of queues.values()) if (!names.has(queue.name)) vanish(queue);
  items.forEach(take);
}

const refresh = region("list", load, { empty: say("queues.none") });
const refreshSoon = calmly(1_000, refresh);

filters(document.getElementById("search"));
onAddress(() => {
  drawHeads();
  if (String(part()) === wanted) arrange();
  else refresh();
});
every(LIST_S, () => wanted !== null && refresh());
every(STANDS / 1_000, () => {
  for (const { name, oldest } of queues.values()) if (oldest !== null) changed.add(name);
  draw();
});

every(RATES_S, async () => {
  try {
    const { items } = await call("GET", "/api/v1/stats");
    if (!rates.size) arrangedAt = -Infinity;
    items.forEach(flow);
    draw();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error; // the list says it
  }
});

function flow({ queue, entered, done, failed, dropped }) {
  const out = done.map((n, minute) => n + failed[minute] + dropped[minute]);
  const told = `${entered} ${out}`;
  if (rates.get(queue)?.told !== told) changed.add(queue);
  rates.set(queue, { in: entered, out, failed, told });
}

// --- live --------------------------------------------------------------------------------

function counted({ name, paused, counts, oldest_pending_seconds: seconds }) {
  everywhere.set(name, counts);
  const queue = queues.get(name);
  if (!queue) {
    if (wanted !== null && belongs(name)) refreshSoon();
    return;
  }
  const countedAt = performance.now();
  Object.assign(queue, { paused, counts, oldest: since(seconds), countedAt, told: null });
  changed.add(name);
}

function happened({ type, data: { actor, ...settings } }) {
  const queue = queues.get(settings.name);
  if (type === "queue.deleted") {
    everywhere.delete(settings.name);
    if (queue) vanish(queue);
  } else if (queue && !queue.gone) {
    Object.assign(queue, settings, { told: null });
  } else if (belongs(settings.name)) {
    refreshSoon();
  }
  if (queue) changed.add(queue.name);
  drawSoon();
}

follow({
  topics: ["queues"],
  on: {
    counts(told) {
      told.queues.forEach(counted);
      complete = true;
      drawSoon();
    },
    "queue.*": happened,
    reset: () => refresh(),
  },
});

// --- a new queue -------------------------------------------------------------------------

if (acts) {
  const form = document.getElementById("new");
  action(form, () => request(form), { done: (queue) => made(form, queue) });
}

function request(form) {
  const { name, description, ...numbers } = Object.fromEntries(new FormData(form));
  if (!name) return null;
  const settings = Object.entries(numbers).map(([setting, text]) => [setting, Number(text)]);
  const body = { name, ...(description && { description }), ...Object.fromEntries(settings) };
  return { method: "POST", path: "/api/v1/queues", body };
}

function made(form, { name }) {
  form.reset();
  return el("span", {}, say("queues.new.done"), " ", el("a", { href: `/admin/queues/${name}` }, name));
}
