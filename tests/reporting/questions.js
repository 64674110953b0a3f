// What do tests ask the report's page? Short names for what would be long expressions in the tests.
"use strict";

window.shownPlots = () => [...plots.values()].filter(({ place }) => place.offsetParent).map(({ name }) => name);
window.tracesOf = (plot) => plots.get(plot).place.data;
window.pointsOf = (plot, name = null) =>
  tracesOf(plot).filter((trace) => name === null || trace.name === name).reduce((sum, trace) => sum + trace.x.length,
    0);
window.idsOf = (plot, chosen) =>
  [...new Set(tracesOf(plot).filter(chosen).flatMap((trace) => trace.customdata).filter((row) => row >= 0).map(
    (row) => state.run.ids[row]))];
window.isEmpty = (plot) => plots.get(plot).place.classList.contains("empty");

// Where a point in a plot's own units lies on the screen.
window.onScreen = (plot, x, y) => {
  const { place } = plots.get(plot), { xaxis, yaxis } = place._fullLayout, box = place.getBoundingClientRect();
  return [box.left + xaxis._offset + xaxis.l2p(x), box.top + yaxis._offset + yaxis.l2p(y)];
};

// A point of a trace that lies alone enough to be hit: [row, x, y].
window.lonelyPoint = (plot, name) => {
  const trace = tracesOf(plot).find((each) => each.name === name),
    range = plots.get(plot).place._fullLayout.yaxis.range;
  const seen = trace.y.filter((value) => value > Math.min(...range)), at = trace.y.indexOf(Math.min(...seen));
  return [trace.customdata[at], ...onScreen(plot, trace.x[at], trace.y[at])];
};

window.nameless = () => [...document.querySelectorAll("button, select, input, [role=img]")].filter((each) =>
    !(each.getAttribute("aria-label") || each.getAttribute("aria-labelledby") || each.textContent.trim()
        || each.closest("label")?.textContent.trim())).map((each) => each.outerHTML);
window.tooSmall = (least) => [...document.querySelectorAll("main button:not(.link), main select")]
  .filter((each) => each.offsetParent && each.getBoundingClientRect().height < least).map((each) => each.outerHTML);
window.cardEdges = () =>
  [...document.querySelectorAll(".card")].filter((card) => card.offsetParent).map(
    (card) => card.getBoundingClientRect()).map(({ left, right }) => [left, right]);

// Every candidate's tooltip, put into the page as the mouse would.
window.showEveryTooltip = () =>
  state.run.ids.forEach((_, row) => document.body.append(element("div", {}, ...candidateSummary(state.run, row))));
