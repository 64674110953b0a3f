"""Speed of a search with 100,000 recorded candidates. Nothing is trained.

    python benchmarks/scale.py [--candidates 100000] [--pareto] [--directory DIR] [--json PATH]

A search over eight genes asks, records, generates random results, records and tells, as the controller does. Then it is
resumed from its archive as after a kill, with a check that it continues with the candidate it would have asked for next;
and `lightning-evo leaderboard` runs in a separate process. CPU seconds are shown with wall-clock seconds, which mean
little on a busy machine. Goals at 100,000: ask+tell below 5 ms, a record below 3 ms, resume below 30 s, leaderboard
below 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_evo.algorithms import NSGA2, Algorithm, RegularizedEvolution, SearchSetup
from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Candidate,
    Categorical,
    Integer,
    LogUniform,
    Objective,
    Ordinal,
    Result,
    SearchSpace,
    Uniform,
)

SPACE = SearchSpace(
    {
        "model.init_args.chromosome": Bitstring(20),
        "model.init_args.kind": Categorical(["conv", "separable", "linear"]),
        "model.init_args.width": Ordinal([16, 32, 64, 128, 256]),
        "model.init_args.depth": Integer(1, 12),
        "model.init_args.dropout": Uniform(0.0, 0.5),
        "model.init_args.kernel": Integer(1, 7, step=2, when={"model.init_args.kind": ["conv", "separable"]}),
        "optimizer.init_args.lr": LogUniform(1e-4, 1e-1),
        "optimizer.init_args.nesterov": Boolean(),
    }
)
EPOCHS = 5


@dataclass
class Spent:
    """Accumulated wall-clock seconds and CPU seconds of this process."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


def make_algorithm(objectives: list[Objective]) -> Algorithm:
    algorithm: Algorithm = NSGA2() if len(objectives) > 1 else RegularizedEvolution()
    algorithm.bind(SearchSetup(SPACE, objectives, seed=1))
    return algorithm


def answer(candidate: Candidate, objectives: int) -> Result:
    """A synthetic result with the content of a real one: a curve of five epochs, costs, a checkpoint."""
    rng = random.Random(candidate.seed)
    curve = [{"epoch": epoch, "val_acc": rng.random(), "val_loss": rng.random()} for epoch in range(EPOCHS)]
    params = float(rng.randrange(10**4, 10**7))
    if rng.random() < 0.02:
        return Result("failed", error="Traceback\n" * 20, error_type="RuntimeError: made up", started=0.0, ended=1.0)
    return Result(
        status="completed",
        fitness=(curve[-1]["val_acc"], params)[:objectives],
        metrics=curve[-1],
        curve=curve,
        cost={"params": params, "flops": 60 * params, "seconds": rng.random(), "peak_memory": 1e9, "epochs": EPOCHS},
        checkpoint=f"candidates/{candidate.id:06d}/checkpoint.ckpt" if rng.random() < 0.01 else None,
        started=1.7e9,
        ended=1.7e9 + 60,
        slot=candidate.id % 4,
    )


def search(directory: Path, count: int, objectives: list[Objective]) -> tuple[dict[str, float], Candidate | None]:
    """Record ``count`` candidates; return the cost per candidate of the last 1 %, and the next candidate."""
    algorithm = make_algorithm(objectives)
    figures: dict[str, float] = {}
    with ArchiveWriter(directory) as writer:
        writer.update_meta({"objectives": [{"monitor": o.monitor, "mode": o.mode} for o in objectives], "seed": 1})
        last = max(1, count // 100)
        for part in range(0, count, last):
            bred, recorded = Spent(), Spent()
            size = min(last, count - part)
            for _ in range(size):
                with bred.measure():
                    candidate = algorithm.ask()
                assert candidate is not None, "one after the other, none has to wait"
                result = answer(candidate, len(objectives))
                with recorded.measure():
                    writer.record_candidate(candidate, queued=time.time())
                    writer.record_result(candidate.id, result)
                with bred.measure():
                    algorithm.tell(candidate, result)
            for name, spent, per in (("ask+tell", bred, size), ("record", recorded, 2 * size)):
                figures[f"{name}, ms"] = 1000 * spent.wall / per
                figures[f"{name}, ms of CPU"] = 1000 * spent.cpu / per
            if part == 0:
                for name in list(figures):
                    figures[f"first hundredth: {name}"] = figures.pop(name)
        return figures, algorithm.ask()


def resume(directory: Path, objectives: list[Objective]) -> tuple[dict[str, float], Candidate | None]:
    """Restore an algorithm from the archive; return the cost and the next candidate."""
    opening, both, recalling = Spent(), Spent(), Spent()
    with opening.measure():
        writer = ArchiveWriter(directory)
    with writer, both.measure():
        algorithm = make_algorithm(objectives)
        for candidate, result in writer.archive().events():
            with recalling.measure():
                if result is None:
                    algorithm.recall(candidate)
                else:
                    algorithm.tell(candidate, result)
    figures = {
        "resume, s": opening.wall + both.wall,
        "resume, s of CPU": opening.cpu + both.cpu,
        "resume: open and check, s of CPU": opening.cpu,
        "resume: read, s of CPU": both.cpu - recalling.cpu,
        "resume: recall and tell, s of CPU": recalling.cpu,
    }
    return figures, algorithm.ask()


def leaderboard(directory: Path, *options: str) -> dict[str, float]:
    """Run ``lightning-evo leaderboard`` three times in a separate process; the fastest counts."""
    command = [sys.executable, "-c", "from lightning_evo.cli import main; main()", "leaderboard", str(directory)]
    name = " ".join(["leaderboard", *options])
    times = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), children_cpu()
        subprocess.run(
            [*command, *options], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"}
        )
        times.append((time.perf_counter() - wall, children_cpu() - cpu))
    return {f"{name}, s": min(times)[0], f"{name}, s of CPU": min(cpu for _, cpu in times)}


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def reading(directory: Path) -> dict[str, float]:
    """Read an archive as a report or a notebook does."""
    with Archive(directory) as archive:
        questions: dict[str, Callable[[], Any]] = {
            "best(10)": lambda: archive.best(10),
            "counts()": archive.counts,
            "pareto()": archive.pareto,
            "candidates()": archive.candidates,
        }
        figures = {}
        for name, question in questions.items():
            spent = Spent()
            with spent.measure():
                question()
            figures[f"{name}, s of CPU"] = spent.cpu
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument(
        "--pareto", action="store_true", help="two objectives and NSGA2 instead of RegularizedEvolution"
    )
    parser.add_argument("--directory", type=Path, help="where to keep the run (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    asked = parser.parse_args()
    objectives = [Objective("val_acc", "max"), Objective("cost/params", "min")][: 2 if asked.pareto else 1]
    directory = asked.directory or Path(tempfile.mkdtemp()) / "run"
    try:
        figures, following = search(directory, asked.candidates, objectives)
        figures |= {
            f"{name}, MB": (directory / name).stat().st_size / 1e6 for name in ("archive.sqlite", "journal.jsonl")
        }
        resumed, next_candidate = resume(directory, objectives)
        if next_candidate != following:
            raise SystemExit(f"the resumed search asks for {next_candidate}, the first would have for {following}")
        figures |= resumed
        for options in ((), ("--sort", "lr"), ("--sort=-params",), ("--format", "json")):
            figures |= leaderboard(directory, "--top", "20", *options)
        figures |= reading(directory)
    finally:
        if asked.directory is None:
            shutil.rmtree(directory.parent)
    table = Table(title=f"{asked.candidates:,} candidates, {len(objectives)} objective(s)", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:.3g}")
    Console().print(table)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
