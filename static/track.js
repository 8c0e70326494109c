// Keeps the page of an order up to date. The server has drawn all of it; this changes what
// changes, from the order's events. Text goes in as text, never as markup.
import { connect } from "./filaviva.js";

const page = document.querySelector("main");
const words = JSON.parse(document.getElementById("words").content.textContent);
const find = (id) => document.getElementById(id);
const local = new Intl.DateTimeFormat(document.documentElement.lang, {
  dateStyle: "medium",
  timeStyle: "medium",
});

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

function take({ type, time, data }) {
  if (!(`event.${type}` in words) || data.version <= Number(page.dataset.version)) return;
  page.dataset.version = data.version;
  showStatus(data);
  showSteps(type, data);
  showHistory(type, time, data);
  if (data.status === "completed") stream.close();
}

function tell({ name, reason }) {
  if (name === "ended") say({ closed: "over", expired: "expired" }[reason] ?? "revoked");
  else say({ live: "live", connecting: "connecting" }[name] ?? "waiting");
}

// What was missed cannot be told one by one: the server draws the page anew.
function redraw() {
  setTimeout(() => location.reload(), Math.random() * 2_000);
}

let stream = null;
document.querySelectorAll("time").forEach((time) => show(time));
if (page.dataset.status === "completed") {
  say("over");
} else {
  say("connecting");
  stream = connect({
    url: page.dataset.stream,
    after: page.dataset.cursor,
    on: { "order.*": take, position: showPlace, reset: redraw, state: tell },
  });
}
