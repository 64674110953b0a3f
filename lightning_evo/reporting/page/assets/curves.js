// Learning curves with predicted final values, and predicted versus true fitness.
"use strict";

const MAX_CURVES = 200;

// A range that shows how curves end: the first fifth of the training, where all are equally bad, may be outside.
function lateRange(values, mode, log) {
  const last = extentOf(values.map(([place]) => place))[1],
    usable = values.filter(([, value]) => value !== null && (!log || value > 0));
  const late = usable.filter(([place]) => place >= last / 5).map(([, value]) => (log ? Math.log10(value) : value)).sort(
    (a, b) => a - b);
  if (late.length < 10) return null;
  const [inner, outer] = mode === "max" ? [quantile(late, 0.03), late.at(-1)] : [late[0], quantile(late, 0.97)],
    pad = 0.06 * (outer - inner);
  const [low, high] = extentOf(usable.map(([, value]) => (log ? Math.log10(value) : value)));
  return outer > inner && high - low > 1.6 * (outer - inner) ? { range: [inner - pad, outer + pad] } : null;
}

addPlot("curves", "data run filter open", () => {
  const { run } = state, { metrics, along, places, every, thinned } = run.raw.curves, early = run.raw.early ?? {};
  const first = run.objectives[0]?.monitor, ordered = [...metrics].sort((a, b) => (b === first) - (a === first));
  const samples = [["best", "best"], ["last", "latest"], ["spread", "a sample of all"]];
  if (run.size > MAX_CURVES) samples.unshift(samples.pop());
  setControls("curves", [run.index, ordered, samples],
    () => [selectControl("curves", "metric", "Metric", ordered.map((name) => [name, name])),
      selectControl("curves", "who", "Candidates", samples), checkboxControl("curves", "log", "log scale")]);
  const metric = selectedOption("curves", "metric"),
    has = (row) => every[run.ids[row]]?.[metric]?.some((value) => value !== null);
  if (!metric) return { empty: "No metric was logged while training." };
  const visible = new Set(visibleRows()), ranked = run.ranked.filter((row) => visible.has(row) && has(row));
  if (!ranked.length) return { empty: `None of the candidates shown has a learning curve for ${metric}.` };
  const who = selectedOption("curves", "who"), step = Math.max(1, ranked.length / MAX_CURVES);
  const chosen = who === "last" ? [...ranked].sort((a, b) => b - a).slice(0, MAX_CURVES)
    : who === "spread" ? ranked.filter((_, place) => Math.floor(place / step) !== Math.floor((place - 1) / step))
    : ranked.slice(0, MAX_CURVES);
  const ranks = new Map(ranked.map((row, rank) => [row, rank])),
    order = chosen.sort((a, b) => ranks.get(b) - ranks.get(a)), data = [], log = Boolean(selectedOption("curves", "log"));
  const values = [];
  // Lines of similar fitness are one trace: the best ones last, on top of the others.
  for (let shade = 0; shade < SHADES; shade++) {
    const part = order.slice(Math.floor(shade * order.length / SHADES),
      Math.floor((shade + 1) * order.length / SHADES));
    if (!part.length) continue;
    const line = { x: [], y: [], customdata: [] };
    for (const row of part) {
      const curve = every[run.ids[row]];
      places[run.ids[row]].forEach((place, index) => { line.x.push(place); line.y.push(curve[metric][index]);
        line.customdata.push(row); values.push([place, curve[metric][index]]); });
      line.x.push(null); line.y.push(null); line.customdata.push(-1);
    }
    const at = shade / (SHADES - 1);
    data.push({ type: "scatter", mode: "lines", ...line, hoverinfo: "none", showlegend: false, connectgaps: false,
      opacity: 0.35 + 0.4 * at,
      line: { color: shadeAt(at), width: shade === SHADES - 1 ? 1.8 : 1.1 } });
  }
  const drawn = new Set(order), at = (row, place) => every[run.ids[row]][metric].at(places[run.ids[row]].indexOf(place));
  const stops = order.filter((row) => run.status(row) === STOPPED);
  const end = (row) => early[run.ids[row]]?.stopped_at ?? places[run.ids[row]].at(-1);
  if (stops.length) data.push(
    { type: "scatter", mode: "markers", name: "stopped early", x: stops.map(end),
      y: stops.map((row) => at(row, end(row))), customdata: stops, hoverinfo: "none",
      marker: { symbol: "diamond", size: 7, color: themeColor("stopped"), line: { width: 1, color: themeColor("card") } } });
  const wouldStop = order.filter((row) => run.status(row) === COMPLETED
      && (early[run.ids[row]]?.would_stop_at ?? null) !== null);
  if (wouldStop.length) data.push(
    { type: "scatter", mode: "markers", name: "would have been stopped",
      x: wouldStop.map((row) => early[run.ids[row]].would_stop_at),
      y: wouldStop.map((row) => at(row, early[run.ids[row]].would_stop_at)),
      customdata: wouldStop, hoverinfo: "none",
      marker: { symbol: "diamond-open", size: 8, color: themeColor("stopped"),
        line: { width: 1.5, color: themeColor("stopped") } } });
  const withPrediction = order.filter((row) => early[run.ids[row]]?.predicted?.[metric]?.mean !== undefined
      && early[run.ids[row]].predicted[metric].mean !== null).slice(-60);
  if (withPrediction.length) {
    const prediction = (row) => early[run.ids[row]].predicted[metric],
      last = extentOf(order.map((row) => places[run.ids[row]].at(-1)))[1],
      unit = along === "step" ? Math.max(1, last / 20) : 1;
    data.push({ type: "scatter", mode: "markers", name: "predicted final value", hoverinfo: "none", customdata: withPrediction,
      y: withPrediction.map((row) => prediction(row).mean),
      x: withPrediction.map((row, place) => Math.max(last, early[run.ids[row]].end ?? last)
          + unit * (0.35 + 0.9 * (place % 12) / 12)),
      error_y: { type: "data", symmetric: false,
        array: withPrediction.map((row) => Math.max(0, prediction(row).high - prediction(row).mean)),
        arrayminus: withPrediction.map((row) => Math.max(0, prediction(row).mean - prediction(row).low)), thickness: 1, width: 2,
        color: themeColor("chosen") },
      marker: { symbol: "line-ew", size: 7, line: { width: 2, color: themeColor("chosen") }, color: themeColor("chosen") } });
  }
  const open = run.row(state.open);
  if (open !== undefined && has(open)) data.push(
    { type: "scatter", mode: "lines+markers", name: `#${state.open}`, x: places[state.open],
      y: every[state.open][metric], customdata: places[state.open].map(() => open),
      hoverinfo: "none", line: { color: themeColor("chosen"), width: 3 }, marker: { size: 5, color: themeColor("chosen") } });
  const mode = run.objectives.find(({ monitor }) => monitor === metric)?.mode
    ?? (/loss|error/.test(metric) ? "min" : "max"), view = lateRange(values, mode, log);
  const best = who === "best" && drawn.size < ranked.length ? " (the best)" : "";
  const summary = [`${formatCountOf(drawn.size, ranked.length, "curve")}${best}; brighter lines have a better final fitness.`];
  if (stops.length) summary.push(`${stops.length} of them were stopped early.`);
  if (withPrediction.length) summary.push(
    `Predicted final values with their 90% interval are to the right of the last ${along}${withPrediction.length === 60
        ? " (at most 60)" : ""}.`);
  if (view) summary.push("Double-click to include the beginning.");
  if (thinned) summary.push(String(thinned));
  return { data, summary: summary.join(" "),
    layout: { uirevision: `${metric}${log}${run.name}`, xaxis: axis(along),
      yaxis: axis(metric, { type: log ? "log" : "linear",
        ...(view ? { range: view.range, autorange: false } : {}) }) } };
});

// -- predicted against true -------------------------------------------------------------------------------------------

// Pairs [row, predicted, low, high] whose truth is known: only what was trained to its end counts.
function predictionPairs(run, source, monitor) {
  const given = source === "early"
    ? Object.entries(run.raw.early
        ?? {}).map(([id, { predicted }]) => [id, predicted?.[monitor]]).map(
          ([id, one]) => [id, one && [one.mean, one.low, one.high]])
    : Object.entries(run.raw.predicted?.[monitor]
        ?? {}).map(([id, [mean, std]]) =>
            [id, [mean, std === null ? null : mean - 1.645 * std, std === null ? null : mean + 1.645 * std]]);
  return given.map(([id, one]) => [run.row(Number(id)), ...(one ?? [null])]).filter(([row, mean]) => row !== undefined
      && mean !== null && mean !== undefined);
}

// Spearman's rank correlation.
function rankCorrelation(a, b) {
  const ranks = (values) => {
    const order = values.map((_, place) => place).sort((i, j) => values[i] - values[j]), result = [];
    for (let start = 0; start < order.length;) {
      let end = start;
      while (end + 1 < order.length && values[order[end + 1]] === values[order[start]]) end += 1;
      for (let place = start; place <= end; place++) result[order[place]] = (start + end) / 2;
      start = end + 1;
    }
    return result;
  };
  const [x, y] = [ranks(a), ranks(b)], mean = (a.length - 1) / 2;
  let both = 0, first = 0, second = 0;
  x.forEach((value, place) => { both += (value - mean) * (y[place] - mean); first += (value - mean) ** 2;
    second += (y[place] - mean) ** 2; });
  return first && second ? both / Math.sqrt(first * second) : null;
}

addPlot("predicted", "data run filter open", () => {
  const { run } = state, offered = [];
  run.objectives.forEach(({ monitor }, place) => {
    if (predictionPairs(run, "early", monitor).length) offered.push([`early:${place}`, `${monitor} from early epochs`]);
    if (predictionPairs(run, "before", monitor).length) offered.push([`before:${place}`, `${monitor} before training`]);
  });
  setControls("predicted", [run.index, offered],
    () => (offered.length ? [selectControl("predicted", "what", "Prediction", offered)] : []));
  if (!offered.length) return {
    empty: "There are no predictions: the search uses neither a prescreen nor early fitness prediction." };
  const [source, index] = selectedOption("predicted", "what").split(":"), place = Number(index), column = run.fitness[place],
    shown = new Set(visibleRows());
  const all = predictionPairs(run, source, run.objectives[place].monitor).filter(([row]) => shown.has(row));
  const known = all.filter(([row]) => run.status(row) === COMPLETED && column.values[row] !== null
      && column.values[row] !== undefined);
  if (!known.length) return {
    empty: `${formatCount(all.length, "prediction")}, but none of these candidates was trained to the end, so there is `
      + `nothing to compare.` };
  const truth = known.map(([row]) => column.values[row]), mean = known.map(([, value]) => value),
    [low, high] = extentOf([...truth, ...mean]), few = known.length <= 300;
  const uirevision = source + place,
    [drawn, left] = samplePoints(known.map((one) => ({ one, x: one[1], y: column.values[one[0]] })),
      zoomedRange("predicted", uirevision)), part = drawn.map(({ one }) => one);
  const data = [{ type: "scatter", mode: "lines", x: [low, high], y: [low, high], hoverinfo: "skip", showlegend: false,
    line: { color: themeColor("muted"), dash: "dot", width: 1.5 } },
    { type: "scatter", mode: "markers", x: part.map(([, value]) => value), y: part.map(([row]) => column.values[row]),
      customdata: part.map(([row]) => row), hoverinfo: "none", showlegend: false,
      ...(few ? { error_x: { type: "data", symmetric: false,
        array: part.map(([, value, , top]) => Math.max(0, (top ?? value) - value)),
        arrayminus: part.map(([, value, bottom]) => Math.max(0, value - (bottom ?? value))), thickness: 0.7, width: 0,
        color: themeColor("muted") } } : {}),
      marker: { color: themeColor("completed"), size: few ? 7 : 4, opacity: few ? 0.8 : 0.4 } }];
  const open = known.find(([row]) => row === run.row(state.open));
  if (open) data.push(highlightMarker([open[1]], [column.values[open[0]]], open[0]));
  const error = mean.reduce((sum, value, i) => sum + Math.abs(value - truth[i]), 0) / mean.length,
    rank = rankCorrelation(mean, truth);
  const held = known.filter(([row, , bottom, top]) => bottom !== null && bottom !== undefined
      && column.values[row] >= bottom && column.values[row] <= top).length;
  return { data, summary: `${formatCount(known.length, "candidate")} trained to the end: `
      + `mean absolute error ${formatNumber(error, 3)}, rank `
      + `correlation ${formatNumber(rank, 2)}, ${formatPercent(held / known.length)} within the predicted 90% `
      + `interval${few ? " (bars)" : ""}. ${left}`,
    layout: { uirevision, xaxis: axis(`predicted ${column.label}`), yaxis: axis(`true ${column.label}`) } };
}).samplesOnZoom = true;
