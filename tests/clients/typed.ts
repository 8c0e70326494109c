// A careful program of filaviva.js: compiled in the tests, never run.
import { connect, type OrderData, type State, type Stream } from "../../static/filaviva.js";

function show(order: OrderData): string {
  return `${order.id} ${order.status} ${order.items?.[0]?.sku ?? ""}`;
}

function say(state: State): number | string {
  if (state.name === "retrying" || state.name === "offline") return state.at;
  return state.name === "ended" ? state.reason : state.name;
}

const stream: Stream = connect({
  topics: ["order:1", "queues"],
  ticket: "text",
  renew: async () => (await fetch("/my/ticket")).text(),
  after: null,
  snapshot: true,
  coalesce: "latest",
  on: {
    "*": (event) => console.log(event.type, event.id),
    "order.*": ({ data }) => show(data),
    "order.completed": ({ data }) => show(data),
    "stock.changed": ({ data }) => data.available + 1,
    snapshot: ({ topic, items }) => console.log(topic, items.length),
    reset: ({ reason }) => reason === "pruned",
    counts: ({ queues }) => queues.map(({ counts }) => counts.pending),
    position: ({ position, eta_seconds: seconds }) => (position ?? 0) + (seconds ?? 0),
    state: say,
  },
});
const off: () => void = stream.on("queue.paused", ({ data }) => data.paused);
off();
console.log(stream.cursor ?? "none", stream.via, stream.state.name);
stream.close();

// @ts-expect-error: topics are texts
connect({ topics: [1] });
// @ts-expect-error: an option that is not there
connect({ topic: "stock" });
// @ts-expect-error: an order has no such field
stream.on("order.failed", ({ data }) => data.worker);
// @ts-expect-error: a state is read only
stream.state.name = "live";
