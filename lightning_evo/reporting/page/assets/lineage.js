// Lineage: a family tree with inherited weights and mutated genes.
"use strict";

const MAX_RELATIVES = 300; // candidates in one picture

// Ancestors of some candidates, nearest first, at most so many; and whether some were left out.
function ancestors(run, starts, most = MAX_RELATIVES) {
  const found = new Set(starts), waiting = [...starts];
  let cut = false;
  for (let next = 0; next < waiting.length; next++) {
    for (const id of run.parents(run.row(waiting[next]))) {
      if (found.has(id)) continue;
      if (found.size >= most) { cut = true; break; }
      found.add(id);
      waiting.push(id);
    }
  }
  return [found, cut];
}

function descendants(run, start, most) {
  const found = new Set([start]), waiting = [start];
  let cut = false;
  for (let next = 0; next < waiting.length; next++) {
    for (const id of run.children(waiting[next])) {
      if (found.has(id)) continue;
      if (found.size >= most) { cut = true; break; }
      found.add(id);
      waiting.push(id);
    }
  }
  return [found, cut];
}

// Which candidates are drawn, by what the reader chose.
function relatives(run, which) {
  const visible = visibleRows(), shown = new Set(visible);
  const best = run.ranked.filter((row) => shown.has(row)).map((row) => run.ids[row]);
  if (which === "all") return [new Set(visible.slice(0, MAX_RELATIVES).map((row) => run.ids[row])),
    visible.length > MAX_RELATIVES, best[0]];
  if (which === "family" && state.open !== null) {
    const [up, cutUp] = ancestors(run, [state.open], MAX_RELATIVES / 2),
      [down, cutDown] = descendants(run, state.open, MAX_RELATIVES / 2);
    return [new Set([...up, ...down]), cutUp || cutDown, state.open];
  }
  if (!best.length) return [new Set(), false, null];
  return [...ancestors(run, which === "best10" ? best.slice(0, 10) : [best[0]]), best[0]];
}

// Places of a layered tree: x is the number of generations from the oldest shown, y keeps relatives together.
function layered(run, ids) {
  const order = [...ids].sort((a, b) => a - b), depth = new Map(), layers = [], y = new Map();
  for (const id of order) {
    const older = run.parents(run.row(id)).filter((parent) => depth.has(parent) && parent < id);
    const above = older.map((parent) => depth.get(parent) + 1);
    depth.set(id, Math.max(0, ...above));
    (layers[depth.get(id)] ??= []).push(id);
  }
  const around = (id, others) => {
    const known = others.filter((other) => y.has(other)).map((other) => y.get(other));
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const spread = (layer, key) => {
    const sorted = layer.map((id) => [id, key(id) ?? y.get(id) ?? 0]).sort((a, b) => a[1] - b[1] || a[0] - b[0]);
    sorted.forEach(([id], place) => y.set(id, place - (sorted.length - 1) / 2));
  };
  layers.forEach((layer) => spread(layer, (id) => around(id, run.parents(run.row(id)))));
  for (let round = 0; round < 4; round++) {
    [...layers].reverse().forEach(
      (layer) => spread(layer, (id) => around(id, run.children(id).filter((child) => ids.has(child)))));
    layers.forEach((layer) => spread(layer, (id) => around(id, run.parents(run.row(id)))));
  }
  return [(id) => depth.get(id), (id) => y.get(id), layers.length];
}

// A mutated gene in few letters, for a line of descent.
function mutation(gene, row, parent) {
  const label = truncate(gene.label, 14),
    values = [parent, row].map((each) => (gene.choices ? shortLabel(gene.text(each), 9) : formatNumber(gene.values[each], 2)));
  return escaped(gene.kind === "text" || values.includes("") ? label : `${label} ${values.join("→")}`);
}

addPlot("lineage", "data run filter open", () => {
  const { run } = state;
  setControls("lineage", [run.index, state.open === null, run.size > MAX_RELATIVES], () => [
    selectControl("lineage", "who", "Show", [["best10", "ancestors of the ten best"], ["best", "ancestors of the best"],
      ...(state.open === null ? [] : [["family", `family of #${state.open}`]]),
      ["all", run.size > MAX_RELATIVES ? `first ${MAX_RELATIVES} candidates shown` : "all candidates shown"]]),
    selectControl("lineage", "as", "as", [["tree", "tree"], ["fitness", "fitness over time"]])]);
  const family = sectionControls("lineage").querySelector("option[value=family]");
  if (family) family.textContent = `family of #${state.open}`;
  const [ids, cut, root] = relatives(run, selectedOption("lineage", "who"));
  if (!ids.size) return { empty: run.size ? "None of the candidates shown has a lineage yet." : "No candidates yet." };
  const fitness = run.fitness[0], byFitness = selectedOption("lineage", "as") === "fitness" && fitness,
    value = (id) => fitness?.values[run.row(id)] ?? null;
  const [depth, height, layers] = layered(run, ids), x = byFitness ? (id) => id : depth, y = byFitness ? value : height;
  const drawn = [...ids].filter((id) => y(id) !== null), shownIds = new Set(drawn);
  const solid = { x: [], y: [] }, dashed = { x: [], y: [] }, middles = { x: [], y: [], tips: [], texts: [] };
  for (const id of drawn) {
    const row = run.row(id), from = run.candidates.inherits[row];
    const givers = new Set(run.parents(row));
    if (from !== null && run.rows.has(from)) givers.add(from);
    for (const parent of givers) {
      if (!shownIds.has(parent)) continue;
      const line = parent === from ? solid : dashed, changes = run.describeChanges(row, run.row(parent));
      line.x.push(x(parent), x(id), null);
      line.y.push(y(parent), y(id), null);
      middles.x.push(0.4 * x(parent) + 0.6 * x(id)); // nearer to the child: a parent has many lines
      middles.y.push(0.4 * y(parent) + 0.6 * y(id));
      const how = parent === from ? "weights inherited" : "parent, weights not inherited";
      const sentences = changes.length ? changes : ["no differences"];
      middles.tips.push([`#${parent} → #${id}, ${how}`, ...sentences].join("\n"));
      const mutated = run.changedGenes(row, run.row(parent));
      middles.texts.push(mutated.slice(0, 1).map((gene) => mutation(gene, row, run.row(parent))).join("")
          + (mutated.length > 1 ? ` +${mutated.length - 1}` : ""));
    }
  }
  const line = (points, name, dash) =>
    ({ type: "scatter", mode: "lines", ...points, name, hoverinfo: "skip",
      line: { color: themeColor("muted"), width: dash === "solid" ? 1.8 : 1.2, dash } });
  const data = [];
  if (solid.x.length) data.push(line(solid, "weights inherited", "solid"));
  if (dashed.x.length) data.push(line(dashed, "parent only", "dot"));
  const labelsFit = middles.texts.length <= 40 && layers * 120 < plots.get("lineage").place.clientWidth && !byFitness;
  data.push({ type: "scatter", mode: labelsFit ? "markers+text" : "markers", x: middles.x, y: middles.y,
    customdata: middles.tips, text: middles.texts, hoverinfo: "none", showlegend: false,
    textposition: "top center", textfont: { size: 10, color: themeColor("muted") },
    marker: { size: 9, color: themeColor("muted"), opacity: labelsFit ? 0.25 : 0 }, cliponaxis: false });
  const values = drawn.map(value), finite = values.filter((each) => each !== null).sort((a, b) => a - b),
    sign = run.objectives[0]?.mode === "min" ? -1 : 1;
  const named = (id) => (drawn.length <= 14 && value(id) !== null ? `#${id}<br>${formatNumber(value(id), 3)}` : `#${id}`);
  data.push({ type: "scatter", mode: drawn.length <= 40 ? "markers+text" : "markers", x: drawn.map(x), y: drawn.map(y),
    customdata: drawn.map((id) => run.row(id)), hoverinfo: "none", showlegend: false,
    text: drawn.map(named), textposition: "bottom center",
    textfont: { size: 10.5, color: themeColor("text") }, cliponaxis: false,
    marker: { symbol: drawn.map((id) => SYMBOLS[run.status(run.row(id))]),
      size: drawn.map((id) => (id === root ? 15 : drawn.length > 100 ? 8 : 11)), colorscale: colorScale(),
      color: values.map((each) => (each === null ? null : sign * each)),
      cmin: finite.length ? Math.min(sign * quantile(finite, sign > 0 ? 0.05 : 0.95),
        sign * quantile(finite, sign > 0 ? 1 : 0)) : 0,
      cmax: finite.length ? sign * (sign > 0 ? finite.at(-1) : finite[0]) : 1,
      line: { width: 1, color: themeColor("card") } } });
  if (shownIds.has(state.open)) data.push(highlightMarker([x(state.open)], [y(state.open)], run.row(state.open)));
  const summary = [`${formatCount(drawn.length, "candidate")}, ${formatCount(middles.x.length, "line")} of descent`
    + `${root === null ? "" : `; #${root} is drawn larger`}. Brighter is better. Point at a line to see which genes `
    + "changed; select a candidate to see its family."];
  if (cut) summary.push(`Only the closest ${MAX_RELATIVES} are drawn.`);
  if (byFitness && drawn.length < ids.size) summary.push(`${ids.size - drawn.length} without a fitness are not shown.`);
  const bare = { showgrid: false, showticklabels: false, ticks: "", showline: false };
  return { data, summary: summary.join(" "),
    layout: { uirevision: `${selectedOption("lineage", "who")}${byFitness}${root}`, margin: { b: byFitness ? 42 : 34 },
      xaxis: byFitness ? axis("candidate")
        : axis("generations since the oldest shown", layers > 30 ? {} : { dtick: 1, range: [-0.5, layers - 0.5] }),
      yaxis: byFitness ? axis(fitness.label) : axis("", bare) } };
});
