// Charts of how much happened, drawn by uPlot; what they show stands in a table too.
import { el, find, language, number, put, rows, say } from "/static/page.js";

const HEIGHT = 192; // px, as in queue.css
// Of each kind, as in queue.css; the lines of one chart differ by more than their colour.
const LOOKS = {
  entered: ["--info", []],
  claimed: ["--wait", [8, 5]],
  done: ["--go", [2, 4]],
  returned: ["--wait", []],
  failed: ["--stop", [8, 5]],
  dropped: ["--soft", [2, 4]],
};
const WHOLE = [1, 2, 5].flatMap((n) => Array.from({ length: 12 }, (_, power) => n * 10 ** power));
const DAY = 86_400;

const compact = new Intl.NumberFormat(language, { notation: "compact" });
const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(language, { day: "2-digit", month: "2-digit" });
const exact = new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "short" });

const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const sum = (numbers) => numbers.reduce((all, n) => all + n, 0);

/** The instants at which the steps begin, in seconds. */
function starts({ from, step_seconds: step, entered }) {
  const first = Date.parse(from) / 1_000;
  return entered.map((_, place) => first + place * step);
}

function axis(more) {
  const stroke = colour("--soft");
  const line = { stroke: colour("--edge"), width: 1 };
  return { stroke, font: "12px system-ui", grid: line, ticks: line, ...more };
}

/** One chart in a `figure`: the lines of some kinds over the same time. */
export class Chart {
  #figure;
  #kinds;
  #plot = null;
  #stats = null;

  constructor(figure, kinds) {
    this.#figure = figure;
    this.#kinds = kinds;
    dark.addEventListener("change", () => this.#begin());
    new ResizeObserver(() => this.#fit()).observe(this.#place);
  }

  get #place() {
    return find(".plot", this.#figure);
  }

  show(stats) {
    const another = this.#stats?.step_seconds !== stats.step_seconds;
    this.#stats = stats;
    if (another) this.#begin();
    else this.#plot.setData(this.#data);
    this.#tell();
  }

  get #data() {
    return [starts(this.#stats), ...this.#kinds.map((kind) => this.#stats[kind])];
  }

  #begin() {
    if (this.#stats === null) return;
    this.#plot?.destroy();
    this.#plot = new globalThis.uPlot(this.#options, this.#data, this.#place);
  }

  get #options() {
    const times = (_, marks, __, ___, apart) =>
      marks.map((at) => (apart >= DAY ? day : clock).format(at * 1_000));
    return {
      width: this.#place.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      padding: [null, 28, null, null], // the last time below it is not cut
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (_, __, most) => [0, Math.max(4, most * 1.05)] } },
      axes: [
        axis({ values: times, space: 60, size: 32 }),
        axis({ incrs: WHOLE, values: (_, marks) => marks.map((n) => compact.format(n)), size: 52 }),
      ],
      series: [{}, ...this.#kinds.map((kind) => this.#line(kind))],
      hooks: { setCursor: [({ cursor }) => this.#read(cursor.idx)] },
    };
  }

  #line(kind) {
    const [name, dash] = LOOKS[kind];
    return { label: this.#name(kind), stroke: colour(name), width: 2, dash, points: { show: false } };
  }

  #name(kind) {
    return say(`queue.kind.${kind}`);
  }

  /** What stands at the pointer. */
  #read(place) {
    const node = find(".readout", this.#figure);
    if (place === null || place === undefined) return put(node, "");
    const parts = this.#kinds.map((kind) => `${this.#name(kind)} ${number(this.#stats[kind][place])}`);
    put(node, `${exact.format(starts(this.#stats)[place] * 1_000)}: ${parts.join(" · ")}`);
  }

  #tell() {
    const sums = this.#kinds.map((kind) => [kind, number(sum(this.#stats[kind]))]);
    for (const [kind, n] of sums) put(find(`[data-sum="${kind}"]`, this.#figure), n);
    const text = sums.map(([kind, n]) => `${this.#name(kind)} ${n}`).join(", ");
    this.#place.ariaLabel = `${find("figcaption", this.#figure).textContent}: ${text}`;
  }

  #fit() {
    const width = this.#place.clientWidth;
    if (this.#plot && width && width !== this.#plot.width) this.#plot.setSize({ width, height: HEIGHT });
  }
}

/** The table beside the charts; the newest line is the first. */
export function pointsTable(body, kinds) {
  const table = rows(body, {
    key: ({ at }) => at,
    cells: ({ at, counts }) => [
      el("time", { dateTime: new Date(at * 1_000).toISOString() }, exact.format(at * 1_000)),
      ...counts.map((n) => number(n)),
    ],
    numeric: kinds.map((_, place) => place + 1),
    head: 0,
  });
  return (stats) =>
    table.show(
      starts(stats)
        .map((at, place) => ({ at, counts: kinds.map((kind) => stats[kind][place]) }))
        .reverse(),
    );
}
