"""Size, speed and appearance of the report page, for a real search and for 20,000 synthetic candidates.

    python benchmarks/report.py [--search DIR] [--synthetic DIR] [--rounds 5] [--pictures DIR] [--json PATH]

Both archives are kept and reused: the real one (120 candidates on scikit-learn's digits, with a prescreen, early stopping
and inherited weights; some minutes) and the synthetic one (from the tests of the report: bred by tournaments, curves of ten
epochs, two objectives). For each, the report is written by ``lightning-evo report`` in a separate process, and then opened
from disk in headless Chromium without a graphics card, each round in a fresh browser, on a screen of 1440 x 900:

build: seconds from the command's start to its end, including imports.
interactive: seconds from the navigation until tables and filters respond.
first plots: seconds until every plot near the screen is drawn.
CPU: seconds of CPU that the page's main thread took until then, nearly independent of other programs on the machine.
filter: milliseconds from a click on a filter until tables and all plots near the screen are updated; the median of
switching on and off ``completed``, then ``stopped``.

Medians of the rounds, with the range. Screenshots of the whole page on a desktop, a phone (360 pixels wide) and in dark mode
go to ``--pictures``. Goals at 20,000 candidates: a file below 8 MB, and interactive with its first plots below 3 s.
Exit code 1 if one is missed, or if a script of the page raised an error. Needs playwright and /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser, Page, Playwright, sync_playwright
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "reporting"))

SCRIPT = Path(sys.executable).with_name("lightning-evo")
LARGEST, SLOWEST = 8e6, 3.0
FORMS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1440, "height": 900}},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}


def search_config(directory: Path) -> dict[str, Any]:
    """Config of the real search, which uses every feature that the report shows."""
    gene = "lightning_evo.models.chromosome.canonical_chromosome"
    return {
        "model": {
            "class_path": "BitstringCNN",
            "init_args": {
                "image_size": 8,
                "widths": [8, 16, 32, 64],
                "max_width": 128,
                "head": [64],
                "channels_last": True,
            },
        },
        "data": {"class_path": "Digits"},
        "trainer": {"max_epochs": 8, "accelerator": "cpu"},
        "evolution": {
            "space": {
                "model.init_args.chromosome": {
                    "class_path": "Bitstring",
                    "init_args": {"length": 20, "canonical": gene},
                },
                "model.init_args.lr": {"class_path": "LogUniform", "init_args": {"low": 1e-4, "high": 0.1}},
                "model.init_args.dropout": {"class_path": "Uniform", "init_args": {"low": 0.0, "high": 0.5}},
                "data.init_args.batch_size": {"class_path": "Ordinal", "init_args": {"choices": [32, 64, 128, 256]}},
            },
            "algorithm": {
                "class_path": "RegularizedEvolution",
                "init_args": {
                    "population_size": 16,
                    "tournament_size": 6,
                    "prescreen": {"predictor": {"class_path": "ForestPredictor"}},
                },
            },
            "objectives": [{"monitor": "val_acc", "mode": "max"}],
            "budget": {"candidates": 120},
            "workers": {"slots": 2, "threads": 1},
            "callbacks": [
                {"class_path": "EarlyFitnessPrediction", "init_args": {"delta": 0.05, "controls": 0.2}},
                {"class_path": "WeightInheritance"},
            ],
            "directory": str(directory),
            "seed": 1,
        },
    }


def real(directory: Path) -> Path:
    """The real search, run or continued until it is finished."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory.parent / f"{directory.name}.yaml"
    config.write_text(yaml.safe_dump(search_config(directory)))
    subprocess.run([SCRIPT, "fit", "--config", config], check=True, stdout=subprocess.DEVNULL)
    return directory


def made_up(directory: Path, candidates: int) -> Path:
    from reporting_archives import synthetic

    place = directory / f"{candidates}"
    return place if (place / "journal.jsonl").exists() else synthetic(place, candidates, seed=0, objectives=2)


@dataclass(frozen=True)
class Measured:
    """One report: seconds, except ``size`` (bytes) and ``filter`` (milliseconds); a value per round."""

    name: str
    candidates: int
    build: float
    size: int
    interactive: list[float]
    plots: list[float]
    cpu: list[float]
    filter: list[float]
    errors: list[str]


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
    try:
        yield browser
    finally:
        browser.close()


def opened(browser: Browser, file: Path, form: str, errors: list[str]) -> tuple[Page, float]:
    """A page after its first plots are drawn, and the CPU seconds of its main thread."""
    page = browser.new_context(**FORMS[form]).new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.set_default_timeout(120_000)
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_function("performance.getEntriesByName('drawn').length > 0")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return page, metrics["TaskDuration"]


FILTER = """async (status) => {
    const button = [...document.querySelectorAll('#statuses button')].find((each) => each.textContent.includes(status));
    const started = performance.now(), times = () => performance.getEntriesByName('drawn').length, before = times();
    button.click();
    while (times() === before) await new Promise((go) => setTimeout(go, 1));
    return performance.now() - started;
}"""


def measure(playwright: Playwright, name: str, archive: Path, folder: Path, rounds: int) -> Measured:
    file = folder / f"{name}.html"
    began = time.perf_counter()
    subprocess.run([SCRIPT, "report", archive, "--to", file], check=True, stdout=subprocess.DEVNULL)
    build = time.perf_counter() - began
    errors: list[str] = []
    interactive, plots, cpu, filters, candidates = [], [], [], [], 0
    for _ in range(rounds):
        with chromium(playwright) as browser:
            page, seconds = opened(browser, file, "desktop", errors)
            cpu.append(seconds)
            marks = "(name) => performance.getEntriesByName(name)[0].startTime / 1000"
            interactive.append(page.evaluate(marks, "ready"))
            plots.append(page.evaluate(marks, "drawn"))
            clicks = ("completed", "completed", "stopped", "stopped")
            filters.append(statistics.median(page.evaluate(FILTER, status) for status in clicks))
            candidates = page.evaluate("state.run.size")
    return Measured(name, candidates, build, file.stat().st_size, interactive, plots, cpu, filters, errors)


def photograph(playwright: Playwright, name: str, folder: Path, pictures: Path, errors: list[str]) -> None:
    """Screenshots of the whole page on each form factor."""
    pictures.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        with chromium(playwright) as browser:
            page, _ = opened(browser, folder / f"{name}.html", form, errors)
            page.evaluate("[...plots.values()].forEach((plot) => { if (plot.stale) scheduleRender(plot); })")
            page.wait_for_function("[...plots.values()].every(({ place, drawn }) => drawn || !place.offsetParent)")
            page.wait_for_timeout(500)
            page.screenshot(path=pictures / f"{name}-{form}.png", full_page=True)


def shown(report: Sequence[Measured]) -> Table:
    table = Table(
        title=f"Reports opened in headless Chromium; medians of {len(report[0].plots)} rounds, and their range"
    )
    for column in (
        "archive",
        "candidates",
        "build, s",
        "file, MB",
        "interactive, s",
        "first plots, s",
        "CPU, s",
        "filter, ms",
    ):
        table.add_column(column, justify="left" if column == "archive" else "right", no_wrap=True)

    def spread(values: Sequence[float], digits: int) -> str:
        return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    for one in report:
        times = spread(one.interactive, 2), spread(one.plots, 2), spread(one.cpu, 2), spread(one.filter, 0)
        table.add_row(one.name, f"{one.candidates:,}", f"{one.build:.1f}", f"{one.size / 1e6:.2f}", *times)
    return table


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    work = Path("runs/report_benchmark")
    parser.add_argument("--search", type=Path, default=work / "search", help="the real search (default: %(default)s)")
    parser.add_argument("--synthetic", type=Path, default=work / "synthetic", help="made up (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=20_000, help="made up (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is opened (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, default=work / "pictures", help="where (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if options.rounds < 1 or options.candidates < 1:
        parser.error("at least one round and one candidate are needed")
    folder = options.pictures.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    archives = {"search": real(options.search), "synthetic": made_up(options.synthetic, options.candidates)}
    load = os.getloadavg()[0]
    with sync_playwright() as playwright:
        report = [measure(playwright, name, place, folder, options.rounds) for name, place in archives.items()]
        for one in report:
            photograph(playwright, one.name, folder, folder, one.errors)
    Console(width=max(150, Console().width)).print(shown(report))
    print(f"Load average before: {load:.1f}. Pages and pictures: {folder}")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in report], indent=2))
    for error in (error for one in report for error in one.errors):
        print(f"error in the page: {error}")
    large = report[1]
    met = large.size < LARGEST and max(statistics.median(large.interactive), statistics.median(large.plots)) < SLOWEST
    print(f"Goals, below {LARGEST / 1e6:g} MB and {SLOWEST:g} s at {large.candidates:,}: {'met' if met else 'missed'}")
    return 0 if met and not any(one.errors for one in report) else 1


if __name__ == "__main__":
    raise SystemExit(main())
