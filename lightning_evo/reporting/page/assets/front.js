// The Pareto front of any two or three objectives, costs, metrics or genes.
"use strict";

function frontAxes(run) {
  const groups = ["objectives", "costs", "metrics", "times", "genes", "candidate"];
  const offered = run.columns.filter((column) => column.isNumber && groups.includes(column.group)
      && column.key !== "slot" && column.extent());
  return offered.sort((a, b) => groups.indexOf(a.group) - groups.indexOf(b.group));
}

// Whether a front can be drawn: it must be known of every axis which way is better.
function direction(column) {
  return column.mode === null ? null : column.mode === "max" ? -1 : 1;
}

addPlot("front", "data run filter open", () => {
  const { run } = state, offered = frontAxes(run), named = offered.map(({ key, label }) => [key, label]);
  const usual = [...run.fitness.map(({ key }) => key), "cost:params", "cost:seconds", "took",
    "id"].filter((key) => offered.some((column) => column.key === key));
  const first = (place) => {
    const key = usual[place] ?? usual[0];
    return [...named.filter(([name]) => name === key), ...named.filter(([name]) => name !== key)];
  };
  setControls("front", [run.index, named], () => {
    const third = selectControl("front", "z", "z", first(2)), flat = selectControl("front", "as", "", [["2", "2-D"], ["3", "3-D"]]);
    const show = () => { third.hidden = selectedOption("front", "as") !== "3"; };
    flat.addEventListener("change", show);
    show();
    return [flat, selectControl("front", "x", "x", first(1)), selectControl("front", "y", "y", first(0)), third];
  });
  const deep = selectedOption("front", "as") === "3";
  const axes = (deep ? ["x", "y", "z"] : ["x", "y"]).map((name) => run.column(selectedOption("front", name))).filter(Boolean);
  if (axes.length < (deep ? 3 : 2)) return { empty: "Nothing has been measured yet." };
  const hasValues = (row) => axes.every((column) => column.values[row] !== null && column.values[row] !== undefined);
  const rows = visibleRows().filter((row) => hasValues(row) && run.status(row) !== FAILED);
  if (!rows.length) return { empty: "None of the candidates shown has a value on every axis." };
  if (deep && !webgl) return { empty: "3-D plots need WebGL, which this browser doesn't support." };
  const directions = axes.map(direction), known = !directions.includes(null) && new Set(axes).size === axes.length;
  // A front of predicted values would be one of promises: stopped candidates are drawn, and can't be on it.
  const front = known ? paretoFront(rows.filter((row) => run.status(row) === COMPLETED),
    axes.map((column, place) => [column, directions[place]])) : [];
  const onFront = new Set(front),
    logs = axes.map((column) => column.suitsLogScale && column.group !== "objectives" || column.suitsLogScale && column.mode === "min");
  const trace = (chosen, more) =>
    ({ type: deep ? "scatter3d" : "scatter", mode: "markers", hoverinfo: "none", customdata: chosen,
      x: chosen.map((row) => axes[0].values[row]), y: chosen.map((row) => axes[1].values[row]),
      ...(deep ? { z: chosen.map((row) => axes[2].values[row]) } : {}), ...more });
  const uirevision = axes.map(({ key }) => key).join() + deep,
    points = rows.filter((row) => !onFront.has(row)).map(
      (row) => ({ row, x: axes[0].values[row], y: axes[1].values[row] }));
  const [drawn, left] = deep ? [points, ""] : samplePoints(points, zoomedRange("front", uirevision)), data = [],
    size = drawn.length > 1000 ? 3.5 : 6;
  for (const status of [COMPLETED, STOPPED]) {
    const chosen = drawn.map(({ row }) => row).filter((row) => run.status(row) === status);
    if (chosen.length) data.push(
      trace(chosen, { name: status === STOPPED ? "stopped" : known ? "dominated" : "completed",
        marker: { color: themeColor(STATUS[status]), size: deep ? size * 0.7 : size,
          opacity: drawn.length > 1000 ? 0.4 : 0.55, symbol: SYMBOLS[status] } }));
  }
  if (front.length) data.push(
    trace(front, { name: "Pareto front", type: deep ? "scatter3d" : "scatter", mode: deep ? "markers" : "lines+markers",
      line: { color: themeColor("best"), width: 1.5, shape: "hv" },
      marker: { color: themeColor("best"), size: deep ? 6 : 9, symbol: "circle",
        line: { width: 1, color: themeColor("card") } } }));
  const open = run.row(state.open);
  if (open !== undefined && hasValues(open)) data.push(
    deep ? trace([open], { showlegend: false,
      marker: { size: 11, symbol: "circle-open", color: themeColor("chosen"),
        line: { width: 3, color: themeColor("chosen") } } })
      : highlightMarker([axes[0].values[open]], [axes[1].values[open]], open));
  const listed = front.slice(0, 8).map((row) => `#${run.ids[row]}`).join(", ");
  const more = front.length > 8 ? ` and ${front.length - 8} more` : "";
  const unknown = axes.filter((_, place) => directions[place] === null).map(({ label }) => label).join(" and ");
  const why = unknown ? `it is unknown which direction of ${unknown} is better` : "two axes are the same";
  const summary = [known
    ? `${formatCount(front.length, "candidate")} of ${rows.length.toLocaleString("en")} on the front: ${listed}${more}.`
    : `${formatCount(rows.length, "candidate")}. No front: ${why}.`];
  if (rows.some((row) => run.status(row) === STOPPED)
      && axes.some(({ group }) => group === "objectives")) summary.push(
        "The fitness of stopped candidates is predicted, so they can't be on the front.");
  if (logs.some(Boolean)) summary.push(
    `Logarithmic axes: ${axes.filter((_, place) => logs[place]).map(({ label }) => label).join(", ")}.`);
  if (left) summary.push(left);
  const view = !deep && axes[1].group === "objectives"
    ? focusedView(rows.map((row) => axes[1].values[row]), axes[1].mode, logs[1]) : null;
  if (view) summary.push(`${formatCount(view.outside, "candidate")} ${view.side} ${formatNumber(view.edge, 3)} not shown; double-click to show all.`);
  if (!deep) return { data, summary: summary.join(" "),
    layout: { uirevision, xaxis: columnAxis(axes[0], logs[0]),
      yaxis: columnAxis(axes[1], logs[1], view ? { range: view.range, autorange: false } : {}) } };
  const solid = (column, log) =>
    ({ ...columnAxis(column, log),
      title: { text: escaped(truncate(column.label, 24)), font: { size: 11, color: themeColor("muted") } },
      automargin: undefined, gridcolor: themeColor("line") });
  return { data, summary: summary.join(" "),
    layout: { uirevision, margin: { l: 0, r: 0, t: 0, b: 0 }, dragmode: "turntable",
      scene: { xaxis: solid(axes[0], logs[0]), yaxis: solid(axes[1], logs[1]), zaxis: solid(axes[2], logs[2]),
        camera: { eye: { x: 1.65, y: 1.65, z: 0.9 } } } } };
}).samplesOnZoom = true;
