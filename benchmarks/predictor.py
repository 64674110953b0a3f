"""Quality of predictions of an architecture's accuracy, by the number of training results.

    python benchmarks/predictor.py [--data digits|fashion_mnist] [--models 500] [--directory DIR] [--json PATH] [--plot PATH]

First, random templates are trained for a few short epochs each by an ordinary search (`RandomSearch`), two at a time on
one thread each. With `--directory` this search is kept, and the same command continues it, or only evaluates it again.
Then every predictor is fitted to 25, 50, ... of the models and evaluated on all that the largest sample leaves, at least
100 of them; this is repeated ten times with different splits, which are the same for every predictor. `size` is a forest on
parameters and FLOPs alone. Goals: R² above 0.8 with at most 400 models, and at 50 models a Kendall's τ at least 0.10 above
that of `size`, of FLOPs and of parameters, whichever is highest.

`--again N` also trains N of the models a second time, with other seeds. The noise of an accuracy limits any predictor: the
correlation between the two trainings is the highest possible R². `digits` are scikit-learn's 1,797 images; `fashion_mnist`
are 6,000 of `--images`, 5,000 of them for training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.algorithms.quality import kendall
from lightning_evo.genome import COMPLETED, Layers
from lightning_evo.reporting.predictors import PredictorReport, as_text, check_plot, plot, predictor_report

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_IMAGES = ROOT.parent / "shared" / "data" / "images" / "fashion_mnist.npz"
GENE = "model.init_args.layers"
MODELS, LEARNERS = (25, 50, 100, 200, 400), ("forest", "lstm", "ensemble")
GOAL_R2, GOAL_TAU, GOAL_AT, MIN_HELD_OUT = 0.8, 0.10, 50, 100

RANGES: dict[str, Any] = {"num_classes": 10, "max_conv": 5, "max_linear": 3, "max_layers": 30, "max_features": 1024}
SPACES = {
    "digits": {**RANGES, "channels": [8, 16, 32, 64], "kernels": [1, 3, 5], "widths": [32, 64, 128, 256]},
    "fashion_mnist": {**RANGES, "channels": [8, 16, 32], "kernels": [1, 3, 5], "widths": [32, 64, 128, 256]},
}
SIDES, EPOCHS = {"digits": 8, "fashion_mnist": 28}, {"digits": 5, "fashion_mnist": 2}


def train_templates(
    data: str,
    models: int,
    directory: Path,
    images: Path,
    epochs: int,
    seed: int,
    initial: list[dict[str, Any]] | None = None,
) -> None:
    """Train ``models`` random templates, the ``initial`` ones first; continues the search in the directory."""
    side = SIDES[data]
    config = {
        "model": {
            "class_path": "lightning_evo.models.TemplateNet",
            "init_args": {"input_shape": [1, side, side], "num_classes": 10, "lr": 3e-3, "schedule": "onecycle"},
        },
        "data": {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": 32}}
        if data == "digits"
        else {
            "class_path": "lightning_evo.data.NpzImages",
            "init_args": {
                "path": str(images.resolve()),
                "batch_size": 64,
                "limit_train": 5000,
                "limit_validation": 1000,
            },
        },
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_model_summary": False},
    }
    Evolution(
        config=config,
        space={GENE: Layers(input_shape=[1, side, side], **SPACES[data])},
        algorithm=RandomSearch(initial=initial),
        objectives=[Objective("val_acc", "max")],
        budget=Budget(candidates=models),
        workers=Workers(slots=2, threads=1),
        directory=directory,
        seed=seed,
        keep_checkpoints=0,
        final=None,
    ).run()


def accuracies(directory: Path) -> dict[int, tuple[dict[str, Any], float]]:
    """Genome and validation accuracy of each candidate that was trained, by id."""
    with Archive(directory) as archive:
        rows = [row for row in archive.candidates(status=COMPLETED) if row["duplicate_of"] is None]
    return {row["id"]: ({GENE: row[GENE]}, row["val_acc"]) for row in rows}


def compare_again(directory: Path, again: Path) -> dict[str, float]:
    """Print the correlation between two trainings of the same templates."""
    first, second = accuracies(directory), accuracies(again)
    by_template = {json.dumps(genome): accuracy for genome, accuracy in first.values()}
    pairs = [(by_template[json.dumps(genome)], accuracy) for genome, accuracy in second.values()]
    one, two = [a for a, _ in pairs], [b for _, b in pairs]
    return {
        "models": len(pairs),
        "reliability": statistics.correlation(one, two),
        "tau": kendall(one, two),
        "std_of_luck": (statistics.fmean((a - b) ** 2 for a, b in pairs) / 2) ** 0.5,
    }


def judge(report: PredictorReport, learners: Sequence[str]) -> list[str]:
    """Print the state of the goals; return those that are missed."""
    missed = []
    by_name = {evaluation.name: evaluation for evaluation in report.evaluations}
    largest = max(report.models)
    r2 = {name: by_name[name].at(largest, "r2")[0] for name in learners}
    best = max(r2, key=r2.__getitem__)
    print(f"R² with {largest} models: {_listed(r2)} (goal: above {GOAL_R2} with at most 400).")
    if not r2[best] > GOAL_R2:
        missed.append(f"R² {r2[best]:.3f} of {best} with {largest} models is not above {GOAL_R2}")
    if GOAL_AT in report.models:
        sizes = {f"{name} alone": abs(tau) for name, tau in report.sizes.items()}
        sizes["learned from both"] = by_name["size"].at(GOAL_AT, "tau")[0]
        tau = {name: by_name[name].at(GOAL_AT, "tau")[0] for name in learners}
        best, gain = max(tau, key=tau.__getitem__), max(tau.values()) - max(sizes.values())
        print(f"Kendall τ at {GOAL_AT}: {_listed(tau)}; of size: {_listed(sizes)} (goal: {GOAL_TAU} above).")
        if not gain >= GOAL_TAU:
            missed.append(f"τ of {best} at {GOAL_AT} models is {gain:+.3f} from that of size, not {GOAL_TAU} above")
    return missed


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {number:.3g}" for name, number in numbers.items())


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=list(SPACES), default="digits", help="what is classified (default: digits)")
    parser.add_argument("--models", type=int, default=500, help="templates to train (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of each training (default: digits 5, fashion_mnist 2)")
    parser.add_argument(
        "--at", type=int, nargs="+", default=MODELS, help="learn from so many (default: those that fit)"
    )
    parser.add_argument(
        "--predictors", nargs="+", default=LEARNERS, help="names or import paths (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=10, help="each with others held out (default: %(default)s)")
    parser.add_argument("--again", type=int, default=0, help="train so many once more (default: none)")
    parser.add_argument("--directory", type=Path, help="keep the search here (default: a temporary directory)")
    parser.add_argument(
        "--images", type=Path, default=DEFAULT_IMAGES, help="Fashion-MNIST as .npz (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides everything (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument(
        "--plot", type=Path, help="draw curves and predictions here (.html; .svg, .png: needs matplotlib)"
    )
    options = parser.parse_args(args)
    learned = [number for number in options.at if number + MIN_HELD_OUT <= options.models]
    if not learned:
        parser.error(f"--models {options.models}: needs {min(options.at) + MIN_HELD_OUT} or more")
    if options.again and not 2 <= options.again <= options.models:
        parser.error(f"--again {options.again}: needs 2 or more, and no more than --models")
    if options.data == "fashion_mnist" and not options.images.is_file():
        parser.error(f"--images {options.images}: no such file")
    if options.plot:
        try:
            check_plot(options.plot)
        except ValueError as error:
            parser.error(f"--{error}")

    with tempfile.TemporaryDirectory(prefix="predictor-") as folder:
        directory = options.directory or Path(folder, options.data)
        epochs = options.epochs or EPOCHS[options.data]
        settings = {"data": options.data, "images": options.images, "epochs": epochs}
        started = time.perf_counter()
        train_templates(models=options.models, directory=directory, seed=options.seed, **settings)
        print(f"{options.models} templates in {time.perf_counter() - started:.0f} s, {epochs} epochs each.")
        luck = None
        if options.again:
            again = directory.with_name(f"{directory.name}_again")
            initial = [genome for genome, _ in list(accuracies(directory).values())[: options.again]]
            train_templates(models=len(initial), directory=again, seed=options.seed + 1, initial=initial, **settings)
            luck = compare_again(directory, again)
            print(f"The same templates with other seeds: {_listed(luck)}.")
        report = predictor_report(
            [directory],
            ["size", *options.predictors],
            learned,
            repeats=options.repeats,
            seed=options.seed,
            notify=print,
        )
    print(as_text(report))
    missed = judge(report, options.predictors)
    if options.json:
        settings = {"data": options.data, "epochs": epochs, "again": luck, "missed": missed}
        options.json.write_text(json.dumps(report.to_dict() | settings, indent=1))
    if options.plot:
        plot(report, options.plot)
    if missed:
        raise SystemExit("goal missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
