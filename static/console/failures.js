// Dead letters: by queue, and in one queue by error, with the way back to pending.
import {
  action,
  acts,
  calmly,
  call,
  el,
  find,
  follow,
  number,
  onAddress,
  params,
  posted,
  put,
  region,
  rows,
  say,
  sure,
  when,
} from "/static/page.js";
import { inSteps } from "/static/console/steps.js";

const STEP = 1_000; // a call
const MOST = 10_000; // a call, where the oldest ones lack stock
const MOST_ERRORS = 200; // that the service tells

const failed = new Map(); // queue → how many
let complete = false; // all queues are in it
let shown = null; // the queue that the address names
let groups = []; // its dead letters by error
let chosen = null; // the error whose dead letters are meant; null: all of the queue

const api = (queue, what) => `/api/v1/queues/${encodeURIComponent(queue)}/${what}`;
const sum = () => groups.reduce((all, { count }) => all + count, 0);
const errorText = (error) => (error === "" ? say("failures.no_error") : posted(error));

// --- all queues --------------------------------------------------------------------------

const overview = rows(find("#queues"), {
  key: ({ queue }) => queue,
  cells: ({ queue, count }) => [el("a", { href: `?${new URLSearchParams({ queue })}` }, queue), number(count)],
  numeric: [1],
  head: 0,
});

/** Those of which the stream has not told yet: what it tells is newer. */
async function readAll(signal) {
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: 1_000, ...(cursor && { cursor }) });
    const page = await call("GET", `/api/v1/queues?${query}`, { signal });
    for (const { name, counts } of page.items) if (!failed.has(name)) failed.set(name, counts.failed);
    cursor = page.next_cursor;
  } while (cursor !== null);
  complete = true;
}

function drawOverview() {
  const found = [...failed].map(([queue, count]) => ({ queue, count })).filter(({ count }) => count > 0);
  found.sort((one, other) => other.count - one.count || (one.queue < other.queue ? -1 : 1));
  overview.show(found);
  return found.length > 0;
}

const refreshOverview = region(
  "overview",
  async (signal) => {
    if (!complete) await readAll(signal);
    return drawOverview();
  },
  { empty: say("failures.none") },
);

// --- one queue -----------------------------------------------------------------------------

const table = rows(find("#rows"), {
  key: ({ error }) => error,
  cells: (group) => [
    el("div", { className: "error" }, errorText(group.error)),
    number(group.count),
    when(group.oldest),
    when(group.newest),
    el("a", { className: "id", href: `/admin/messages/${group.example_id}` }, group.example_id.slice(-12)),
    ...(acts ? [chooser(group)] : []),
  ],
  numeric: [1],
});

function chooser({ error }) {
  const about = el("span", { className: "unseen" }, ` ${error.slice(0, 80)}`);
  const button = { type: "button", className: "quiet", dataset: { error } };
  return el("button", button, say("failures.redrive.choose"), about);
}

const refreshGroups = region(
  "groups",
  async (signal) => {
    const queue = shown;
    const { items } = await call("GET", api(queue, "failures"), { signal });
    if (queue !== shown) return true;
    groups = items;
    table.show(items);
    const said = say("failures.sum", { n: sum() });
    put(find("#sum"), items.length < MOST_ERRORS ? said : `${said} ${say("failures.most")}`);
    redrive?.show();
    return items.length > 0;
  },
  { empty: say("failures.none_here") },
);

// --- back to pending -------------------------------------------------------------------------

const form = find("#redrive");
const bar = form && find("progress", form);
let stopped = false;
let running = false;
let expected = 0; // by the dry run

const request = () =>
  shown === null ? null : {
    method: "POST",
    path: api(shown, "redrive"),
    body: { ...(chosen !== null && { error: chosen }), limit: STEP },
  };

function choose(error) {
  chosen = error;
  find("#all-errors").hidden = error === null;
  const whole = [say("failures.redrive.whole", { queue: shown })];
  const group = () => [say("failures.redrive.group"), " ", errorText(error)];
  put(find("#which"), ...(error === null ? whole : group()));
  redrive.show();
  redrive.tell("");
}

/** How many it would be, and whether that is meant. */
async function confirm({ method, path, body }) {
  const look = () => call(method, path, { body: { ...body, dry_run: true } });
  stopped = false;
  await inSteps(look, { take: ({ matched }) => void (expected = matched), waits });
  waits(0);
  if (expected === 0) {
    redrive.tell("", say("failures.redrive.nothing"));
    return false;
  }
  const yes = say("failures.redrive.sure", { n: expected });
  return sure({ title: say("failures.redrive.title"), text: find("#which").textContent, yes, stop: false });
}

/**
 * Call after call, until nothing remains or nothing moves. Those that lack stock stay where
 * they are, before the others: once a call meets only such, it looks further.
 */
async function run(method, path, { body }) {
  const all = { moved: 0, refused: 0, remaining: expected };
  let limit = STEP;
  const take = ({ redriven, refused, remaining }) => {
    Object.assign(all, { moved: all.moved + redriven, refused, remaining });
    report(all);
    const further = redriven > 0 || limit < MOST;
    if (redriven === 0) limit = MOST;
    return remaining > 0 && further;
  };
  begin();
  report(all);
  try {
    const step = () => call(method, path, { body: { ...body, limit } });
    await inSteps(step, { take, waits, stopped: () => stopped });
    return all;
  } finally {
    finish();
  }
}

function waits(seconds) {
  put(find("#waits"), seconds ? say("failures.redrive.waits", { n: seconds }) : "");
}

function begin() {
  stopped = false;
  running = true;
  find("#progress").hidden = false;
  find("#stop").hidden = false;
  find("#stop").focus();
}

function finish() {
  running = false;
  if (document.activeElement === find("#stop")) find("#chosen").focus();
  find("#stop").hidden = true;
  refreshGroups();
}

function report({ moved, refused, remaining }) {
  waits(0);
  bar.max = moved + refused + remaining;
  bar.value = moved;
  const lacking = refused ? ` ${say("failures.redrive.refused", { n: refused })}` : "";
  put(find("#moved"), say("failures.redrive.moved", { moved: number(moved), all: number(bar.max) }) + lacking);
}

function done({ moved, refused, remaining }) {
  const words = [say("failures.redrive.done", { n: moved })];
  if (refused) words.push(say("failures.redrive.refused", { n: refused }));
  if (remaining) words.push(say("failures.redrive.left", { n: remaining }));
  return words.join(" ");
}

const redrive = acts ? action(form, request, { confirm, run, done }) : null;

if (acts) {
  find("#all-errors").addEventListener("click", () => running || choose(null));
  find("#stop").addEventListener("click", () => (stopped = true));
  find("#rows").addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-error]");
    if (button === null || running) return;
    choose(button.dataset.error);
    form.scrollIntoView({ block: "nearest" });
    find("#go").focus();
  });
}

// --- which of the two, and live ------------------------------------------------------------------

function show(query) {
  stopped = running; // whoever leaves a queue ends what he began there
  shown = query.get("queue");
  find("#all").hidden = shown !== null;
  find("#one").hidden = shown === null;
  find("#of").hidden = shown === null;
  if (shown === null) {
    refreshOverview();
    return;
  }
  put(find("#queue"), shown);
  groups = [];
  table.show(groups);
  find("#listed").href = `/admin/messages?${new URLSearchParams({ queue: shown, status: "failed" })}`;
  if (acts) choose(null);
  refreshGroups();
}

const overviewSoon = calmly(500, () => shown === null && refreshOverview());
const groupsSoon = calmly(2_000, () => shown !== null && refreshGroups());

function counted({ queues }) {
  for (const { name, counts } of queues) {
    const changed = failed.get(name) !== counts.failed;
    failed.set(name, counts.failed);
    if (changed && name === shown) groupsSoon();
  }
  overviewSoon();
}

function gone({ subject }) {
  failed.delete(subject);
  overviewSoon();
}

onAddress(show);
follow({ topics: ["queues"], on: { counts: counted, "queue.deleted": gone } });
