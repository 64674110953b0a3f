"""Savings of a whole search from early stopping and inherited weights, at equal accuracy.

    python benchmarks/cheaper_search.py [--data fashion_mnist|digits] [--seeds 5] [--directory DIR] [--json PATH]

The same search per seed: plain, with ``EarlyFitnessPrediction``, with ``WeightInheritance``, with both, and with both and
trainings of a third of the epochs, since inherited epochs accumulate.
Regularized evolution of a convolutional network (its width, depth and learning rate) on 6,000 images of Fashion-MNIST,
reduced to 14x14 pixels (``../shared/data``), or on scikit-learn's digits; everything else is equal, including the seeds.

Reported per kind of search, means over the seeds:

- the cost of the whole search (epochs and wall time), its best validation accuracy, and its winner's test accuracy, measured
  once from the winner's own checkpoint;
- *to reach*: epochs and seconds until its best validation accuracy reached the final one of the plain search of the same
  seed, and the factor by which this is less than what the plain search itself needed to get there (median of the paired
  ratios; a search that never got there counts as the whole search, and the number that did is shown).

The test split is used only for the comparison: no search sees it. With DIR, finished searches are read and interrupted ones
continue. Wall times are meaningful only on a quiet machine; epochs always are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table

from lightning_evo import Archive, Budget, Evolution, Final, Objective, Workers
from lightning_evo.algorithms import RegularizedEvolution
from lightning_evo.callbacks import EarlyFitnessPrediction, WeightInheritance
from lightning_evo.genome import Gene, Integer, LogUniform, Ordinal

ROOT = Path(__file__).resolve().parents[1]
FASHION = ROOT.parent / "shared" / "data" / "images" / "fashion_mnist.npz"
SLOTS = 2

KINDS: dict[str, Callable[[], list[Callback]]] = {
    "plain": list,
    "early stopping": lambda: [EarlyFitnessPrediction()],
    "inheritance": lambda: [WeightInheritance()],
    "both": lambda: [EarlyFitnessPrediction(), WeightInheritance()],
    "both, a third of the epochs": lambda: [EarlyFitnessPrediction(), WeightInheritance()],
}
SHORT = "both, a third of the epochs"


@dataclass(frozen=True)
class Outcome:
    """Cost and results of one search; ``reached``: until its best equaled the plain search's best."""

    epochs: int
    seconds: float
    validation: float
    test: float
    reached_epochs: int
    reached_seconds: float
    reached: bool


def space() -> dict[str, Gene]:
    return {
        "model.init_args.width": Ordinal([8, 12, 16, 24, 32]),
        "model.init_args.depth": Integer(1, 4),
        "model.init_args.lr": LogUniform(1e-4, 3e-2),
    }


def config(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": 64}}
    if options.data == "fashion_mnist":
        train, test = _fashion(folder)
        arguments = {"path": str(train), "test_path": str(test), "batch_size": 64}
        data = {"class_path": "lightning_evo.data.NpzImages", "init_args": arguments}
    return {
        "model": {"class_path": "_models.SmallCNN"},
        "data": data,
        "trainer": {"max_epochs": options.epochs // (3 if kind == SHORT else 1), "accelerator": "cpu", "logger": False},
    }


def _fashion(folder: Path) -> tuple[Path, Path]:
    """The first 6,000 training images and all test images at half the resolution, as separate files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.npz", folder / "test.npz"
    if not all(path.exists() for path in paths):
        with numpy.load(FASHION, allow_pickle=False) as whole:
            for path, part, count in zip(paths, ("train", "test"), (6_000, 10_000), strict=True):
                images = whole[f"x_{part}"][:count].reshape(count, 14, 2, 14, 2).mean(axis=(2, 4))
                numpy.savez(path, x=images.round().astype(numpy.uint8), y=whole[f"y_{part}"][:count])
    return paths


def search(kind: str, seed: int, directory: Path, options: argparse.Namespace) -> Archive:
    return Evolution(
        space(),
        [Objective("val_acc")],
        Budget(candidates=options.candidates),
        RegularizedEvolution(population_size=12, tournament_size=6),
        Workers(slots=SLOTS, threads=1),
        directory / kind.replace(",", "").replace(" ", "-") / str(seed),
        seed=seed,
        final=Final(),
        callbacks=KINDS[kind](),
        config=config(kind, options, directory / "data"),
        progress=False,
    ).run()


def outcome(archive: Archive, target: float | None) -> Outcome:
    """Cost and results of a search, and the cost of reaching ``target`` (its own best if ``None``)."""
    rows = sorted((row for row in archive.candidates() if row["duplicate_of"] is None), key=lambda row: row["ended"])
    began = min(row["queued"] for row in rows)
    done = [row for row in rows if row["status"] == "completed"]
    best = max(row["val_acc"] for row in done)
    wanted = best if target is None else target
    first = next((row for row in done if row["val_acc"] >= wanted), None)
    until = rows if first is None else rows[: rows.index(first) + 1]
    return Outcome(
        epochs=int(sum(row["cost/epochs"] for row in rows)),
        seconds=rows[-1]["ended"] - began,
        validation=best,
        test=archive.meta["final"]["metrics"]["test_acc"],
        reached_epochs=int(sum(row["cost/epochs"] for row in until)),
        reached_seconds=until[-1]["ended"] - began,
        reached=first is not None,
    )


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=("fashion_mnist", "digits"), default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=32, help="candidates per search (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="maximum epochs per candidate (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), help="kinds of search, besides plain (default: all)")
    parser.add_argument("--directory", type=Path, help="keep the searches here (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args(args)
    console = Console()
    # Workers import the model from this folder.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as scratch:
        directory = (options.directory or Path(scratch)) / options.data
        kinds = [kind for kind in KINDS if kind == "plain" or kind in (options.only or KINDS)]
        found: dict[str, list[Outcome]] = {kind: [] for kind in kinds}
        for seed in range(options.seeds):
            target = None
            for kind in kinds:
                with search(kind, seed, directory, options) as archive:
                    found[kind].append(outcome(archive, target))
                target = found["plain"][-1].validation
                console.print(f"seed {seed}, {kind}: {found[kind][-1]}", highlight=False)
    console.print(table(found))
    if options.json:
        options.json.write_text(json.dumps({kind: [asdict(one) for one in each] for kind, each in found.items()}))


def table(found: dict[str, list[Outcome]]) -> Table:
    plain = found["plain"]
    shown = Table(title=f"{len(plain)} seeds")
    for column in ("search", "epochs", "seconds", "best val %", "test %", "reached", "epochs less", "time less"):
        shown.add_column(column, justify="left" if column == "search" else "right")
    for kind, outcomes in found.items():
        pairs = list(zip(plain, outcomes, strict=True))
        shown.add_row(
            kind,
            f"{statistics.mean(one.epochs for one in outcomes):.0f}",
            f"{statistics.mean(one.seconds for one in outcomes):.0f}",
            f"{100 * statistics.mean(one.validation for one in outcomes):.2f}",
            f"{100 * statistics.mean(one.test for one in outcomes):.2f}",
            f"{sum(one.reached for one in outcomes)}/{len(outcomes)}",
            f"{statistics.median(p.reached_epochs / o.reached_epochs for p, o in pairs):.1f}x",
            f"{statistics.median(p.reached_seconds / o.reached_seconds for p, o in pairs):.1f}x",
        )
    return shown


if __name__ == "__main__":
    main()
