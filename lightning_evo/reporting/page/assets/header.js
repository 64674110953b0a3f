// The header: names, status and totals of the runs, and a table that compares them.
"use strict";

function renderHeader() {
  const { payload, run, runs } = state, raw = run.raw;
  const names = runs.map(({ name }) => name);
  byId("name").textContent = names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more`
    : names.join(", ");
  document.title = `${names.join(", ")} – lightning-evo report`;
  const badge = byId("status");
  badge.textContent = raw.status;
  badge.className = `badge ${raw.status}`;
  const goals = run.objectives.map(({ monitor, mode }) => `${mode === "max" ? "highest" : "lowest"} ${monitor}`).join(
    " and ");
  const budget = Object.entries(raw.budget ?? {}).filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${typeof value === "number" ? formatNumber(value) : value} ${name}`).join(", ");
  const about = [goals && `Objective: ${goals}`, raw.algorithm, budget && `budget ${budget}`, raw.seed !== null
      && raw.seed !== undefined && `seed ${raw.seed}`,
    `started ${formatDate(raw.created)}`, `report created ${formatDate(payload.generated)}`];
  byId("about").textContent = about.filter(Boolean).join(" · ");
  byId("notes").replaceChildren(...(raw.notes ?? []).map((note) => element("li", {}, note)));
  byId("notes").hidden = !(raw.notes ?? []).length;
  byId("footer").textContent = `lightning-evo ${raw.version} · ${raw.directory} · plotly.js ${Plotly.version}`;
  const chosen = byId("run");
  byId("run-chooser").hidden = runs.length < 2;
  chosen.replaceChildren(...runs.map((each) => new Option(truncate(each.name, 40), each.index, false, each === run)));
}

byId("run").addEventListener("change", (event) => chooseRun(Number(event.target.value)));
subscribe("data run", renderHeader);

function renderSections() {
  const cards = [...document.querySelectorAll(".card[data-title]")].filter((card) => !card.hidden);
  byId("sections").replaceChildren(
    ...cards.map((card) => element("li", {}, element("a", { href: `#${card.id}` }, card.dataset.title))));
}

// Sections are reached without a change of the address, which holds the open candidate.
byId("sections").addEventListener("click", (event) => {
  const target = event.target.closest("a");
  if (!target) return;
  event.preventDefault();
  const card = document.querySelector(target.getAttribute("href"));
  card.scrollIntoView();
  card.setAttribute("tabindex", "-1");
  card.focus({ preventScroll: true });
});

// -- totals -----------------------------------------------------------------------------------------------------------

function candidateLink(id, label = `#${id}`) {
  return element("button", { type: "button", class: "link", "data-candidate": id, onclick: () => openCandidate(id) },
    label);
}

function total(what, value, ...more) {
  return element("div", { class: "total" }, element("div", { class: "what", title: what }, what),
    element("div", { class: "value" }, value),
    element("div", { class: "more" }, ...more));
}

function renderTotals() {
  const { run } = state, raw = run.raw, totals = raw.totals, cards = [];
  run.objectives.forEach(({ monitor, mode }, place) => {
    const column = run.fitness[place], best = bestRow(run, place);
    cards.push(total(`${mode === "max" ? "Highest" : "Lowest"} ${monitor}`, best === null ? "–" : column.text(best),
      best === null ? "no finished candidate yet" : candidateLink(run.ids[best], `candidate #${run.ids[best]}`)));
  });
  const counts = [COMPLETED, STOPPED, FAILED,
    PENDING].map((status) => [status, totals.candidates?.[STATUS[status]] ?? 0]).filter(([, many]) => many);
  const shares = element("div", { class: "shares", "aria-hidden": "true" });
  for (const [status, many] of counts) shares.append(
    element("span", { style: `flex:${many};background:var(--${STATUS[status]})` }));
  cards.push(total("Candidates", run.size.toLocaleString("en"),
    counts.map(([status, many]) => `${many.toLocaleString("en")} ${STATUS[status]}`).join(", ") || "none yet",
    shares));
  const busy = totals.busy === null || totals.busy === undefined ? "" : `, ${formatPercent(totals.busy)} busy`;
  cards.push(total("Training time", formatDuration(totals.seconds ?? null), `${formatCount(totals.slots ?? 0, "slot")}${busy}`));
  const flops = totals.training_flops ? `${formatNumber(totals.training_flops)} training FLOPs` : "trained by all candidates";
  cards.push(total("Epochs", formatNumber(totals.epochs ?? 0), flops));
  const early = raw.savings?.early_stopping, inheritance = raw.savings?.inheritance;
  if (early && early.stopped) {
    const whole = early.epochs_trained + early.epochs_saved;
    cards.push(total("Saved by early stopping", formatPercent(early.epochs_saved / Math.max(1, whole)),
      `${formatNumber(early.epochs_saved)} of ${formatNumber(whole)} epochs`));
  }
  if (inheritance) {
    cards.push(total("Started from a parent's weights", formatNumber(inheritance.inherited ?? 0),
      inheritance.share === null
        || inheritance.share === undefined ? "candidates"
        : `candidates; tensors: ${formatPercent(inheritance.share)} copied, ${formatPercent(inheritance.sliced ?? 0)} sliced`));
  }
  byId("totals").replaceChildren(...cards);
}

subscribe("data run", renderTotals);

// -- costs and savings ------------------------------------------------------------------------------------------------

function plainTable(head, rows) {
  const numeric = (cell) => cell !== null && typeof cell === "object" && cell.number;
  const cell = (tag, content) =>
    element(tag, { class: numeric(content) ? "number" : null }, numeric(content) ? content.text : content);
  return element("table", {}, element("thead", {}, element("tr", {}, head.map((name) => cell("th", name)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((content) => cell("td", content))))));
}

const figure = (text) => ({ number: true, text });

function renderSavings() {
  const { run } = state, rows = visibleRows();
  const costs = run.columns.filter((column) => column.isNumber
      && (column.group === "costs" || column.key === "took"
          || (column.group === "objectives" && column.label.startsWith("cost/"))));
  const lines = costs.map((column) => {
    const values = rows.map((row) => column.values[row]).filter((value) => value !== null
        && value !== undefined).sort((a, b) => a - b);
    if (!values.length) return null;
    const sum = values.reduce((all, value) => all + value, 0),
      additive = /seconds|epochs|flops$|took|energy|waiting/.test(column.label);
    return [column.label, figure(additive ? column.format(sum) : ""), figure(column.format(quantile(values, 0.5))),
      figure(column.format(values[0])), figure(column.format(values.at(-1)))];
  }).filter(Boolean);
  const result = [];
  if (lines.length) result.push(
    plainTable(["per candidate", figure("sum"), figure("median"), figure("minimum"), figure("maximum")], lines));
  else result.push(element("p", { class: "muted" }, "No costs have been measured yet."));
  const early = run.raw.savings?.early_stopping, inheritance = run.raw.savings?.inheritance,
    checkpoints = run.raw.savings?.checkpoints, sentences = [];
  if (early) {
    const whole = early.epochs_trained + early.epochs_saved;
    sentences.push(`Early stopping: ${formatCount(early.stopped, "candidate")} stopped, `
      + `${formatNumber(early.epochs_saved)} of ${formatNumber(whole)} epochs saved.`);
    if (early.would_stop) sentences.push(
      `Of ${formatCount(early.controls, "control")} trained to the end, ${early.would_stop} would have been `
        + `stopped, ${early.wrong} of them incorrectly (regret ${formatNumber(early.regret)}); ${early.covered} ended `
        + `within the predicted 90% interval.`);
  }
  if (inheritance) {
    const rest = [[inheritance.older, "from an older ancestor"],
      [inheritance.scratch, "from scratch instead"]].filter(([many]) => many).map(
        ([many, what]) => `, ${many} ${what}`);
    sentences.push(`Inheritance: ${formatCount(inheritance.inherited ?? 0, "candidate")} started from a parent's `
        + `weights${rest.join("")}.`);
  }
  if (checkpoints) sentences.push(
    `Checkpoints: ${checkpoints.kept} kept, ${(checkpoints.bytes / 1e6).toFixed(1)} MB on `
      + `disk, ${(checkpoints.peak_bytes / 1e6).toFixed(1)} MB at most.`);
  if (!early && !inheritance) sentences.push("No candidate was stopped early or started from a parent's weights.");
  if (run.raw.final) sentences.push(`Test of the winner: ${finalText(run.raw.final)}.`);
  result.push(...sentences.map((line) => element("p", { style: "margin-top:8px" }, line)));
  byId("savings-table").replaceChildren(...result);
}

function finalText(final) {
  const flat = (value, path) => value !== null && typeof value === "object" && !Array.isArray(value)
    ? Object.entries(value).flatMap(([name, inner]) => flat(inner, path ? `${path}.${name}` : name))
    : [`${path} ${typeof value === "number" ? formatNumber(value) : value}`];
  return flat(final.metrics ?? final, "").join(", ");
}

subscribe("data run filter", renderSavings);

// -- failures ---------------------------------------------------------------------------------------------------------

function renderFailures() {
  const { run } = state, { error, errors, tracebacks } = run.candidates, byError = new Map();
  for (const row of visibleRows()) {
    if (run.status(row) !== FAILED) continue;
    const key = error[row] ?? -1;
    if (!byError.has(key)) byError.set(key, []);
    byError.get(key).push(run.ids[row]);
  }
  const listed = [...byError].sort((a, b) => b[1].length - a[1].length).slice(0, 30).map(([key, ids]) => {
    const trace = tracebacks?.[key];
    return element("div", { class: "error" },
      element("p", {}, element("b", {}, truncate(errors[key] ?? "failed", 300))),
      element("p", { class: "ids" }, element("span", { class: "muted" }, `${formatCount(ids.length, "candidate")}:`),
        ids.slice(0, 12).map((id) => candidateLink(id)),
        ids.length > 12 ? element("span", { class: "muted" }, `and ${ids.length - 12} more`) : null),
      trace ? element("details", {}, element("summary", {}, "Traceback"), element("pre", { tabindex: "0" }, trace))
        : null);
  });
  if (byError.size > 30) listed.push(element("p", { class: "muted" }, `and ${byError.size - 30} more errors`));
  byId("failures-list").replaceChildren(
    ...(listed.length ? listed
        : [element("p", { class: "muted" },
          hasFilters() ? "None of the candidates shown failed." : "No candidate failed.")]));
}

subscribe("data run filter", renderFailures);

// -- runs compared ----------------------------------------------------------------------------------------------------

function bestRow(run, place) {
  let best = null;
  run.fitness[place].values.forEach((value, row) => {
    if (value === null || value === undefined || run.status(row) === STOPPED) return;
    if (best === null || run.isBetter(place, value, run.fitness[place].values[best])) best = row;
  });
  return best;
}

function renderRunComparison() {
  const { runs } = state;
  byId("compared").hidden = runs.length < 2;
  if (runs.length < 2) return;
  const monitors = [...new Set(runs.flatMap((run) => run.objectives.map(({ monitor }) => monitor)))];
  const head = ["run", "status", "algorithm", ...monitors.map((monitor) => figure(`best ${monitor}`)),
    ...["candidates", "failed", "epochs", "training time"].map(figure)];
  const rows = runs.map((run) => {
    const name = element("button", { type: "button", class: "link", onclick: () => chooseRun(run.index) },
      truncate(run.name, 60));
    const cells = monitors.map((monitor) => {
      const place = run.objectives.findIndex((objective) => objective.monitor === monitor),
        best = place < 0 ? null : bestRow(run, place);
      return figure(best === null ? "–" : run.fitness[place].text(best));
    });
    const totals = run.raw.totals;
    return [element("span", {}, element("span", { class: "dot", style: `background:var(--run-${run.index % 8})` }),
      name), run.raw.status, run.raw.algorithm ?? "",
      ...cells, figure(run.size.toLocaleString("en")), figure(formatNumber(totals.candidates?.failed ?? 0)),
      figure(formatNumber(totals.epochs ?? 0)), figure(formatDuration(totals.seconds ?? null))];
  });
  byId("compared-table").replaceChildren(plainTable(head, rows));
}

subscribe("data run", () => { renderRunComparison(); renderSections(); });
