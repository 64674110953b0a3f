// Display formats of numbers, times and texts; users' texts are only ever inserted as text, never as markup.
"use strict";

const STATUS = ["pending", "completed", "stopped", "failed"];
const PENDING = 0, COMPLETED = 1, STOPPED = 2, FAILED = 3;
const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

// Four significant digits; 12.3k, 4.56M for large ones.
function formatNumber(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e4) return String(value);
  if (size >= 1e4 && size < 1e21) {
    const [unit, name] = PREFIXES.find(([unit]) => size >= unit * 0.9999);
    return `${+(value / unit).toPrecision(3)}${name}`;
  }
  if (size !== 0 && (size < 1e-3 || size >= 1e21)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+",
    "e");
  return String(+value.toPrecision(digits));
}

// Seconds as 3.2 s, 4 min 10 s, 2 h 13 min, 3 d 4 h.
function formatDuration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${+seconds.toPrecision(seconds < 10 ? 2 : 3)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([unit]) => seconds >= unit);
  const [unit, name] = parts[first], [next, nextName] = parts[first + 1];
  const rest = Math.floor((seconds % unit) / next);
  return `${Math.floor(seconds / unit)} ${name}` + (rest ? ` ${rest} ${nextName}` : "");
}

function formatPercent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(100 * share)}%`;
}

function formatCount(value, one, many = `${one}s`) {
  return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
}

// "5 of 20 candidates", or "20 candidates" where all are meant.
function formatCountOf(part, whole, one, many) {
  return `${part < whole ? `${part.toLocaleString("en")} of ` : ""}${formatCount(whole, one, many)}`;
}

function formatDate(unix) {
  return new Date(unix * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

// A text for Plotly, which understands some tags.
function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\n/g, " ");
}

function truncate(text, length = 40) {
  const whole = String(text);
  return whole.length > length ? `${whole.slice(0, length - 1)}…` : whole;
}

// A short name for a choice: of a class's path its last part.
function shortLabel(text, length) {
  return truncate(/^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$/.test(text) ? text.slice(text.lastIndexOf(".") + 1) : text, length);
}

// An element with attributes; children that are texts become text nodes.
function element(tag, attributes = {}, ...children) {
  const result = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) result.addEventListener(name.slice(2), value);
    else if (value === true) result.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) result.setAttribute(name, value);
  }
  result.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return result;
}

function byId(id) {
  return document.getElementById(id);
}

function statusIcon(status) {
  return element("span", { class: `dot ${STATUS[status]}`, "aria-hidden": "true" });
}

function announce(text) {
  byId("announcement").textContent = text;
}

function csvCell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

// Copies a text; where the clipboard is refused, through a text field, as pages from disk need it in some browsers.
async function copyText(text, what) {
  let done = false;
  if (navigator.clipboard) done = await navigator.clipboard.writeText(text).then(() => true, () => false);
  if (!done) {
    const field = element("textarea", { class: "unseen", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    done = document.execCommand("copy");
    field.remove();
  }
  announce(done ? `${what} copied` : `${what} could not be copied`);
  return done;
}

function copyButton(label, text, what) {
  const button = element("button", { type: "button" }, label);
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(text(), what)) ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}

function saveText(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function quantile(sorted, share) {
  if (!sorted.length) return null;
  const place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}
