// How does the page begin, and how does it stay up to date? Reads its data, and asks the server for newer ones where
// there is one.
"use strict";

const EVERY = 3000; // milliseconds between two questions

let mark = null, gone = null;

async function ask() {
  try {
    const answer = await fetch("data",
      { cache: "no-store", headers: mark ? { "If-None-Match": mark } : {}, signal: AbortSignal.timeout(20000) });
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const payload = await decoded(new Uint8Array(await answer.arrayBuffer()));
      mark = answer.headers.get("ETag");
      takeIn(payload);
    }
    gone = null;
    const running = state.runs.some((run) => run.raw.status === "running");
    live(`Live: ${running ? "the search is running" : "the search has ended"}, last `
        + `change ${moment(state.payload.generated)}`, false);
  } catch (problem) {
    gone ??= new Date();
    live(`The server hasn't answered since ${gone.toLocaleTimeString()} (${problem.message}). Shown is what was `
        + `known by then.`, true);
  }
  setTimeout(ask, EVERY);
}

function live(text, lost) {
  const place = byId("live");
  if (place.textContent === text) return;
  place.textContent = text;
  place.classList.toggle("gone", lost);
  place.hidden = false;
}

async function start() {
  const payload = await reading;
  if (!payload) throw new Error("the page holds no data");
  takeIn(payload);
  changed("run");
  readAddress();
  // only now, when tables have pushed the plots to their places
  for (const { place } of plots.values()) watcher.observe(place);
  addEventListener("hashchange", readAddress);
  if (payload.live) setTimeout(ask, EVERY);
  document.documentElement.dataset.ready = "true";
  performance.mark("ready");
}

// Paper has no scrolling: everything is drawn before it is printed.
addEventListener("beforeprint", () => { for (const plot of plots.values()) if (plot.stale && state.run) draw(plot); });

start().catch((problem) => {
  byId("name").textContent = "This report can't be shown";
  byId("about").textContent =
    `${problem.message}. Browsers since 2023 can read it (DecompressionStream); is yours older, or is the file `
    + `cut off?`;
  throw problem;
});
