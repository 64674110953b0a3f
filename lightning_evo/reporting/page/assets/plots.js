// Plots: drawn when they come near the screen, in the page's colors, with one tooltip and one click per candidate.
"use strict";

const MAX_POINTS = 2500; // drawn at once: more would be a blot, and slow where nothing helps the processor to draw
const webgl = (() => {
  const context = document.createElement("canvas").getContext("webgl");
  context?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep only some sixteen
  return context !== null;
})();
const SHADES = 6; // of lines by fitness
const touch = matchMedia("(pointer: coarse)").matches;
const plots = new Map();

// A plot: `make()` gives { data, layout, summary } or { empty: why }; `kinds` are the changes on which it is rendered again.
function addPlot(name, kinds, make, events = {}) {
  const place = document.querySelector(`[data-plot="${name}"]`);
  const plot = { name, place, make, events, stale: true, near: false, drawn: 0 };
  plots.set(name, plot);
  plot.caption = place.closest("figure").querySelector("figcaption");
  plot.caption.id = `${name}-summary`;
  place.setAttribute("role", "img");
  place.setAttribute("aria-labelledby", plot.caption.id);
  place.classList.add("waiting");
  subscribe(`${kinds} theme`, () => invalidate(name));
  return plot;
}

const visibilityObserver = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const plot = [...plots.values()].find(({ place }) => place === entry.target);
    plot.near = entry.isIntersecting;
    if (plot.near && plot.stale) scheduleRender(plot);
  }
}, { rootMargin: "250px" });

function invalidate(name) {
  const plot = plots.get(name);
  plot.stale = true;
  if (plot.near) scheduleRender(plot);
}

// One plot per frame, so that the page answers in between.
const renderQueue = new Set();
let renderScheduled = false;

function scheduleRender(plot) {
  renderQueue.add(plot);
  if (!renderScheduled) {
    renderScheduled = true;
    requestAnimationFrame(renderNextPlot);
  }
}

async function renderNextPlot() {
  const [plot] = renderQueue;
  if (plot === undefined) {
    renderScheduled = false;
    performance.mark("drawn"); // for benchmarks
    return;
  }
  renderQueue.delete(plot);
  if (plot.stale && state.run) await renderPlot(plot).catch((problem) => showRenderError(plot, problem));
  setTimeout(() => requestAnimationFrame(renderNextPlot));
}

// One plot that fails must not take the others along.
function showRenderError(plot, problem) {
  console.error(`${plot.name}:`, problem);
  plot.place.classList.add("empty");
  plot.place.replaceChildren(element("p", {}, `This plot could not be drawn: ${problem.message}`));
  plot.wired = false;
  plot.drawn += 1;
}

async function renderPlot(plot) {
  plot.stale = false;
  const { place } = plot;
  const result = plot.make();
  place.classList.remove("waiting");
  place.classList.toggle("empty", Boolean(result.empty));
  if (result.empty) {
    if (place.data) Plotly.purge(place); // its listeners too
    plot.wired = false;
    place.style.height = "";
    place.replaceChildren(element("p", {}, result.empty));
    plot.caption.textContent = "";
    plot.drawn += 1;
    return;
  }
  if (!place.data) place.replaceChildren();
  place.style.height = result.height ? `${result.height}px` : "";
  const config = { responsive: true, displaylogo: false, doubleClick: false, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "hoverClosestCartesian",
      "hoverCompareCartesian", "toggleSpikelines"],
    toImageButtonOptions: { filename: `${state.run.name}-${plot.name}`.replace(/[^\w.-]+/g, "_"), scale: 2 } };
  plot.caption.textContent = result.summary;
  plot.first = result.layout.yaxis?.range?.slice() ?? null;
  await Plotly.react(place, result.data, { ...baseLayout(result.layout), width: undefined }, config);
  if (!plot.wired) attachEvents(plot);
  plot.drawn += 1;
}

function attachEvents(plot) {
  plot.wired = true;
  const { place } = plot;
  place.on("plotly_hover", ({ points, event }) => showTooltip(points[0], event));
  place.on("plotly_unhover", hideTooltip);
  place.on("plotly_click", ({ points }) => {
    const candidate = candidateAt(points[0]);
    if (typeof candidate === "number") openCandidate(state.run.ids[candidate]);
  });
  // A double click shows everything, and again: what the plot began with.
  place.on("plotly_doubleclick", () => {
    const { xaxis, yaxis } = place.layout, whole = xaxis?.autorange !== false && yaxis?.autorange !== false;
    if (!xaxis || !yaxis) return;
    const first = whole && plot.first;
    Plotly.relayout(place, first ? { "yaxis.range": first } : { "xaxis.autorange": true, "yaxis.autorange": true });
  });
  if (plot.samplesOnZoom) place.on("plotly_relayout",
    (change) => { if (Object.keys(change).some((key) => /^[xy]axis/.test(key))) invalidate(plot.name); });
  for (const [name, listener] of Object.entries(plot.events)) place.on(name, listener);
}

// What a point stands for: a row of the run, or a text for the tooltip, or nothing.
function candidateAt(point) {
  const given = point.customdata ?? point.data?.customdata?.[point.pointNumber];
  return Array.isArray(given) ? given[0] : given;
}

// -- tooltip ----------------------------------------------------------------------------------------------------------

let pointer = { clientX: 0, clientY: 0 };
addEventListener("pointermove", (event) => { pointer = event; }, { passive: true, capture: true });

function showTooltip(point, event) {
  const candidate = candidateAt(point), tip = byId("tooltip");
  if (candidate === undefined || candidate === null || candidate === -1) return hideTooltip();
  if (typeof candidate === "number") tip.replaceChildren(...candidateSummary(state.run, candidate));
  else tip.replaceChildren(...String(candidate).split("\n").map((line) => element("div", {}, line)));
  tip.hidden = false;
  const { clientX, clientY } = event?.clientX === undefined ? pointer : event, box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(clientX + 14, innerWidth - box.width - 8))}px`;
  const below = clientY + 18 + box.height <= innerHeight;
  tip.style.top = `${below ? clientY + 18 : Math.max(8, clientY - box.height - 12)}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

addEventListener("scroll", hideTooltip, { passive: true });

// A candidate in a few lines: number, status, fitness, its most important genes.
function candidateSummary(run, row) {
  const facts = element("dl", { class: "facts" });
  const fact = (name, value) => value
    && facts.append(element("dt", {}, truncate(name, 28)), element("dd", {}, truncate(value, 60)));
  run.fitness.forEach((column) => fact(column.label, column.text(row)));
  run.genesByImportance.slice(0, 6).forEach((gene) => fact(gene.label, gene.text(row)));
  fact("error", run.column("error").text(row));
  return [element("div", {}, statusIcon(run.status(row)), element("b", {}, `#${run.ids[row]}`),
    ` ${STATUS[run.status(row)]}`), facts];
}

// -- the page's look --------------------------------------------------------------------------------------------------

function themeColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// From worst to best, readable on the page's ground, for color-blind readers too.
function colorScale() {
  return ["low", "low-2", "middle", "high-2", "high"].map((name, place) => [place / 4, themeColor(name)]);
}

function baseLayout(layout) {
  const text = themeColor("text"), narrow = innerWidth < 640;
  const base = {
    autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    hoverdistance: 12,
    dragmode: touch ? false : "zoom", showlegend: true,
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif", size: 12, color: text },
    margin: { l: narrow ? 48 : 58, r: 12, t: 10, b: 42 },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)",
      font: { color: themeColor("muted"), size: 11.5 }, itemsizing: "constant" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: themeColor("muted"), activecolor: themeColor("accent") },
  };
  return { ...base, ...layout, margin: { ...base.margin, ...layout.margin } };
}

function axis(title, extra = {}) {
  const line = themeColor("line");
  return { title: { text: escaped(truncate(title, 60)), font: { size: 12, color: themeColor("muted") }, standoff: 6 },
    gridcolor: themeColor("grid"),
    zeroline: false, linecolor: line, tickcolor: line, automargin: true, tickfont: { color: themeColor("muted"), size: 11 },
    exponentformat: "SI", ...extra };
}

// The axis of a column: its name, and logarithmic where asked. Indices into choices get the choices as labels.
function columnAxis(column, log = false, extra = {}) {
  const choices = column.choices
    ? { tickvals: column.choices.map((_, index) => index),
      ticktext: column.choices.map((name) => escaped(shortLabel(name, 16))) } : {};
  return axis(column.label, { type: log ? "log" : "linear", ...choices, ...extra });
}

const SYMBOLS = ["circle-open", "circle", "diamond", "x"];

// The points to plot, and a note for the caption: those in the zoomed range; of too many, half as a regular sample, which shows
// the density, and half spread over the area, which shows outliers.
function samplePoints(points, { x, y }) {
  if (points.length <= MAX_POINTS) return [points, ""];
  const inside = (value, range) => !range || (value >= range[0] && value <= range[1]);
  const inRange = points.filter((point) => inside(point.x, x) && inside(point.y, y));
  if (inRange.length <= MAX_POINTS) return [inRange, ""];
  const chosen = new Set(), step = 2 * inRange.length / MAX_POINTS;
  for (let place = 0; place < inRange.length; place += step) chosen.add(inRange[Math.floor(place)]);
  const [left, right] = extentOf(inRange.map((point) => point.x)), [low, high] = extentOf(inRange.map((point) => point.y)),
    cells = new Set(), side = Math.sqrt(MAX_POINTS / 2);
  for (const point of inRange) {
    const cell = Math.floor(side * (point.x - left) / (right - left || 1)) * 1000
      + Math.floor(side * (point.y - low) / (high - low || 1));
    if (cells.has(cell)) continue;
    cells.add(cell);
    chosen.add(point);
  }
  return [[...chosen],
    `${chosen.size.toLocaleString("en")} of ${inRange.length.toLocaleString("en")} points are drawn; zoom in to see `
      + `the others.`];
}

// What a plot is zoomed in on, if it is still the same plot; logarithmic axes' ranges as values.
function zoomedRange(name, uirevision) {
  const { layout } = plots.get(name).place, result = { x: null, y: null };
  if (!layout || layout.uirevision !== uirevision) return result;
  for (const which of ["x", "y"]) {
    const one = layout[`${which}axis`];
    if (one?.autorange === false && one.range) result[which] = one.type === "log" ? one.range.map((value) => 10 ** value)
      : one.range;
  }
  return result;
}

function extentOf(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  return low <= high ? [low, high] : [0, 1];
}

// -- controls of plots ------------------------------------------------------------------------------------------------

function sectionControls(section) {
  return byId(section).querySelector(".controls");
}

// Shows the controls of a section, rebuilt only if their options have changed, because one may be open.
function setControls(section, offer, make) {
  const place = sectionControls(section), signature = JSON.stringify(offer);
  if (place.dataset.offer === signature) return;
  place.dataset.offer = signature;
  place.replaceChildren(...make());
}

// A choice among [value, label] pairs; the first is the usual one. Gives the element to show.
function selectControl(plot, name, label, options) {
  const key = `${plot}.${name}`;
  if (!options.some(([value]) => value === state.choices[key])) state.choices[key] = options[0]?.[0];
  const select = element("select", { "aria-label": label });
  for (const [value, text] of options) select.append(
    new Option(truncate(text, 44), value, false, value === state.choices[key]));
  select.addEventListener("change", () => { state.choices[key] = select.value; invalidate(plot); });
  return element("label", { "data-choice": key }, `${label} `, select);
}

function selectedOption(plot, name) {
  return state.choices[`${plot}.${name}`];
}

function checkboxControl(plot, name, label) {
  const key = `${plot}.${name}`, box = element("input", { type: "checkbox" });
  box.checked = Boolean(state.choices[key]);
  box.addEventListener("change", () => { state.choices[key] = box.checked; invalidate(plot); });
  return element("label", { "data-choice": key }, box, label);
}
