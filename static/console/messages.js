// Orders of all queues or of one, newest first, by filters that stand in the address.
import {
  badge,
  calmly,
  call,
  el,
  filters,
  find,
  follow,
  money,
  number,
  onAddress,
  pager,
  params,
  posted,
  region,
  rows,
  say,
  when,
} from "/static/page.js";

const SHOWN = 3; // lines of an order; the others are counted
const ERROR = 100; // characters
const COSTLY = ["group", "sku", "error_contains"]; // not by an index: not again by themselves

const form = find("#filters");
const fields = [...form.elements].map((field) => field.name).filter(Boolean);

/** The address of the list that the page's own address asks for. */
function wanted() {
  const query = new URLSearchParams([...params()].filter(([name]) => [...fields, "cursor"].includes(name)));
  const queue = query.get("queue");
  query.delete("queue");
  return `/api/v1/${queue ? `queues/${encodeURIComponent(queue)}/` : ""}messages?${query}`;
}

const counted = ({ sku, quantity }) => [`${number(quantity)} × `, posted(sku)];

function lines(items) {
  const shown = items.slice(0, SHOWN).flatMap((item, place) => [place ? ", " : "", ...counted(item)]);
  const rest = items.length - SHOWN;
  return rest > 0 ? [...shown, " ", say("messages.more", { n: rest })] : shown;
}

/** The beginning of the error of what failed; the whole stands on its own page. */
function why({ status, last_error: error }) {
  if (status !== "failed" || error === null) return [];
  const text = error.length > ERROR ? `${error.slice(0, ERROR)}…` : error;
  return [" ", posted(text, { className: "small error" })];
}

const table = rows(find("#rows"), {
  key: ({ id }) => id,
  cells: (item) => [
    el("a", { href: `/admin/messages/${item.id}` }, posted(item.reference ?? item.id.slice(-12))),
    [badge(item.status), ...why(item)],
    el("a", { href: `/admin/queues/${encodeURIComponent(item.queue)}` }, item.queue),
    posted(item.customer),
    lines(item.items),
    item.total_cents === null ? "–" : money(item.total_cents, item.currency),
    when(item.created_at),
    when(item.updated_at),
  ],
  numeric: [5],
  head: 0,
});

/** Who the customer is stands there since the page was opened: not for another one. */
function tellCustomer() {
  const called = find("#called");
  if (called) called.hidden = called.dataset.customer !== params().get("customer");
}

const refresh = region(
  "list",
  async (signal) => {
    const { items, next_cursor: next } = await call("GET", wanted(), { signal });
    table.show(items);
    pager("pages", next);
    return items.length > 0;
  },
  { empty: say("messages.empty") },
);

async function nameQueues() {
  const { items } = await call("GET", "/api/v1/queues?limit=200");
  find("#queues").replaceChildren(...items.map(({ name }) => el("option", { value: name })));
}

const soon = calmly(2_000, refresh);

/** Something happened in some queues: the newest page may look different. */
function changed({ queues }) {
  const query = params();
  if (query.has("cursor") || COSTLY.some((name) => query.has(name))) return;
  const queue = query.get("queue");
  if (!queue || queues.some(({ name }) => name === queue)) soon();
}

filters(form);
onAddress(tellCustomer);
onAddress(refresh);
nameQueues().catch(() => {}); // they are only proposed
follow({ topics: ["queues"], on: { counts: changed } });
