// One queue: how it stands, how much happened, its messages, its settings, what may be done.
import {
  action,
  acts,
  badge,
  calmly,
  call,
  duration,
  el,
  every,
  filters,
  find,
  follow,
  number,
  onAddress,
  pager,
  params,
  posted,
  put,
  region,
  rows,
  say,
  sure,
  when,
} from "/static/page.js";
import { Chart, pointsTable } from "./charts.js";
import { inSteps } from "./steps.js";

const KINDS = ["entered", "claimed", "done", "returned", "failed", "dropped"];
const SETTINGS = ["description", "lease_seconds", "max_attempts", "max_lost_leases", "backoff_seconds", "retention_days"];
const TIMES = ["created_after", "created_before", "finished_after", "finished_before"];
const COSTLY = ["sku", "error_contains"]; // found by no index: not again by themselves
const ERROR_SHOWN = 200; // characters
const OPTION_SHOWN = 90;

const name = find("main").dataset.queue;
const path = `/api/v1/queues/${encodeURIComponent(name)}`;
const all = (selector) => document.querySelectorAll(selector);

// --- how it stands -----------------------------------------------------------------------

let queue = null; // as it was told last

const refresh = region("facts", async (signal) => {
  try {
    queue = await call("GET", path, { signal });
  } catch (error) {
    if (error.status === 404) gone();
    throw error;
  }
  drawQueue();
});

function drawQueue() {
  drawCounts();
  put(find("#description"), queue.description);
  put(find("#last-claim"), queue.last_claim_at === null ? say("queue.never") : when(queue.last_claim_at));
  settings.show();
}

function drawCounts() {
  for (const node of all("[data-count]")) put(node, number(queue.counts[node.dataset.count]));
  const waits = queue.oldest_pending_seconds;
  put(find("#oldest"), waits === null ? say("queue.none") : duration(waits));
  find("#paused").hidden = !queue.paused;
  pausing?.show();
}

/** It is not there any more: what stands here stays to be read. */
function gone() {
  find("#gone").hidden = false;
}

function counted({ queues }) {
  const told = queues.find((one) => one.name === name);
  if (!told || queue === null) return;
  const failed = queue.counts.failed !== told.counts.failed;
  queue = { ...queue, ...told };
  drawCounts();
  lookSoon();
  if (failed) errorsSoon();
}

function changed(event) {
  if (event.subject !== name) return;
  if (event.type === "queue.deleted") gone();
  else refresh();
}

// --- how much happened -------------------------------------------------------------------

const flow = new Chart(find("#flow"), KINDS.slice(0, 3));
const trouble = new Chart(find("#trouble"), KINDS.slice(3));
const showPoints = pointsTable(find("#points"), KINDS);
const span = () => params().get("span") ?? "1h";
let stats = null;

const refreshCharts = region("charts", async (signal) => {
  stats = await call("GET", `${path}/stats?${new URLSearchParams({ span: span() })}`, { signal });
  find("#charts").dataset.state = "ready"; // what is not displayed has no width to draw in
  flow.show(stats);
  trouble.show(stats);
  if (find("#numbers").open) showPoints(stats);
});

find("#numbers").addEventListener("toggle", () => stats && showPoints(stats));

// --- messages ----------------------------------------------------------------------------

const form = find("#filters");
const fields = [...form.elements].map((field) => field.name).filter(Boolean);

/** A field for local times as the service wants it. */
function instant(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : at.toISOString();
}

const valueOf = (field, text) => (TIMES.includes(field) ? instant(text) : text);

/** The list that the page's address asks for. */
function wanted() {
  const there = params();
  const named = ["status", "cursor", ...fields].filter((field) => there.get(field));
  return `${path}/messages?${new URLSearchParams(named.map((field) => [field, valueOf(field, there.get(field))]))}`;
}

function lines(items) {
  const [first, ...rest] = items;
  const more = rest.length ? ` ${say("queue.items", { n: rest.length })}` : null;
  return [`${number(first.quantity)} × `, posted(first.sku), more].filter((part) => part !== null);
}

const clipped = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

const table = rows(find("#rows"), {
  key: ({ id }) => id,
  cells: (item) => [
    el("a", { href: `/admin/messages/${item.id}` }, posted(item.reference ?? item.id.slice(-12))),
    badge(item.status),
    posted(item.customer),
    lines(item.items),
    when(item.created_at),
    number(item.attempts),
    item.last_error === null ? "–" : posted(clipped(item.last_error, ERROR_SHOWN), { title: item.last_error }),
  ],
  numeric: [5],
  head: 0,
});

let listed = null; // what is shown: its address and its items

const refreshList = region(
  "list",
  async (signal) => {
    const address = wanted();
    const { items, next_cursor: next } = await call("GET", address, { signal });
    show(address, items);
    offer(0, 0);
    pager("pages", next);
    return items.length > 0;
  },
  { empty: say("queue.nothing") },
);

function show(address, items) {
  listed = { address, items };
  table.show(items);
  for (const item of items) table.row(item.id).classList.toggle("moved", item.moved ?? false);
}

/**
 * Look whether the list has changed, without moving a row: what is still in it is brought up to
 * date where it stands, and what came or went is offered.
 */
async function look() {
  const address = wanted();
  if (listed?.address !== address || COSTLY.some((field) => params().has(field))) return;
  if (listed.items.length === 0) {
    refreshList();
    return;
  }
  const { items, next_cursor: next } = await call("GET", address);
  if (listed.address !== address) return;
  const shown = new Set(listed.items.map(({ id }) => id));
  const fresh = new Map(items.map((item) => [item.id, item]));
  // Behind the end of a full page may stand what was only pushed down.
  const here = ({ id }) => next === null || id >= items.at(-1).id;
  const left = listed.items.filter((item) => !fresh.has(item.id) && here(item));
  const moved = new Set(left.map(({ id }) => id));
  show(address, listed.items.map((item) => fresh.get(item.id) ?? { ...item, moved: moved.has(item.id) }));
  const came = items.filter(({ id }) => !shown.has(id)).length;
  offer(came, left.length, next !== null && came === items.length);
}

function offer(came, left, more = false) {
  const button = find("#offer");
  button.hidden = came + left === 0;
  const kind = came === 0 ? "left" : more ? "new_more" : "new";
  put(button, button.hidden ? "" : say(`queue.${kind}`, { n: came || left }));
}

find("#offer").addEventListener("click", () => {
  find("#messages").focus(); // the button goes
  refreshList();
});

const lookSoon = calmly(3_000, () => look().catch(() => {})); // the page's head tells of the line

// --- settings ----------------------------------------------------------------------------

/** What viewers see. */
const shownSettings = {
  show() {
    for (const node of all("[data-setting]")) put(node, number(queue[node.dataset.setting]));
  },
};

/** The form of admins. Nothing that somebody else changed meanwhile is lost or overwritten unseen. */
class SettingsForm {
  #form = find("#settings");
  #base = null; // the queue that the fields were filled from
  #theirs = null; // the queue as somebody else left it, while one has to choose
  #action;

  constructor() {
    this.#action = action(this.#form, () => this.#request(), { run: (...call) => this.#save(...call), done: (answer) => this.#saved(answer) });
    find("#take-theirs").addEventListener("click", () => this.#choose((theirs) => this.#fill(theirs)));
    find("#keep-mine").addEventListener("click", () => this.#choose((theirs) => this.#fill(theirs, this.#edited)));
  }

  #field(setting) {
    return this.#form.elements.namedItem(setting);
  }

  #mine(setting) {
    const { value } = this.#field(setting);
    return setting === "description" ? value : Number(value);
  }

  get #edited() {
    return SETTINGS.filter((setting) => this.#field(setting).value !== String(this.#base[setting]));
  }

  /** The queue may have changed: so do fields that nobody edits. */
  show() {
    if (this.#theirs !== null) return;
    if (this.#base === null || this.#edited.length === 0) this.#fill(queue);
    else this.#agree(queue);
  }

  /** Into the fields, but for those of `kept`. */
  #fill(from, kept = []) {
    this.#base = from;
    for (const setting of SETTINGS) {
      if (!kept.includes(setting)) this.#field(setting).value = from[setting];
    }
    this.#action.show();
  }

  /** Whether only something else than the settings is new, such as a pause. */
  #agree(theirs) {
    const same = SETTINGS.every((setting) => theirs[setting] === this.#base[setting]);
    if (same) this.#base = theirs;
    this.#action.show();
    return same;
  }

  #request() {
    if (this.#base === null) return null;
    const body = Object.fromEntries(this.#edited.map((setting) => [setting, this.#mine(setting)]));
    return { method: "PATCH", path, body, headers: { "If-Match": `"${this.#base.version}"` } };
  }

  async #save(method, address, request) {
    try {
      return await call(method, address, request);
    } catch (error) {
      if (error.status !== 412) throw error;
      const theirs = await call("GET", path);
      if (this.#agree(theirs)) return this.#save(method, address, this.#request());
      this.#ask(theirs);
      throw error;
    }
  }

  #saved(answer) {
    queue = answer;
    this.#fill(answer);
    this.#close();
    drawQueue();
    return say("queue.saved");
  }

  #ask(theirs) {
    this.#theirs = theirs;
    const mine = this.#edited;
    const differs = (setting) => theirs[setting] !== this.#base[setting] || mine.includes(setting);
    const cells = (setting) => [
      el("th", { scope: "row" }, say(`queue.setting.${setting}`)),
      el("td", {}, posted(String(this.#base[setting]))),
      el("td", {}, posted(String(theirs[setting]))),
      el("td", {}, mine.includes(setting) ? posted(this.#field(setting).value) : "–"),
    ];
    find("#differences").replaceChildren(...SETTINGS.filter(differs).map((setting) => el("tr", {}, ...cells(setting))));
    find("#conflict").hidden = false;
  }

  #choose(work) {
    work(this.#theirs);
    this.#close();
    this.#action.tell("");
    this.#action.show();
    find("button:not([type])", this.#form).focus();
  }

  #close() {
    this.#theirs = null;
    find("#conflict").hidden = true;
  }
}

const settings = acts ? new SettingsForm() : shownSettings;

// --- pause, purge, delete ----------------------------------------------------------------

function pauseForm() {
  const verb = () => (queue?.paused ? "resume" : "pause");
  const made = action(find("#pausing"), () => ({ method: "POST", path: `${path}/${verb()}` }), {
    done: (answer) => {
      queue = answer;
      drawQueue();
      return say(answer.paused ? "queue.pause.done" : "queue.resume.done");
    },
  });
  return {
    show() {
      put(find("#pausing-title"), say(`queue.${verb()}`));
      put(find("#pausing button"), say(`queue.${verb()}`));
      made.show();
    },
  };
}

function purgeForm() {
  action(find("#purge"), () => ({ method: "POST", path: `${path}/purge` }), {
    confirm: () =>
      sure({
        title: say("queue.purge.sure", { name }),
        text: say("queue.purge.text", { n: queue?.counts.pending ?? 0 }),
        yes: say("queue.purge"),
        name,
      }),
    run: async (method, address) => {
      let cancelled = 0;
      await inSteps(() => call(method, address), {
        take: (answer) => {
          cancelled += answer.cancelled;
          return answer.remaining > 0 && answer.cancelled > 0;
        },
      });
      return cancelled;
    },
    done: (n) => {
      refresh();
      return say("queue.purge.done", { n });
    },
  });
}

function deleteForm() {
  const form = find("#delete");
  const request = () => ({ method: "DELETE", path: form.elements.force.checked ? `${path}?force=true` : path });
  action(form, request, {
    confirm: () => sure({ title: say("queue.delete.sure", { name }), text: say("queue.delete.text"), yes: say("queue.delete"), name }),
    done: () => {
      gone();
      return say("queue.delete.done");
    },
  });
}

// --- redrive -----------------------------------------------------------------------------

const STEP = 1_000; // dead letters a call
const MOST = 10_000; // where the oldest ones lack stock

/** Dead letters back to pending: counted first, then in steps, with its progress. */
class Redrive {
  #form = find("#redrive");
  #go = find("#redrive-all");
  #matched = 0;
  #stopped = false;
  #running = false;

  constructor() {
    action(this.#form, () => this.#request({ dry_run: true }), { done: ({ matched }) => this.#counted(matched) });
    this.#action = action(this.#go, () => this.#request({ limit: STEP }), { run: (...call) => this.#run(...call), done: (told) => this.#done(told) });
    this.#form.addEventListener("input", () => this.#running || (this.#go.hidden = true));
    find("#redrive-stop").addEventListener("click", () => (this.#stopped = true));
  }

  #action;

  #request(more) {
    const body = {};
    for (const field of this.#form.elements) {
      const value = field.value.trim();
      if (!field.name || value === "") continue;
      // An option's value is its error behind one letter: "" is an error too.
      body[field.name] = field.name === "error" ? field.value.slice(1) : valueOf(field.name, value);
    }
    return { method: "POST", path: `${path}/redrive`, body: { ...body, ...more } };
  }

  #counted(matched) {
    this.#matched = matched;
    this.#go.hidden = matched === 0;
    this.#action.tell("");
    this.#action.show();
    put(find("#redrive-go"), say("queue.redrive.go", { n: matched }));
    return say("queue.redrive.matched", { n: matched });
  }

  /** Those that lack stock stay, before the others: where a call meets only such, look further. */
  async #run(method, address, { body }) {
    const told = { done: 0, refused: 0 };
    let limit = STEP;
    this.#begin();
    try {
      await inSteps(() => call(method, address, { body: { ...body, limit } }), {
        take: (answer) => {
          told.done += answer.redriven;
          told.refused = answer.refused;
          this.#report(told.done);
          const further = answer.redriven > 0 || limit < MOST;
          limit = answer.redriven > 0 ? STEP : MOST;
          return answer.remaining > 0 && further;
        },
        waits: () => this.#report(told.done, "queue.redrive.waits"),
        stopped: () => this.#stopped,
      });
    } finally {
      this.#end();
    }
    return told;
  }

  #begin() {
    this.#stopped = false;
    this.#running = true;
    this.#toggle();
    this.#report(0);
    find("#redrive-stop").focus();
  }

  #end() {
    this.#running = false;
    if (document.activeElement === find("#redrive-stop")) find("button:not([type])", this.#form).focus();
    this.#toggle();
    refresh();
  }

  #toggle() {
    find("#redriving").hidden = !this.#running;
    find("#redrive-go").hidden = this.#running;
  }

  #report(done, words = "queue.redrive.so_far") {
    const bar = find("#redriving progress");
    bar.max = this.#matched;
    bar.value = done;
    put(find("#redriven"), say(words, { done: number(done), total: number(this.#matched) }));
  }

  #done({ done, refused }) {
    find("#redrive-go").hidden = true;
    const words = [say("queue.redrive.done", { n: done })];
    if (refused) words.push(say("queue.redrive.refused", { n: refused }));
    if (this.#stopped) words.unshift(say("queue.redrive.stopped"));
    return words.join(" ");
  }
}

const option = ({ error, count }) => {
  const text = error === "" ? say("queue.redrive.no_error") : clipped(error, OPTION_SHOWN);
  return el("option", { value: `=${error}` }, say("queue.redrive.group", { count: number(count), error: text }));
};

/** The errors that there are, as choices; whatever is chosen stays. */
async function nameErrors() {
  const choice = find("#redrive select");
  const { items } = await call("GET", `${path}/failures`);
  const chosen = choice.value;
  if (choice === document.activeElement) return;
  choice.replaceChildren(choice.options[0], ...items.map(option));
  if (chosen && !items.some(({ error }) => `=${error}` === chosen)) {
    choice.append(option({ error: chosen.slice(1), count: 0 }));
  }
  choice.value = chosen;
}

const errorsSoon = acts ? calmly(15_000, () => nameErrors().catch(() => {})) : () => {};

const pausing = acts ? pauseForm() : null;
if (acts) {
  purgeForm();
  deleteForm();
  new Redrive();
  errorsSoon();
}

// --- the address, and what comes by itself -------------------------------------------------

/** Links that change one thing of the address and keep the rest. */
function pointTabs(query) {
  for (const link of all("[data-span]")) point(link, query, { span: link.dataset.span });
  for (const link of all("[data-status]")) {
    if (link.tagName === "A") point(link, query, { status: link.dataset.status, cursor: "" });
  }
  point(find("#clear"), query, Object.fromEntries([...fields, "cursor"].map((field) => [field, ""])));
}

function point(link, query, change) {
  const there = new URLSearchParams(query);
  for (const [field, value] of Object.entries(change)) {
    if (value) there.set(field, value);
    else there.delete(field);
  }
  link.href = `?${there}`;
}

function mark(links, chosen) {
  for (const link of links) {
    if (chosen(link)) link.ariaCurrent = "true";
    else link.removeAttribute("aria-current");
  }
}

let charted = null; // the span that is drawn

filters(form);
onAddress((query) => {
  pointTabs(query);
  mark(all("#spans a"), (link) => link.dataset.span === span());
  mark(all("#statuses a"), (link) => link.dataset.status === (query.get("status") ?? ""));
  const filtered = fields.some((field) => query.has(field));
  find("#filtered").hidden = !filtered;
  if (filtered) find("#filtering").open = true;
  if (charted !== null && charted !== span()) refreshCharts();
  charted = span();
  if (listed?.address !== wanted()) refreshList();
});
every(15, refresh);
every(10, refreshCharts);
follow({
  topics: ["queues"],
  on: {
    counts: counted,
    "queue.*": changed,
    reset: refresh,
    // What happened while nothing came.
    state: ({ name }) => name === "live" && refresh(),
  },
});
