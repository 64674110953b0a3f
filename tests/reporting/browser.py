"""How does a test look at a page? In headless Chromium, failing at a script's error or a request that leaves the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
QUESTIONS = Path(__file__).with_name("questions.js")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
DARK: dict[str, Any] = {**DESKTOP, "color_scheme": "dark"}
PATIENCE = 60_000
"""Milliseconds that a page may take on a machine that does much else."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the report's page is tested with playwright")
    if CHROMIUM is None:
        pytest.skip("the report's page is tested with Chromium or Chrome, and neither is in the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def another(browser: Any, *flags: str) -> Iterator[Any]:
    """A browser like the one given, with other flags."""
    started = browser.browser_type.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
    try:
        yield started
    finally:
        started.close()


@dataclass
class Opened:
    """A page that is open: the browser's page, and what went wrong in it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __call__(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        return self.page.evaluate(script)

    def waits(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.page.wait_for_function(script, timeout=PATIENCE)

    def draw(self, *names: str) -> None:
        """Scroll plots near the screen (all of them without names) and wait until they are drawn as things are now."""
        for name in names or self("shownPlots()"):
            self(f"plots.get('{name}').place.scrollIntoView({{ behavior: 'instant', block: 'center' }})")
            self.waits(f"plots.get('{name}').drawn > 0 && !plots.get('{name}').stale")
        self.waits("renderQueue.size === 0 && !renderScheduled")

    def rows(self) -> list[int]:
        """The ids in the leaderboard's rows, from the top."""
        return self("[...document.querySelectorAll('#table [data-row]')].map((row) => state.run.ids[row.dataset.row])")

    def points(self, plot: str, name: str) -> int:
        """How many points the traces of this name have in a plot."""
        return self(f"pointsOf('{plot}', '{name}')")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def caption(self, plot: str) -> str:
        return self(f"plots.get('{plot}').caption.textContent")


@contextmanager
def opened(browser: Any, address: str | Path, form: dict[str, Any] = DESKTOP, strict: bool = True) -> Iterator[Opened]:
    """A page that has read its data.

    Args:
        browser: From :func:`chromium`.
        address: A URL or a file, which may end with ``#candidate=…``.
        form: What is it shown on?
        strict: Fail where the page met an error or asked anybody but the server it came from.
    """
    url = address if isinstance(address, str) else address.as_uri()
    context = browser.new_context(**form)
    try:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        seen = Opened(page)
        page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(f"{error}\n{error.stack}"))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.add_init_script(path=QUESTIONS)
        page.goto(url)
        seen.waits("document.documentElement.dataset.ready === 'true'")
        yield seen
        if strict:
            assert not seen.errors, "\n".join(seen.errors)
        own = url.split("#")[0]
        asked = [
            r
            for r in seen.requests
            if r.split("#")[0] not in (own, f"{own}data") and not r.startswith(("data:", "blob:"))
        ]
        assert not asked, f"the page asked for {asked}"
    finally:
        context.close()
