// Makes elements, and text of what came. What came is only ever text: there is no innerHTML anywhere in the page.

const SVG = "http://www.w3.org/2000/svg";

// Without a glyph of their own, or able to turn the text around them about.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Return text in which control and direction characters can be seen: an escape of a terminal is `␛`. */
export function visible(text) {
  return String(text).replace(UNSEEN, (char) => {
    const code = char.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "␡" : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(visible(child)));
  }
}

/**
 * Make an element. Of its properties `on…` are listeners, `class`, `text`, `data` and `style` (an object, set by script,
 * as the page's policy allows no attribute) what they say, all others attributes; those that are null are left out.
 */
export function h(tag, properties = {}, ...children) {
  return made(document.createElement(tag), properties, children);
}

/** Make an element of a drawing. */
export function svg(tag, properties = {}, ...children) {
  return made(document.createElementNS(SVG, tag), properties, children);
}

function made(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "text") element.textContent = visible(value);
    else element.setAttribute(name, value === true ? "" : name === "title" || name.startsWith("aria-") ? visible(value) : String(value));
  }
  append(element, children);
  return element;
}

/** Return a duration as people read it, three digits of it. */
export function duration(ns) {
  const value = Number(ns);
  if (!Number.isFinite(value)) return "–";
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (Math.abs(value) >= size * 0.9995) return `${digits(value / size)} ${unit}`;
  }
  return `${Math.round(value)} ns`;
}

/** Return a number with three digits, or all before the point. */
export function digits(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 999.5) return Math.round(value).toLocaleString("en-US");
  if (size >= 99.95) return value.toFixed(0);
  if (size >= 9.995) return trimmed(value.toFixed(1));
  if (size >= 0.01 || size === 0) return trimmed(value.toFixed(2));
  return value.toExponential(1);
}

function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** Return a value in the unit of its metric (UCUM, as OpenTelemetry has it). */
export function inUnit(value, unit) {
  if (!Number.isFinite(value)) return String(value);
  if (unit === "s") return duration(value * 1e9);
  if (unit === "ms") return duration(value * 1e6);
  if (unit === "By") {
    for (const [name, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
      if (Math.abs(value) >= size) return `${digits(value / size)} ${name}`;
    }
    return `${digits(value)} B`;
  }
  // "{request}" is a note, no unit.
  return !unit || unit === "1" || unit.startsWith("{") ? digits(value) : `${digits(value)} ${unit}`;
}

function dateOf(ns) {
  return new Date(Number(BigInt(ns) / 1000000n));
}

/** Return the time of day, to the millisecond. */
export function clock(ns) {
  const date = dateOf(ns);
  const two = (number) => String(number).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

/** Return day and time. */
export function moment(ns) {
  const date = dateOf(ns);
  return Number.isNaN(date.getTime()) ? String(ns) : `${date.toLocaleDateString("en-CA")} ${clock(ns)}`;
}

/** Return what an attribute's value looks like. */
export function valueText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Return a value of an attribute list, or undefined. */
export function attribute(attributes, name) {
  return attributes.find(([key]) => key === name)?.[1];
}

/** Return the value below which a share of sorted numbers lies: the nearest one that is there. */
export function quantile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] : NaN;
}

/** Return "1 span", "2 spans". */
export function counted(count, noun) {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

/** Return a list of attributes. */
export function pairs(attributes) {
  return h("dl", { class: "pairs" }, attributes.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, valueText(value)))));
}

// What phases are called, in the order in which they happen; their colours are in viewer.css.
export const PHASES = {
  restore: "restore",
  interpreter: "interpreter",
  bridge: "bridge",
  telemetry: "telemetry",
  app_import: "import app",
  app_resolve: "resolve app",
  lifespan: "lifespan",
  wait: "wait",
  first_byte: "first byte",
};

/** Return the class with a phase's colour; phases of another version have a neutral one. */
export function phaseClass(phase) {
  return phase in PHASES ? `phase-${phase}` : "phase-other";
}

export const COLD = { on_demand: "cold", proactive: "proactive", restored: "restored" };

/** Return the badge of a cold start's kind. */
export function coldBadge(kind, ns = null) {
  const words = COLD[kind] ?? kind;
  return h("span", { class: `badge cold cold-${kind in COLD ? kind : "other"}`, title: ns ? `cold start (${words}): ${duration(ns)}` : `cold start: ${words}` }, words);
}

/** Return the badge of an HTTP status. */
export function httpBadge(status) {
  return h("span", { class: `badge http http-${Math.floor(status / 100)}`, title: `HTTP status ${status}` }, status);
}

/** Return the input that filters a page. */
export function filterBox(label, placeholder, value, changed) {
  const input = h("input", {
    type: "search", id: "filter", class: "filter", placeholder, "aria-label": label, "aria-keyshortcuts": "/",
    autocomplete: "off", spellcheck: "false", oninput: () => changed(input.value),
  });
  input.value = value;
  return input;
}

/** Return a button that is on or off. */
export function toggle(text, isOn, shortcut, clicked) {
  return h("button", { type: "button", class: "button", "aria-pressed": String(isOn), "aria-keyshortcuts": shortcut, onclick: clicked }, text);
}

/**
 * Let a container hold the keyboard's focus for its rows, of which one is current.
 *
 * The focus stays on the container (aria-activedescendant), so it survives rows that are drawn anew or scrolled away.
 */
export class Rows {
  constructor(container, { count, elementOf, changed, opened }) {
    Object.assign(this, { container, count, elementOf, changed, opened });
    this.current = -1;
    container.tabIndex = 0;
  }

  /** Make a row current, and show it. */
  go(index, { focus = true } = {}) {
    const count = this.count();
    if (!count) return;
    this.current = Math.max(0, Math.min(count - 1, index));
    this.changed(this.current);
    this.show();
    if (focus && document.activeElement !== this.container) this.container.focus({ preventScroll: true });
  }

  /** Say which row is current, after they were drawn. */
  show() {
    for (const each of this.container.querySelectorAll("[aria-selected=true]")) each.setAttribute("aria-selected", "false");
    const element = this.current >= 0 ? this.elementOf(this.current) : null;
    if (element) {
      element.setAttribute("aria-selected", "true");
      this.container.setAttribute("aria-activedescendant", element.id);
      element.scrollIntoView?.({ block: "nearest" });
    } else {
      this.container.removeAttribute("aria-activedescendant");
    }
  }

  /** Do what a key says; return whether it was one of ours. */
  key(event) {
    const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 15, PageUp: -15 };
    if (event.key in steps) this.go(this.current < 0 ? 0 : this.current + steps[event.key]);
    else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.count() - 1);
    else if (event.key === "Enter" && this.current >= 0) this.opened(this.current);
    else return false;
    return true;
  }
}
