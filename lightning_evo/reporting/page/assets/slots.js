// Slots over time: a bar per candidate and slot; neighbors are merged until zoomed in.
"use strict";

const MAX_BARS = 900;
const BAR_THICKNESS = 0.76;

// Until when the run is known, in seconds since it began: those that run now have no end yet.
function endTime(run) {
  const { started, ended } = run.candidates,
    known = extentOf([...started, ...ended].filter((value) => value !== null))[1];
  return run.raw.status === "running" ? Math.max(known, state.payload.generated - run.raw.created) : known;
}

// Bars [start, end, slot, status, rows] within a stretch of time; neighbors closer than `grain` are merged.
function bars(run, rows, from, to, grain) {
  const { started, ended, slot } = run.candidates, now = endTime(run);
  const open = new Map(), result = [];
  const order = rows.filter((row) => started[row] !== null
      && slot[row] !== null).sort((a, b) => started[a] - started[b]);
  for (const row of order) {
    const start = started[row], end = ended[row] ?? Math.max(now, start);
    if (end < from || start > to) continue;
    const last = open.get(slot[row]);
    if (last && start - last.start < grain && start - last.end < grain) {
      last.end = Math.max(last.end, end);
      last.rows.push(row);
    } else {
      const bar = { start, end, slot: slot[row], rows: [row] };
      open.set(slot[row], bar);
      result.push(bar);
    }
  }
  for (const bar of result) {
    const tally = [0, 0, 0, 0];
    bar.rows.forEach((row) => { tally[run.status(row)] += 1; });
    bar.tally = tally;
    const description = [COMPLETED, STOPPED, FAILED,
      PENDING].filter((status) => tally[status]).map((status) => `${tally[status]} ${STATUS[status]}`).join(", ");
    bar.tip = bar.rows.length === 1 ? bar.rows[0]
      : `${bar.rows.length} candidates, #${run.ids[bar.rows[0]]} to #${run.ids[bar.rows.at(-1)]}\n${description}\nZoom `
      + `in to separate them`;
  }
  return result;
}

let timeRange = null; // the stretch of time zoomed in on, in seconds

addPlot("slots", "data run filter open", () => {
  const { run } = state, { started, ended, slot } = run.candidates;
  const rows = visibleRows().filter((row) => started[row] !== null && slot[row] !== null
      && (ended[row] !== null || run.raw.status === "running"));
  if (!rows.length) return { empty: "None of the candidates shown has started." };
  const [begin] = extentOf(rows.map((row) => started[row])),
    finish = rows.some((row) => ended[row] === null) ? endTime(run) : extentOf(rows.map((row) => ended[row]))[1];
  const slots = [...new Set(slot.filter((value) => value !== null))].sort((a, b) => a - b), [from, to] = timeRange
    ?? [begin, finish];
  plots.get("slots").finish = finish;
  const unit = finish > 7200 ? 3600 : finish > 180 ? 60 : 1,
    name = { 3600: "hours", 60: "minutes", 1: "seconds" }[unit];
  const near = rows.length * Math.min(1, (to - from) / Math.max(1e-9, finish - begin)) > MAX_BARS
    ? (to - from) * slots.length / MAX_BARS : 0;
  const result = bars(run, rows, from - (to - from), to + (to - from), near), data = [];
  // A bar of several candidates is parted by how they ended, from the bottom upwards.
  const parts = result.flatMap((bar) => {
    let below = 0;
    return [COMPLETED, STOPPED, FAILED, PENDING].filter((status) => bar.tally[status]).map((status) => {
      const share = bar.tally[status] / bar.rows.length, middle = bar.slot + BAR_THICKNESS * (0.5 - below - share / 2);
      below += share;
      return { ...bar, status, y: middle, thick: BAR_THICKNESS * share };
    });
  });
  for (const status of [COMPLETED, STOPPED, FAILED, PENDING]) {
    const chosen = parts.filter((bar) => bar.status === status);
    if (!chosen.length) continue;
    data.push({ type: "bar", orientation: "h", name: status === PENDING ? "running" : STATUS[status], hoverinfo: "none",
      base: chosen.map(({ start }) => start / unit), x: chosen.map(({ start, end }) => (end - start) / unit),
      y: chosen.map(({ y }) => y), width: chosen.map(({ thick }) => thick), customdata: chosen.map(({ tip }) => tip),
      marker: { color: themeColor(STATUS[status]), opacity: 0.88, line: { width: near ? 0 : 1, color: themeColor("card") } } });
  }
  const open = run.row(state.open);
  const shapes = open !== undefined && started[open] !== null
    && slot[open] !== null ? [
      { type: "rect", x0: started[open] / unit, x1: (ended[open] ?? finish) / unit, y0: slot[open] - 0.42,
        y1: slot[open] + 0.42, line: { color: themeColor("chosen"), width: 2.5 } }] : [];
  const busy = run.raw.totals?.busy,
    description = busy === null || busy === undefined ? "" : `; slots were busy ${formatPercent(busy)} of the time`,
    where = `${formatCount(rows.length, "candidate")} on ${formatCount(slots.length, "slot")}`,
    summary = [`${where} in ${formatDuration(finish - begin)}${description}.`];
  if (near) summary.push("Neighboring bars are merged; drag over a period of time to separate them.");
  return { data, height: Math.max(150, Math.min(520, 90 + 34 * slots.length)), summary: summary.join(" "),
    layout: { uirevision: `${run.name}`, barmode: "overlay", bargap: 0, shapes,
      xaxis: axis(`${name} since the search began`),
      yaxis: axis("slot", { tickvals: slots, autorange: "reversed", fixedrange: true, showgrid: false }) } };
}, { plotly_relayout: (change) => {
  const { run } = state, finish = plots.get("slots").finish, unit = finish > 7200 ? 3600 : finish > 180 ? 60 : 1;
  if (change["xaxis.autorange"]) timeRange = null;
  else if (change["xaxis.range[0]"] !== undefined) timeRange = [change["xaxis.range[0]"] * unit,
    change["xaxis.range[1]"] * unit];
  else if (Array.isArray(change["xaxis.range"])) timeRange = change["xaxis.range"].map((value) => value * unit);
  else return;
  invalidate("slots");
} });

subscribe("run", () => { timeRange = null; });
