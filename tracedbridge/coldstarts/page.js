"use strict";

// One row of the chart, in pixels; what is narrower than this share of the chart is folded.
const ROW_PX = 22;
const MIN_SHARE = 0.001;

const run = JSON.parse(document.getElementById("run").textContent);
const chart = document.getElementById("icicle");
const details = document.getElementById("details");
const crumbs = document.getElementById("crumbs");

const top_ = tree(run.imports);
let zoomed = top_;

function tree(imports) {
  const root = { name: "all imports", owner: "more", above: null, children: [], total_ms: 0, self_ms: 0 };
  const nodes = imports.map((each) => ({ ...each, above: root, children: [] }));
  for (const node of nodes) {
    if (node.parent !== null) node.above = nodes[node.parent];
    node.above.children.push(node);
    if (node.above === root) root.total_ms += node.total_ms;
  }
  return root;
}

function duration(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 100 ? `${ms.toFixed(0)} ms` : ms >= 1 ? `${ms.toFixed(1)} ms` : `${(ms * 1000).toFixed(0)} µs`;
}

function told(node) {
  if (node.folded) return `${node.name}: ${duration(node.total_ms)} together, each too short to be drawn`;
  const parts = [`${node.name}: ${duration(node.total_ms)} in total`];
  if (node.above === null) return parts[0];
  parts.push(`${duration(node.self_ms)} by itself`, `${duration(node.find_ms)} to find it`);
  parts.push(`${duration(node.compile_ms)} to compile it`);
  parts.push(`source: ${node.compile_ms > 0 ? "compiled" : node.source}`, `owner: ${node.owner.replace("_", " ")}`);
  parts.push(`phase: ${node.phase}`);
  if (node.error) parts.push(`failed: ${node.error}`);
  return parts.join(", ");
}

function zoom(node) {
  zoomed = node;
  draw();
  chart.firstElementChild?.focus();
}

function draw() {
  chart.replaceChildren();
  const rows = [];
  // The parts of a node can be longer than itself where threads took turns.
  const whole_ms = Math.max(zoomed.total_ms, zoomed.children.reduce((sum, each) => sum + each.total_ms, 0)) || 1;
  const waiting = [{ node: zoomed, left: 0, depth: 0, above: null }];
  while (waiting.length) {
    const place = waiting.pop();
    const share = place.node === zoomed ? 1 : place.node.total_ms / whole_ms;
    place.button = button(place.node, place.left, share, place.depth);
    place.below = [];
    place.above?.below.push(place);
    (rows[place.depth] ??= []).push(place);
    move(place, rows);
    let left = place.left;
    const folded = { name: "", owner: "more", folded: 0, total_ms: 0, above: place.node, children: [] };
    const next = [];
    for (const child of place.node.children) {
      if (child.total_ms / whole_ms < MIN_SHARE) {
        folded.folded += 1;
        folded.total_ms += child.total_ms;
      } else {
        next.push({ node: child, left, depth: place.depth + 1, above: place });
        left += child.total_ms / whole_ms;
      }
    }
    if (folded.folded) {
      folded.name = `${folded.folded} more`;
      next.push({ node: folded, left, depth: place.depth + 1, above: place });
    }
    waiting.push(...next.reverse());
  }
  chart.style.height = `${rows.length * ROW_PX}px`;
  chart.firstElementChild.tabIndex = 0;
  drawCrumbs();
  details.textContent = told(zoomed);
}

function button(node, left, share, depth) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = node.name;
  made.title = told(node);
  made.setAttribute("aria-label", told(node));
  made.className = ["app", "third_party", "stdlib"].includes(node.owner) ? node.owner : "more";
  made.classList.toggle("narrow", share < 0.02);
  made.classList.toggle("failed", Boolean(node.error));
  made.style.left = `${left * 100}%`;
  made.style.width = `${share * 100}%`;
  made.style.top = `${depth * ROW_PX}px`;
  // One stop for Tab, arrow keys from there: a thousand stops are none.
  made.tabIndex = -1;
  made.addEventListener("mouseenter", () => { details.textContent = told(node); });
  made.addEventListener("focus", () => {
    chart.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    made.tabIndex = 0;
    details.textContent = told(node);
  });
  made.addEventListener("click", () => zoom(node.folded ? node.above : node));
  chart.append(made);
  return made;
}

function move(place, rows) {
  place.button.addEventListener("keydown", (event) => {
    const row = rows[place.depth];
    const targets = {
      ArrowLeft: row[row.indexOf(place) - 1],
      ArrowRight: row[row.indexOf(place) + 1],
      ArrowUp: place.above,
      ArrowDown: place.below[0],
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    targets[event.key]?.button.focus();
  });
}

function drawCrumbs() {
  const path = [];
  for (let node = zoomed; node !== null; node = node.above) path.unshift(node);
  crumbs.replaceChildren();
  for (const node of path) {
    if (crumbs.childNodes.length) crumbs.append(" › ");
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = node.name;
    if (node === zoomed) made.setAttribute("aria-current", "location");
    made.addEventListener("click", () => zoom(node));
    crumbs.append(made);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && zoomed.above !== null) zoom(zoomed.above);
});

if (run.imports.length) draw();
else details.textContent = "No imports were recorded.";
