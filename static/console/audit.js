// The audit log: what admins did, newest first.
import {
  acts, badge, call, curl, el, every, filters, find, pager, params, posted, region, rows, say, when, words,
} from "/static/page.js";

const LIMIT = 50;
const LONG = 160; // characters of what was sent that are shown at once

// What an action is about, by the last word of its name → the page where that is shown.
const PLACES = {
  account: (name) => (acts ? `/admin/accounts?account=${name}` : null),
  customer: (id) => `/admin/messages?customer=${id}`,
  enqueue: (name) => `/admin/queues/${name}`,
  batch: (name) => `/admin/queues/${name}`,
  message: (id) => `/admin/messages/${id}`,
  order: (id) => `/admin/messages/${id}`,
  product: (sku) => `/admin/stock/${sku}`,
  queue: (name) => `/admin/queues/${name}`,
  stock: (sku) => `/admin/stock/${sku}`,
};

function wanted() {
  const query = new URLSearchParams({ limit: LIMIT });
  for (const name of ["account", "action", "target", "cursor"]) {
    if (params().get(name)) query.set(name, params().get(name));
  }
  for (const name of ["after", "before"]) {
    const at = new Date(params().get(name) ?? "");
    if (!Number.isNaN(at.getTime())) query.set(name, at.toISOString());
  }
  return `/api/v1/audit?${query}`;
}

const filtered = () => ["account", "action", "target", "after", "before", "cursor"].some((name) => params().get(name));

function about({ action, target }) {
  if (target === null) return "–";
  const place = PLACES[action.split("_").at(-1)]?.(encodeURIComponent(target)) ?? null;
  const gone = action === "delete_queue";
  return place === null || gone ? posted(target) : el("a", { href: place }, posted(target));
}

function outcome({ status, code }) {
  if (status === null) {
    const why = el("span", { className: "at small" }, say("audit.unknown_why"));
    return [badge("pending", say("audit.unknown")), why];
  }
  if (status < 400) return badge("completed", say("audit.done"));
  const text = badge("failed", say(status < 500 ? "audit.refused" : "audit.failed"));
  return [text, el("br"), el("code", {}, `${status} ${code ?? ""}`)];
}

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function sent({ id, detail }) {
  if (detail === null) return "–";
  const names = Object.keys(detail);
  if (names.length === 1 && Array.isArray(detail.fields)) {
    return say("audit.fields", { names: detail.fields.join(", ") });
  }
  const parts = names.flatMap((name, place) => [
    `${place ? "\n" : ""}${name}: `,
    posted(plain(detail[name])),
  ]);
  if (plain(detail).length <= LONG) return el("code", { className: "lines" }, ...parts);
  const open = find("details", table.row(id) ?? document.createElement("i"))?.open ?? false;
  return el("details", { open }, el("summary", {}, say("audit.show")), el("code", { className: "lines" }, ...parts));
}

const table = rows(find("#rows"), {
  key: (line) => line.id,
  cells: (line) => [
    el("span", { className: "at" }, when(line.at, { full: true })),
    el("a", { href: `?account=${encodeURIComponent(line.account)}` }, line.account),
    words[`audit.did.${line.action}`] ?? line.action,
    about(line),
    outcome(line),
    sent(line),
    el("span", { title: say("audit.request", { id: line.request_id }) }, line.address),
  ],
});

const refresh = region(
  "list",
  async (signal) => {
    find("#curl").textContent = curl("GET", wanted());
    const { items, next_cursor } = await call("GET", wanted(), { signal });
    table.show(items);
    pager("pages", next_cursor);
    return items.length > 0;
  },
  { empty: () => say(filtered() ? "audit.empty" : "audit.none") },
);

filters(find("#filters"));
addEventListener("popstate", refresh);
every(5, refresh);
