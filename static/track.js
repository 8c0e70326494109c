// Keeps the page of an order up to date. The server has drawn all of it; this changes what
// changes, from the order's events. Text goes in as text, never as markup.
"use strict";

const page = document.querySelector("main");
const words = JSON.parse(document.getElementById("words").content.textContent);
const find = (id) => document.getElementById(id);
const local = new Intl.DateTimeFormat(document.documentElement.lang, {
  dateStyle: "medium",
  timeStyle: "medium",
});

const TYPES = Object.keys(words)
  .filter((key) => /^event\.order\.[a-z_]+$/.test(key))
  .map((key) => key.slice("event.".length));
const FIRST_WAIT = 2_000; // ms, after the browser itself gave up
const LONGEST_WAIT = 60_000;

let cursor = page.dataset.cursor;
let wait = FIRST_WAIT;
let source = null;

// --- what is shown -------------------------------------------------------------------

function say(state) {
  const line = find("line");
  line.dataset.state = state;
  line.textContent = words[`line.${state}`];
}

function show(time, instant = time.dateTime) {
  time.dateTime = instant;
  time.textContent = local.format(new Date(instant));
}

const filled = (text, data) =>
  text
    .replaceAll("{queue}", data.queue)
    .replaceAll("{previous}", data.previous_queue ?? data.queue);

function showStatus(data) {
  page.dataset.status = find("status").dataset.status = data.status;
  find("status").textContent = words[`status.${data.status}`] ?? data.status;
  find("about").textContent = filled(words[`about.${data.status}`] ?? "", data);
  showPlace({ position: null }); // until it is told anew
  find("asked").hidden = !data.cancel_requested;
  show(find("changed"), data.updated_at);
}

function showPlace({ position, position_exact: exact, eta_seconds: seconds }) {
  const place = find("place");
  place.textContent = "";
  place.hidden = position === null;
  if (place.hidden) return;
  const text = words[exact ? "place.exact" : "place.beyond"];
  const time = exact && seconds !== null ? words["place.time"] : "";
  place.textContent = (text + time)
    .replace("{place}", position)
    .replace("{minutes}", Math.ceil(seconds / 60));
}

function showSteps(type, data) {
  const steps = find("steps");
  const live = data.status === "pending" || data.status === "processing";
  if (type === "order.forwarded") {
    steps.lastElementChild.dataset.state = "done";
    steps.lastElementChild.removeAttribute("aria-current");
    const step = document.createElement("li");
    step.setAttribute("aria-current", "step");
    step.textContent = data.queue;
    steps.append(step);
    trim(steps, Number(page.dataset.steps), "firstElementChild");
  }
  const ended = data.status === "completed" ? "done" : data.status;
  steps.lastElementChild.dataset.state = live ? "here" : ended;
}

function showHistory(type, instant, data) {
  const text = words[`event.${type}.${data.reason}`] ?? words[`event.${type}`];
  const [item, what, when] = ["li", "span", "time"].map((name) => document.createElement(name));
  what.textContent = filled(text, data);
  show(when, instant);
  item.append(what, " ", when);
  find("history").prepend(item);
  trim(find("history"), Number(page.dataset.history), "lastElementChild");
}

function trim(list, most, end) {
  while (list.childElementCount > most) list[end].remove();
}

// --- what comes ----------------------------------------------------------------------

function take(message) {
  cursor = message.lastEventId;
  const { type, time, data } = JSON.parse(message.data);
  if (data.version <= Number(page.dataset.version)) return;
  page.dataset.version = data.version;
  showStatus(data);
  showSteps(type, data);
  showHistory(type, time, data);
  if (data.status === "completed") stop("over");
}

function part(message) {
  const { reason } = JSON.parse(message.data);
  if (reason === "expired" || reason === "revoked") stop(reason);
}

function stop(state) {
  source?.close();
  say(state);
}

function follow() {
  const after = encodeURIComponent(cursor);
  source = new EventSource(`${page.dataset.stream}&last_event_id=${after}`);
  for (const type of TYPES) source.addEventListener(type, take);
  source.addEventListener("bookmark", (message) => (cursor = message.lastEventId));
  source.addEventListener("position", (message) => showPlace(JSON.parse(message.data)));
  source.addEventListener("goodbye", part);
  // What was missed cannot be told one by one: the server draws the page anew.
  source.addEventListener("reset", () => setTimeout(() => location.reload(), Math.random() * 2_000));
  source.addEventListener("hello", () => {
    wait = FIRST_WAIT;
    say("live");
  });
  source.addEventListener("error", ({ target }) => {
    if (target !== source) return;
    if (target.readyState === EventSource.CLOSED) void ask();
    else say("waiting");
  });
}

// At any status but 200 a browser gives up: a proxy whose service restarts, or a link that
// ended. The page itself tells which.
async function ask() {
  say("waiting");
  let status = 0;
  try {
    status = (await fetch(location.href, { method: "HEAD" })).status;
  } catch {
    status = 0; // nobody answers: not an answer about the link
  }
  if (status === 401) stop("expired");
  else if (status === 403 || status === 404) stop("revoked");
  else {
    setTimeout(follow, wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

document.querySelectorAll("time").forEach((time) => show(time));
if (page.dataset.status === "completed") {
  say("over");
} else {
  say("connecting");
  follow();
}
