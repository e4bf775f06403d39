// Metrics as small charts: lines for sums and gauges, the newest buckets for histograms.

import { clock, counted, filterBox, h, inUnit, moment, svg, valueText } from "./dom.js";
import { filterOf } from "./filter.js";
import { empty } from "./traces.js";

// More lines than colours cannot be told apart.
const MAX_LINES = 6;
const [WIDTH, HEIGHT] = [320, 96];

export class Metrics {
  constructor(around) {
    this.around = around;
    this.metrics = [];
    this.q = "";
    // What was unfolded, and which series of a histogram is shown, by the key of a metric.
    this.open = new Set();
    this.chosen = new Map();
  }

  query(params) {
    this.q = params.get("q") ?? "";
    if (this.input && this.input.value !== this.q) this.input.value = this.q;
  }

  async load() {
    const { metrics } = await this.around.get("metrics");
    const told = JSON.stringify(metrics);
    if (told === this.told) return false;
    this.told = told;
    this.metrics = metrics;
    return true;
  }

  element() {
    this.input = filterBox("Filter metrics", "Filter: name, service, type:histogram", this.q, (value) => {
      this.q = value;
      this.around.keep({ q: value });
      this.draw();
    });
    this.count = h("p", { class: "quiet count", role: "status" });
    this.controls = h("div", { class: "controls" }, this.input, this.count);
    this.list = h("ul", { class: "cards", "aria-label": "Metrics" });
    this.nothing = h("div", {});
    return h("div", { class: "page", "data-drawn": "" }, h("h1", { class: "unseen" }, "Metrics"), this.controls, this.list, this.nothing);
  }

  draw() {
    const test = filterOf(this.q);
    const shown = this.metrics.filter((metric) => test({
      text: [metric.name, metric.description, metric.service, metric.unit].join("\n").toLowerCase(), durationNs: NaN,
      fields: { type: metric.type, service: metric.service, unit: metric.unit, name: metric.name },
    }));
    const count = this.q ? `${shown.length} of ${counted(this.metrics.length, "metric")}` : counted(this.metrics.length, "metric");
    if (this.count.textContent !== count) this.count.textContent = count;
    this.controls.hidden = !this.metrics.length;
    this.list.hidden = !shown.length;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    this.list.replaceChildren(...shown.map((metric, index) => this.card(metric, index)));
    if (focused) [...this.list.querySelectorAll("[data-focus]")].find((each) => each.dataset.focus === focused)?.focus({ preventScroll: true });
    this.nothing.replaceChildren(...(shown.length ? [] : [this.metrics.length ? h("div", { class: "empty" }, h("h2", {}, "No metric matches")) : empty(this.around.state, "metrics")]));
  }

  card(metric, index) {
    const key = [metric.service, metric.name, metric.type, metric.scope].join("\u0000");
    const series = metric.series.filter((each) => each.points.length);
    const isHistogram = metric.type === "histogram";
    const chosen = Math.min(this.chosen.get(key) ?? 0, Math.max(0, series.length - 1));
    const figure = !series.length ? h("p", { class: "quiet" }, "No points.") : isHistogram ? histogram(metric, series[chosen]) : lines(metric, series);
    const pick = isHistogram && series.length > 1 ? h("select", {
      class: "select", "aria-label": `Series of ${metric.name}`, data: { focus: `series ${key}` }, onchange: (event) => {
        this.chosen.set(key, Number(event.target.value));
        this.draw();
      },
    }, series.map((each, at) => h("option", { value: at, selected: at === chosen }, labelOf(each)))) : null;
    return h("li", { class: "card metric", "aria-labelledby": `metric-${index}` },
      h("div", { class: "card-head" }, h("h2", { id: `metric-${index}` }, metric.name), h("span", { class: "headline" }, headline(metric, series[chosen], series))),
      h("p", { class: "quiet description" }, metric.description || "–"),
      pick, figure,
      h("details", {
        class: "part", open: this.open.has(key), ontoggle: (event) => (event.target.open ? this.open.add(key) : this.open.delete(key)),
      }, h("summary", { data: { focus: `data ${key}` } }, `${metric.service}: ${metric.type}, ${series.length} series`), table(metric, series)));
  }

  escape() {
    if (!this.q) return false;
    this.input.value = this.q = "";
    this.around.keep({});
    this.draw();
    return true;
  }
}

function labelOf(series) {
  return series.attributes.map(([key, value]) => `${key.split(".").at(-1)}=${valueText(value)}`).join(" ") || "all";
}

function headline(metric, chosen, series) {
  if (!chosen) return "–";
  if (metric.type === "histogram") return `p50 ${inUnit(bucketQuantile(chosen.points.at(-1), 0.5), metric.unit)}`;
  const last = series.map((each) => Number(each.points.at(-1).value));
  // Gauges of several series have no sum that means anything.
  return inUnit(metric.type === "sum" ? last.reduce((sum, each) => sum + each, 0) : last[0], metric.unit);
}

/** Return the value below which a share of a histogram lies, as Prometheus has it: straight within a bucket. */
export function bucketQuantile({ bounds, counts, count }, share) {
  if (!count || !bounds.length) return NaN;
  const rank = share * count;
  let sum = 0;
  for (const [index, each] of counts.entries()) {
    if (sum + each >= rank && each > 0) {
      // Above the last bound nobody knows how far.
      if (index === bounds.length) return Number(bounds.at(-1));
      const from = index ? Number(bounds[index - 1]) : Math.min(0, Number(bounds[0]));
      return from + (Number(bounds[index]) - from) * ((rank - sum) / each);
    }
    sum += each;
  }
  return Number(bounds.at(-1));
}

function lines(metric, series) {
  const shown = series.slice(0, MAX_LINES);
  const points = shown.map((each) => each.points.map((point) => [Number(BigInt(point.timeNs) / 1000000n), Number(point.value)]).filter(([, value]) => Number.isFinite(value)));
  const all = points.flat();
  if (!all.length) return h("p", { class: "quiet" }, "No points that can be drawn.");
  const [first, last] = extremes(all.map(([time]) => time));
  const [low, high] = extremes(all.map(([, value]) => value));
  // From zero, where that does not flatten everything.
  const floor = low >= 0 && low < high * 0.7 ? 0 : low;
  const [floorAt, span] = high === floor ? [floor - Math.abs(floor || 1) * 0.5, Math.abs(floor || 1)] : [floor, (high - floor) * 1.08];
  const x = (time) => (last === first ? WIDTH / 2 : 4 + ((time - first) / (last - first)) * (WIDTH - 8));
  const y = (value) => HEIGHT - 4 - ((value - floorAt) / span) * (HEIGHT - 8);
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img",
    "aria-label": `${metric.name}: ${counted(shown.length, "line")} from ${inUnit(low, metric.unit)} to ${inUnit(high, metric.unit)}`,
  },
  svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
  points.map((each, index) => svg("g", { class: `line line-${index}` },
    each.length > 1 ? svg("polyline", { points: each.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }) : null,
    each.slice(-1).map(([time, value]) => svg("circle", { cx: x(time), cy: y(value), r: 3 }, svg("title", {}, `${labelOf(shown[index])}: ${inUnit(value, metric.unit)}`))))));
  return h("div", { class: "figure" }, drawing,
    h("div", { class: "scale quiet" }, h("span", {}, clock(String(BigInt(first) * 1000000n)).slice(0, 8)), h("span", {}, `${inUnit(low, metric.unit)} to ${inUnit(high, metric.unit)}`), h("span", {}, clock(String(BigInt(last) * 1000000n)).slice(0, 8))),
    shown.length > 1 ? h("ul", { class: "legend", "aria-label": "Series" }, shown.map((each, index) => h("li", {}, h("i", { class: `swatch line-${index}`, "aria-hidden": "true" }), labelOf(each), " ", h("b", {}, inUnit(Number(each.points.at(-1).value), metric.unit)))),
      series.length > MAX_LINES ? h("li", { class: "quiet" }, `and ${series.length - MAX_LINES} more`) : null) : null);
}

function extremes(numbers) {
  return numbers.reduce(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity]);
}

function histogram(metric, series) {
  const point = series.points.at(-1);
  const filled = point.counts.map((count, index) => [index, count]).filter(([, count]) => count > 0).map(([index]) => index);
  if (!filled.length) return h("p", { class: "quiet" }, "Nothing was recorded.");
  // One empty bucket on each side, where there is one: the shape is what one looks at.
  const [first, last] = [Math.max(0, filled[0] - 1), Math.min(point.counts.length - 1, filled.at(-1) + 1)];
  const counts = point.counts.slice(first, last + 1);
  const tallest = Math.max(...counts);
  const width = WIDTH / counts.length;
  const edge = (index) => (index < 0 ? "" : index >= point.bounds.length ? "∞" : inUnit(Number(point.bounds[index]), metric.unit));
  const quantiles = [0.5, 0.95, 0.99].map((share) => [share, bucketQuantile(point, share)]);
  return h("div", { class: "figure" },
    svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img",
      "aria-label": `${metric.name}: ${point.count} values; ${quantiles.map(([share, value]) => `p${share * 100} ${inUnit(value, metric.unit)}`).join(", ")}`,
    },
    counts.map((count, index) => svg("rect", { class: "bin", x: index * width + 1, width: Math.max(1, width - 2), y: HEIGHT - 1 - (count / tallest) * (HEIGHT - 8), height: (count / tallest) * (HEIGHT - 8), rx: 2 },
      svg("title", {}, `up to ${edge(first + index)}: ${count}`))),
    svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 })),
    h("div", { class: "scale quiet" }, h("span", {}, edge(first - 1) || "0"), h("span", {}, edge(last))),
    h("ul", { class: "legend quantiles", "aria-label": "Quantiles" }, quantiles.map(([share, value]) => h("li", {}, `p${share * 100} `, h("b", {}, inUnit(value, metric.unit)))), h("li", {}, "count ", h("b", {}, point.count.toLocaleString("en-US")))));
}

function table(metric, series) {
  const isHistogram = metric.type === "histogram";
  const rows = series.slice(0, 50).map((each) => {
    const point = each.points.at(-1);
    const values = isHistogram ? [point.count.toLocaleString("en-US"), point.sum === null ? "–" : inUnit(Number(point.sum), metric.unit)] : [inUnit(Number(point.value), metric.unit)];
    return h("tr", {}, h("th", { scope: "row", class: "module" }, labelOf(each)), values.map((value) => h("td", { class: "number" }, value)), h("td", { class: "number" }, h("time", { title: moment(point.timeNs) }, clock(point.timeNs).slice(0, 8))));
  });
  const heads = ["Series", ...(isHistogram ? ["Count", "Sum"] : ["Value"]), "At"];
  return h("table", { class: "table" }, h("thead", {}, h("tr", {}, heads.map((text, index) => h("th", { scope: "col", class: index ? "number" : null }, text)))), h("tbody", {}, rows));
}
