// The page's state: run, filters, order, open candidate and colors; and the listeners for changes.
"use strict";

const state = {
  payload: null,
  runs: [],
  run: null,
  text: "",
  statuses: new Set(), // none: all
  origins: new Set(), // names; none: all
  ranges: new Map(), // column key -> [[low, high], ...]
  sort: { key: null, descending: false }, // null: best first
  page: 0,
  pageSize: 25,
  columns: null, // keys; null: the usual ones
  open: null, // id
  choices: {}, // of each plot's controls
};

// Kinds of changes: data, run, filter, sort, open, theme. Listeners run in the order of their registration.
const listeners = [];

function subscribe(kinds, listener) {
  listeners.push([new Set(kinds.split(" ")), listener]);
}

function notify(kind) {
  if (kind === "filter" || kind === "run" || kind === "data") state.visible = null;
  if (kind === "filter" || kind === "run") state.page = 0;
  for (const [kinds, listener] of listeners) if (kinds.has(kind)) listener(kind);
}

// The rows of the chosen run that pass all filters, by id; `without` leaves out the ranges of some columns.
function visibleRows(without = null) {
  if (without === null && state.visible) return state.visible;
  const run = state.run, rows = [];
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const origins = new Set([...state.origins].map((name) => run.candidates.origins.indexOf(name)));
  const ranges = [...state.ranges].map(([key, list]) => [run.column(key), list])
    .filter(([column]) => column && !without?.has(column.key));
  for (let row = 0; row < run.size; row++) {
    if (state.statuses.size && !state.statuses.has(run.status(row))) continue;
    if (origins.size && !origins.has(run.candidates.origin[row])) continue;
    if (!ranges.every(([column, list]) => inRanges(column.values[row], list))) continue;
    if (words.length && !words.every((word) => matchesWord(run, row, word))) continue;
    rows.push(row);
  }
  if (without === null) state.visible = rows;
  return rows;
}

function inRanges(value, list) {
  return value !== null && value !== undefined && list.some(([low, high]) => value >= low && value <= high);
}

function matchesWord(run, row, word) {
  return /^#\d+$/.test(word) ? `#${run.ids[row]}` === word : run.searchText(row).includes(word);
}

function hasFilters() {
  return Boolean(state.text.trim() || state.statuses.size || state.origins.size || state.ranges.size);
}

// What a range filter means, in words.
function describeRanges(column, list) {
  if (column.choices) {
    const names = column.choices.filter((_, index) => inRanges(index, list));
    return `${column.label}: ${names.join(", ") || "none"}`;
  }
  const part = ([low, high]) => {
    if (low === -Infinity) return `≤ ${column.format(high)}`;
    if (high === Infinity) return `≥ ${column.format(low)}`;
    return `${column.format(low)} … ${column.format(high)}`;
  };
  return `${column.label}: ${list.map(part).join(" or ")}`;
}

function setRange(key, list) {
  if (list && list.length) state.ranges.set(key, list);
  else state.ranges.delete(key);
  notify("filter");
}

function clearFilters() {
  state.text = "";
  state.statuses.clear();
  state.origins.clear();
  state.ranges.clear();
  notify("filter");
}

// -- the address: #candidate=12, and #run=2&candidate=12 where there are several runs ---------------------------------

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const run = given.has("run") ? Number(given.get("run")) - 1 : state.run.index;
  const id = given.has("candidate") ? Number(given.get("candidate")) : null;
  if (run !== state.run.index && state.runs[run]) chooseRun(run);
  if (id !== null) openCandidate(state.run.rows.has(id) ? id : null, false);
  else if (location.hash === "") openCandidate(null, false);
}

function writeAddress() {
  const parts = [];
  if (state.runs.length > 1 && (state.run.index || state.open !== null)) parts.push(`run=${state.run.index + 1}`);
  if (state.open !== null) parts.push(`candidate=${state.open}`);
  const hash = parts.length ? `#${parts.join("&")}` : "";
  if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
}

function openCandidate(id, write = true) {
  if (id === state.open) return;
  state.open = id;
  if (write) writeAddress();
  notify("open");
}

function chooseRun(index) {
  state.run = state.runs[index];
  state.open = null;
  state.statuses.clear();
  state.origins.clear();
  state.ranges.clear();
  state.columns = null;
  state.sort = { key: null, descending: false };
  notify("run");
  notify("open");
  writeAddress();
}

// Loads a payload; keeps the reader's choices where they still apply.
function loadPayload(payload) {
  const before = state.run?.name;
  state.payload = payload;
  state.runs = payload.runs.map((raw, index) => new Run(raw, index));
  state.run = state.runs.find((run) => run.name === before) ?? state.runs[0];
  for (const key of [...state.ranges.keys()]) if (!state.run.column(key)) state.ranges.delete(key);
  if (state.sort.key && !state.run.column(state.sort.key)) state.sort = { key: null, descending: false };
  if (state.open !== null && !state.run.rows.has(state.open)) state.open = null;
  notify("data");
}

// -- colors ----------------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const systemDark = matchMedia("(prefers-color-scheme: dark)");

// Storage may be refused for pages from disk: then the choice lasts as long as the page.
function storedPreference(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch (refused) {
    return value ?? null;
  }
}

function applyTheme(selectedOption) {
  state.theme = THEMES.includes(selectedOption) ? selectedOption : "auto";
  const dark = state.theme === "dark" || (state.theme === "auto" && systemDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = byId("theme"), names = { auto: "system default", light: "light", dark: "dark" };
  button.textContent = { auto: "◐", light: "☀", dark: "☾" }[state.theme];
  button.setAttribute("aria-label", `Colors: ${names[state.theme]}`);
  button.title = `Colors: ${names[state.theme]}`;
}

applyTheme(storedPreference("lightning-evo-theme"));
systemDark.addEventListener("change", () => { applyTheme(state.theme); notify("theme"); });
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
  applyTheme(next);
  storedPreference("lightning-evo-theme", next);
  notify("theme");
});
