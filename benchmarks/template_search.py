"""Results of prescreening on layer templates, at equal training epochs, including the test split.

    python benchmarks/template_search.py [--seeds 10] [--candidates 96] [--directory DIR] [--json PATH]

Searches over layer templates and the learning rate on scikit-learn's digits, each with the same number of candidates and
of epochs for each: random search, regularized evolution, the same with a forest or a Gaussian process as prescreen, and a
predictor search with a forest. Then every search's winner (best validation accuracy, earliest of equals) is retrained on
fresh seeds, for longer, and scored on the test split, which no search has seen. Everything else is equal, including the
seeds: differences are paired, with 95 % intervals. Searches are kept in DIR; run again with the same DIR, finished ones
are read and interrupted ones continue, also with more candidates.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import Algorithm, PredictorSearch, Prescreen, RandomSearch, RegularizedEvolution
from lightning_evo.genome import Gene, Layers, LogUniform, derive_seed
from lightning_evo.predictors import ForestPredictor, GaussianProcessPredictor
from lightning_evo.training import ConfigTrainable, TrainingRequest
from lightning_evo.training.final import finish_candidate

SLOTS = 2

SEARCHES: dict[str, Callable[[], Algorithm]] = {
    "RandomSearch": RandomSearch,
    "RegularizedEvolution": RegularizedEvolution,
    "RegularizedEvolution, forest": lambda: RegularizedEvolution(prescreen=Prescreen(ForestPredictor())),
    "RegularizedEvolution, process": lambda: RegularizedEvolution(prescreen=Prescreen(GaussianProcessPredictor())),
    "PredictorSearch, forest": lambda: PredictorSearch(ForestPredictor()),
}


def space() -> dict[str, Gene]:
    layers = Layers(
        input_shape=[1, 8, 8],
        num_classes=10,
        max_conv=5,
        max_linear=3,
        max_layers=30,
        max_features=1024,
        channels=[8, 16, 32, 64],
        kernels=[1, 3, 5],
        widths=[32, 64, 128, 256],
    )
    return {"model.init_args.layers": layers, "model.init_args.lr": LogUniform(5e-4, 1e-2)}


def config(epochs: int, batch_size: int) -> dict[str, Any]:
    return {
        "model": {"class_path": "lightning_evo.models.TemplateNet", "init_args": {"input_shape": [1, 8, 8]}},
        "data": {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": batch_size}},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "logger": False},
    }


def search(name: str, seed: int, directory: Path, options: argparse.Namespace) -> Archive:
    return Evolution(
        space(),
        [Objective("val_acc")],
        Budget(candidates=options.candidates),
        SEARCHES[name](),
        Workers(slots=SLOTS, threads=1),
        directory / name.replace(", ", "-") / str(seed),
        seed=seed,
        fitness_epoch="last",
        keep_checkpoints=0,
        final=None,
        config=config(options.epochs, options.batch_size),
        progress=False,
    ).run()


def retrain(genome: dict[str, Any], seed: int, folder: str, epochs: int, batch_size: int) -> float:
    """Test accuracy of a genome retrained on its own seed."""
    trainable = ConfigTrainable(config(epochs, batch_size))
    result = finish_candidate(
        blueprint=trainable.blueprint,
        config={"seed_everything": seed, **trainable.resolve(genome)},
        request=TrainingRequest(folder, [Objective("val_acc")], fitness_epoch="last"),
        checkpoint=None,
        test=True,
    )
    if result.status != "completed":
        raise RuntimeError(result.error)
    return result.metrics["test_acc"]


def paired(values: Sequence[float], base: Sequence[float]) -> str:
    """The mean of the differences, with its 95 % interval by Student's t."""
    from scipy.stats import t

    differences = [value - other for value, other in zip(values, base, strict=True)]
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.mean(differences):+.2f} ± {half:.2f}"


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="searches per algorithm (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=96, help="candidates per search (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per candidate (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--final-epochs", type=int, default=15, help="epochs of the winners' retraining")
    parser.add_argument("--fresh", type=int, default=3, help="fresh seeds per winner (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="searches to run")
    parser.add_argument("--directory", type=Path, help="keep the searches here (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: needs two or more")
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.directory or Path(temporary))


def run(options: argparse.Namespace, directory: Path) -> None:
    console = Console(width=max(140, Console().width))
    best: dict[str, list[float]] = {name: [] for name in options.only}
    epochs: dict[str, list[float]] = {name: [] for name in options.only}
    tested: dict[str, list[float]] = {name: [] for name in options.only}
    with ProcessPoolExecutor(SLOTS, mp_context=get_context("spawn")) as pool:
        for seed in range(options.seeds):
            for name in options.only:
                with search(name, seed, directory, options) as archive:
                    winner = archive.best()[0]
                    epochs[name].append(sum(row.get("cost/epochs") or 0 for row in archive.candidates()))
                best[name].append(100 * winner["val_acc"])
                genome = {path: winner[path] for path in space()}
                with tempfile.TemporaryDirectory() as folder:
                    jobs = [
                        pool.submit(
                            retrain,
                            genome,
                            derive_seed("fresh", seed, i),
                            f"{folder}/{i}",
                            options.final_epochs,
                            options.batch_size,
                        )
                        for i in range(options.fresh)
                    ]
                    tested[name].append(100 * statistics.mean(job.result() for job in jobs))
            console.print(
                f"seed {seed}: "
                + "; ".join(f"{name} {best[name][-1]:.2f} % / {tested[name][-1]:.2f} %" for name in options.only)
            )
    table = Table(
        title=f"Digits templates, {options.seeds} seeds, {options.candidates} candidates of {options.epochs} epochs"
    )
    for column in (
        "search",
        "epochs",
        "best validation %",
        "paired difference",
        "winner's test %",
        "paired difference",
    ):
        table.add_column(column, no_wrap=True, justify="left" if column == "search" else "right")
    base = options.only[0]
    for name in options.only:
        table.add_row(
            name,
            f"{statistics.mean(epochs[name]):.0f}",
            f"{statistics.mean(best[name]):.2f}",
            paired(best[name], best[base]),
            f"{statistics.mean(tested[name]):.2f}",
            paired(tested[name], tested[base]),
        )
    console.print(table)
    if options.json:
        report = {name: {"best": best[name], "epochs": epochs[name], "test": tested[name]} for name in options.only}
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
