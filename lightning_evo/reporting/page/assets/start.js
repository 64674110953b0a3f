// Startup and updates: reads the page's data, and requests new data if there is a server.
"use strict";

const INTERVAL = 3000; // milliseconds between two requests

let etag = null, unreachableSince = null;

async function poll() {
  try {
    const answer = await fetch("data",
      { cache: "no-store", headers: etag ? { "If-None-Match": etag } : {}, signal: AbortSignal.timeout(20000) });
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const payload = await parsePayload(new Uint8Array(await answer.arrayBuffer()));
      etag = answer.headers.get("ETag");
      loadPayload(payload);
    }
    unreachableSince = null;
    const running = state.runs.some((run) => run.raw.status === "running");
    showLiveStatus(`Live: ${running ? "the search is running" : "the search has ended"}, last `
        + `change ${formatDate(state.payload.generated)}`, false);
  } catch (problem) {
    unreachableSince ??= new Date();
    showLiveStatus(`The server hasn't answered since ${unreachableSince.toLocaleTimeString()} (${problem.message}). The page shows the `
        + `state at that time.`, true);
  }
  setTimeout(poll, INTERVAL);
}

function showLiveStatus(text, lost) {
  const place = byId("live");
  if (place.textContent === text) return;
  place.textContent = text;
  place.classList.toggle("gone", lost);
  place.hidden = false;
}

async function start() {
  const payload = await embeddedPayload;
  if (!payload) throw new Error("the page contains no data");
  loadPayload(payload);
  notify("run");
  readAddress();
  // only now, when tables have pushed the plots to their places
  for (const { place } of plots.values()) visibilityObserver.observe(place);
  addEventListener("hashchange", readAddress);
  if (payload.live) setTimeout(poll, INTERVAL);
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

// Everything is drawn before printing, because paper doesn't scroll.
addEventListener("beforeprint", () => { for (const plot of plots.values()) if (plot.stale && state.run) renderPlot(plot); });

start().catch((problem) => {
  byId("name").textContent = "This report can't be displayed";
  byId("about").textContent =
    `${problem.message}. The report needs a browser from 2023 or later (DecompressionStream) and a complete `
    + `file.`;
  throw problem;
});
