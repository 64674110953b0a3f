// Filters: search, status, origin, and ranges of any column, which apply to all tables and plots.
"use strict";

let waiting = null;
byId("search").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    state.text = event.target.value;
    notify("filter");
  }, 120);
});

byId("more").addEventListener("click", () => {
  const panel = byId("filter-panel");
  panel.hidden = !panel.hidden;
  byId("more").setAttribute("aria-expanded", String(!panel.hidden));
  byId("filters").classList.toggle("opened", !panel.hidden);
});

function toggle(label, set, value, mark = null) {
  const button = element("button", { type: "button", "aria-pressed": String(set.has(value)) }, mark, label);
  button.addEventListener("click", () => {
    if (!set.delete(value)) set.add(value);
    button.setAttribute("aria-pressed", String(set.has(value)));
    notify("filter");
  });
  return button;
}

function renderFilterChoices() {
  const { run } = state, { status, origin, origins } = run.candidates;
  const tally = [0, 0, 0, 0], kinds = origins.map(() => 0);
  status.forEach((value) => { tally[value] += 1; });
  origin.forEach((value) => { if (value !== null) kinds[value] += 1; });
  replaceKeepingFocus("statuses",
    [COMPLETED, STOPPED, FAILED, PENDING].filter((value) => tally[value] || state.statuses.has(value))
      .map((value) => toggle(`${STATUS[value]} ${tally[value].toLocaleString("en")}`, state.statuses, value,
        statusIcon(value))));
  replaceKeepingFocus("origins",
    origins.map((name, index) => toggle(`${truncate(name)} ${kinds[index].toLocaleString("en")}`, state.origins,
      name)));
  const select = byId("range-column"), chosen = select.value, groups = new Map();
  for (const column of run.columns) {
    const offered = column.key !== "status" && column.key !== "origin" && !column.ids
      && (column.isNumber ? column.extent() : column.choices.length && column.choices.length <= 60);
    if (!offered) continue;
    if (!groups.has(column.group)) groups.set(column.group, element("optgroup", { label: column.group }));
    groups.get(column.group).append(new Option(truncate(column.label, 44), column.key));
  }
  select.replaceChildren(...groups.values());
  if (run.column(chosen)) select.value = chosen;
  if (select.value !== chosen) renderRangeInputs();
}

// Live data arrive every few seconds: the focused element of the group stays focused.
function replaceKeepingFocus(id, children) {
  const place = byId(id), focused = [...place.children].indexOf(document.activeElement);
  place.replaceChildren(...children);
  if (focused >= 0) place.children[focused]?.focus();
}

function renderRangeInputs() {
  const column = state.run.column(byId("range-column").value), place = byId("range-inputs");
  if (!column) return place.replaceChildren();
  const list = state.ranges.get(column.key);
  if (column.choices) {
    place.replaceChildren(...column.choices.map((name, index) => {
      const box = element("input", { type: "checkbox", value: index });
      box.checked = list ? inRanges(index, list) : false;
      return element("label", {}, box, truncate(name, 40));
    }));
    return;
  }
  const span = column.extent() ?? ["", ""], now = list?.[0] ?? [null, null];
  const field = (name, value, hint) =>
    element("input", { class: "number", inputmode: "decimal", "aria-label": `${name} of ${column.label}`,
      placeholder: typeof hint === "number" ? String(+hint.toPrecision(4)) : "",
      value: Number.isFinite(value) ? String(value) : "" });
  place.replaceChildren(field("Minimum", now[0], span[0]), "to", field("Maximum", now[1], span[1]));
}

byId("range-column").addEventListener("change", renderRangeInputs);
byId("range-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const column = state.run.column(byId("range-column").value),
    inputs = [...byId("range-inputs").querySelectorAll("input")];
  if (!column) return;
  if (column.choices) {
    setRange(column.key, inputs.filter(({ checked }) => checked).map(({ value }) => [Number(value), Number(value)]));
    return;
  }
  const bounds = inputs.map(({ value }) => (value.trim() === "" ? null : Number(value.replace(",", "."))));
  inputs.forEach((input, place) => input.setAttribute("aria-invalid", String(Number.isNaN(bounds[place]))));
  if (bounds.some(Number.isNaN)) return announce(`${column.label}: enter numbers such as 0.01 or 1e-3`);
  const [low, high] = [bounds[0] ?? -Infinity, bounds[1] ?? Infinity];
  setRange(column.key, low === -Infinity && high === Infinity ? null : [[Math.min(low, high), Math.max(low, high)]]);
});

function renderChips() {
  const { run } = state, chips = [];
  const chip = (text, remove) =>
    chips.push(element("li", {},
      element("button", { type: "button", class: "chip", title: text, "aria-label": `Remove filter ${text}`,
        onclick: remove }, `${truncate(text, 90)}  ×`)));
  for (const [key, list] of state.ranges) {
    const column = run.column(key);
    if (column) chip(describeRanges(column, list), () => setRange(key, null));
  }
  for (const status of state.statuses) {
    chip(`status: ${STATUS[status]}`, () => { state.statuses.delete(status); notify("filter"); });
  }
  for (const name of state.origins) chip(`origin: ${name}`, () => { state.origins.delete(name); notify("filter"); });
  if (hasFilters()) chips.push(
    element("li", {}, element("button", { type: "button", class: "chip", id: "clear", onclick: clearFilters },
      "Clear all filters")));
  byId("chips").replaceChildren(...chips);
  const many = visibleRows().length;
  byId("shown").textContent = hasFilters() ? `${many.toLocaleString("en")} of ${formatCount(run.size, "candidate")}`
    : formatCount(run.size, "candidate");
  if (document.activeElement !== byId("search")) byId("search").value = state.text;
}

subscribe("data run", renderFilterChoices);
subscribe("filter", () => { if (!byId("statuses").contains(document.activeElement)
    && !byId("origins").contains(document.activeElement)) renderFilterChoices(); });
subscribe("data run filter", renderChips);

new IntersectionObserver(([entry]) => byId("filters").classList.toggle("stuck", entry.intersectionRatio < 1),
  { threshold: [1], rootMargin: "-1px 0px 0px 0px" })
  .observe(byId("filters"));
