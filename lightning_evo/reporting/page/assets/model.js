// A run: columns of its candidates, their ranking, lineage and mutations.
"use strict";

// The payload that the page carries: gzip in base64.
async function readEmbedded() {
  const text = byId("data").textContent.trim();
  if (!text) return null;
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
  return parsePayload(bytes);
}

// Begun at once: it is unpacked beside the main thread, which is busy with plotly meanwhile.
const embeddedPayload = readEmbedded();
embeddedPayload.catch(() => {}); // start.js waits for it and reports errors

// JSON from bytes, compressed or not.
async function parsePayload(bytes) {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }
  return JSON.parse(new TextDecoder().decode(bytes));
}

// A column of the candidates. `values` are numbers, indices into `choices` where there are choices, or lists of ids.
class Column {
  constructor(key, label, group, values, options = {}) {
    Object.assign(this, { key, label, group, values, choices: null, log: false, mode: null, unit: null, ids: false },
      options);
  }

  get isNumber() { return !this.choices && !this.ids; }

  // What a cell shows.
  text(row) { return this.format(this.values[row]); }

  format(value) {
    if (value === null || value === undefined) return "";
    if (this.ids) return value.join(", ");
    if (this.choices) return this.choices[value] ?? "";
    if (this.unit === "id") return String(value);
    return this.unit === "s" ? formatDuration(value) : formatNumber(value);
  }

  // What programs get: the whole value.
  exportValue(row) {
    const value = this.values[row];
    if (value === null || value === undefined) return null;
    if (this.ids) return value.join(" ");
    return this.choices ? this.choices[value] : value;
  }

  // The value itself as a config holds it: a choice's label may be short for more.
  configValue(row) {
    return this.raw?.[this.values[row]] ?? this.exportValue(row);
  }

  extent() {
    let low = Infinity, high = -Infinity;
    for (const value of this.values) {
      if (value === null || value === undefined) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return low <= high ? [low, high] : null;
  }

  // Whether a logarithmic axis suits it: all above zero, over more than one and a half decades.
  get suitsLogScale() {
    const span = this.isNumber ? this.extent() : null;
    return this.log || (span !== null && span[0] > 0 && span[1] / span[0] > 30);
  }
}

class Run {
  constructor(raw, index) {
    this.raw = raw;
    this.index = index;
    this.name = raw.name;
    this.candidates = raw.candidates;
    this.ids = raw.candidates.id;
    this.size = this.ids.length;
    this.rows = new Map(this.ids.map((id, row) => [id, row]));
    this.objectives = raw.objectives;
    this.columns = makeColumns(raw);
    this.byKey = new Map(this.columns.map((column) => [column.key, column]));
    this.fitness = this.objectives.map((_, place) => this.byKey.get(`fitness:${place}`));
  }

  column(key) { return this.byKey.get(key); }
  status(row) { return this.candidates.status[row]; }
  row(id) { return this.rows.get(id); }

  // Whether a value is better than another, of an objective.
  isBetter(place, value, than) {
    return this.objectives[place].mode === "max" ? value > than : value < than;
  }

  // Rows, best first: of several objectives the front's first, each by the first objective; those without fitness last.
  get ranked() {
    if (!this._ranked) {
      const front = new Set(this.objectives.length > 1 ? this.raw.front : []);
      const values = this.fitness[0]?.values ?? [], sign = this.objectives[0]?.mode === "max" ? -1 : 1;
      const last = [3, 0, 1, 2]; // pending after failed ones
      const key = (row) => (values[row] === null || values[row] === undefined ? 1 : 0);
      this._ranked = this.ids.map((_, row) => row).sort((a, b) =>
          key(a) - key(b) || (key(a) ? last[this.status(b)] * -1 + last[this.status(a)]
              : front.has(this.ids[b]) - front.has(this.ids[a]) || sign * (values[a] - values[b])) || a - b);
    }
    return this._ranked;
  }

  get best() {
    const row = this.ranked[0], value = row === undefined ? null : this.fitness[0]?.values[row];
    return value === null || value === undefined ? null : row;
  }

  // When a result came, in seconds; of those answered by another's result when they were asked.
  resultTime(row) { return this.candidates.ended[row] ?? this.candidates.queued[row] ?? 0; }

  // Rows in the order in which their results came.
  get finishedRows() {
    if (!this._finishedRows) {
      this._finishedRows = this.ids.map((_, row) => row).filter((row) => this.status(row) !== PENDING);
      this._finishedRows.sort((a, b) => this.resultTime(a) - this.resultTime(b) || a - b);
    }
    return this._finishedRows;
  }

  children(id) {
    if (!this._children) {
      this._children = new Map();
      this.candidates.parents.forEach((parents, row) => {
        for (const parent of new Set(parents)) {
          if (!this._children.has(parent)) this._children.set(parent, []);
          this._children.get(parent).push(this.ids[row]);
        }
      });
    }
    return this._children.get(id) ?? [];
  }

  parents(row) { return [...new Set(this.candidates.parents[row])].filter((id) => this.rows.has(id)); }

  // The genes in which a candidate differs from a parent, by gene.
  changedGenes(row, parent) {
    return this.genes.filter((gene) => gene.values[row] !== gene.values[parent]);
  }

  get genes() { return this.columns.filter((column) => column.group === "genes"); }

  // What changed from a parent, in words.
  describeChanges(row, parent, most = 4) {
    const changedGenes = this.changedGenes(row, parent);
    const described = changedGenes.slice(0, most).map((gene) =>
        `${gene.label}: ${truncate(gene.text(parent) || "–", 24)} → ${truncate(gene.text(row) || "–", 24)}`);
    if (changedGenes.length > most) described.push(`and ${changedGenes.length - most} more`);
    return described;
  }

  // All of a candidate's text, in small letters, for the search.
  searchText(row) {
    if (!this._searchTexts) this._searchTexts = [];
    if (this._searchTexts[row] === undefined) {
      const texts = [`#${this.ids[row]}`, STATUS[this.status(row)]];
      for (const column of this.columns) {
        if (column.choices && column.key !== "status") texts.push(column.text(row));
        else if (column.group === "genes") texts.push(column.text(row));
      }
      this._searchTexts[row] = texts.join("\n").toLowerCase();
    }
    return this._searchTexts[row];
  }

  // Genes by importance for the first objective, else as they are in the space.
  get genesByImportance() {
    const found = this.raw.importance?.[this.objectives[0]?.monitor]?.genes ?? [];
    const place = new Map(found.map((gene, index) => [`gene:${gene.path}`, index]));
    return [...this.genes].sort((a, b) => (place.get(a.key) ?? 1e9) - (place.get(b.key) ?? 1e9));
  }
}

function makeColumns(raw) {
  const given = raw.candidates, all = [];
  const add = (...parts) => all.push(new Column(...parts));
  add("id", "id", "candidate", given.id, { unit: "id" });
  add("status", "status", "candidate", given.status, { choices: STATUS });
  const monitors = raw.objectives.map((objective) => objective.monitor);
  raw.objectives.forEach(({ monitor, mode }, place) => {
    const unit = /seconds|latency|time$/.test(monitor) ? "s" : null;
    add(`fitness:${place}`, monitor, "objectives", given.fitness[place] ?? [], { mode, unit });
  });
  for (const gene of raw.genes) {
    const log = gene.scale === "log" && gene.kind === "number";
    add(`gene:${gene.path}`, gene.name, "genes", given.genes[gene.path] ?? [],
      { choices: gene.choices, log, kind: gene.kind, path: gene.path, raw: gene.raw });
  }
  add("generation", "generation", "candidate", given.generation);
  add("origin", "origin", "candidate", given.origin, { choices: given.origins });
  add("parents", "parents", "candidate", given.parents, { ids: true });
  add("inherits", "weights from", "candidate", given.inherits, { unit: "id" });
  add("duplicate_of", "duplicate of", "candidate", given.duplicate_of, { unit: "id" });
  for (const [name, values] of Object.entries(given.costs)) {
    if (monitors.includes(`cost/${name}`)) continue;
    add(`cost:${name}`, name, "costs", values, { mode: "min", unit: /seconds|latency|time$/.test(name) ? "s" : null });
  }
  for (const [name, values] of Object.entries(given.metrics)) {
    if (!monitors.includes(name)) add(`metric:${name}`, name, "metrics", values);
  }
  for (const monitor of monitors) {
    const rows = new Map(given.id.map((id, row) => [String(id), row])), values = given.id.map(() => null);
    let found = false;
    for (const [id, [mean]] of Object.entries(raw.predicted?.[monitor] ?? {})) {
      values[rows.get(id)] = mean;
      found = true;
    }
    if (found) add(`predicted:${monitor}`, `${monitor} (predicted)`, "predictions", values);
  }
  const took = given.started.map((start, row) =>
      start === null || given.ended[row] === null ? null : Math.max(0, given.ended[row] - start));
  add("took", "duration", "times", took, { unit: "s" });
  add("started", "started", "times", given.started, { unit: "s" });
  add("ended", "ended", "times", given.ended, { unit: "s" });
  add("slot", "slot", "times", given.slot, { unit: "id" });
  add("attempts", "attempts", "times", given.attempts, { unit: "id" });
  add("error", "error", "notes", given.error, { choices: given.errors });
  add("remark", "remark", "notes", given.remark, { choices: given.remarks });
  return all;
}

// The rows that no other row beats: `axes` are [column, sign] with sign 1 where less is better, -1 where more is.
function paretoFront(rows, axes) {
  const points = rows.filter(
    (row) => axes.every(([column]) => column.values[row] !== null && column.values[row] !== undefined));
  const value = (row, place) => axes[place][1] * axes[place][0].values[row];
  points.sort((a, b) => {
    for (let place = 0; place < axes.length; place++) {
      const difference = value(a, place) - value(b, place);
      if (difference) return difference;
    }
    return a - b;
  });
  const front = [];
  let least = Infinity;
  for (const row of points) {
    if (axes.length === 2) {
      const second = value(row, 1);
      if (second < least) { front.push(row); least = second; }
    } else if (!front.some((other) => axes.every((_, place) => value(other, place) <= value(row, place)))) front.push(
      row);
  }
  return front;
}
