// Who is connected, to all processes.
import {
  action, acts, badge, call, curl, el, every, filters, find, language, number, onAddress, pager,
  params, posted, put, region, rows, say, when,
} from "/static/page.js";

const PATH = "/api/v1/streams";
const LIMIT = 50;
const TOPICS = 3; // of a stream, shown at once
const SECONDS = 3;
const STATES = { live: "completed", replaying: "pending", full: "failed" };

const size = new Intl.NumberFormat(language, {
  style: "unit",
  unit: "kilobyte",
  maximumFractionDigits: 1,
});

/** This page with another filter, from its first page on. */
function addressOf(changes) {
  const query = params();
  query.delete("cursor");
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) query.delete(name);
    else query.set(name, value);
  }
  return `?${query}`;
}

// --- who is connected ------------------------------------------------------------------

function wanted() {
  const query = new URLSearchParams({ limit: LIMIT });
  const newest = params().get("sort") === "newest";
  if (!newest) query.set("sort", "lag");
  for (const name of ["topic", "account", ...(newest ? ["cursor"] : [])]) {
    if (params().get(name)) query.set(name, params().get(name));
  }
  return `${PATH}?${query}`;
}

function who({ account, kind, address }) {
  const name = account === null ? say("streams.public") : el("a", { href: addressOf({ account }) }, account);
  const how = el("span", { className: "small" }, say(`streams.kind.${kind}`));
  return [name, " ", how, el("br"), address];
}

const topic = (name) => el("div", { className: "topic" }, el("a", { href: addressOf({ topic: name }) }, posted(name)));

function topics({ id, topics: all }) {
  const [first, rest] = [all.slice(0, TOPICS).map(topic), all.slice(TOPICS).map(topic)];
  if (rest.length === 0) return first;
  const shown = table.row(id)?.querySelector("details");
  const more = el("summary", {}, say("streams.more", { n: rest.length }));
  return [...first, el("details", { open: shown?.open ?? false }, more, ...rest)];
}

function disconnectLink({ id, account, address }) {
  const name = account ?? say("streams.public");
  const label = say("streams.disconnect_which", { who: name, address });
  const link = { href: addressOf({ stream: id }), "aria-label": label };
  return el("a", { ...link, className: "button quiet" }, say("streams.disconnect"));
}

const table = rows(find("#rows"), {
  key: (one) => one.id,
  numeric: [2, 3, 4],
  cells: (one) => [
    who(one),
    badge(STATES[one.state] ?? one.state, say(`streams.is.${one.state}`)),
    number(one.lag),
    one.unsent_bytes === 0 ? "0" : size.format(one.unsent_bytes / 1_000),
    number(one.delivered),
    topics(one),
    when(one.connected_at),
    el("code", {}, one.cursor ?? "–"),
    el("code", {}, one.process),
    ...(acts ? [disconnectLink(one)] : []),
  ],
});

let items = []; // as the service last told them

function notes({ next_cursor, incomplete, truncated }) {
  const parts = [];
  const names = (ids) => ids.join(", ");
  if (incomplete.length) parts.push(say("streams.incomplete", { processes: names(incomplete) }));
  if (truncated.length) parts.push(say("streams.truncated", { processes: names(truncated) }));
  const cut = next_cursor === null && items.length === LIMIT;
  if (cut) parts.push(say("streams.first_of", { n: LIMIT }));
  return parts.join(" ");
}

async function loadStreams(signal) {
  find("#curl").textContent = curl("GET", wanted());
  const answer = await call("GET", wanted(), { signal });
  items = answer.items;
  table.show(items);
  put(find("#open"), number(answer.open));
  put(find("#worst"), number(Math.max(0, ...items.map(({ lag }) => lag))));
  put(find("#notes"), notes(answer));
  pager("pages", answer.next_cursor);
  chosen?.show();
  return items.length > 0;
}

// --- the processes ---------------------------------------------------------------------

const processes = rows(find("#process-rows"), {
  key: (one) => one.id,
  head: 0,
  numeric: [2, 3],
  cells: (one) => [
    el("code", {}, one.id),
    `${one.host} · ${one.pid}`,
    number(one.streams),
    number(one.lag),
    el("code", {}, one.head),
    when(one.started_at),
    when(one.seen_at),
  ],
});

async function loadProcesses(signal) {
  const answer = await call("GET", "/api/v1/processes", { signal });
  processes.show(answer.items);
  put(find("#running"), number(answer.items.length));
  return answer.items.length > 0;
}

// --- the one that is to be disconnected --------------------------------------------------

/** Who the stream of the address is, and the form that ends it. */
function choosing() {
  let id = null;
  const form = action(
    find("#disconnect"),
    () => id && { method: "DELETE", path: `${PATH}/${encodeURIComponent(id)}` },
    {
      done: () => {
        refresh();
        return say("streams.disconnected");
      },
      wrong: (error) => (error.status === 404 ? say("streams.gone") : null),
    },
  );

  function show() {
    const one = items.find((item) => item.id === id);
    if (!one) return; // what is known of it stays
    const name = one.account ?? say("streams.public");
    put(find("#which"), say("streams.disconnect_which", { who: name, address: one.address }));
  }

  onAddress((query) => {
    const before = id;
    id = query.get("stream");
    find("#one").hidden = id === null;
    find("#close").href = addressOf({ stream: null });
    if (id === before || id === null) return;
    find("#chosen").textContent = id;
    find("#which").textContent = say("streams.chosen", { id });
    form.tell("");
    form.show();
    show();
    if (before !== null || items.length) find("#which").focus();
  });
  return { show };
}

// --- the page --------------------------------------------------------------------------

const streamsNow = region("list", loadStreams, { empty: say("streams.nobody") });
const processesNow = region("processes", loadProcesses, { empty: say("streams.none_running") });
let busy = false;

const refresh = () => Promise.all([streamsNow(), processesNow()]);

/** A process that does not answer is waited for: a slow look is not given up for a new one. */
async function look() {
  if (busy) return;
  busy = true;
  await refresh().finally(() => (busy = false));
}

let chosen = null;
filters(find("#filters"));
addEventListener("popstate", streamsNow);
every(SECONDS, look);
chosen = acts ? choosing() : null;
