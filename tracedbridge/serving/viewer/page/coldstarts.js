// Cold starts: how they are spread, what they are made of, and two of them side by side.

import { clock, COLD, coldBadge, counted, digits, duration, filterBox, h, moment, phaseClass, PHASES, quantile, Rows } from "./dom.js";
import { filterOf } from "./filter.js";
import { empty } from "./traces.js";

const BINS = 24;
const MAX_IMPORTS = 20;
const MAX_ROWS = 100;

export class ColdStarts {
  constructor(around) {
    this.around = around;
    this.all = [];
    this.shown = [];
    this.q = this.a = this.b = "";
  }

  query(params) {
    this.q = params.get("q") ?? "";
    this.a = params.get("a") ?? "";
    this.b = params.get("b") ?? "";
    if (this.input && this.input.value !== this.q) this.input.value = this.q;
  }

  async load() {
    const { coldstarts } = await this.around.get("coldstarts");
    const told = JSON.stringify(coldstarts);
    if (told === this.told) return false;
    this.told = told;
    this.all = coldstarts;
    return true;
  }

  element() {
    this.input = filterBox("Filter cold starts", "Filter: service, version:1.4, kind:proactive, >500ms", this.q, (value) => {
      this.q = value;
      this.keep();
      this.draw();
    });
    this.count = h("p", { class: "quiet count", role: "status" });
    this.controls = h("div", { class: "controls" }, this.input, this.count);
    this.content = h("div", { class: "sections" });
    return h("div", { class: "page", "data-drawn": "" }, h("h1", { class: "unseen" }, "Cold starts"), this.controls, this.content);
  }

  keep() {
    this.around.keep({ q: this.q, a: this.a, b: this.b });
  }

  draw() {
    const test = filterOf(this.q);
    const open = new Set([...this.content.querySelectorAll("details[open]")].map((each) => each.id));
    const selected = this.rows && this.shown[this.rows.current]?.traceId;
    const hadFocus = this.grid && document.activeElement === this.grid;
    this.shown = this.all.filter((each) => test({
      text: [each.service, each.version, each.kind, COLD[each.kind], each.traceId, ...each.imports.map(([name]) => name)].join("\n").toLowerCase(),
      durationNs: Number(each.totalNs), fields: { service: each.service, version: each.version, kind: each.kind },
    }));
    const count = this.q ? `${this.shown.length} of ${counted(this.all.length, "cold start")}` : counted(this.all.length, "cold start");
    if (this.count.textContent !== count) this.count.textContent = count;
    this.controls.hidden = !this.all.length;
    if (!this.shown.length) {
      this.rows = this.grid = null;
      this.content.replaceChildren(this.all.length ? h("div", { class: "empty" }, h("h2", {}, "No cold start matches")) : empty(this.around.state, "cold starts"));
      return;
    }
    const sorted = this.shown.map((each) => Number(each.totalNs)).sort((one, other) => one - other);
    this.content.replaceChildren(...[
      h("div", { class: "columns" }, this.numbers(sorted), this.distribution(sorted)),
      this.comparison(), this.phases(), this.imports(),
    ].filter(Boolean));
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    this.rows.current = this.shown.findIndex((each) => each.traceId === selected);
    if (this.rows.current >= 0) this.rows.show();
    if (hadFocus) this.grid.focus({ preventScroll: true });
  }

  numbers(sorted) {
    const kinds = Object.keys(COLD).map((kind) => [kind, this.shown.filter((each) => each.kind === kind).length]).filter(([, count]) => count);
    const tile = (name, value) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value));
    return h("section", { class: "card", "aria-labelledby": "numbers-title" }, h("h2", { id: "numbers-title" }, "How long until ready"),
      h("dl", { class: "tiles" }, tile("p50", duration(quantile(sorted, 0.5))), tile("p95", duration(quantile(sorted, 0.95))), tile("fastest", duration(sorted[0])), tile("slowest", duration(sorted.at(-1)))),
      h("ul", { class: "kinds", "aria-label": "Kinds" }, kinds.map(([kind, count]) => h("li", {}, coldBadge(kind), " ", h("span", { class: "number" }, count)))));
  }

  distribution(sorted) {
    const [least, most] = [sorted[0], sorted.at(-1)];
    const from = least === most ? least * 0.5 : least;
    const width = ((least === most ? least * 1.5 : most) - from || 1) / BINS;
    const bins = new Array(BINS).fill(0);
    for (const value of sorted) bins[Math.min(BINS - 1, Math.floor((value - from) / width))] += 1;
    const tallest = Math.max(...bins);
    const [p50, p95] = [quantile(sorted, 0.5), quantile(sorted, 0.95)];
    const at = (ns) => Math.max(0, Math.min(100, ((ns - from) / (width * BINS)) * 100));
    // Two lines for two marks that may be close to each other, and to the left of what is far right.
    const mark = (ns, name, height) => h("span", {
      class: at(ns) > 70 ? "leftward" : "", style: { height: `${height}px`, ...(at(ns) > 70 ? { right: `${100 - at(ns)}%` } : { left: `${at(ns)}%` }) },
    }, `${name} ${duration(ns)}`);
    return h("section", { class: "card", "aria-labelledby": "spread-title" }, h("h2", { id: "spread-title" }, "Distribution"),
      h("div", { class: "spread", role: "img", "aria-label": `${counted(sorted.length, "cold start")} from ${duration(least)} to ${duration(most)}; p50 ${duration(p50)}, p95 ${duration(p95)}` },
        bins.map((count, index) => count ? h("i", {
          title: `${duration(from + index * width)} to ${duration(from + (index + 1) * width)}: ${count}`,
          style: { left: `${(index / BINS) * 100}%`, width: `${100 / BINS}%`, height: `${(count / tallest) * 72}%` },
        }) : null),
        mark(p50, "p50", 146), mark(p95, "p95", 128)),
      h("div", { class: "scale quiet", "aria-hidden": "true" }, h("span", {}, duration(from)), h("span", {}, duration(from + width * BINS))));
  }

  phases() {
    const seen = new Set(this.shown.flatMap((each) => each.phases.map(([phase]) => phase)));
    const order = [...Object.keys(PHASES).filter((phase) => seen.has(phase)), ...[...seen].filter((phase) => !(phase in PHASES))];
    const rows = this.shown.slice(0, MAX_ROWS);
    const longest = Math.max(...rows.map((each) => Number(each.totalNs)), 1);
    const body = h("div", { role: "rowgroup", class: "rows", onclick: (event) => this.clicked(event) }, rows.map((each, index) => this.row(each, index, longest)));
    const heads = [["time", "Time"], ["service", "Service"], ["kind", "Kind"], ["stacked", "Phases"], ["took number", "Total"], ["number modules", "Modules"], ["pick", "Compare"]];
    this.grid = h("div", { role: "grid", class: "grid starts", "aria-label": "Cold starts, newest first" },
      h("div", { role: "rowgroup", class: "head" }, h("div", { role: "row" }, heads.map(([name, text]) => h("span", { role: "columnheader", class: name }, text)))), body);
    this.rows = new Rows(this.grid, {
      count: () => rows.length,
      elementOf: (index) => body.children[index],
      changed: () => {},
      opened: (index) => this.around.go(`#/trace/${encodeURIComponent(rows[index].traceId)}`),
    });
    return h("section", { class: "card", "aria-labelledby": "phases-title" }, h("h2", { id: "phases-title" }, "Phases"),
      h("ul", { class: "legend", "aria-label": "Colours of the phases" }, order.map((phase) => h("li", {}, h("i", { class: `swatch ${phaseClass(phase)}`, "aria-hidden": "true" }), PHASES[phase] ?? phase))),
      this.grid, this.shown.length > rows.length ? h("p", { class: "quiet" }, `The newest ${rows.length} of ${this.shown.length}.`) : null);
  }

  row(each, index, longest) {
    const cell = (name, ...children) => h("span", { role: "gridcell", class: name }, children);
    const pick = (which) => h("button", {
      type: "button", class: "pick-button", "aria-pressed": String(this[which] === each.traceId), data: { which },
      "aria-label": `Compare ${clock(each.startNs)} as ${which.toUpperCase()}`,
    }, which.toUpperCase());
    const says = each.phases.map(([phase, ns]) => `${PHASES[phase] ?? phase} ${duration(ns)}`).join(", ");
    return h("div", { role: "row", class: "row", id: `start-${index}`, "aria-selected": "false", data: { id: each.traceId } },
      cell("time", h("a", { href: `#/trace/${encodeURIComponent(each.traceId)}`, title: moment(each.startNs), tabindex: "-1" }, clock(each.startNs))),
      cell("service", each.service, each.version ? h("span", { class: "quiet" }, ` ${each.version}`) : null),
      cell("kind", coldBadge(each.kind)),
      cell("stacked", stack(each, longest), h("span", { class: "unseen" }, says)),
      cell("took number", duration(each.totalNs)),
      cell("number modules", each.modules === null ? "–" : each.modules.toLocaleString("en-US")),
      cell("pick", pick("a"), pick("b")));
  }

  clicked(event) {
    const row = event.target.closest("[role=row]");
    if (!row || event.target.closest("a")) return;
    const which = event.target.closest("button")?.dataset.which;
    if (!which) this.around.go(`#/trace/${encodeURIComponent(row.dataset.id)}`);
    else this.pick(which, row.dataset.id);
  }

  pick(which, id) {
    this[which] = this[which] === id ? "" : id;
    this.keep();
    this.draw();
    // The button was drawn anew.
    [...this.grid.querySelectorAll(`[data-which=${which}]`)].find((each) => each.closest("[role=row]").dataset.id === id)?.focus({ preventScroll: true });
  }

  keyed({ key }) {
    const each = this.rows && this.shown[this.rows.current];
    if ((key !== "a" && key !== "b") || !each) return false;
    this[key] = this[key] === each.traceId ? "" : each.traceId;
    this.keep();
    this.draw();
    return true;
  }

  escape() {
    if (this.a || this.b) this.a = this.b = "";
    else if (this.q) this.input.value = this.q = "";
    else return false;
    this.keep();
    this.draw();
    return true;
  }

  /** The slowest imports of what is shown. */
  imports() {
    const packages = new Map();
    for (const each of this.shown) {
      for (const [name, self, total] of each.imports) {
        if (!packages.has(name)) packages.set(name, { selfs: [], totals: [] });
        packages.get(name).selfs.push(Number(self));
        packages.get(name).totals.push(Number(total));
      }
    }
    const rows = [...packages].map(([name, { selfs, totals }]) => ({
      name, count: selfs.length, self: quantile(selfs.sort((one, other) => one - other), 0.5), total: quantile(totals.sort((one, other) => one - other), 0.5),
    })).sort((one, other) => other.self - one.self).slice(0, MAX_IMPORTS);
    if (!rows.length) return null;
    return h("section", { class: "card", "aria-labelledby": "imports-title" }, h("h2", { id: "imports-title" }, "Slowest imports"),
      h("p", { class: "quiet" }, "Medians; self is without what a module imported in turn."),
      h("table", { class: "table" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Module"), h("th", { scope: "col", class: "wide" }, "Self"), h("th", { scope: "col", class: "number" }, "Total"), h("th", { scope: "col", class: "number" }, "Cold starts"))),
        h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row", class: "module" }, row.name),
          h("td", { class: "wide" }, meter(row.self / rows[0].self, "phase-app_import"), h("span", { class: "number" }, duration(row.self))),
          h("td", { class: "number" }, duration(row.total)), h("td", { class: "number" }, `${row.count} of ${this.shown.length}`))))));
  }

  /** Two cold starts side by side. */
  comparison() {
    if (!this.a && !this.b) return null;
    const [a, b] = [this.a, this.b].map((id) => this.all.find((each) => each.traceId === id));
    const missing = (which, id) => (id ? `${which} is no longer here.` : `Pick ${which} in the list below.`);
    const title = h("div", { class: "card-head" }, h("h2", { id: "compare-title" }, "A and B"), h("button", { type: "button", class: "button", onclick: () => {
      this.a = this.b = "";
      this.keep();
      this.draw();
    } }, "End comparison"));
    const section = (...children) => h("section", { class: "card compare", "aria-labelledby": "compare-title" }, title, children);
    if (!a || !b) return section(h("p", { class: "quiet" }, a ? missing("B", this.b) : missing("A", this.a)));
    const longest = Math.max(Number(a.totalNs), Number(b.totalNs), 1);
    const line = (which, each) => h("div", { class: "side" }, h("span", { class: "side-name" }, which),
      h("a", { href: `#/trace/${encodeURIComponent(each.traceId)}` }, `${each.service}${each.version ? ` ${each.version}` : ""}, ${moment(each.startNs)}`), stack(each, longest), h("b", { class: "number" }, duration(each.totalNs)));
    const named = (each) => new Map(each.phases.map(([phase, ns]) => [phase, Number(ns)]));
    const phases = [...new Set([...Object.keys(PHASES), ...a.phases.concat(b.phases).map(([phase]) => phase)])].filter((phase) => named(a).has(phase) || named(b).has(phase));
    const selfs = (each) => new Map(each.imports.map(([name, self]) => [name, Number(self)]));
    const [inA, inB] = [selfs(a), selfs(b)];
    const imports = [...new Set([...inA.keys(), ...inB.keys()])].map((name) => [name, inA.get(name), inB.get(name)])
      .sort((one, other) => Math.abs((other[2] ?? 0) - (other[1] ?? 0)) - Math.abs((one[2] ?? 0) - (one[1] ?? 0))).slice(0, 12);
    const body = (caption, rows) => h("table", { class: "table" }, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Name"), ["A", "B", "B − A"].map((text) => h("th", { scope: "col", class: "number" }, text)))),
      h("tbody", {}, rows));
    return section(line("A", a), line("B", b), h("div", { class: "columns" },
      body("Phases", [...phases.map((phase) => difference(h("span", {}, h("i", { class: `swatch ${phaseClass(phase)}`, "aria-hidden": "true" }), PHASES[phase] ?? phase), named(a).get(phase), named(b).get(phase))),
        difference(h("b", {}, "total"), Number(a.totalNs), Number(b.totalNs))]),
      body("Imports that differ most (self)", imports.map(([name, one, other]) => difference(name, one, other)))));
  }
}

function difference(name, a, b) {
  const delta = (b ?? 0) - (a ?? 0);
  // A change that nobody can measure twice is none.
  const share = delta / (Math.max(a ?? 0, b ?? 0) || 1);
  const sense = Math.abs(share) < 0.02 ? "" : delta > 0 ? "slower" : "faster";
  return h("tr", {}, h("th", { scope: "row", class: "module" }, name), [a, b].map((ns) => h("td", { class: "number" }, ns === undefined ? "–" : duration(ns))),
    h("td", { class: `number ${sense}` }, `${delta > 0 ? "+" : delta < 0 ? "−" : ""}${duration(Math.abs(delta))}`, a ? h("span", { class: "quiet" }, ` ${delta > 0 ? "+" : delta < 0 ? "−" : ""}${digits(Math.round((Math.abs(delta) / a) * 100))} %`) : null));
}

function stack(each, longest) {
  const known = each.phases.reduce((sum, [, ns]) => sum + Number(ns), 0);
  const rest = Math.max(0, Number(each.totalNs) - known);
  const pieces = [...each.phases, ...(rest > Number(each.totalNs) * 0.005 ? [["other", String(rest)]] : [])];
  return h("span", { class: "stack", style: { width: `${(Number(each.totalNs) / longest) * 100}%` }, "aria-hidden": "true" },
    pieces.map(([phase, ns]) => h("i", { class: phaseClass(phase), title: `${PHASES[phase] ?? phase}: ${duration(ns)}`, style: { "flex-grow": Number(ns) / 1e6 } })));
}

function meter(share, name) {
  return h("span", { class: "meter", "aria-hidden": "true" }, h("i", { class: name, style: { width: `${Math.max(1, share * 100)}%` } }));
}
