// Log lines of all traces, newest first, each with the way to its span.

import { clock, counted, filterBox, h, moment, pairs, Rows, valueText } from "./dom.js";
import { filterOf } from "./filter.js";
import { severityClass } from "./trace.js";
import { empty } from "./traces.js";

// The page of a trace has all of its own.
const MAX_ROWS = 400;

export class Logs {
  constructor(around) {
    this.around = around;
    this.logs = [];
    this.shown = [];
    this.q = "";
    this.open = new Set();
  }

  query(params) {
    this.q = params.get("q") ?? "";
    if (this.input && this.input.value !== this.q) this.input.value = this.q;
  }

  async load() {
    const { logs } = await this.around.get("logs");
    const told = JSON.stringify(logs);
    if (told === this.told) return false;
    this.told = told;
    const seen = new Map();
    this.logs = [...logs].reverse().map((log) => {
      const base = `${log.timeNs} ${log.spanId} ${log.body}`;
      const count = seen.get(base) ?? 0;
      seen.set(base, count + 1);
      return { log, key: `${base} ${count}` };
    }).reverse();
    return true;
  }

  element() {
    this.input = filterBox("Filter log lines", "Filter: text, severity:error, service:…", this.q, (value) => {
      this.q = value;
      this.around.keep({ q: value });
      this.draw();
    });
    this.count = h("p", { class: "quiet count", role: "status" });
    this.controls = h("div", { class: "controls" }, this.input, this.count);
    this.body = h("div", { role: "rowgroup", class: "rows", onclick: (event) => this.clicked(event) });
    this.grid = h("div", { role: "treegrid", class: "grid logs", "aria-label": "Log lines, newest first" },
      h("div", { role: "rowgroup", class: "head" }, h("div", { role: "row" }, ["Time", "Severity", "Message", "Trace"].map((text) => h("span", { role: "columnheader" }, text)))), this.body);
    this.rows = new Rows(this.grid, {
      count: () => this.body.children.length,
      elementOf: (index) => this.body.children[index],
      changed: () => (this.selected = this.shown[this.rows.current]?.key),
      opened: (index) => this.turn(this.shown[index].key),
    });
    this.nothing = h("div", {});
    return h("div", { class: "page", "data-drawn": "" }, h("h1", { class: "unseen" }, "Logs"), this.controls, this.grid, this.nothing);
  }

  draw() {
    const test = filterOf(this.q);
    this.shown = this.logs.filter(({ log }) => test({
      text: [log.body, log.severity, log.scope, log.traceId, ...log.attributes.map(([key, value]) => `${key}=${valueText(value)}`)].join("\n").toLowerCase(), durationNs: NaN,
      fields: { severity: log.severity, service: log.service, logger: log.scope }, flags: new Set([severityClass(log.severity).replace("severity-", "")]),
    }));
    const count = this.q ? `${this.shown.length} of ${counted(this.logs.length, "log line")}` : counted(this.logs.length, "log line");
    const more = this.shown.length > MAX_ROWS ? `${count}, the newest ${MAX_ROWS} shown` : count;
    if (this.count.textContent !== more) this.count.textContent = more;
    this.controls.hidden = !this.logs.length;
    this.grid.hidden = !this.shown.length;
    this.body.replaceChildren(...this.shown.slice(0, MAX_ROWS).map((each, index) => this.row(each, index)));
    this.nothing.replaceChildren(...(this.shown.length ? [] : [this.logs.length ? h("div", { class: "empty" }, h("h2", {}, "No log line matches")) : empty(this.around.state, "log lines")]));
    this.rows.current = this.shown.slice(0, MAX_ROWS).findIndex(({ key }) => key === this.selected);
    if (this.rows.current >= 0) this.rows.show();
    else this.grid.removeAttribute("aria-activedescendant");
  }

  row({ log, key }, index) {
    const cell = (name, ...children) => h("span", { role: "gridcell", class: name }, children);
    const isOpen = this.open.has(key);
    const tone = severityClass(log.severity);
    const address = log.traceId ? `#/trace/${encodeURIComponent(log.traceId)}?span=${encodeURIComponent(log.spanId)}&log=${encodeURIComponent(log.timeNs)}` : null;
    return h("div", { role: "row", class: `row ${tone === "severity-error" ? "is-error" : ""}`, id: `log-${index}`, "aria-selected": "false", "aria-level": 1, "aria-expanded": String(isOpen), data: { index } },
      cell("time", h("time", { title: moment(log.timeNs) }, clock(log.timeNs))),
      cell("level", h("span", { class: `severity ${tone}` }, log.severity || "log")),
      cell("what", h("span", { class: isOpen ? "log-text" : "log-line" }, log.body), isOpen ? pairs([...(log.service ? [["service", log.service]] : []), ["logger", log.scope], ...log.attributes]) : null),
      cell("to", address ? h("a", { href: address, "aria-label": `Show in trace ${log.traceId}` }, log.traceId.slice(0, 8)) : h("span", { class: "quiet" }, "–")));
  }

  clicked(event) {
    const row = event.target.closest("[role=row]");
    // Selecting text is no click.
    if (!row || event.target.closest("a, dl, .log-text")) return;
    const index = Number(row.dataset.index);
    this.rows.go(index);
    this.turn(this.shown[index].key);
  }

  turn(key) {
    if (!this.open.delete(key)) this.open.add(key);
    this.draw();
  }

  escape() {
    if (!this.q) return false;
    this.input.value = this.q = "";
    this.around.keep({});
    this.draw();
    return true;
  }
}
