// The page: which part of it the address names, what came anew, the keyboard.

import { h, visible } from "./dom.js";
import { ColdStarts } from "./coldstarts.js";
import { Logs } from "./logs.js";
import { Metrics } from "./metrics.js";
import { TracePage } from "./trace.js";
import { Traces } from "./traces.js";

const API = "/api/viewer/";
// Soon enough to feel live, and nothing for a local server.
const POLL_MS = 1000;

const main = document.getElementById("main");
const live = document.getElementById("live");
const notice = document.getElementById("notice");
const keys = document.getElementById("keys");

const PAGES = { traces: Traces, trace: TracePage, coldstarts: ColdStarts, metrics: Metrics, logs: Logs };
const TITLES = { traces: "Traces", trace: "Trace", coldstarts: "Cold starts", metrics: "Metrics", logs: "Logs" };

/** What the server last said of itself. */
let state = null;
let page = null;
let address = "";
let loading = 0;
let shownSeq = null;

/** Read the address: a page's name, what it is about, and its state. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [name, ...rest] = path.split("/");
  let about = "";
  try {
    about = decodeURIComponent(rest.join("/"));
  } catch {
    // No address of ours; there is no such trace either.
  }
  const isOne = Object.hasOwn(PAGES, name) && (name !== "trace" || about);
  return { name: isOne ? name : "traces", about: name === "trace" ? about : "", query: new URLSearchParams(query) };
}

/** What a page may ask of its surroundings. */
const surroundings = {
  get state() {
    return state;
  },

  /** Get JSON of the page's API; null where there is none. */
  async get(path) {
    const response = await fetch(API + path, { headers: { accept: "application/json" } });
    if (response.status === 404) return null;
    if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
    return response.json();
  },

  /** Put the state of the page into the address, without a step in the history. */
  keep(query) {
    const { name, about } = route();
    const kept = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) if (value !== "" && value !== null && value !== undefined) kept.set(key, value);
    const text = kept.toString();
    const next = `#/${name}${about ? `/${encodeURIComponent(about)}` : ""}${text ? `?${text}` : ""}`;
    if (next !== location.hash) {
      history.replaceState(null, "", next);
      address = next;
    }
  },

  go(hash) {
    location.hash = hash;
  },

  title(text) {
    document.title = `${visible(text)} · tracedbridge`;
  },
};

async function navigate() {
  if (page && address === location.hash) return;
  address = location.hash;
  const { name, about, query } = route();
  const key = `${name}/${about}`;
  for (const link of document.querySelectorAll("nav [data-page]")) {
    const isHere = link.dataset.page === name || (name === "trace" && link.dataset.page === "traces");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (page?.key !== key) {
    page?.closed?.();
    const next = new PAGES[name](surroundings, about);
    next.key = key;
    page = next;
    shownSeq = null;
    surroundings.title(TITLES[name]);
    main.className = `page-${name}`;
    main.replaceChildren(h("p", { class: "quiet loading" }, "Loading"));
    page.query(query);
    await refresh(true);
    // A reader starts at the top of what is new; where the page has taken the focus to a row, it stays there.
    if (page === next && !main.contains(document.activeElement)) main.focus({ preventScroll: true });
  } else {
    page.query(query);
    page.draw();
  }
}

/** Load what the page shows, if anything came since. */
async function refresh(isFirst = false) {
  const mine = page;
  const number = ++loading;
  const seq = state?.seq ?? null;
  try {
    const changed = await mine.load();
    if (mine !== page || number !== loading) return;
    if (isFirst) main.replaceChildren(mine.element());
    if (isFirst || changed) mine.draw();
    shownSeq = seq;
    say("");
  } catch (error) {
    shownSeq = null;
    if (mine === page && number === loading) say(`The viewer does not answer (${error.message}). Trying again.`);
  }
}

function say(text) {
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

async function poll() {
  if (!document.hidden) {
    try {
      const told = await surroundings.get("state");
      const isFirst = state === null;
      state = told;
      describe();
      if (!isFirst && page && told.seq !== shownSeq) await refresh(!main.querySelector("[data-drawn]"));
    } catch {
      live.textContent = "Offline";
      live.dataset.live = "off";
      live.title = "The viewer does not answer.";
    }
  }
  setTimeout(poll, POLL_MS);
}

/** Say at the top whether this is live, and what got lost. */
function describe() {
  const { dropped, refused, saved, endpoint, version } = state;
  const lost = Object.entries(dropped).filter(([, count]) => count > 0).map(([what, count]) => `${count} ${what} made room for newer ones`);
  if (refused) lost.push(`${refused} requests refused`);
  const text = lost.length ? "Live, not all kept" : "Live";
  // A screen reader hears of it when it changes, and not each second.
  if (live.textContent !== text) live.textContent = text;
  live.dataset.live = lost.length ? "part" : "on";
  live.title = visible([`tracedbridge ${version} at ${endpoint}`, ...lost, ...(saved ? [`saved to ${saved}`] : [])].join("\n"));
}

/** How the page looks: as the system has it, or as it was told. */
function setUpTheme() {
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  const words = { auto: "as the system", light: "light", dark: "dark" };
  const show = () => {
    const theme = document.documentElement.dataset.theme ?? "auto";
    button.textContent = theme[0].toUpperCase() + theme.slice(1);
    button.setAttribute("aria-label", `Theme: ${words[theme]}`);
  };
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % order.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("tracedbridge.theme", next);
    } catch {
      // Storage is off: until the page is closed.
    }
    show();
  });
  show();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  const isTyping = event.target.matches?.("input, textarea, select");
  if (event.key === "Escape") {
    if (isTyping && event.target.id === "filter") {
      if (event.target.value) {
        event.target.value = "";
        event.target.dispatchEvent(new Event("input"));
      }
      event.target.blur();
      event.preventDefault();
    } else if (page?.escape?.()) event.preventDefault();
    return;
  }
  if (isTyping) {
    // From the filter on to what it found.
    if (event.target.id === "filter" && (event.key === "ArrowDown" || event.key === "Enter")) {
      event.preventDefault();
      page?.rows?.go(0);
    }
    return;
  }
  if (event.key === "/") document.getElementById("filter")?.focus();
  else if (event.key === "?") keys.showModal();
  else if ("1234".includes(event.key)) location.hash = ["#/traces", "#/coldstarts", "#/metrics", "#/logs"][Number(event.key) - 1];
  // A button or link in focus has its own keys.
  else if (event.key === "Enter" && event.target.matches?.("a, button, summary")) return;
  else if (!page?.keyed?.(event) && !page?.rows?.key(event)) return;
  event.preventDefault();
}

document.getElementById("help").addEventListener("click", () => keys.showModal());
// A click beside it.
keys.addEventListener("click", (event) => event.target === keys && keys.close());
document.getElementById("skip").addEventListener("click", (event) => {
  // The fragment is the page's state.
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", navigate);
addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => !document.hidden && page && refresh());
setUpTheme();
try {
  state = await surroundings.get("state");
  describe();
} catch {
  // The poll says so.
}
await navigate();
setTimeout(poll, POLL_MS);
