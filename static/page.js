// What the pages of Filaviva share. docs/pages.md says how a page is made of it.
//
// A page is drawn by the server; its script fills the parts that change. Whatever comes from a
// purchase goes in as text: nothing here or in a page ever makes markup of a string.
import { connect } from "./filaviva.js";

// --- words and numbers -----------------------------------------------------------------

export const language = document.documentElement.lang;
export const words = JSON.parse(document.getElementById("words").content.textContent);
/** The account that looks at the page, its customer id, and whether it may act. */
export const account = document.body.dataset.account ?? null;
export const customer = document.body.dataset.customer ?? null;
export const acts = "acts" in document.body.dataset;

const plural = new Intl.PluralRules(language);
const whole = new Intl.NumberFormat(language);
const exact = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });

export const number = (n) => whole.format(n);

/** Words with `{values}` filled in; a number `n` chooses the plural and is written as one. */
export function say(key, values = {}) {
  const chosen = `${key}.${plural.select(values.n ?? 0)}`;
  const text = words[chosen] ?? words[`${key}.other`] ?? words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (place, name) => {
    if (!(name in values)) return place;
    return name === "n" ? number(values.n) : String(values[name]);
  });
}

/** How many digits the minor unit of a currency has: 2 for BRL, none for JPY. */
export function digits(currency) {
  if (!/^[A-Z]{3}$/.test(currency)) return 2; // somebody is still typing
  return new Intl.NumberFormat(language, { style: "currency", currency }).resolvedOptions().maximumFractionDigits;
}

/** An amount of minor units. */
export function money(cents, currency) {
  const amount = cents / 10 ** digits(currency);
  return new Intl.NumberFormat(language, { style: "currency", currency }).format(amount);
}

/** A length of time in its largest unit: 90 → "2 min". */
export function duration(seconds) {
  if (seconds < 90) return say("unit.seconds", { n: Math.round(seconds) });
  if (seconds < 5_400) return say("unit.minutes", { n: Math.round(seconds / 60) });
  if (seconds < 129_600) return say("unit.hours", { n: Math.round(seconds / 3_600) });
  return say("unit.days", { n: Math.round(seconds / 86_400) });
}

// --- time ------------------------------------------------------------------------------

let ahead = 0; // ms that the service's clock is ahead of this one

/** Now, by the service's clock: this device's may be wrong. */
export const now = () => Date.now() + ahead;

/** What the service's clock said, in whole seconds, when this one said `at`. */
export function tellTime(stamp, at = Date.now()) {
  const told = Date.parse(stamp ?? "");
  if (Number.isNaN(told)) return;
  const found = told + 500 - at;
  if (Math.abs(found - ahead) > 1_500) ahead = Math.abs(found) < 1_500 ? 0 : found;
}

const UNITS = [
  ["second", 60],
  ["minute", 60],
  ["hour", 24],
  ["day", 31],
  ["month", 12],
  ["year", Infinity],
];

function ago(instant) {
  let passed = Math.round((Date.parse(instant) - now()) / 1000);
  for (const [unit, size] of UNITS) {
    if (Math.abs(passed) < size) return relative.format(passed, unit);
    passed = Math.trunc(passed / size);
  }
}

/** A time of day in the reader's own zone. */
export const clock = (instant) => exact.format(new Date(instant));

/** A `<time>` that says how long ago, and exactly when if one asks (`full`: both at once). */
export function when(instant, { full = false } = {}) {
  if (instant === null) return "–";
  const node = el("time", { dateTime: instant, dataset: { relative: full ? "full" : "" } });
  tellAge(node);
  return node;
}

function tellAge(node) {
  const at = clock(node.dateTime);
  const text = node.dataset.relative === "full" ? `${at} · ${ago(node.dateTime)}` : ago(node.dateTime);
  if (node.textContent !== text) node.textContent = text;
  if (node.title !== at) node.title = at;
}

function tellAges() {
  if (document.hidden || paused) return;
  document.querySelectorAll("time[data-relative]").forEach(tellAge);
}

setInterval(tellAges, 5_000);
document.addEventListener("visibilitychange", tellAges);
document.addEventListener("resume", tellAges);

// --- elements --------------------------------------------------------------------------

/** An element: properties, `dataset`, `aria-…` and `on` (events), then children; strings are text. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "on") Object.entries(value).forEach((pair) => node.addEventListener(...pair));
    else if (name in node) node[name] = value;
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const find = (selector, within = document) => within.querySelector(selector);

/** Text that somebody posted: its direction stays its own. */
export const posted = (text, properties = {}) => el("bdi", properties, text ?? "–");

export const badge = (status, text = say(`state.${status}`)) =>
  el("span", { className: "badge", dataset: { status } }, text);

/** Change what stands in a node, if it is something else. */
export function put(node, ...children) {
  const made = el(node.tagName, {}, ...children);
  const same =
    made.childNodes.length === node.childNodes.length &&
    [...made.childNodes].every((child, place) => child.isEqualNode(node.childNodes[place]));
  if (!same) node.replaceChildren(...made.childNodes);
}

/**
 * The rows of a table (or the items of a list), by key: a row stays the same element while its
 * key is there, and only cells that differ are written, so nothing flickers and the focus stays.
 * `cells(item)` gives what stands in each cell. A handler in a cell may outlive the item it was
 * made for: it looks the present one up by its key.
 */
export function rows(body, { key, cells, numeric = [], head = null }) {
  const known = new Map();

  function draw(row, item) {
    cells(item).forEach((content, place) => {
      const children = Array.isArray(content) ? content : [content];
      let cell = row.children[place];
      if (!cell) {
        cell = el(place === head ? "th" : "td", { className: numeric.includes(place) ? "n" : "" });
        if (place === head) cell.scope = "row";
        row.append(cell);
      }
      put(cell, ...children);
    });
  }

  return {
    /** Show these items, in this order; of those that stand there only the `stale` are written. */
    show(items, stale = () => true) {
      const wanted = new Set(items.map(key));
      const focused = document.activeElement; // a row that moves loses it
      for (const [name, row] of known) {
        if (!wanted.has(name)) {
          row.remove();
          known.delete(name);
        }
      }
      items.forEach((item, place) => {
        const name = key(item);
        const row = known.get(name) ?? el("tr");
        if (!known.has(name) || stale(item)) draw(row, item);
        known.set(name, row);
        if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
      });
      if (body.contains(focused) && focused !== document.activeElement) focused.focus({ preventScroll: true });
    },
    /** Write one that is shown, where it stands. */
    update(item) {
      const row = known.get(key(item));
      if (row) draw(row, item);
    },
    row: (name) => known.get(name),
  };
}

const PATIENCE = 15_000; // ms

/**
 * Run `work` soon and not more often than every `ms`, before the browser paints. While it loads
 * something it is not begun again, so that a slow answer is not given up for ever newer ones.
 */
export function calmly(ms, work) {
  let due = false;
  let last = -Infinity;
  let loading = null;
  let missed = false; // asked for meanwhile

  function soon() {
    if (due) return;
    due = true;
    const wait = Math.max(0, last + ms - performance.now());
    setTimeout(() => {
      if (document.hidden) run();
      else requestAnimationFrame(run);
    }, wait);
  }

  function run() {
    due = false;
    missed = loading !== null && performance.now() - last < PATIENCE;
    if (missed) return;
    last = performance.now();
    const made = work();
    if (!(made instanceof Promise)) return;
    loading = made;
    made.finally(() => {
      if (loading !== made) return;
      loading = null;
      if (missed) soon();
    });
  }

  return soon;
}

let told = null;

/** Say something to people who do not see the page; not more than once a second. */
export function announce(text) {
  told ??= document.body.appendChild(el("p", { className: "unseen", role: "status" }));
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => (told.textContent = text), 250);
}

// --- calls -----------------------------------------------------------------------------

/** The service said no: a problem (RFC 9457) with its code, and what is wrong where. */
export class Refused extends Error {
  constructor(status, problem, wait = null) {
    super(problem.detail ?? problem.title ?? String(status));
    this.status = status;
    this.wait = wait; // seconds after which to come again, if it was said
    this.code = problem.code ?? "other";
    this.errors = problem.errors ?? [];
    this.problem = problem;
  }
}

/** The service did not answer. Nobody knows what became of a call that changes something. */
export class Unreachable extends Error {}

/** Call the API as this page's account: plain values in, plain values out, null for a 204. */
export async function call(method, path, { body, headers = {}, signal } = {}) {
  const typed = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  let value;
  try {
    answer = await fetch(path, {
      method,
      headers: { ...typed, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
    value = answer.status === 204 ? null : await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!answer || answer.ok) throw new Unreachable(say("state.offline"));
    value = {}; // a proxy's own words
  }
  tellTime(answer.headers.get("Date"));
  if (answer.ok) follows.forEach((one) => one.stream?.hurry());
  if (!answer.ok) {
    throw new Refused(answer.status, value, Number(answer.headers.get("Retry-After")) || null);
  }
  return value;
}

/** What went wrong, in the words of the page. */
export function explain(error) {
  if (!(error instanceof Refused)) return error.message;
  if (error.status === 401) return say("state.session");
  const fallen = error.status >= 500 ? words["refused.unavailable"] : error.message;
  return words[`refused.${error.code}`] ?? fallen;
}

/** A link to sign in and come back, where that is what is missing; else null. */
export function remedy(error) {
  if (!(error instanceof Refused) || error.status !== 401) return null;
  const back = encodeURIComponent(location.pathname + location.search);
  return el("a", { href: `/login?next=${back}` }, say("sign_in"));
}

const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The same JSON, in which nothing hides in a terminal: no control, no turned direction. */
const seen = (json) =>
  json.replace(/(?! )[\p{C}\p{Z}]/gu, (hidden) =>
    Array.from({ length: hidden.length }, (_, place) => `\\u${hidden.charCodeAt(place).toString(16).padStart(4, "0")}`).join(""),
  );

/** The command line that makes the same call with a token. */
export function curl(method, path, { body, headers = {} } = {}) {
  const parts = ["curl"];
  if (method !== "GET") parts.push("-X", method);
  parts.push(shell(new URL(path, location.origin).href), "-H", '"Authorization: Bearer $TOKEN"');
  for (const [name, value] of Object.entries(headers)) parts.push("-H", shell(`${name}: ${value}`));
  if (body !== undefined) {
    parts.push("-H", shell("Content-Type: application/json"), "-d", shell(seen(JSON.stringify(body))));
  }
  return parts.join(" ");
}

// --- actions ---------------------------------------------------------------------------

export function copyButton(text) {
  const copy = async (event) => {
    const button = event.currentTarget;
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = say("act.copied");
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre") ?? button);
    }
    setTimeout(() => (button.textContent = say("act.copy")), 2_000);
  };
  return el("button", { type: "button", className: "quiet", on: { click: copy } }, say("act.copy"));
}

/**
 * Make a form do one thing. `request()` gives `{method, path, body, headers}` from what stands
 * in it now, or null while that is not enough; the form shows the curl line of it. On submit
 * `confirm` (if any) is asked first, then the call is made; `done(answer)` may give the words
 * for what became of it, and `wrong(error)` those for what went wrong where the usual ones do
 * not fit. What the service finds wrong with a field is said at the field that has the
 * pointer's name (`items/0/sku`), or at what is nearest to that.
 */
export function action(
  form,
  request,
  { done = () => null, wrong = () => null, confirm = null, run = call } = {},
) {
  const line = el("code", { className: "command" });
  const outcome = el("p", { className: "outcome", role: "status" });
  const shown = el(
    "details",
    { className: "curl" },
    el("summary", {}, say("act.curl")),
    el("pre", {}, line),
    copyButton(() => line.textContent),
  );
  form.append(outcome, shown);

  function show() {
    const wanted = request();
    line.textContent = wanted ? curl(wanted.method, wanted.path, wanted) : "";
    shown.hidden = !wanted;
  }

  function tell(kind, ...what) {
    outcome.className = `outcome ${kind}`;
    outcome.replaceChildren(...what.filter(Boolean));
  }

  async function submit(event) {
    event.preventDefault();
    const wanted = request();
    if (!wanted || form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    clearFaults(form);
    try {
      if (confirm && !(await confirm(wanted))) return;
      tell("", say("act.busy"));
      const answer = await run(wanted.method, wanted.path, wanted);
      tell("good", (await done(answer, wanted)) ?? say("act.done"));
    } catch (error) {
      showFaults(form, error);
      const lost = error instanceof Unreachable ? say("act.unsure") : explain(error);
      tell("bad", (await wrong(error, wanted)) ?? lost, " ", remedy(error));
    } finally {
      form.ariaBusy = "false";
      show();
    }
  }

  form.addEventListener("input", show);
  form.addEventListener("submit", submit);
  show();
  return { show, tell };
}

function clearFaults(form) {
  form.querySelectorAll(".fault").forEach((node) => node.remove());
  form.querySelectorAll("[aria-invalid]").forEach((field) => {
    field.removeAttribute("aria-invalid");
    describe(field, (id) => !id.startsWith("fault-"));
  });
}

/** What describes a field: of what did so far that which is `kept`, and more. */
function describe(field, kept, ...more) {
  const ids = [...(field.getAttribute("aria-describedby") ?? "").split(" ").filter(kept), ...more];
  field.setAttribute("aria-describedby", ids.join(" ").trim());
}

/** The field of a pointer's name, else the first below it, else that of what is around it. */
function fieldAt(form, pointer) {
  const named = [...form.elements].filter((field) => field.name && field.type !== "hidden");
  for (let path = pointer.slice(2); path; path = path.slice(0, Math.max(0, path.lastIndexOf("/")))) {
    const found = named.find(({ name }) => name === path || name.startsWith(`${path}/`));
    if (found) return found;
  }
  return null;
}

/** What is wrong, in words of the page where it has some, and the pointer to what is to be changed. */
function faultOf({ pointer = "", detail, available: left, requested }) {
  if (left === undefined) return { pointer, text: detail };
  const text = say(left === 0 ? "fault.none_left" : "fault.left", { n: left, wanted: number(requested) });
  return { pointer: pointer.replace(/^(#\/items\/\d+).*/, "$1/quantity"), text };
}

function showFaults(form, error) {
  const faults = (error.errors ?? []).map(faultOf);
  faults.forEach(({ pointer, text }, place) => {
    const field = fieldAt(form, pointer);
    if (field === null) return;
    const id = `fault-${form.id}-${place}`;
    field.setAttribute("aria-invalid", "true");
    describe(field, () => true, id);
    field.after(el("p", { className: "fault small", id }, text));
    field.closest("details")?.setAttribute("open", "");
    if (place === 0) field.focus();
  });
}

/** Ask in a dialog; with `name` it must be typed. Resolves to whether to go on. */
export function sure({ title = say("act.sure"), text = "", yes, name = null, stop = true }) {
  return new Promise((resolve) => {
    const typed = el("input", { autocomplete: "off", spellcheck: false });
    const go = el("button", { value: "yes", className: stop ? "stop" : "", disabled: name !== null }, yes);
    typed.addEventListener("input", () => (go.disabled = typed.value !== name));
    const heading = el("h2", { id: "sure" }, title);
    const box = el(
      "dialog",
      { "aria-labelledby": "sure" },
      el(
        "form",
        { method: "dialog" },
        heading,
        el("p", {}, text),
        name === null ? null : el("label", {}, say("act.type_name", { name }), typed),
        el("p", { className: "buttons" }, go, el("button", { value: "", formNoValidate: true, className: "quiet" }, say("act.cancel"))),
      ),
    );
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue === "yes");
    });
    document.body.append(box);
    box.showModal();
  });
}

// --- parts of a page that are filled -----------------------------------------------------

/**
 * Fill a part of the page (`region` of templates/parts.html) by `load(signal)`, which draws and
 * says whether there was anything; `empty`: the words for nothing, or what makes them. Gives
 * `refresh()`: an older load is given up for a newer one; what stands there stays while the service
 * cannot be reached, and it is tried again.
 */
export function region(id, load, { empty = say("state.empty") } = {}) {
  const node = document.getElementById(id);
  const state = find(".state", node);
  let running = null;
  let again = null;

  async function refresh() {
    running?.abort();
    clearTimeout(again);
    const mine = (running = new AbortController());
    node.ariaBusy = "true";
    try {
      const something = await load(mine.signal);
      if (mine === running) settle(something === false ? "empty" : "ready", typeof empty === "function" ? empty() : empty);
    } catch (error) {
      if (mine === running && error.name !== "AbortError") fail(error);
    }
  }

  function settle(name, ...text) {
    node.ariaBusy = "false";
    if (node.dataset.state !== name) node.dataset.state = name;
    put(state, ...(name === "ready" ? [] : text));
  }

  function fail(error) {
    const stale = ["ready", "stale"].includes(node.dataset.state);
    const retry = el("button", { type: "button", className: "quiet", on: { click: refresh } }, say("state.again"));
    settle(stale ? "stale" : "error", explain(error), " ", remedy(error) ?? retry);
    const passing = error instanceof Unreachable || error.status >= 500 || error.status === 429;
    const rest = Math.max(3, error.wait ?? 0) * 1_000;
    if (passing) again = setTimeout(refresh, rest + Math.random() * 2_000);
    if (!passing && !(error instanceof Refused)) throw error;
  }

  addEventListener("online", () => {
    if (["stale", "error"].includes(node.dataset.state)) refresh();
  });
  return refresh;
}

// --- the address -------------------------------------------------------------------------

export const params = () => new URLSearchParams(location.search);

/** Show another state of this page under its own address. */
export function go(query, { replace = false } = {}) {
  const address = `${location.pathname}${query.size ? `?${query}` : ""}`;
  const same = address === location.pathname + location.search; // an Enter submits twice
  if (replace || same) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  dispatchEvent(new PopStateEvent("popstate"));
}

/** Call `work` for every state of the address: now, and when it changes. */
export function onAddress(work) {
  addEventListener("popstate", () => work(params()));
  work(params());
}

const inMinutes = (at) => new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);

/** What of a field goes into the address: a time in UTC, for people in other zones. */
function readField({ type, value }) {
  if (type !== "datetime-local" || !value) return value.trim();
  return new Date(value).toISOString();
}

function writeField(field, text) {
  const at = field.type === "datetime-local" && text ? new Date(text) : null;
  if (at === null) field.value = text;
  else field.value = Number.isNaN(at.valueOf()) ? "" : inMinutes(at);
}

/**
 * A form whose fields stand in the address: what is typed goes there, what is there stands in
 * the fields, also after a reload and the way back. Without a cursor: another filter begins anew.
 */
export function filters(form) {
  const fields = [...form.elements].filter((field) => field.name);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const query = params();
    query.delete("cursor");
    for (const field of fields) {
      const text = readField(field);
      if (text) query.set(field.name, text);
      else query.delete(field.name);
    }
    go(query);
  });
  form.addEventListener("change", () => form.requestSubmit());
  onAddress((query) => fields.forEach((field) => writeField(field, query.get(field.name) ?? "")));
}

/** The links to the next page and back to the first (`pager` of templates/parts.html). */
export function pager(id, next) {
  const query = params();
  const links = { first: query.has("cursor"), next: next !== null };
  for (const link of document.getElementById(id).querySelectorAll("a")) {
    const there = params();
    if (link.dataset.to === "next" && next !== null) there.set("cursor", next);
    else there.delete("cursor");
    link.href = `?${there}`;
    link.hidden = !links[link.dataset.to];
  }
}

// Links that only change this page's query do so without loading it anew.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='?']");
  const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
  if (!link || !plain) return;
  event.preventDefault();
  const wanted = new URLSearchParams(link.getAttribute("href").slice(1));
  if (link.dataset.language) {
    const there = params(); // the address may have changed since the server drew the link
    there.set("lang", link.dataset.language);
    location.search = there;
  } else {
    go(wanted);
    document.getElementById("main").scrollIntoView({ block: "start" });
  }
});

// --- live --------------------------------------------------------------------------------

const BLIP = 1_500; // ms
const LONGEST_TRY = 3_000;
const line = document.getElementById("line");
const pause = document.getElementById("pause");
const follows = new Set();
const watchers = new Set();
let pace = Infinity; // seconds between the looks of a page that polls
let paused = false;

/**
 * Follow topics, with the state shown in the page's head. While the page is paused nothing
 * comes; when it goes on, it goes on from where it was. `on` as for `connect`.
 */
export function follow({ topics, after = null, snapshot = false, on }) {
  const one = { stream: null, cursor: after, state: null, open, close, end };
  const settle = patiently((state) => {
    one.state = state;
    showLine();
  });

  function open() {
    one.stream = connect({
      topics,
      account: account ?? "",
      after: one.cursor,
      snapshot,
      on: { ...on, state: tell },
    });
  }

  function close() {
    one.cursor = one.stream?.cursor ?? one.cursor;
    one.stream?.close();
    one.stream = one.state = null;
  }

  function tell(state) {
    if (one.stream === null && state.name === "ended") return; // we did that
    settle(state);
    on.state?.(state);
  }

  function end() {
    follows.delete(one);
    close();
    showLine();
  }

  follows.add(one);
  offerPause();
  showLine();
  if (!paused) open();
  return end;
}

/** Tell of the states of a line, but not of one that mends itself at the first try. */
export function patiently(tell) {
  let timer = null;
  let last = null;
  const settle = () => {
    clearTimeout(timer);
    timer = null;
    tell(last);
  };
  return (state) => {
    last = state;
    const next = Math.min(Math.max(0, (state.at ?? 0) - Date.now()), LONGEST_TRY);
    if (state.name === "live" || state.name === "ended") settle();
    else timer ??= setTimeout(settle, next + BLIP);
  };
}

const WORST = ["ended", "offline", "retrying", "connecting", "live"];

function showLine() {
  if (!line) return;
  const names = [...follows].map((one) => one.state?.name ?? "connecting");
  const still = watchers.size ? "polling" : "live"; // without a stream
  const name = paused ? "paused" : (WORST.find((worst) => names.includes(worst)) ?? still);
  const text = say(`line.${name}`, { n: pace });
  line.dataset.state = name;
  if (line.textContent !== text) line.textContent = text;
}

/** Do something now and then, while the page is seen and not paused. Gives a way to do it now. */
export function every(seconds, work) {
  let timer = null;
  const run = () => {
    clearTimeout(timer);
    if (!paused && !document.hidden) work();
    timer = setTimeout(run, seconds * 1_000);
  };
  watchers.add(run);
  pace = Math.min(pace, seconds);
  offerPause();
  showLine();
  run();
  return run;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) watchers.forEach((run) => run());
});

function setPaused(wanted) {
  paused = wanted;
  pause.ariaPressed = String(paused);
  pause.textContent = say(paused ? "line.resume" : "line.pause");
  follows.forEach((one) => (paused ? one.close() : one.open()));
  showLine();
  if (paused) return;
  tellAges();
  watchers.forEach((run) => run());
}

function offerPause() {
  for (const node of [line, pause]) if (node) node.hidden = false;
}

pause?.addEventListener("click", () => setPaused(!paused));
