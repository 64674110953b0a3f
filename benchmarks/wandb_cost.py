"""Cost of logging a search to Weights & Biases: CPU per candidate, offline, with and without it.

    python benchmarks/wandb_cost.py [--candidates 50] [--rounds 3] [--json PATH]

A search of `--candidates` candidates on 2 slots, each trained for three epochs of one batch, alternately with
``WandbReporter`` in offline mode and without it. Compared is the CPU of the controller and of W&B's own process from the end
of the tenth candidate (after warm-up) until everything is written, per candidate; and for the whole command, including
startup and imports, the CPU of all its processes and the wall-clock time. Shown are medians over the rounds. Afterwards the
files are read back: all candidates are in one sweep, each with its genes, its epochs and its fitness.

Goal: at most 50 ms of CPU per candidate. Exit code 1 if it is missed, or if something is missing in the files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from _models import TRAINER
from _processes import family, keep_orphans
from rich.console import Console
from rich.table import Table

from lightning_evo import Archive
from lightning_evo.genome import Candidate, Result
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, Reporter, SearchInfo
from lightning_evo.reporting.wandb.reporter import WandbReporter

HERE = Path(__file__).resolve().parent
GOAL_MS = 50.0
EPOCHS, WARM = 3, 10
NOTES = "WANDB_COST_NOTES"


def used() -> float:
    """Seconds of CPU that this process and W&B's have used."""
    core = [process for process in family(os.getpid()) if "wandb-core" in process.command]
    return time.process_time() + sum(process.own for process in core)


class Plain(Reporter):
    """Records the CPU used after the warm-up and at the end of the search."""

    def start(self, search: SearchInfo) -> None:
        self._warm = 0.0

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        if state.told == WARM:
            self._warm = used()

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        Path(os.environ[NOTES]).write_text(json.dumps({"cpu": used() - self._warm}))


class Reported(WandbReporter):
    """The same for W&B: after it has written the warm-up candidates, and when everything is written."""

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        super().told(candidate, result, state)
        if state.told == WARM:
            self._warm = used()

    def _notify_pending_uploads(self) -> None:
        super()._notify_pending_uploads()  # everything is written, and W&B's process is still there
        Path(os.environ[NOTES]).write_text(json.dumps({"cpu": used() - self._warm}))


def run(candidates: int, reporter: str, folder: Path, seed: int) -> dict[str, float]:
    """One search: CPU from warm-up until everything is written, CPU of the whole command, and wall-clock seconds."""
    config = {
        "model": {"class_path": "_models.Perceptron", "init_args": {}},
        "data": {"class_path": "_models.Points"},
        "trainer": {**TRAINER, "max_epochs": EPOCHS},
        "evolution": {
            "space": {"model.init_args.lr": {"class_path": "LogUniform", "init_args": {"low": 1e-4, "high": 1.0}}},
            "algorithm": {"class_path": "RegularizedEvolution", "init_args": {"population_size": 10}},
            "objectives": [{"monitor": "val_loss", "mode": "min"}],
            "budget": {"candidates": candidates},
            "workers": {"slots": 2, "threads": 1},
            "reporters": [f"wandb_cost.{reporter}"],
            "directory": "run",
            "seed": seed,
            "final": None,
        },
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"PYTHONPATH": str(HERE), "WANDB_MODE": "offline", NOTES: str(folder / "notes.json")}
    environment |= {"WANDB_ERROR_REPORTING": "false", "OMP_NUM_THREADS": "1"}
    script = str(Path(sys.executable).with_name("lightning-evo"))
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [script, "fit", "--config", "config.yaml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the search failed:\n{done.stdout}{done.stderr}")
    seconds = time.monotonic() - begun
    while True:
        try:
            os.wait()  # workers and their server, whose CPU counts too
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads((folder / "notes.json").read_text()), "whole": whole, "seconds": seconds}


def read_back(folder: Path) -> str:
    """Problems in the files written by W&B's process; empty if there are none."""
    sys.path.insert(0, str(HERE.parent / "tests" / "reporting"))
    from wandb_server import read_offline  # type: ignore[import-not-found]

    runs = read_offline(folder / "run" / "wandb")
    rows = {row["id"]: row for row in Archive(folder / "run").candidates()}
    candidates = {run.own["candidate"]: run for run in runs.values() if run.job_type == "candidate"}
    if set(candidates) != set(rows) or len(runs) != len(rows) + 1:
        return f"{len(candidates)} runs of {len(rows)} candidates, {len(runs)} in all"
    if len({run.sweep for run in candidates.values()}) != 1:
        return "more than one sweep"
    for id, row in rows.items():
        run = candidates[id]
        if run.own["lr"] != row["model.init_args.lr"] or run.summary["val_loss"] != row["val_loss"]:
            return f"candidate {id} has another gene or fitness than in the archive"
        if [line["_step"] for line in run.history] != list(range(EPOCHS)):
            return f"candidate {id} has not {EPOCHS} epochs"
    return ""


def measure(candidates: int, rounds: int) -> tuple[dict[str, list[dict[str, float]]], str]:
    """Run all rounds, alternating with and without; also return problems in the files of the last one."""
    report: dict[str, list[dict[str, float]]] = {"Plain": [], "Reported": []}
    wrong = ""
    with tempfile.TemporaryDirectory() as place:
        for number in range(rounds):
            for reporter in ("Plain", "Reported") if number % 2 == 0 else ("Reported", "Plain"):
                folder = Path(place) / f"{reporter}{number}"
                report[reporter].append(run(candidates, reporter, folder, seed=number))
                if reporter == "Reported":
                    wrong = wrong or read_back(folder)
    return report, wrong


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--candidates", type=int, default=50, help="of each search (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="with and without (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if options.rounds < 1 or options.candidates <= WARM:
        parser.error(f"at least one round and {WARM + 1} candidates are needed")
    keep_orphans()
    report, wrong = measure(options.candidates, options.rounds)

    def median(reporter: str, name: str) -> float:
        return statistics.median(one[name] for one in report[reporter])

    table = Table(title=f"{options.candidates} candidates on 2 slots; medians of {options.rounds} rounds")
    for column in ("", "CPU per candidate, ms", "CPU of the command, s", "wall-clock time, s"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    warm = options.candidates - WARM
    for reporter, name in (("Plain", "without W&B"), ("Reported", "W&B, offline")):
        cells: list[Any] = [
            1000 * median(reporter, "cpu") / warm,
            median(reporter, "whole"),
            median(reporter, "seconds"),
        ]
        table.add_row(name, *(f"{cell:.1f}" for cell in cells))
    Console(width=max(100, Console().width)).print(table)
    added = [1000 * (b["cpu"] - a["cpu"]) / warm for a, b in zip(report["Plain"], report["Reported"], strict=True)]
    if options.json:
        options.json.write_text(json.dumps({"rounds": report, "added_ms": added}, indent=2))
    cost = statistics.median(added)
    print(f"Added per candidate: {cost:.1f} ms of CPU ({min(added):.1f} to {max(added):.1f})")
    print(f"Load average: {os.getloadavg()[0]:.1f}. Files read back: {wrong or 'everything is there'}")
    print(f"Goal, at most {GOAL_MS:.0f} ms: {'met' if cost <= GOAL_MS else 'missed'}")
    return 0 if cost <= GOAL_MS and not wrong else 1


if __name__ == "__main__":
    raise SystemExit(main())
