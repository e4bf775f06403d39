// The live list of traces.

import { clock, coldBadge, counted, duration, filterBox, h, httpBadge, moment, Rows } from "./dom.js";
import { filterOf } from "./filter.js";

const CHIPS = [["All", ""], ["Cold", "cold"], ["Errors", "error"], ["Slow", ">500ms"]];

export class Traces {
  constructor(around) {
    this.around = around;
    this.q = "";
    this.traces = [];
    this.shown = [];
    // By trace id: the row, and what it was drawn of.
    this.drawn = new Map();
    this.isFirst = true;
  }

  query(params) {
    this.q = params.get("q") ?? "";
    if (this.input && this.input.value !== this.q) this.input.value = this.q;
  }

  async load() {
    const { traces } = await this.around.get("traces");
    this.traces = traces;
    return true;
  }

  element() {
    this.input = filterBox("Filter traces", "Filter: route, service, status:5xx, cold, error, >100ms", this.q, (value) => this.filter(value));
    this.chips = CHIPS.map(([text, word]) => h("button", { type: "button", class: "chip", data: { word }, onclick: () => this.filter(word, true) }, text));
    this.count = h("p", { class: "quiet count", role: "status" });
    this.body = h("div", { role: "rowgroup", class: "rows", onclick: (event) => this.clicked(event) });
    const heads = [["time", "Time"], ["what", "Trace"], ["service", "Service"], ["badges", "Result"], ["counts", "Spans, logs"], ["took", "Duration"]];
    this.grid = h("div", { role: "grid", class: "grid traces", "aria-label": "Traces, newest first" },
      h("div", { role: "rowgroup", class: "head" }, h("div", { role: "row" }, heads.map(([name, text]) => h("span", { role: "columnheader", class: name }, text)))),
      this.body);
    this.rows = new Rows(this.grid, {
      count: () => this.shown.length,
      elementOf: (index) => this.drawn.get(this.shown[index]?.traceId)?.element,
      changed: () => (this.selected = this.shown[this.rows.current]?.traceId),
      opened: (index) => this.open(this.shown[index]),
    });
    this.nothing = h("div", { class: "nothing" });
    return h("div", { class: "page", "data-drawn": "" },
      h("h1", { class: "unseen" }, "Traces"),
      h("div", { class: "controls" }, this.input, h("div", { class: "chips", role: "group", "aria-label": "Quick filters" }, this.chips), this.count),
      this.grid, this.nothing);
  }

  filter(value, isChip = false) {
    this.q = value;
    if (isChip) this.input.value = value;
    this.around.keep({ q: value });
    this.draw();
  }

  draw() {
    const test = filterOf(this.q);
    this.shown = this.traces.filter((trace) => test(rowOf(trace)));
    for (const chip of this.chips) chip.setAttribute("aria-pressed", String(chip.dataset.word === this.q.trim()));
    const count = this.q ? `${this.shown.length} of ${counted(this.traces.length, "trace")}` : counted(this.traces.length, "trace");
    if (this.count.textContent !== count) this.count.textContent = count;
    const longest = this.shown.reduce((most, trace) => Math.max(most, Number(trace.durationNs)), 1);
    const kept = new Map();
    for (const trace of this.shown) kept.set(trace.traceId, this.row(trace, longest));
    this.drawn = kept;
    // Only what changed is moved: the others keep hover, selection and the reader's place.
    let next = this.body.firstChild;
    for (const { element } of kept.values()) {
      if (element === next) next = next.nextSibling;
      else this.body.insertBefore(element, next);
    }
    while (next) {
      const after = next.nextSibling;
      next.remove();
      next = after;
    }
    this.grid.hidden = !this.shown.length;
    this.grid.setAttribute("aria-rowcount", String(this.shown.length + 1));
    this.nothing.replaceChildren(...(this.shown.length ? [] : [this.traces.length ? this.noMatch() : empty(this.around.state, "traces")]));
    this.rows.current = this.shown.findIndex((trace) => trace.traceId === this.selected);
    if (this.rows.current < 0) this.grid.removeAttribute("aria-activedescendant");
    this.isFirst = false;
  }

  row(trace, longest) {
    const of = JSON.stringify(trace);
    let drawn = this.drawn.get(trace.traceId);
    if (drawn?.of !== of) {
      const element = this.rowElement(trace);
      // What came while the page was open is told apart for a moment.
      if (!drawn && !this.isFirst && !this.q) element.classList.add("new");
      if (drawn && trace.traceId === this.selected) element.setAttribute("aria-selected", "true");
      drawn = { of, element, bar: element.querySelector(".meter i") };
    }
    drawn.bar.style.width = `${Math.max(1, (Number(trace.durationNs) / longest) * 100)}%`;
    return drawn;
  }

  rowElement(trace) {
    const isError = trace.status === "error" || trace.errorCount > 0;
    const cell = (name, ...children) => h("span", { role: "gridcell", class: name }, children);
    const says = trace.method && (trace.route ?? trace.path) ? [h("b", {}, trace.method), " ", trace.route ?? trace.path] : [trace.name];
    return h("div", { role: "row", class: isError ? "row is-error" : "row", id: `trace-${trace.traceId}`, "aria-selected": "false", data: { id: trace.traceId } },
      cell("time", h("time", { title: moment(trace.startNs) }, clock(trace.startNs))),
      cell("what", h("a", { href: `#/trace/${encodeURIComponent(trace.traceId)}`, tabindex: "-1" }, says),
        trace.route && trace.path && trace.path !== trace.route ? h("span", { class: "quiet path" }, trace.path) : null,
        trace.hasMissingParents ? h("span", { class: "badge warn", title: "Some spans have a parent that did not come" }, "parts missing") : null),
      cell("service", trace.service),
      cell("badges",
        trace.cold ? coldBadge(trace.cold, trace.coldNs) : null,
        trace.httpStatus === null ? null : httpBadge(trace.httpStatus),
        trace.errorCount ? h("span", { class: "badge error" }, counted(trace.errorCount, "error")) : trace.status === "error" ? h("span", { class: "badge error" }, "error") : null),
      cell("counts", h("span", {}, counted(trace.spanCount, "span")), trace.logCount ? h("span", {}, counted(trace.logCount, "log")) : null),
      cell("took", h("span", { class: trace.cold ? "meter cold" : "meter", "aria-hidden": "true" }, h("i")), h("span", { class: "number" }, duration(trace.durationNs))));
  }

  clicked(event) {
    const row = event.target.closest("[role=row]");
    // The link goes by itself, and in a new tab if one asks for it.
    if (!row || event.target.closest("a")) return;
    this.open(this.shown.find((trace) => trace.traceId === row.dataset.id));
  }

  open(trace) {
    if (trace) this.around.go(`#/trace/${encodeURIComponent(trace.traceId)}`);
  }

  escape() {
    if (!this.q) return false;
    this.filter("", true);
    return true;
  }

  noMatch() {
    return h("div", { class: "empty" }, h("h2", {}, "No trace matches"),
      h("p", {}, "Nothing here has ", h("code", {}, this.q), "."),
      h("button", { type: "button", class: "button", onclick: () => this.filter("", true) }, "Clear the filter"));
  }
}

function rowOf(trace) {
  const fields = {
    status: trace.httpStatus, service: trace.service, method: trace.method, route: trace.route, path: trace.path, name: trace.name,
    cold: trace.cold,
  };
  const flags = new Set();
  if (trace.cold) flags.add("cold");
  else flags.add("warm");
  if (trace.errorCount || trace.status === "error") flags.add("error");
  if (trace.logCount) flags.add("logs");
  const text = [trace.name, trace.service, trace.method, trace.route, trace.path, trace.httpStatus, trace.traceId, trace.cold].filter((each) => each !== null).join("\n").toLowerCase();
  return { text, flags, fields, durationNs: Number(trace.durationNs) };
}

/** Return what a page says as long as nothing came: where to point an exporter. */
export function empty(state, what) {
  const endpoint = state?.endpoint ?? location.origin;
  const line = `export OTEL_EXPORTER_OTLP_ENDPOINT=${endpoint}`;
  const copy = h("button", {
    type: "button", class: "button",
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(line);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Select and copy";
      }
    },
  }, "Copy");
  return h("div", { class: "empty" },
    h("div", { class: "pulse", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    h("h2", {}, `Waiting for ${what}`),
    h("p", {}, "Point an OpenTelemetry exporter at this address; what arrives shows up here at once."),
    h("div", { class: "snippet" }, h("pre", { tabindex: "0", "aria-label": "Setting for an exporter" }, h("code", {}, line)), copy),
    h("p", { class: "quiet" }, "OTLP over HTTP, protobuf or JSON: traces, metrics and logs. Or run a function in front of it: ",
      h("code", {}, "tracedbridge dev index.py"), "."));
}
