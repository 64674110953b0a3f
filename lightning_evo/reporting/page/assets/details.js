// The details of one candidate: config, genes, curve, costs, ancestors and children, in a panel beside or over the page.
"use strict";

// A config with the genes' values in it: [line, whether a gene sets it] in the form of YAML.
function configLines(run, row) {
  const config = structuredClone(run.raw.config ?? {}), marks = new Set();
  for (const gene of [...run.genes].sort((a, b) => a.path.length - b.path.length)) {
    const value = gene.configValue(row);
    if (value === null) continue;
    const parts = gene.path.split("."), last = parts.pop();
    let place = config;
    for (const part of parts) {
      const inner = Object.hasOwn(place, part) ? place[part] : null;
      // a gene that chose a class, and one of its arguments
      if (typeof inner === "string") place[part] = { class_path: inner };
      else if (inner === null || typeof inner !== "object") place[part] = {};
      place = place[part];
    }
    place[last] = value;
    marks.add(gene.path);
  }
  const lines = [];
  write(config, "", 0, lines, marks);
  return lines;
}

function plainScalar(value) {
  if (value === null) return "null";
  if (typeof value !== "string") return typeof value === "number" ? String(value) : JSON.stringify(value);
  const risky = value === "" || /^[\s\-?:,[\]{}#&*!|>'"%@`~]|: |\s#|\s$|[\n\t]|:$/.test(value)
    || /^(true|false|null|yes|no|on|off|[-+.\d].*)$/i.test(value);
  return risky ? JSON.stringify(value) : value;
}

function write(value, path, depth, lines, marks) {
  const indent = "  ".repeat(depth);
  for (const [key, inner] of Object.entries(value)) {
    const here = path ? `${path}.${key}` : key, name = Array.isArray(value) ? "-" : `${key}:`;
    if (marks.has(path)) marks.add(here); // all that a gene chose
    const marked = marks.has(here);
    if (inner !== null && typeof inner === "object" && Object.keys(inner).length) {
      const flat = Array.isArray(inner) && inner.every((each) => each === null || typeof each !== "object");
      if (flat) lines.push([`${indent}${name} [${inner.map(plainScalar).join(", ")}]`, marked]);
      else {
        lines.push([`${indent}${name}`, marked]);
        write(inner, here, depth + 1, lines, marks);
      }
    } else {
      const text = inner !== null
        && typeof inner === "object" ? (Array.isArray(inner) ? "[]" : "{}") : plainScalar(inner);
      lines.push([`${indent}${name} ${text}`, marked]);
    }
  }
}

function facts(pairs) {
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("dl", { class: "facts" },
    kept.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function part(title, ...children) {
  return [element("h3", {}, title), ...children];
}

function ancestry(run, row) {
  const chain = [];
  let now = row;
  for (const seen = new Set([row]); chain.length < 60;) {
    const from = run.candidates.inherits[now], parents = run.parents(now),
      next = run.row(from !== null && run.rows.has(from) ? from : parents[0]);
    if (next === undefined || seen.has(next)) break;
    chain.push([next, from === run.ids[next], now]);
    seen.add(next);
    now = next;
  }
  return chain;
}

function differences(run, row) {
  return run.parents(row).map((parent) => {
    const other = run.row(parent), changed = run.changedGenes(row, other);
    const head = element("p", {}, "compared with ", candidateLink(parent),
      run.candidates.inherits[row] === parent ? " (weights inherited)" : "",
      changed.length ? "" : ": no differences");
    if (!changed.length) return head;
    return element("div", { class: "scroll" }, head,
      plainTable(["gene", `#${parent}`, `#${run.ids[row]}`],
        changed.map((gene) => [truncate(gene.label, 40), truncate(gene.text(other) || "–", 60),
          truncate(gene.text(row) || "–", 60)])));
  });
}

let previousFocus = null;

function renderDetails(kind) {
  const panel = byId("details"), { run } = state;
  const row = state.open === null ? undefined : run.row(state.open);
  if (row === undefined) {
    const inside = panel.contains(document.activeElement);
    panel.hidden = true;
    panel.replaceChildren();
    if (kind === "open" && inside) restoreFocus();
    return;
  }
  if (kind === "open") hideTooltip();
  if (panel.hidden) previousFocus = document.activeElement;
  const scrolled = kind === "data" ? panel.scrollTop : 0, focused = panel.contains(document.activeElement),
    { candidates } = run, id = run.ids[row];
  const rows = sortedRows(), at = rows.indexOf(row);
  const step = (label, name, place) =>
    element("button", { type: "button", "aria-label": name, disabled: rows[place] === undefined || at < 0,
      onclick: () => openCandidate(run.ids[rows[place]]) }, label);
  const title = element("h2", { id: "details-title", tabindex: "-1" }, statusIcon(run.status(row)),
    `#${id} ${STATUS[run.status(row)]}`);
  const lines = configLines(run, row), early = run.raw.early?.[id], result = [];
  result.push(facts([...run.fitness.map(
    (column) => [column.label, column.text(row)
        || (run.status(row) === PENDING ? "pending" : "not finite or unknown")]),
    ["rank", run.best !== null && run.ranked.indexOf(row) >= 0 && run.fitness[0]?.values[row] !== null
        && run.fitness[0]?.values[row] !== undefined
        ? `${run.ranked.indexOf(row) + 1} of ${run.size.toLocaleString("en")}` : null],
    ["generation", run.column("generation").text(row)], ["origin", run.column("origin").text(row)],
    ["duplicate of", candidates.duplicate_of[row] === null ? null : candidateLink(candidates.duplicate_of[row])],
    ["remark", run.column("remark").text(row)]]));
  if (candidates.error[row] !== null) {
    const trace = candidates.tracebacks?.[candidates.error[row]], text = candidates.errors[candidates.error[row]];
    result.push(element("div", { class: "error" }, element("p", {}, element("b", {}, text)),
      trace ? element("pre", { tabindex: "0" }, trace) : null,
      copyButton("Copy error", () => trace ?? text, "The error")));
  }
  result.push(...part("Genes", facts(run.genes.map((gene) => [truncate(gene.label, 40), gene.text(row)]))));
  const parents = differences(run, row);
  if (parents.length) result.push(...part("Changes", ...parents));
  result.push(...part("Learning curve", element("div", { class: "plot short", id: "details-curve" })));
  if (early?.predicted) {
    const sentences = Object.entries(early.predicted).map(
      ([monitor, { mean, low, high }]) =>
        [`${monitor}, predicted`, `${formatNumber(mean)} (${formatNumber(low)} to ${formatNumber(high)})`]);
    result.push(facts([...sentences, [`stopped at ${run.raw.curves.along}`, early.stopped_at],
      [`would have been stopped at ${run.raw.curves.along}`, early.would_stop_at],
      ["control", early.control ? "yes (trained to the end to check predictions)" : null]]));
  }
  const measured = run.columns.filter(({ group }) => ["costs", "times", "metrics", "predictions"].includes(group));
  result.push(...part("Costs, times and metrics", facts(measured.map((column) => [column.label, column.text(row)]))));
  const chain = ancestry(run, row);
  if (chain.length) result.push(
    ...part("Ancestors", element("ul", { class: "chain" },
      chain.map(([ancestor, inherited, child]) => element("li", {}, candidateLink(run.ids[ancestor]),
        element("span", {}, [run.fitness[0]?.text(ancestor), inherited ? "weights inherited" : "",
          run.describeChanges(child, ancestor, 2).join("; ")].filter(Boolean).join(" · ")))))));
  const children = run.children(id);
  if (children.length) result.push(
    ...part(formatCount(children.length, "child", "children"),
      element("p", { class: "ids" }, children.slice(0, 60).map((child) => candidateLink(child)),
        children.length > 60 ? `and ${children.length - 60} more` : null)));
  result.push(...part("Config (values set by genes are highlighted)",
    element("pre", { tabindex: "0", "aria-label": "Config" }, lines.flatMap(([line, marked]) => {
      const [, indent, rest] = /^(\s*)(.*)$/.exec(line);
      return [indent, marked ? element("mark", {}, rest) : rest, "\n"];
    }))));
  const link = () => location.href.split("#")[0]
    + `#${state.runs.length > 1 ? `run=${run.index + 1}&` : ""}candidate=${id}`;
  result.push(element("p", { class: "ids", style: "margin-top:8px" },
    copyButton("Copy config", () => `${lines.map(([line]) => line).join("\n")}\n`, "The config"),
    copyButton("Copy link", link, "The link"),
    element("button", { type: "button", onclick: () => showFamily() }, "Show family")));
  panel.replaceChildren(element("div", { class: "top" }, title, element("span", { class: "grow" }),
    step("‹", "Previous candidate in the leaderboard", at - 1),
    step("›", "Next candidate in the leaderboard", at + 1),
    element("button", { type: "button", id: "close", "aria-label": "Close (Escape)",
      onclick: () => openCandidate(null) }, "✕")), ...result);
  panel.hidden = false;
  panel.scrollTop = scrolled;
  renderCandidateCurve(row);
  if (kind === "open" || focused) title.focus({ preventScroll: true });
}

function restoreFocus() {
  const again = previousFocus?.isConnected ? previousFocus
    : byId("table").querySelector(`[data-candidate="${previousFocus?.dataset?.candidate}"]`);
  (again ?? byId("leaderboard")).focus({ preventScroll: true });
}

function renderCandidateCurve(row) {
  const { run } = state, place = byId("details-curve"), curve = run.raw.curves.every[run.ids[row]],
    places = run.raw.curves.places[run.ids[row]];
  const names = curve ? Object.keys(curve).filter((name) => curve[name].some((value) => value !== null)) : [];
  if (!names.length) {
    place.className = "muted";
    place.textContent = "No learning curve.";
    return;
  }
  const prediction = run.raw.early?.[run.ids[row]]?.predicted ?? {}, loss = (name) => /loss|error|perplexity/.test(name),
    two = names.some(loss) && !names.every(loss);
  const data = names.slice(0,
    8).map((name, index) => (
      { type: "scatter", mode: "lines+markers", name: escaped(truncate(name, 24)), x: places, y: curve[name],
        marker: { size: 4 }, hoverinfo: "x+y",
        yaxis: two && loss(name) ? "y2" : "y",
        line: { color: themeColor(`run-${index}`), width: 2, dash: two && loss(name) ? "dot" : "solid" } }));
  for (const [monitor, { mean, low, high }] of Object.entries(prediction)) {
    if (!names.includes(monitor) || mean === null) continue;
    data.push({ type: "scatter", mode: "markers", showlegend: false, hoverinfo: "y",
      x: [(run.raw.early[run.ids[row]].end ?? places.at(-1)) + (run.raw.curves.along === "step" ? 0 : 0.5)], y: [mean], yaxis: two
        && loss(monitor) ? "y2" : "y",
      error_y: { type: "data", symmetric: false, array: [Math.max(0, high - mean)],
        arrayminus: [Math.max(0, mean - low)], color: themeColor("chosen"), thickness: 1.5 },
      marker: { symbol: "line-ew", size: 10, color: themeColor("chosen"), line: { width: 2, color: themeColor("chosen") } } });
  }
  place.setAttribute("role", "img");
  const end = (name) => curve[name].filter((value) => value !== null).at(-1);
  place.setAttribute("aria-label",
    `Learning curve: ${names.map((name) => `${name} ends at ${formatNumber(end(name))}`).join(", ")}`);
  Plotly.newPlot(place, data,
    baseLayout({ hovermode: "x", margin: { l: 44, r: two ? 44 : 10, t: 8, b: 36 }, xaxis: axis(run.raw.curves.along),
      yaxis: axis(""), ...(two ? { yaxis2: axis("", { overlaying: "y", side: "right", showgrid: false }) } : {}) }),
    { displayModeBar: false, responsive: true });
}

function showFamily() {
  state.choices["lineage.who"] = "family";
  const select = sectionControls("lineage").querySelector("[data-choice='lineage.who'] select");
  if (select) select.value = "family";
  invalidate("lineage");
  // the panel stays: the tree is behind it on a phone, which Escape or the cross uncovers
  if (innerWidth < 1000) openCandidate(state.open);
  byId("lineage").scrollIntoView();
}

subscribe("open data theme", renderDetails);

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.open !== null) {
    event.preventDefault();
    openCandidate(null);
  }
});
