// The leaderboard: sorted by any column, in pages, with the columns that the reader chose.
"use strict";

const DEFAULT_GENES = 8;

function defaultColumns(run) {
  const keys = ["id", "status", ...run.fitness.map(({ key }) => key)];
  keys.push(...run.genesByImportance.filter(
    ({ values }) => values.some((value) => value !== null && value !== undefined)).slice(0,
      DEFAULT_GENES).map(({ key }) => key));
  keys.push("generation", "origin", "cost:params", "took");
  return keys.filter((key) => run.column(key));
}

function shownColumns() {
  const keys = (state.columns ?? defaultColumns(state.run)).filter((key) => state.run.column(key));
  return keys.map((key) => state.run.column(key));
}

// The visible rows in the chosen order; what is missing comes last, either way.
function sortedRows() {
  const { run } = state, rows = visibleRows(), { key, descending } = state.sort;
  if (key === null) {
    const visible = new Set(rows);
    return run.ranked.filter((row) => visible.has(row));
  }
  const column = run.column(key), values = column.values, sign = descending ? -1 : 1;
  const texts = column.choices && column.kind !== "ordered";
  const missing = (row) => values[row] === null || values[row] === undefined;
  const order = texts ? new Map(
    column.choices.map((name, index) => [name, index]).sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(
      ([, index], place) => [index, place])) : null;
  const value = (row) => (column.ids ? values[row][0] ?? -1 : order ? order.get(values[row]) : values[row]);
  return [...rows].sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * (value(a) - value(b))) || a - b);
}

function renderTable() {
  const { run } = state, columns = shownColumns(), rows = sortedRows();
  const last = Math.max(0, Math.ceil(rows.length / state.pageSize) - 1);
  state.page = Math.min(state.page, last);
  const shown = rows.slice(state.page * state.pageSize, (state.page + 1) * state.pageSize);
  const spans = new Map(columns.filter(({ group }) => group === "objectives").map((column) => [column, column.extent()]));
  const focused = document.activeElement?.closest?.("#table")?.contains(document.activeElement)
    ? document.activeElement.dataset : null;
  const head = element("tr", {}, columns.map((column) => headCell(column)));
  const body = shown.map((row) => element("tr", { "data-row": row, class: run.ids[row] === state.open ? "open" : null },
    columns.map((column) => bodyCell(column, row, spans.get(column)))));
  if (!shown.length) {
    const why = run.size ? "No candidates match the filters." : "No candidates yet.";
    body.push(element("tr", {}, element("td", { colspan: columns.length, class: "muted" }, why)));
  }
  const table = element("table", { "aria-rowcount": rows.length + 1 },
    element("caption", { class: "unseen" }, `Candidates of ${run.name}, ${orderText()}`),
    element("thead", {}, head), element("tbody", {}, body));
  byId("table").replaceChildren(table);
  if (focused?.candidate) byId("table").querySelector(`[data-candidate="${focused.candidate}"]`)?.focus();
  else if (focused?.sort) byId("table").querySelector(`[data-sort="${CSS.escape(focused.sort)}"]`)?.focus();
  renderPager(rows.length, last);
}

function orderText() {
  const { key, descending } = state.sort;
  return key === null ? "best first" : `by ${state.run.column(key).label}, ${descending ? "descending" : "ascending"}`;
}

function headCell(column) {
  const { key, descending } = state.sort;
  const chosen = key === column.key || (key === null && column.key === "fitness:0");
  const down = key === null ? column.mode === "max" : descending;
  const arrow = element("span", { class: "arrow", "aria-hidden": "true" }, chosen ? (down ? "▾" : "▴") : "");
  const button = element("button",
    { type: "button", title: column.path ?? column.label, "data-sort": column.key, onclick: () => sortBy(column) },
    column.label, arrow);
  return element("th", { scope: "col", class: column.isNumber && column.unit !== "id" ? "number" : null,
    "aria-sort": chosen ? (down ? "descending" : "ascending") : "none" }, button);
}

// The best first where it is known what is better; again: the other way; again: as the leaderboard begins.
function sortBy(column) {
  const first = column.mode === "max", { key, descending } = state.sort;
  if (key !== column.key) state.sort = { key: column.key, descending: first };
  else if (descending === first) state.sort = { key, descending: !first };
  else state.sort = { key: null, descending: false };
  state.page = 0;
  notify("sort");
  announce(`Sorted ${orderText()}`);
}

function bodyCell(column, row, span) {
  const { run } = state, text = column.text(row), whole = column.exportValue(row);
  if (column.key === "id") return element("td", {}, candidateLink(run.ids[row]));
  if (column.key === "status") return element("td", {}, statusIcon(run.status(row)), text);
  if (["inherits", "duplicate_of"].includes(column.key) && whole !== null && run.rows.has(whole)) return element("td",
    {}, candidateLink(whole));
  const cell = element("td",
    { class: column.isNumber && column.unit !== "id" ? "number" : null,
      title: String(whole ?? "") === text ? null : whole }, truncate(text, 60));
  if (span && column.values[row] !== null && column.values[row] !== undefined) {
    const [low, high] = span, share = high > low ? (column.values[row] - low) / (high - low) : 1;
    cell.classList.add("fitness");
    cell.style.setProperty("--share", `${Math.round(100 * (column.mode === "min" ? 1 - share : share))}%`);
  }
  return cell;
}

byId("table").addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-row]");
  if (row && !event.target.closest("button")
      && !String(getSelection())) openCandidate(state.run.ids[Number(row.dataset.row)]);
});

// Arrows go from row to row, as in other lists.
byId("table").addEventListener("keydown", (event) => {
  const row = event.target.closest("tr[data-row]"),
    step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!row || !step) return;
  event.preventDefault();
  row[step]?.querySelector("button")?.focus();
});

function renderPager(many, last) {
  const go = (page) => () => { state.page = page; notify("sort"); };
  const button = (label, name, page, enabled) =>
    element("button", { type: "button", "aria-label": name, "data-page": name, disabled: !enabled, onclick: go(page) },
      label);
  const size = element("select", { "aria-label": "Rows per page" },
    [10, 25, 50, 100, 250].map((rows) => new Option(`${rows} rows`, rows, false, rows === state.pageSize)));
  size.addEventListener("change", () => { state.pageSize = Number(size.value); state.page = 0; notify("sort"); });
  const from = many ? state.page * state.pageSize + 1 : 0, to = Math.min(many, (state.page + 1) * state.pageSize);
  const focused = document.activeElement?.dataset?.page;
  byId("pager").replaceChildren(button("«", "First page", 0, state.page > 0),
    button("‹", "Previous page", state.page - 1, state.page > 0),
    element("span", {}, `${from.toLocaleString("en")}–${to.toLocaleString("en")} of ${many.toLocaleString("en")}`),
    button("›", "Next page", state.page + 1, state.page < last), button("»", "Last page", last, state.page < last),
    size);
  if (focused) byId("pager").querySelector(`[data-page="${focused}"]:not(:disabled)`)?.focus();
}

// -- columns and CSV --------------------------------------------------------------------------------------------------

function csv() {
  const columns = shownColumns(), lines = [columns.map(({ label }) => csvCell(label)).join(",")];
  for (const row of sortedRows()) lines.push(columns.map((column) => csvCell(column.exportValue(row))).join(","));
  return `${lines.join("\n")}\n`;
}

function renderTableControls() {
  const panel = element("div", { id: "columns-panel", hidden: true, role: "group", "aria-label": "Columns" });
  const chooserButton = element("button",
    { type: "button", "aria-expanded": "false", "aria-controls": "columns-panel" }, "Columns");
  const show = (shown) => {
    panel.hidden = !shown;
    chooserButton.setAttribute("aria-expanded", String(shown));
  };
  chooserButton.addEventListener("click", () => { fill(); show(panel.hidden); });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    show(false);
    chooserButton.focus();
  });
  function fill() {
    const { run } = state, shown = new Set(shownColumns().map(({ key }) => key)), groups = new Map();
    for (const column of run.columns) {
      const box = element("input", { type: "checkbox", value: column.key });
      box.checked = shown.has(column.key);
      box.addEventListener("change", () => {
        const now = new Set(shownColumns().map(({ key }) => key));
        if (box.checked) now.add(column.key);
        else now.delete(column.key);
        now.add("id");
        const usual = defaultColumns(run),
          order = [...usual, ...run.columns.map(({ key }) => key).filter((key) => !usual.includes(key))];
        state.columns = order.filter((key) => now.has(key));
        notify("sort");
      });
      if (!groups.has(column.group)) groups.set(column.group,
        element("fieldset", {}, element("legend", {}, column.group)));
      groups.get(column.group).append(element("label", {}, box, truncate(column.label, 60)));
    }
    const usual = element("button",
      { type: "button", onclick: () => { state.columns = null; notify("sort"); fill(); } }, "Default columns");
    panel.replaceChildren(usual, ...groups.values());
  }
  const save = element("button",
    { type: "button", onclick: () => saveText(`${state.run.name.replace(/[^\w.-]+/g, "_")}.csv`, csv()) }, "Save CSV");
  byId("table-controls").replaceChildren(element("span", { class: "popover" }, chooserButton, panel),
    copyButton("Copy CSV", csv, "The table"), save);
}

subscribe("run", renderTableControls);
subscribe("data run filter sort", renderTable);
subscribe("open", () => {
  for (const row of byId("table").querySelectorAll("tr[data-row]")) row.classList.toggle("open",
    state.run.ids[Number(row.dataset.row)] === state.open);
});
