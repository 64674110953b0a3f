// Genes and fitness: parallel coordinates that also filter, and the importance of each gene.
"use strict";

const MAX_LINES = 1200;
const MAX_CHOICES = { category: 24, ordered: 24, text: 8 }; // a gene with more can't be read on an axis

// An axis of the parallel coordinates, from 0 to 1: the way to it and back, and its ticks as [height, text].
function dimension(column, rows) {
  const log = column.log && column.isNumber, change = log ? Math.log10 : (value) => value,
    back = log ? (value) => 10 ** value : (value) => value;
  const missing = (row) => column.values[row] === null || column.values[row] === undefined, some = rows.some(missing);
  let [low, high] = column.choices ? [0, column.choices.length - 1] : column.extent().map(change);
  if (low === high) { low -= 0.5; high += 0.5; }
  const ground = some ? 0.12 : 0, height = (value) => ground + (1 - ground) * (value - low) / (high - low);
  const ticks = column.choices ? column.choices.map((name, index) => [height(index), shortLabel(name, 14)])
    : tickValues(low, high, log).map((value) => [height(value), formatNumber(back(value), 3)]);
  if (some) ticks.unshift([0, "none"]);
  return { column, ticks, at: (row) => (missing(row) ? 0 : height(change(column.values[row]))),
    toHeight: (value) => Math.max(ground - 0.02,
      Math.min(1.02, value === -Infinity ? ground - 0.02 : value === Infinity ? 1.02 : height(change(value)))),
    toValue: (place) => (place <= ground ? -Infinity : place >= 1 ? Infinity
        : back(low + (place - ground) / (1 - ground) * (high - low))) };
}

// About five round numbers; whole decades and their threes where logarithmic.
function tickValues(low, high, log) {
  if (log && high - low > 1) {
    const ticks = [];
    const parts = high - low > 3 ? [1] : [1, 3];
    for (let power = Math.floor(low); power <= high; power++) {
      ticks.push(...parts.map((part) => power + Math.log10(part)));
    }
    return ticks.filter((tick) => tick >= low - 1e-9 && tick <= high + 1e-9);
  }
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough)),
    step = [1, 2, 5, 10].map((part) => part * power).find((each) => each >= rough * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) {
    ticks.push(+tick.toPrecision(12));
  }
  return ticks;
}

// Of too many lines the best and, evenly, some of the others.
function bestAndSample(run, rows, place, most) {
  const values = run.fitness[place].values,
    order = [...rows].sort((a, b) =>
        (values[a] === values[b] ? a - b : run.isBetter(place, values[a], values[b]) ? -1 : 1));
  if (rows.length <= most) return order;
  const first = Math.floor(most / 3), rest = order.slice(first), step = rest.length / (most - first);
  return [...order.slice(0, first),
    ...rest.filter((_, index) => Math.floor(index / step) !== Math.floor((index - 1) / step))];
}

function lines(rows, dimensions, more) {
  const result = { x: [], y: [], customdata: [] };
  for (const row of rows) {
    dimensions.forEach((each, index) => { result.x.push(index); result.y.push(each.at(row)); result.customdata.push(row); });
    result.x.push(null); result.y.push(null); result.customdata.push(-1);
  }
  return { type: "scatter", mode: "lines", hoverinfo: "none", showlegend: false, connectgaps: false, cliponaxis: false,
    ...result, ...more };
}

// The color between worst (0) and best (1).
function shadeAt(share) {
  const shades = colorScale(), place = share * (shades.length - 1);
  return shades[Math.round(place)][1];
}

let dimensions = [];

addPlot("genes", "data run filter open", () => {
  const { run } = state;
  setControls("genes", [run.index, run.objectives], () => run.objectives.length > 1
      ? [selectControl("genes", "objective", "Color by",
        run.objectives.map(({ monitor }, place) => [String(place), monitor]))]
      : []);
  const place = Math.min(Number(selectedOption("genes", "objective") ?? 0), Math.max(0, run.objectives.length - 1)),
    fitness = run.fitness[place];
  const has = (row) => run.fitness.every((column) => column.values[row] !== null && column.values[row] !== undefined);
  const usable = run.genesByImportance.filter(
    (gene) => (gene.choices ? gene.choices.length && gene.choices.length <= MAX_CHOICES[gene.kind] : gene.extent()));
  const most = Math.max(innerWidth < 640 ? 5 : 6, Math.min(14, Math.floor(innerWidth / 110))) - run.fitness.length,
    used = usable.slice(0, Math.max(2, most));
  const columns = [...used, ...run.fitness], ownKeys = new Set(columns.map(({ key }) => key));
  const all = fitness ? visibleRows(ownKeys).filter(has) : [];
  if (!all.length || !used.length) return {
    empty: used.length ? "None of the candidates shown has a fitness yet."
      : "The search space has no gene that can be drawn on an axis." };
  const visible = new Set(visibleRows()), kept = all.filter((row) => visible.has(row)),
    others = all.filter((row) => !visible.has(row));
  const order = bestAndSample(run, kept, place, MAX_LINES).reverse(),
    faint = others.length ? bestAndSample(run, others, place, MAX_LINES / 4) : [];
  dimensions = columns.map((column) => dimension(column, all));
  const data = [], clear = order.length > 300 ? 0.45 : 0.65;
  if (faint.length) data.push(
    lines(faint, dimensions, { opacity: 0.15, line: { width: 0.8, color: themeColor("muted") }, hoverinfo: "skip" }));
  for (let shade = 0; shade < SHADES; shade++) {
    const part = order.slice(Math.floor(shade * order.length / SHADES),
      Math.floor((shade + 1) * order.length / SHADES)), at = shade / (SHADES - 1);
    if (part.length) data.push(
      lines(part, dimensions, { opacity: clear * (0.4 + 0.6 * at),
        line: { width: shade === SHADES - 1 ? 1.4 : 1, color: shadeAt(at) } }));
  }
  const open = run.row(state.open);
  if (open !== undefined && has(open)) data.push(
    lines([open], dimensions,
      { mode: "lines+markers", line: { width: 3, color: themeColor("chosen") },
        marker: { size: 7, color: themeColor("chosen") } }));
  const ticks = dimensions.flatMap(({ ticks }, index) => ticks.map(([height, text]) => [index, height, text]));
  const text = (points, position, size, ink) =>
    ({ type: "scatter", mode: "text", x: points.map(([x]) => x), y: points.map(([, y]) => y),
      text: points.map(([, , label]) => `${escaped(label)} `), textposition: position,
      textfont: { size, color: ink,
        shadow: `0 0 3px ${themeColor("card")}, 0 0 3px ${themeColor("card")}, 0 0 2px ${themeColor("card")}` }, hoverinfo: "skip",
      showlegend: false, cliponaxis: false, unselected: { textfont: { color: ink } } });
  data.push(text(ticks, "middle left", 11, themeColor("text")));
  data.push(text(dimensions.map(
    ({ column }, index) => [index, 1.05, truncate(column.label, Math.max(9, Math.floor(150 / columns.length)))]),
    "top center", 12, themeColor("text")));
  const bar = (x0, x1, y0, y1, more) => ({ type: "rect", layer: "above", x0, x1, y0, y1, line: { width: 0 }, ...more });
  const shapes = dimensions.map(
    (_, index) => ({ type: "line", x0: index, x1: index, y0: 0, y1: 1, layer: "above",
      line: { color: themeColor("muted"), width: 1 } }));
  dimensions.forEach((each, index) => state.ranges.get(each.column.key)?.forEach(([from, to]) => {
    const pad = each.column.choices ? 0.3 / Math.max(1, each.column.choices.length - 1) : 0;
    shapes.push(bar(index - 0.035, index + 0.035, each.toHeight(from) - pad, each.toHeight(to) + pad,
      { fillcolor: themeColor("chosen"), opacity: 0.45 }));
  }));
  const left = run.genes.length - used.length;
  const which = order.length < kept.length ? " (the best, and a sample of the others)" : "";
  const summary = [`${formatCountOf(order.length, kept.length, "candidate")} with a fitness${which}; `
    + `brighter lines have a better ${fitness.label}.`,
    touch ? "Use the filters above to select part of an axis."
      : "Draw a box over an axis to select the lines that cross it there. The filters above do the same by "
      + "keyboard, and remove it."];
  if (left) summary.push(
    `${formatCount(left, "gene")} ${left === 1 ? "is" : "are"} not shown (too many values, or less important).`);
  const bare = { visible: false, fixedrange: true };
  return { data, summary: summary.join(" "),
    layout: { uirevision: false, margin: { l: 62, r: 26, t: 34, b: 12 }, showlegend: false, shapes, selections: [],
      dragmode: touch ? false : "select",
      newselection: { line: { color: themeColor("chosen"), width: 2 } },
      xaxis: { ...bare, range: [-0.1, columns.length - 0.9] }, yaxis: { ...bare, range: [-0.03, 1.06] } } };
}, { plotly_selected: (selected) => {
  if (!selected?.range) return;
  const [left, right] = selected.range.x, [low, high] = selected.range.y.slice().sort((a, b) => a - b),
    index = Math.round((left + right) / 2);
  if (dimensions[index]) filterByBrush(dimensions[index], low, high);
} });

// What was brushed becomes a filter, in the column's own values.
function filterByBrush(each, low, high) {
  const from = each.toValue(low), to = each.toValue(high), { column } = each;
  if (!column.choices) return setRange(column.key, [[from, to]]);
  const inside = column.choices.map((_, index) => index).filter((index) => index >= from && index <= to);
  return setRange(column.key, inside.length ? [[inside[0], inside.at(-1)]] : null);
}

// -- importance -------------------------------------------------------------------------------------------------------

addPlot("importance", "data run", () => {
  const { run } = state, found = run.raw.importance ?? {};
  const monitors = run.objectives.map(({ monitor }) => monitor).filter((monitor) => found[monitor]?.genes?.length);
  if (!monitors.length) {
    const why = run.objectives.map(({ monitor }) => found[monitor]?.why_not).find(Boolean);
    return { empty: `Unknown${why ? `: ${why}` : ": too few candidates have finished"}.` };
  }
  const order = found[monitors[0]].genes.slice(0, 15).map(({ path }) => path).reverse(),
    labels = order.map((path) => run.column(`gene:${path}`)?.label ?? path);
  const data = monitors.map((monitor, place) => {
    const genes = new Map(found[monitor].genes.map((gene) => [gene.path, gene]));
    const formatted = (gene) => `${formatNumber(gene?.mean ?? 0, 3)} ± ${formatNumber(gene?.std ?? 0, 2)}`;
    const means = order.map((path) => Math.max(0, genes.get(path)?.mean ?? 0));
    return { type: "bar", orientation: "h", name: escaped(truncate(monitor, 30)), y: order.map((_, index) => index),
      x: means, hoverinfo: "none",
      error_x: { type: "data", array: order.map((path) => genes.get(path)?.std ?? 0), color: themeColor("muted"),
        thickness: 1.2, width: 3 },
      customdata: order.map((path, index) => `${labels[index]}\n${monitor}: ${formatted(genes.get(path))}`),
      marker: { color: themeColor(`run-${place}`) } };
  });
  const fitQuality = monitors.map(
    (monitor) => `R² ${formatNumber(found[monitor].r2, 2)} (${monitor})`).join(", ");
  const top = run.column(`gene:${found[monitors[0]].genes[0].path}`)?.label ?? "?";
  return { data, height: Math.max(200, 70 + order.length * (18 + 8 * monitors.length)), summary:
      `${top} matters most for ${monitors[0]}. Importance is the decrease in R² of a random forest on held-out `
      + `candidates when a gene's values are shuffled. The `
      + `forest, trained on ${formatNumber(found[monitors[0]].trained_on)} candidates, reaches ${fitQuality}: the lower it is, the `
      + `less reliable the importances are.`,
    layout: { uirevision: run.name, showlegend: monitors.length > 1, barmode: "group", bargap: 0.3,
      xaxis: axis("importance", { rangemode: "tozero" }), dragmode: false,
      yaxis: axis("", { tickvals: order.map((_, index) => index),
        ticktext: labels.map((label) => escaped(truncate(label, 20))), fixedrange: true }), margin: { l: 20 } } };
});
