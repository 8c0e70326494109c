// All that is sold or counted. What can be bought comes with the events; what is on hand and
// reserved is in none, and is fetched again now and then while something changes.
import {
  action, badge, call, calmly, el, filters, find, follow, money, onAddress, pager, params, posted,
  region, rows, say,
} from "/static/page.js";
import { counted, newest, stateOf } from "/static/console/levels.js";
import { Terms } from "/static/console/terms.js";

const DRAW = 250; // ms
const REFETCH = 2_000;
const FILTERS = ["q", "state", "cursor"];

let items = [];
const told = new Map(); // SKU on this page → the data of its newest event

function named({ sku, name, active }) {
  const link = el("a", { href: `/admin/stock/${encodeURIComponent(sku)}` }, sku);
  if (name === null) return [link, " ", el("span", { className: "called small" }, say("stock.no_product"))];
  const off = active ? [] : [" ", badge("off", say("product.off"))];
  return [link, " ", el("span", { className: "called" }, posted(name), ...off)];
}

const table = rows(find("#items"), {
  key: ({ sku }) => sku,
  head: 0,
  numeric: [1, 2, 3, 5, 6],
  cells(item) {
    const stock = newest(item.stock, told.get(item.sku));
    const state = stateOf(stock);
    return [
      named(item),
      counted(stock?.available),
      counted(stock?.on_hand),
      counted(stock?.reserved),
      badge(state, say(`level.${state}`)),
      counted(stock?.low_at),
      item.price_cents === null ? "–" : money(item.price_cents, item.currency),
    ];
  },
});

function asked() {
  const query = new URLSearchParams();
  for (const [name, value] of params()) if (FILTERS.includes(name) && value) query.set(name, value);
  return query;
}

const refresh = region(
  "list",
  async (signal) => {
    const page = await call("GET", `/api/v1/stock?${asked()}`, { signal });
    items = page.items;
    const here = new Set(items.map(({ sku }) => sku));
    for (const sku of told.keys()) if (!here.has(sku)) told.delete(sku);
    table.show(items);
    pager("pages", page.next_cursor);
    return items.length > 0;
  },
  { empty: say("stock.none") },
);

const draw = calmly(DRAW, () => table.show(items));
const refetch = calmly(REFETCH, refresh);

/** Whether an event may change what this page lists. */
const concerns = (data) => table.row(data.sku) || data.version === 1 || params().get("state");

function changed({ data }) {
  if (table.row(data.sku)) told.set(data.sku, data);
  if (concerns(data)) refetch();
  if (table.row(data.sku)) draw();
}

filters(find("#filters"));
onAddress(refresh);
follow({
  topics: ["stock"],
  on: {
    "stock.changed": changed,
    reset: refetch,
    state: ({ name }) => name === "live" && refetch(),
  },
});

const form = find("#new");
if (form) {
  const terms = new Terms(form);
  const sku = form.elements.namedItem("sku");
  const wanted = params().get("sku");
  if (wanted) {
    sku.value = wanted;
    history.replaceState(null, "", location.pathname);
  }
  action(
    form,
    () =>
      form.matches(":valid")
        ? { method: "POST", path: "/api/v1/products", body: { sku: sku.value, ...terms.values() } }
        : null,
    { done: (product) => location.assign(`/admin/stock/${encodeURIComponent(product.sku)}`) },
  );
}
