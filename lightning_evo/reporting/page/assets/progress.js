// Progress: the best fitness so far and the population's quartiles, against candidates, epochs or seconds.
"use strict";

const ALONG = [["candidates", "candidates"], ["epochs", "epochs"], ["seconds", "time"]];

// Where each finished row lies on the x axis: how many results, epochs or seconds there were when its result came.
function along(run, kind) {
  const epochs = run.candidates.costs.epochs;
  let sum = 0;
  return run.finishedRows.map((row, place) => {
    sum += epochs?.[row] ?? 0;
    return kind === "candidates" ? place + 1 : kind === "epochs" ? sum : run.resultTime(row);
  });
}

function alongAxis(kind, values) {
  if (kind !== "seconds") return axis(kind === "epochs" ? "epochs trained" : "candidates finished",
    { rangemode: "tozero" });
  const last = values.at(-1) ?? 0,
    [unit, name] = last > 7200 ? [3600, "hours"] : last > 180 ? [60, "minutes"] : [1, "seconds"];
  return { ...axis(`${name} since the search began`, { rangemode: "tozero" }), unit };
}

// The best so far at each row where it got better, carried on to the end. Stopped candidates' fitness is predicted:
// they don't count.
function bestSoFar(run, place, kept, x) {
  const points = { x: [], y: [], rows: [] };
  let best = null;
  run.finishedRows.forEach((row, index) => {
    const value = run.fitness[place].values[row];
    if (!kept(row) || value === null || value === undefined || run.status(row) !== COMPLETED) return;
    if (best !== null && !run.isBetter(place, value, best)) return;
    best = value;
    points.x.push(x[index]); points.y.push(value); points.rows.push(row);
  });
  if (points.x.length) { points.x.push(x.at(-1)); points.y.push(best); points.rows.push(points.rows.at(-1)); }
  return points;
}

// Quartiles over a sliding window; those that came with the page where nothing is filtered.
function quartiles(run, place, kept, x, whole) {
  const given = run.raw.bands?.[run.objectives[place].monitor], width = given?.window ?? 50;
  if (whole && given) return { x: given.count.map((many) => x[many - 1]), q25: given.q25, q50: given.q50,
    q75: given.q75, width };
  const places = [];
  run.finishedRows.forEach((row, index) => {
    const value = run.fitness[place].values[row];
    if (kept(row) && value !== null && value !== undefined) places.push([index, value]);
  });
  const result = { x: [], q25: [], q50: [], q75: [], width }, step = Math.max(1, Math.floor(places.length / 200));
  for (let end = 1; end <= places.length; end += end + step > places.length ? Math.max(1, places.length - end) : step) {
    const values = places.slice(Math.max(0, end - width), end).map(([, value]) => value).sort((a, b) => a - b);
    result.x.push(x[places[end - 1][0]]);
    result.q25.push(quantile(values, 0.25)); result.q50.push(quantile(values, 0.5)); result.q75.push(quantile(values, 0.75));
  }
  return result;
}

// A range that shows where the search happens: a few candidates far off would else press all others into a line.
function focusedView(values, mode, log) {
  const sorted = values.filter((value) => value !== null && (!log || value > 0)).sort((a, b) => a - b);
  if (sorted.length < 10) return null;
  const change = log ? Math.log10 : (value) => value, back = (value) => (log ? 10 ** value : value);
  const [low, high] = [change(sorted[0]), change(sorted.at(-1))];
  const [inner, outer] = mode === "max" ? [change(quantile(sorted, 0.1)), high] : [low, change(quantile(sorted, 0.9))];
  if (!(high - low > 3 * (outer - inner)) || outer === inner) return null;
  const pad = 0.12 * (outer - inner),
    range = mode === "max" ? [inner - 4 * pad, high + pad] : [low - pad, outer + 4 * pad];
  const outside = sorted.filter((value) => change(value) < range[0] || change(value) > range[1]).length;
  return outside ? { range, outside, side: mode === "max" ? "below" : "above",
    edge: back(mode === "max" ? range[0] : range[1]) } : null;
}

addPlot("progress", "data run filter open", () => {
  const { run } = state;
  setControls("progress", [run.index, run.objectives], () => [
    run.objectives.length > 1
      ? selectControl("progress", "objective", "Fitness",
        run.objectives.map(({ monitor }, place) => [String(place), monitor]))
      : "",
    selectControl("progress", "along", "against", ALONG), checkboxControl("progress", "log", "log scale")]);
  if (!run.finishedRows.length || !run.fitness.length) return {
    empty: run.size ? "No candidate has finished yet." : "No candidates yet: the search has just started." };
  const place = Math.min(Number(selectedOption("progress", "objective") ?? 0), run.objectives.length - 1),
    { monitor, mode } = run.objectives[place];
  const kind = selectedOption("progress", "along") ?? "candidates", log = Boolean(selectedOption("progress", "log"));
  const visible = new Set(visibleRows()), kept = (row) => visible.has(row);
  let x = along(run, kind);
  const xaxis = alongAxis(kind, x);
  if (xaxis.unit) x = x.map((value) => value / xaxis.unit);
  delete xaxis.unit;
  const values = run.fitness[place].values, data = [], has = (row) => values[row] !== null && values[row] !== undefined;
  const band = quartiles(run, place, kept, x, !hasFilters());
  const line = (more) => ({ type: "scatter", mode: "lines", hoverinfo: "skip", ...more });
  data.push(line({ x: band.x, y: band.q25, line: { width: 0 }, showlegend: false }));
  data.push(line({ x: band.x, y: band.q75, line: { width: 0 }, fill: "tonexty", fillcolor: themeColor("band"),
    name: "quartiles" }));
  const uirevision = `${run.name}${place}${kind}${log}`,
    points = run.finishedRows.flatMap((row, index) => (kept(row) && has(row) ? [{ row, x: x[index], y: values[row] }] : []));
  const [drawn, left] = samplePoints(points, zoomedRange("progress", uirevision));
  for (const status of [COMPLETED, STOPPED]) {
    const part = drawn.filter(({ row }) => run.status(row) === status);
    if (part.length) data.push(
      { type: "scatter", mode: "markers", name: STATUS[status], hoverinfo: "none", x: part.map((point) => point.x),
        y: part.map((point) => point.y), customdata: part.map(({ row }) => row),
        marker: { color: themeColor(STATUS[status]), size: drawn.length > 1000 ? 3.5 : 5.5,
          opacity: drawn.length > 1000 ? 0.45 : 0.6, symbol: SYMBOLS[status] } });
  }
  data.push(line({ x: band.x, y: band.q50, line: { color: themeColor("completed"), width: 1.5, dash: "dot" },
    name: "median" }));
  const best = bestSoFar(run, place, kept, x);
  data.push(line({ x: best.x, y: best.y, line: { color: themeColor("best"), width: 2.5, shape: "hv" }, name: "best",
    hoverinfo: "none", customdata: best.rows }));
  const open = run.finishedRows.indexOf(run.row(state.open));
  if (open >= 0 && has(run.finishedRows[open])) data.push(highlightMarker([x[open]], [values[run.finishedRows[open]]], run.finishedRows[open]));
  const view = focusedView(run.finishedRows.map((row) => values[row] ?? null), mode, log), winner = best.rows.at(-1);
  const summary = [winner === undefined ? `None of the finished candidates shown has a value for ${monitor}.`
      : `Best ${monitor}: ${formatNumber(values[winner])}, candidate #${run.ids[winner]}, found `
      + `after ${run.finishedRows.indexOf(winner) + 1} of ${run.finishedRows.length} results.`];
  summary.push(`Median and quartiles are over the latest ${band.width} candidates; the fitness of stopped candidates is predicted.`);
  const lost = run.finishedRows.filter((row) => kept(row) && run.status(row) !== FAILED && !has(row)).length;
  if (lost) summary.push(
    `${formatCount(lost, "candidate")} without a finite ${monitor} ${lost === 1 ? "is" : "are"} not shown.`);
  if (left) summary.push(left);
  if (view) summary.push(`${formatCount(view.outside, "candidate")} ${view.side} ${formatNumber(view.edge, 3)} not shown; double-click to show all.`);
  return { data, summary: summary.join(" "), layout: { uirevision, xaxis,
    yaxis: axis(monitor, { type: log ? "log" : "linear",
      ...(view ? { range: view.range, autorange: false } : {}) }) } };
}).samplesOnZoom = true;

// A ring around the open candidate.
function highlightMarker(x, y, row, more = {}) {
  return { type: "scatter", mode: "markers", x, y, customdata: [row], hoverinfo: "none", showlegend: false,
    marker: { symbol: "circle-open", size: 14, color: themeColor("chosen"), line: { width: 3, color: themeColor("chosen") } },
    ...more };
}

addPlot("compared", "data run", () => {
  const { runs } = state, monitors = [...new Set(runs.flatMap((run) => run.objectives.map(({ monitor }) => monitor)))];
  setControls("compared", monitors,
    () => [monitors.length > 1 ? selectControl("compared", "monitor", "Fitness", monitors.map((name) => [name, name])) : "",
      selectControl("compared", "along", "against", ALONG), checkboxControl("compared", "log", "log scale")]);
  if (runs.length < 2) return { empty: "There is only one run." };
  const monitor = selectedOption("compared", "monitor") ?? monitors[0], kind = selectedOption("compared", "along") ?? "candidates";
  const having = runs.filter((run) => run.objectives.some((objective) => objective.monitor === monitor));
  const lines = having.map((run) => {
    const place = run.objectives.findIndex((objective) => objective.monitor === monitor), x = along(run, kind);
    return [run, bestSoFar(run, place, () => true, x), place];
  }).filter(([, points]) => points.x.length);
  if (!lines.length) return { empty: `No run has a finished candidate with a value for ${monitor}.` };
  const longest = lines.map(([, points]) => points.x.at(-1)).sort((a, b) => a - b), xaxis = alongAxis(kind, longest),
    unit = xaxis.unit ?? 1;
  delete xaxis.unit;
  const data = lines.map(([run, points]) =>
      ({ type: "scatter", mode: "lines", name: escaped(truncate(run.name, 40)),
        x: points.x.map((value) => value / unit),
        y: points.y,
        hoverinfo: "none", customdata: points.y.map(
          (value, place) => [run.name, `best ${monitor} ${formatNumber(value)} by candidate #${run.ids[points.rows[place]]}`]
            .join("\n")),
        line: { shape: "hv", width: run === state.run ? 3.5 : 2, color: themeColor(`run-${run.index % 8}`),
          dash: run.index < 8 ? "solid" : "dot" } }));
  const sentences = lines.map(([run, points]) => `${truncate(run.name, 40)} ${formatNumber(points.y.at(-1))}`).join(", ");
  const missing = runs.length - having.length;
  return { data, summary: `Best ${monitor}: ${sentences}.${missing ? ` ${formatCount(missing, "run")} without this objective.` : ""}`,
    layout: { uirevision: `${monitor}${kind}${selectedOption("compared", "log")}`, xaxis,
      yaxis: axis(`best ${monitor}`, { type: selectedOption("compared", "log") ? "log" : "linear" }) } };
});
