// One trace: the waterfall with its log lines, and the details of what is selected.

import {
  attribute, clock, coldBadge, counted, duration, filterBox, h, httpBadge, moment, pairs, phaseClass, PHASES, Rows, toggle, valueText,
} from "./dom.js";
import { filterOf } from "./filter.js";

// Two imports are a run already: a package has dozens of modules below it.
const MIN_IMPORTS = 2;
// Of other spans with one name, as many as a loop makes.
const MIN_ALIKE = 6;
// Rows drawn above and below what is seen, so that scrolling does not show gaps.
const SPARE_ROWS = 12;
const TICKS = [0, 0.25, 0.5, 0.75, 1];

export class TracePage {
  constructor(around, traceId) {
    this.around = around;
    this.traceId = traceId;
    this.q = "";
    this.selected = "";
    this.hasLogs = true;
    this.isCritical = false;
    this.isZoomed = false;
    this.all = null;
    // Rows that are not as they are at first: folded spans, unfolded runs.
    this.turned = new Set();
    this.told = "";
    this.model = null;
    this.visibleRows = [];
  }

  query(params) {
    this.q = params.get("q") ?? "";
    this.hasLogs = params.get("logs") !== "off";
    this.isCritical = params.get("critical") === "on";
    const log = params.get("log");
    const span = params.get("span") ?? "";
    this.selected = log ? `log:${log}` : span ? `span:${span}` : "";
    this.asked = this.selected;
    if (this.input && this.input.value !== this.q) this.input.value = this.q;
  }

  async load() {
    const trace = await this.around.get(`traces/${encodeURIComponent(this.traceId)}`);
    const told = JSON.stringify(trace);
    if (told === this.told) return false;
    this.told = told;
    this.model = trace && trace.spans.length ? new Model(trace) : null;
    this.isMissing = trace === null;
    // A log alone, or a trace of which nothing is left: no waterfall to draw.
    this.onlyLogs = trace && !trace.spans.length ? trace.logs : null;
    if (this.holder) this.fill();
    return true;
  }

  element() {
    this.holder = h("div", { class: "trace", "data-drawn": "" });
    this.fill();
    return this.holder;
  }

  fill() {
    if (!this.model) {
      this.tree = this.rows = null;
      this.holder.replaceChildren(h("div", { class: "empty" }, h("h1", {}, "This trace is not here"),
        h("p", {}, "It may have made room for newer ones, or has not arrived yet. The page looks again when something comes."),
        h("p", {}, h("code", {}, this.traceId)), h("a", { class: "button", href: "#/traces" }, "All traces")));
      return;
    }
    const top = this.tree?.scrollTop ?? 0;
    const hadFocus = this.tree && document.activeElement === this.tree;
    this.canvas = h("div", { class: "canvas", role: "rowgroup", onclick: (event) => this.clicked(event), ondblclick: (event) => this.zoomAt(event) });
    this.tree = h("div", {
      class: "tree", role: "treegrid", "aria-label": "Spans and log lines of the trace", "aria-colcount": "3", onscroll: () => this.later(),
    }, this.canvas);
    this.rows = new Rows(this.tree, {
      count: () => this.visibleRows.length,
      elementOf: (index) => this.rowAt(index),
      changed: (index) => this.select(this.visibleRows[index].key),
      opened: () => this.showDetails(true),
    });
    this.ruler = h("div", { class: "ruler", "aria-hidden": "true" });
    this.details = h("aside", { class: "details", "aria-label": "Details", tabindex: "0", hidden: true });
    this.isDetailed ??= Boolean(this.selected);
    this.split = h("div", { class: "split" }, h("div", { class: "waterfall" }, this.ruler, this.tree), this.details);
    this.holder.replaceChildren(this.header(), this.split);
    this.observer?.disconnect();
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.tree);
    this.reveal();
    this.draw();
    this.tree.scrollTop = top;
    if (hadFocus) this.tree.focus({ preventScroll: true });
  }

  closed() {
    this.observer?.disconnect();
  }

  header() {
    const { model } = this;
    const root = model.top;
    const told = [...model.spans.filter((span) => span.kind.toLowerCase().endsWith("server")).slice(0, 1), root].map((span) => span.attributes).flat();
    const status = attribute(told, "http.response.status_code") ?? attribute(told, "http.status_code");
    const cold = model.spans.find((span) => attribute(span.attributes, "tracedbridge.coldstart.kind"));
    const errors = model.spans.filter((span) => span.status === "error").length;
    const services = [...new Set(model.spans.map((span) => span.service))];
    this.around.title(root.name);
    this.input = filterBox("Filter spans", "Filter spans", this.q, (value) => {
      this.q = value;
      this.keep();
      this.draw();
    });
    this.toggles = {
      critical: toggle("Critical path", this.isCritical, "c", () => this.keyed({ key: "c" })),
      logs: toggle("Logs", this.hasLogs, "l", () => this.keyed({ key: "l" })),
      all: toggle("Unfold all", this.all === true, "e", () => this.keyed({ key: "e" })),
      zoom: toggle("Zoom", this.isZoomed, "z", () => this.keyed({ key: "z" })),
    };
    this.found = h("span", { class: "quiet count", role: "status" });
    return h("header", { class: "about" },
      h("div", { class: "title" },
        h("a", { class: "back", href: "#/traces", "aria-label": "All traces" }, "←"),
        h("h1", {}, root.name),
        cold ? coldBadge(attribute(cold.attributes, "tracedbridge.coldstart.kind")) : null,
        Number.isInteger(status) ? httpBadge(status) : null,
        errors ? h("span", { class: "badge error" }, counted(errors, "error")) : null),
      h("p", { class: "facts" },
        h("b", {}, duration(model.lengthNs)), h("span", {}, counted(model.spans.length, "span")),
        model.logs.length ? h("span", {}, counted(model.logs.length, "log")) : null,
        h("span", {}, services.join(", ")), h("time", {}, moment(root.startNs)), h("code", { class: "id" }, this.traceId)),
      this.legend(),
      h("div", { class: "controls" }, this.input, this.found,
        h("div", { class: "chips", role: "group", "aria-label": "View" }, this.toggles.critical, model.logs.length ? this.toggles.logs : null, this.toggles.all, this.toggles.zoom),
        h("a", { class: "button", href: `/api/viewer/traces/${encodeURIComponent(this.traceId)}/jaeger.json`, download: `trace-${this.traceId}.json` }, "Jaeger JSON")));
  }

  /** The phases of the cold start: what each took, and its colour. */
  legend() {
    const { phases } = this.model;
    if (!phases.length) return null;
    const total = phases.reduce((sum, { ns }) => sum + ns, 0) || 1;
    return h("div", { class: "phases" },
      h("div", { class: "stack", "aria-hidden": "true" }, phases.map(({ phase, ns }) => h("i", { class: phaseClass(phase), style: { "flex-grow": ns / total } }))),
      h("ul", { class: "legend", "aria-label": "Phases of the cold start" }, phases.map(({ phase, ns }) => h("li", {},
        h("i", { class: `swatch ${phaseClass(phase)}`, "aria-hidden": "true" }), PHASES[phase] ?? phase, " ", h("b", {}, duration(ns))))));
  }

  keep() {
    const node = this.model?.byKey.get(this.selected);
    this.around.keep({
      span: node?.type === "log" ? node.log.spanId : this.selected.startsWith("span:") ? this.selected.slice(5) : "",
      log: node?.type === "log" ? node.key.slice(4) : "",
      q: this.q,
      logs: this.hasLogs ? "" : "off",
      critical: this.isCritical ? "on" : "",
    });
  }

  /** Unfold what hides the selected row. */
  reveal() {
    const node = this.model?.byKey.get(this.selected);
    for (let above = node?.parent; above; above = above.parent) this.open(above, true);
  }

  isOpen(node) {
    // Unless it was turned, a run is folded and a span is not.
    return (this.all ?? node.type !== "fold") !== this.turned.has(node.key);
  }

  open(node, isOpen) {
    if (this.isOpen(node) === isOpen) return;
    if (!this.turned.delete(node.key)) this.turned.add(node.key);
  }

  draw() {
    if (!this.tree) return;
    if (this.asked) this.reveal();
    this.visibleRows = this.model.flat((node) => this.isOpen(node), this.hasLogs, this.q);
    const found = this.q ? `${this.visibleRows.filter((node) => node.isHit).length} found` : "";
    if (this.found.textContent !== found) this.found.textContent = found;
    this.rows.current = this.visibleRows.findIndex((node) => node.key === this.selected);
    this.tree.setAttribute("aria-rowcount", String(this.visibleRows.length));
    this.split.classList.toggle("only-critical", this.isCritical);
    this.range = this.zoomRange();
    const isPressed = { critical: this.isCritical, logs: this.hasLogs, all: this.all === true, zoom: this.isZoomed };
    for (const [name, button] of Object.entries(this.toggles)) button.setAttribute("aria-pressed", String(isPressed[name]));
    const [fromNs, lengthNs] = this.range;
    this.ruler.replaceChildren(h("span", { class: "ruler-name" }, "Span"), h("span", { class: "ruler-ticks" }, TICKS.map((at) => h("span", { style: { left: `${at * 100}%` } }, fromNs + at * lengthNs ? duration(fromNs + at * lengthNs) : "0"))), h("span", { class: "ruler-took" }, "Duration"));
    this.paint(true);
    this.showDetails(this.isDetailed, false);
    if (this.asked && this.tree.isConnected) this.centre();
  }

  zoomRange() {
    const node = this.model.byKey.get(this.selected);
    if (!this.isZoomed || !node || node.type === "log" || !node.lengthNs) return [0, this.model.lengthNs];
    return [node.startNs, node.lengthNs];
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
    });
  }

  /** Draw the rows that can be seen: thousands of others cost nothing. */
  paint(isAnew = false) {
    if (!this.tree?.isConnected && !isAnew) return;
    const rowPx = parseFloat(getComputedStyle(this.holder).getPropertyValue("--row")) || 28;
    this.rowPx = rowPx;
    this.canvas.style.height = `${this.visibleRows.length * rowPx}px`;
    const first = Math.max(0, Math.floor(this.tree.scrollTop / rowPx) - SPARE_ROWS);
    const last = Math.min(this.visibleRows.length, Math.ceil((this.tree.scrollTop + this.tree.clientHeight) / rowPx) + SPARE_ROWS);
    const there = new Map(isAnew ? [] : [...this.canvas.children].map((row) => [Number(row.dataset.index), row]));
    const rows = [];
    for (let index = first; index < last; index += 1) {
      const row = there.get(index) ?? this.rowElement(this.visibleRows[index], index);
      row.style.transform = `translateY(${index * rowPx}px)`;
      rows.push(row);
    }
    if (!isAnew && rows.length === there.size && rows.every((row) => row.parentNode)) return;
    this.canvas.replaceChildren(...rows);
    const current = this.canvas.querySelector("[aria-selected=true]");
    if (current) this.tree.setAttribute("aria-activedescendant", current.id);
    else this.tree.removeAttribute("aria-activedescendant");
  }

  /** Return the element of a row, scrolled to if need be. */
  rowAt(index) {
    const top = index * this.rowPx;
    const isAbove = top < this.tree.scrollTop;
    const isBelow = top + this.rowPx > this.tree.scrollTop + this.tree.clientHeight;
    if (isAbove || isBelow) {
      this.tree.scrollTop = isAbove ? top : top + this.rowPx - this.tree.clientHeight;
      this.paint();
    }
    return this.canvas.querySelector(`[data-index="${index}"]`);
  }

  /** Bring what the address asked for into sight, once. */
  centre() {
    this.asked = "";
    if (this.rows.current < 0) return;
    this.tree.focus({ preventScroll: true });
    // On a phone the waterfall is below the fold of the page itself.
    this.split.scrollIntoView({ block: "nearest" });
    this.tree.scrollTop = Math.max(0, (this.rows.current + 0.5) * this.rowPx - this.tree.clientHeight / 2);
    this.paint();
  }

  at(ns) {
    const [fromNs, lengthNs] = this.range;
    return lengthNs ? ((ns - fromNs) / lengthNs) * 100 : 0;
  }

  rowElement(node, index) {
    const isBranch = node.children.some((child) => this.hasLogs || child.type !== "log");
    const isError = node.type === "span" ? node.span.status === "error" : node.type === "log" ? isBad(node.log.severity) : node.errors > 0;
    const row = h("div", {
      role: "row", id: `row-${index}`, class: ["row", node.type, node.isCritical ? "critical" : "", isError ? "is-error" : ""].join(" "),
      "aria-level": node.level, "aria-rowindex": index + 1, "aria-selected": String(node.key === this.selected),
      "aria-expanded": isBranch ? String(this.isOpen(node)) : null, data: { index, key: node.key },
    });
    const name = h("span", { role: "gridcell", class: "name", style: { "--level": node.level - 1 } },
      h("span", { class: "twist", "aria-hidden": "true" }, isBranch ? (this.isOpen(node) ? "▾" : "▸") : ""));
    const lane = h("span", { role: "gridcell", class: "lane", style: { "--grid": "25%" } });
    const took = h("span", { role: "gridcell", class: "took number" });
    if (node.type === "log") this.drawLog(node, name, lane, took);
    else if (node.type === "fold") this.drawFold(node, name, lane, took);
    else this.drawSpan(node, name, lane, took);
    row.append(name, lane, took);
    return row;
  }

  drawSpan(node, name, lane, took) {
    const { span } = node;
    const httpStatus = attribute(span.attributes, "http.response.status_code");
    name.append(
      h("span", { class: `swatch ${colourOf(node)}`, "aria-hidden": "true" }),
      h("span", { class: "text", title: span.name }, span.name),
    );
    if (span.status === "error") name.append(h("span", { class: "badge error", title: span.statusMessage || "error" }, "error"));
    if (Number.isInteger(httpStatus) && node.level > 1) name.append(httpBadge(httpStatus));
    if (node.isOrphan) name.append(h("span", { class: "badge warn", title: `Its parent ${span.parentId} is not here` }, "no parent"));
    if (span.links.length) name.append(h("span", { class: "badge link", title: counted(span.links.length, "link") }, "↗", h("span", { class: "unseen" }, " linked")));
    lane.append(this.bar(node, colourOf(node)));
    for (const { phase, startNs, lengthNs } of node.segments) lane.append(this.piece(startNs, lengthNs, `bar segment ${phaseClass(phase)}`));
    for (const event of span.events) lane.append(this.tick(event.atNs, event.name === "exception" ? "tick exception" : "tick", event.name));
    if (this.hasLogs) for (const child of node.children) if (child.type === "log" && !this.isOpen(node)) lane.append(this.tick(child.startNs, `tick log ${severityClass(child.log.severity)}`, child.log.body));
    took.append(duration(span.durationNs));
  }

  drawFold(node, name, lane, took) {
    const count = node.spans.length;
    name.append(h("span", { class: "swatch fold-mark", "aria-hidden": "true" }),
      h("span", { class: "text" }, h("b", {}, node.isImports ? counted(count, "import") : `${count.toLocaleString("en-US")} × ${node.spans[0].span.name}`),
        node.isImports ? h("span", { class: "quiet" }, ` ${node.slowest.map((each) => each.span.name.replace(/^import /, "")).join(", ")}${count > node.slowest.length ? ", …" : ""}`) : null));
    if (node.errors) name.append(h("span", { class: "badge error" }, counted(node.errors, "error")));
    lane.append(this.bar(node, "folded"));
    // A few hundred pixels cannot show more.
    for (const each of node.spans.slice(0, 200)) lane.append(this.bar(each, colourOf(each)));
    took.append(duration(node.sumNs));
    took.title = "Sum of the folded spans";
  }

  drawLog(node, name, lane, took) {
    const { log } = node;
    name.append(h("span", { class: `severity ${severityClass(log.severity)}` }, log.severity || "log"), h("span", { class: "text log-body", title: log.body }, log.body));
    lane.append(this.tick(node.startNs, `tick log ${severityClass(log.severity)}`, log.body));
    took.append(h("span", { class: "quiet" }, `+${duration(node.startNs)}`));
  }

  bar(node, colour) {
    const bar = this.piece(node.startNs, node.lengthNs, `bar ${colour}`);
    if (node.isCritical && node.type === "span") bar.append(h("i", { class: "critical-line" }));
    return bar;
  }

  piece(startNs, lengthNs, name) {
    const from = Math.max(-1, Math.min(101, this.at(startNs)));
    const until = Math.max(-1, Math.min(101, this.at(startNs + lengthNs)));
    return h("span", { class: name, style: { left: `${from}%`, width: `${until - from}%` } });
  }

  tick(ns, name, title) {
    const at = this.at(ns);
    return h("span", { class: at < 0 || at > 100 ? "outside" : name, title, style: { left: `${Math.max(0, Math.min(100, at))}%` } });
  }

  clicked(event) {
    const row = event.target.closest("[role=row]");
    if (!row) return;
    const index = Number(row.dataset.index);
    const node = this.visibleRows[index];
    this.tree.focus({ preventScroll: true });
    if (event.target.closest(".twist") || node.type === "fold") {
      this.select(node.key, { details: false });
      this.turn(node);
    } else {
      this.isDetailed = true;
      this.rows.go(index);
    }
  }

  zoomAt(event) {
    if (event.target.closest(".lane")) this.keyed({ key: "z" });
  }

  turn(node, isOpen = !this.isOpen(node)) {
    this.open(node, isOpen);
    this.draw();
    this.rows.show();
  }

  select(key, { details = true } = {}) {
    this.selected = key;
    this.keep();
    for (const row of this.canvas.children) row.setAttribute("aria-selected", String(row.dataset.key === key));
    if (details) this.showDetails(this.isDetailed);
  }

  /** Go to a row that may be folded away, filtered out or switched off. */
  goTo(key) {
    const node = this.model.byKey.get(key);
    if (!node) return;
    if (node.type === "log") this.hasLogs = true;
    this.selected = key;
    this.reveal();
    if (!this.visibleRows.includes(node) && this.q) this.input.value = this.q = "";
    this.isDetailed = true;
    this.draw();
    this.rows.go(this.visibleRows.indexOf(node));
  }

  keyed({ key }) {
    if (!this.tree) return false;
    const node = this.visibleRows[this.rows.current];
    if (key === "c") this.isCritical = !this.isCritical;
    else if (key === "l") this.hasLogs = !this.hasLogs;
    else if (key === "z") this.isZoomed = !this.isZoomed && Boolean(node);
    else if (key === "e") {
      this.all = this.all === true ? false : true;
      this.turned.clear();
      if (!this.all) this.turned = new Set(this.model.roots.map((root) => root.key));
    } else if (key === "Enter" && node?.type === "fold") {
      this.turn(node);
      return true;
    } else if (key === "Enter" && node) {
      this.isDetailed = true;
      this.showDetails(true);
      return true;
    } else if (key === "ArrowRight" && node) {
      if (node.children.length && !this.isOpen(node)) this.turn(node, true);
      else if (node.children.length) this.rows.go(this.rows.current + 1);
      return true;
    } else if (key === "ArrowLeft" && node) {
      if (node.children.length && this.isOpen(node)) this.turn(node, false);
      else if (node.parent) this.rows.go(this.visibleRows.indexOf(node.parent));
      return true;
    } else return false;
    this.keep();
    this.draw();
    this.rows.show();
    return true;
  }

  escape() {
    if (this.isZoomed) {
      this.keyed({ key: "z" });
    } else if (this.details && !this.details.hidden) {
      this.isDetailed = false;
      this.showDetails(false);
      this.tree.focus({ preventScroll: true });
    } else if (this.q) {
      this.input.value = this.q = "";
      this.keep();
      this.draw();
    } else this.around.go("#/traces");
    return true;
  }

  showDetails(isShown, isMoved = true) {
    const node = this.model?.byKey.get(this.selected);
    const has = Boolean(isShown && node && node.type !== "fold");
    if (has && (this.details.hidden || this.detailed !== node)) {
      this.details.replaceChildren(...(node.type === "log" ? this.logDetails(node) : this.spanDetails(node)));
      this.details.scrollTop = 0;
    }
    this.detailed = has ? node : null;
    if (this.details.hidden === !has) return;
    this.details.hidden = !has;
    this.split.classList.toggle("has-details", has);
    // The tree has another size now: the row must stay in sight.
    if (isMoved) this.rows.show();
    else this.paint();
  }

  closeButton() {
    return h("button", { type: "button", class: "tool close", "aria-label": "Close details", onclick: () => {
      this.isDetailed = false;
      this.showDetails(false);
      this.tree.focus({ preventScroll: true });
    } }, "×");
  }

  spanDetails(node) {
    const { span } = node;
    const logs = node.children.filter((child) => child.type === "log");
    const facts = [
      ["Service", span.service], ["Kind", span.kind], ["Starts", `+${duration(node.startNs)}, ${clock(span.startNs)}`], ["Duration", duration(span.durationNs)],
      ["Self time", duration(node.selfNs)],
      ...(span.phase ? [["Phase", PHASES[span.phase] ?? span.phase]] : []),
      ["Critical path", span.isCritical ? "yes" : "no"],
      ["Scope", span.scope || "–"], ["Span", span.spanId], ...(span.parentId ? [["Parent", node.isOrphan ? `${span.parentId} (not here)` : span.parentId]] : []),
    ];
    return [
      h("div", { class: "details-head" }, h("h2", {}, span.name), this.closeButton()),
      span.status === "error" ? h("p", { class: "failure" }, h("b", {}, "Error"), span.statusMessage ? ` ${span.statusMessage}` : "") : null,
      h("dl", { class: "facts-list" }, facts.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value)))),
      part("Attributes", span.attributes.length, () => pairs(span.attributes)),
      part("Log lines", logs.length, () => h("ul", { class: "plain" }, logs.map((each) => h("li", {},
        h("button", { type: "button", class: "log-link", onclick: () => this.goTo(each.key) },
          h("span", { class: `severity ${severityClass(each.log.severity)}` }, each.log.severity || "log"), h("span", {}, each.log.body), h("span", { class: "quiet number" }, `+${duration(each.startNs)}`)))))),
      part("Events", span.events.length, () => h("ul", { class: "plain" }, span.events.map((event) => h("li", { class: "event" },
        h("div", {}, h("b", {}, event.name), " ", h("span", { class: "quiet number" }, `+${duration(event.atNs)}`)), pairs(event.attributes))))),
      part("Links", span.links.length, () => h("ul", { class: "plain" }, span.links.map((link) => h("li", { class: "event" },
        h("a", { href: `#/trace/${encodeURIComponent(link.traceId)}?span=${encodeURIComponent(link.spanId)}` }, "trace ", h("code", {}, link.traceId)), pairs(link.attributes))))),
      part("Resource", this.model.resources[span.resource]?.length ?? 0, () => pairs(this.model.resources[span.resource]), false),
    ].filter(Boolean);
  }

  logDetails(node) {
    const { log } = node;
    const above = this.model.byKey.get(`span:${log.spanId}`);
    return [
      h("div", { class: "details-head" }, h("h2", {}, h("span", { class: `severity ${severityClass(log.severity)}` }, log.severity || "log"), " Log line"), this.closeButton()),
      h("p", { class: "log-text" }, log.body),
      h("dl", { class: "facts-list" }, h("div", {}, h("dt", {}, "Time"), h("dd", {}, `+${duration(node.startNs)}, ${clock(log.timeNs)}`)), h("div", {}, h("dt", {}, "Logger"), h("dd", {}, log.scope || "–"))),
      above ? h("p", {}, h("button", { type: "button", class: "button", onclick: () => this.goTo(above.key) }, "Span: ", above.span.name)) : null,
      part("Attributes", log.attributes.length, () => pairs(log.attributes)),
    ].filter(Boolean);
  }
}

function part(title, count, make, isOpen = true) {
  if (!count) return null;
  return h("details", { class: "part", open: isOpen }, h("summary", {}, title, " ", h("span", { class: "quiet number" }, count)), make());
}

/** Return the class of a log line's severity, and whether it is bad news. */
export function severityClass(severity) {
  const text = String(severity).toUpperCase();
  if (isBad(text)) return "severity-error";
  if (text.startsWith("WARN")) return "severity-warn";
  return text.startsWith("DEBUG") || text.startsWith("TRACE") ? "severity-debug" : "severity-info";
}

function isBad(severity) {
  return /^(ERROR|FATAL|CRITICAL)/i.test(severity);
}

function colourOf(node) {
  if (node.span.phase) return phaseClass(node.span.phase);
  if (node.segments.length) return "phase-other";
  return `service-${node.service}`;
}

/** The rows of a trace, as a tree: spans, log lines, and runs of siblings folded into one. */
class Model {
  constructor(trace) {
    this.spans = trace.spans;
    this.logs = trace.logs;
    this.resources = trace.resources;
    this.byKey = new Map();
    const begins = trace.spans.map((span) => BigInt(span.startNs));
    const beginNs = begins.reduce((least, each) => (each < least ? each : least));
    this.lengthNs = Math.max(1, ...chunkedMax(trace.spans.map((span, index) => Number(begins[index] - beginNs) + Number(span.durationNs))));
    const since = (ns) => Number(BigInt(ns) - beginNs);
    const services = [...new Set(trace.spans.map((span) => span.service))];
    for (const span of trace.spans) {
      for (const event of span.events) event.atNs = since(event.timeNs);
      this.byKey.set(`span:${span.spanId}`, {
        type: "span", key: `span:${span.spanId}`, span, children: [], parent: null, level: 1, segments: [], isOrphan: false,
        startNs: since(span.startNs), lengthNs: Number(span.durationNs), isCritical: span.isCritical, service: services.indexOf(span.service) % 6,
        text: [span.name, span.service, span.kind, span.spanId, span.statusMessage, ...span.attributes.map(([key, value]) => `${key}=${valueText(value)}`)].join("\n").toLowerCase(),
      });
    }
    const tops = [];
    for (const node of [...this.byKey.values()]) {
      const parent = node.span.parentId ? this.byKey.get(`span:${node.span.parentId}`) : null;
      node.isOrphan = Boolean(node.span.parentId) && !parent;
      // Parents come before their children, so there is no circle to fall into.
      if (parent && parent !== node) {
        parent.children.push(node);
        node.parent = parent;
      } else tops.push(node);
    }
    for (const node of this.byKey.values()) {
      node.selfNs = Math.max(0, node.lengthNs - covered(node));
      if (attribute(node.span.attributes, "tracedbridge.coldstart.kind") && node.span.name === "cold start") node.segments = segmentsOf(node);
    }
    this.phases = phasesOf([...this.byKey.values()]);
    const seen = new Map();
    for (const log of trace.logs) {
      // A time alone may be had by two.
      const base = `log:${log.timeNs}`;
      const count = seen.get(base) ?? 0;
      seen.set(base, count + 1);
      const key = count ? `${base}.${count}` : base;
      const above = this.byKey.get(`span:${log.spanId}`) ?? null;
      const node = {
        type: "log", key, log, children: [], parent: above, level: 1, startNs: since(log.timeNs), lengthNs: 0, isCritical: false, segments: [],
        text: [log.body, log.severity, log.scope, ...log.attributes.map(([name, value]) => `${name}=${valueText(value)}`)].join("\n").toLowerCase(),
      };
      this.byKey.set(key, node);
      (above ? above.children : tops).push(node);
    }
    for (const node of [...this.byKey.values()]) node.children = this.folded(inTime(node.children), node);
    // The trace is called after the first span without a parent; one whose parent is not here will do.
    const firsts = inTime(tops.filter((node) => node.type === "span"));
    this.top = (firsts.find((node) => !node.isOrphan) ?? firsts[0]).span;
    this.roots = this.folded(inTime(tops), null);
    const waiting = this.roots.map((node) => [node, 1]);
    while (waiting.length) {
      const [node, level] = waiting.pop();
      node.level = level;
      for (const child of node.children) waiting.push([child, level + 1]);
    }
  }

  /** Join runs of sibling imports, and of many spans with one name. */
  folded(nodes, parent) {
    const rows = [];
    for (let at = 0; at < nodes.length; ) {
      const kind = alikeOf(nodes[at]);
      let end = at + 1;
      while (kind && end < nodes.length && alikeOf(nodes[end]) === kind) end += 1;
      const run = nodes.slice(at, end);
      const isImports = kind === "import";
      if (run.length >= (isImports ? MIN_IMPORTS : MIN_ALIKE)) rows.push(this.fold(run, parent, isImports));
      else rows.push(...run);
      at = end;
    }
    return rows;
  }

  fold(run, parent, isImports) {
    const startNs = Math.min(...chunkedMin(run.map((node) => node.startNs)));
    const endNs = Math.max(...chunkedMax(run.map((node) => node.startNs + node.lengthNs)));
    const node = {
      type: "fold", key: `fold:${run[0].key}`, spans: run, children: run, parent, level: 1, isImports, startNs, lengthNs: endNs - startNs,
      isCritical: run.some((each) => each.isCritical), segments: [], sumNs: run.reduce((sum, each) => sum + each.lengthNs, 0),
      errors: run.filter((each) => each.span.status === "error").length, text: "",
      slowest: [...run].sort((one, other) => other.lengthNs - one.lengthNs).slice(0, 3),
    };
    for (const each of run) each.parent = node;
    this.byKey.set(node.key, node);
    return node;
  }

  /** Return the rows that are shown, in order. */
  flat(isOpen, hasLogs, query) {
    const rows = [];
    const test = query.trim() ? filterOf(query) : null;
    const within = test ? this.hits(test, hasLogs) : null;
    const waiting = [...this.roots].reverse();
    while (waiting.length) {
      const node = waiting.pop();
      if (node.type === "log" && !hasLogs) continue;
      if (within && !within.has(node)) continue;
      rows.push(node);
      // What was found is shown, folded or not.
      if (within || isOpen(node)) for (let at = node.children.length - 1; at >= 0; at -= 1) waiting.push(node.children[at]);
    }
    return rows;
  }

  hits(test, hasLogs) {
    const within = new Set();
    for (const node of this.byKey.values()) {
      node.isHit = node.type !== "fold" && (hasLogs || node.type !== "log") && test({
        text: node.text, durationNs: node.lengthNs,
        flags: new Set([node.span?.status === "error" || (node.log && isBad(node.log.severity)) ? "error" : "", node.isCritical ? "critical" : "", node.type]),
        fields: node.span ? { service: node.span.service, kind: node.span.kind, phase: node.span.phase, name: node.span.name } : { severity: node.log?.severity },
      });
      if (node.isHit) for (let above = node; above && !within.has(above); above = above.parent) within.add(above);
    }
    return within;
  }
}

function alikeOf(node) {
  if (node.type !== "span") return null;
  return node.span.isImport ? "import" : `name ${node.span.name}`;
}

function inTime(nodes) {
  return nodes.sort((one, other) => one.startNs - other.startNs);
}

// Math.max takes its arguments on the stack, which a long trace would overflow.
function* chunkedMax(numbers) {
  for (let at = 0; at < numbers.length; at += 5000) yield Math.max(...numbers.slice(at, at + 5000));
}

function* chunkedMin(numbers) {
  for (let at = 0; at < numbers.length; at += 5000) yield Math.min(...numbers.slice(at, at + 5000));
}

/** Return how much of a span its children cover. */
function covered(node) {
  let sum = 0;
  let until = node.startNs;
  const end = node.startNs + node.lengthNs;
  for (const child of inTime([...node.children])) {
    const from = Math.max(until, child.startNs);
    const to = Math.min(end, child.startNs + child.lengthNs);
    if (to > from) {
      sum += to - from;
      until = to;
    }
  }
  return sum;
}

/**
 * Return the phases of a span `cold start`, one after the other.
 *
 * Those without a span are in its attributes only, as sums: what does not fit before the next one with a span comes
 * after it, as telemetry does, which is loaded in two parts.
 */
function segmentsOf(node) {
  const segments = [];
  const endNs = node.startNs + node.lengthNs;
  const drawn = new Map(node.children.filter((child) => child.type === "span" && child.span.phase && /^(import app|lifespan startup)$/.test(child.span.name)).map((child) => [child.span.phase, child]));
  let cursorNs = node.startNs;
  let left = [];
  const put = (phase, ns) => {
    const limitNs = [...drawn.values()].map((child) => child.startNs).filter((ns) => ns >= cursorNs).reduce((least, ns) => Math.min(least, ns), endNs);
    const lengthNs = Math.max(0, Math.min(ns, limitNs - cursorNs));
    if (lengthNs) segments.push({ phase, startNs: cursorNs, lengthNs });
    cursorNs += lengthNs;
    if (ns > lengthNs) left.push([phase, ns - lengthNs]);
  };
  for (const phase of Object.keys(PHASES)) {
    const ms = Number(attribute(node.span.attributes, `tracedbridge.coldstart.${phase}_ms`));
    const child = drawn.get(phase);
    if (child) {
      segments.push({ phase, startNs: child.startNs, lengthNs: child.lengthNs });
      cursorNs = child.startNs + child.lengthNs;
      drawn.delete(phase);
      const waiting = left;
      left = [];
      for (const each of waiting) put(...each);
    } else if (ms > 0) put(phase, ms * 1e6);
  }
  return segments;
}

/** Return what each phase of the trace's cold start took. */
function phasesOf(nodes) {
  const phases = new Map();
  const told = nodes.find((node) => node.segments.length);
  if (told) {
    for (const phase of Object.keys(PHASES)) {
      const ms = Number(attribute(told.span.attributes, `tracedbridge.coldstart.${phase}_ms`));
      if (ms > 0) phases.set(phase, ms * 1e6);
    }
    return [...phases].map(([phase, ns]) => ({ phase, ns }));
  }
  for (const { span } of nodes) if (span.phase && !span.isImport && !phases.has(span.phase)) phases.set(span.phase, Number(span.durationNs));
  return [...phases].map(([phase, ns]) => ({ phase, ns }));
}
