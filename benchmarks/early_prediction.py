"""Epochs saved by stopping unpromising candidates, and the cost, on real learning curves.

    python benchmarks/early_prediction.py [--data DIR] [--cache DIR] [--orderings 40] [--json PATH] [--plot PATH]

Each ordering is a sequential search through recorded curves: `--candidates` of them in random order, one after another, with
each policy deciding after every epoch from the information a real search would have. Compared with our default
(`probability`): asynchronous successive halving (`asha`), the median rule, patience, ranking after one epoch (the best
quarter is trained to the end), and no stopping. Three sets: spiking nets on CIFAR-10 (validation accuracy, 100 epochs),
recurrent cells on WikiText-2 (log perplexity, 50 epochs), and multilayer perceptrons on scikit-learn's digits (accuracy, 50
epochs), trained here and kept in `--cache`. Defaults were chosen on the even-numbered curves; these are the odd ones
(`--half even` shows the others).

- speedup: epochs until the best candidate without stopping, divided by epochs until the policy has one as good (means over
  the orderings, not of ratios). A policy that stopped it continues through the rest of the curves, up to all the epochs of
  no stopping, and is counted with these if that doesn't help.
- regret: how much worse than the best of all curves the best fully trained candidate is, after the same number of
  candidates; and that of no stopping cut off after the same number of epochs.
- wrong: share of stops whose candidate would have beaten the bar at that moment, had it been trained to the end.
- coverage: how often the 90 % interval contains the final value, with 20 known finished curves, and with none.

Predictions depend on the known curves, so they are recomputed in every ordering, which takes most of the half hour. CPU
times are those of this process on one thread, including learning from other curves.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
from rich.console import Console
from rich.table import Table

from lightning_evo.predictors import (
    BayesianCurve,
    CurveContext,
    KnownCurve,
    MedianRule,
    Patience,
    ProbabilityOfImprovement,
    StoppingPolicy,
    SuccessiveHalvingRule,
)

DEFAULT_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "curves"
FILES = {
    "spiking nets": ("spikenas_cifar10.npz", "valid_acc", "max"),
    "recurrent cells": ("nasbench_nlp_wikitext2.npz", "valid", "min"),
}
DIGITS, DIGITS_EPOCHS, DIGITS_NETS = "digits MLPs", 50, 240
SHARES, KNOWN, TESTED = (0.1, 0.2, 0.4, 0.8), 20, 100

POLICIES: dict[str, Callable[[], StoppingPolicy] | None] = {
    "probability": ProbabilityOfImprovement,
    "asha": lambda: SuccessiveHalvingRule(reduction_factor=3, grace_period=1),
    "asha, gentle": lambda: SuccessiveHalvingRule(reduction_factor=2, grace_period=5),
    "median": MedianRule,
    "patience": Patience,
    "1 epoch": None,
    "none": None,
}


@dataclass(frozen=True)
class Curves:
    """A set of curves: (n, epochs) values to maximize or to minimize."""

    name: str
    values: numpy.ndarray
    mode: str

    @property
    def sign(self) -> float:
        return 1.0 if self.mode == "max" else -1.0


@dataclass
class Search:
    """Outcome of one search; larger values are better."""

    epochs: int = 0
    best: float = -math.inf
    stops: int = 0
    wrong: int = 0
    reached: int | None = None
    decisions: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


def load(data: Path, cache: Path, half: str) -> list[Curves]:
    start = 0 if half == "even" else 1
    sets = []
    for name, (file, key, mode) in FILES.items():
        with numpy.load(data / file, allow_pickle=False) as table:
            sets.append(Curves(name, table[key].astype(numpy.float64)[start::2], mode))
    return [*sets, Curves(DIGITS, digits(cache)[start::2], "max")]


def digits(cache: Path) -> numpy.ndarray:
    """Validation accuracies (nets, epochs), trained once and cached."""
    path = cache / f"digits_mlps_{DIGITS_NETS}x{DIGITS_EPOCHS}.npz"
    if not path.is_file():
        print(f"Training {DIGITS_NETS} networks on digits, a minute or two; kept in {path}", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        numpy.savez_compressed(path, accuracy=numpy.array([train_mlp(seed) for seed in range(DIGITS_NETS)]))
    with numpy.load(path, allow_pickle=False) as table:
        return table["accuracy"].astype(numpy.float64)


def train_mlp(seed: int) -> list[float]:
    """Validation accuracy by epoch of a perceptron with random hyperparameters, on 600 digits; 1,197 for validation."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    split = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, valid = split[:600], split[600:]
    rng = numpy.random.default_rng(seed)
    torch.manual_seed(seed)
    width, depth, dropout = int(2 ** rng.uniform(3, 7)), int(rng.integers(1, 4)), rng.uniform(0, 0.5)
    rate, decay, batch = 10 ** rng.uniform(-3.5, -0.3), 10 ** rng.uniform(-5, -2), int(rng.choice([16, 32, 64]))
    momentum, annealed, adam = float(rng.choice([0, 0.9])), rng.random() < 0.5, rng.random() < 0.3
    sizes = [64, *[width] * depth]
    layers: list[torch.nn.Module] = []
    for inner, outer in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inner, outer), torch.nn.ReLU(), torch.nn.Dropout(dropout)]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 10))
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(net.parameters(), lr=rate / 10, weight_decay=decay)
        if adam
        else torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, DIGITS_EPOCHS) if annealed else None
    accuracies = []
    for _ in range(DIGITS_EPOCHS):
        net.train()
        for rows in torch.randperm(len(train)).split(batch):
            optimizer.zero_grad()
            cross_entropy(net(x[train[rows]]), y[train[rows]]).backward()
            optimizer.step()
        if schedule is not None:
            schedule.step()
        net.eval()
        with torch.no_grad():
            accuracies.append(float((net(x[valid]).argmax(1) == y[valid]).float().mean()))
    return accuracies


def search(
    curves: Curves,
    order: Sequence[int],
    policy: StoppingPolicy | None,
    candidates: int,
    aim: float | None,
    control: float,
    seed: int,
) -> Search:
    """One sequential search, counted up to ``candidates``, and on until it has a candidate as good as ``aim``.

    A share ``control`` of the candidates is never stopped.
    """
    values, horizon, sign = curves.values, curves.values.shape[1], curves.sign
    rng = numpy.random.default_rng(seed)
    known: list[KnownCurve] = []
    spent, best, counted = 0, -math.inf, Search()
    for place, i in enumerate(order):
        stopped, predicted = None, math.nan
        if policy is not None and rng.random() >= control:
            stopped, predicted = follow(curves, int(i), policy, known, best, counted)
        if stopped is None:
            spent += horizon
            known.append(KnownCurve(int(i), tuple(values[i]), float(values[i, -1])))
            best = max(best, float(sign * values[i, -1]))
        else:
            spent += stopped
            known.append(KnownCurve(int(i), tuple(values[i, :stopped]), predicted, complete=False))
            counted.stops += 1
            counted.wrong += bool(sign * values[i, -1] > best)
        if aim is not None and counted.reached is None and best >= aim:
            counted.reached = spent
        if place + 1 == candidates:
            counted.epochs, counted.best = spent, best
        if place + 1 >= candidates and (aim is None or counted.reached is not None or spent >= candidates * horizon):
            break
    return counted


def follow(
    curves: Curves, i: int, policy: StoppingPolicy, known: Sequence[KnownCurve], best: float, counted: Search
) -> tuple[int | None, float]:
    """Number of epochs after which the policy stops a candidate, and its predicted final fitness."""
    curve, horizon = curves.values[i], curves.values.shape[1]
    bar = curves.sign * best if math.isfinite(best) else None
    for epoch in range(1, horizon):
        started = time.process_time()
        verdict = policy.decide(
            CurveContext(curve[:epoch].tolist(), horizon, known, bar, mode=curves.mode, candidate=i)  # type: ignore[arg-type]
        )
        took = time.process_time() - started
        counted.decisions += 1
        counted.seconds += took
        counted.slowest = max(counted.slowest, took)
        if verdict.stop:
            return epoch, float(curve[epoch - 1]) if verdict.prediction is None else verdict.prediction.median
    return None, math.nan


def rank_after_one_epoch(curves: Curves, order: Sequence[int], candidates: int, aim: float) -> Search:
    """Train all for one epoch, then the best quarter to the end, best first."""
    horizon, chosen = curves.values.shape[1], order[:candidates]
    first = curves.sign * curves.values[chosen, 0]
    ranked = [int(chosen[place]) for place in numpy.argsort(-first, kind="stable")]
    kept = max(1, candidates // 4)
    finals = [float(curves.sign * curves.values[i, -1]) for i in ranked]
    best = max(finals[:kept])
    found = [candidates + (place + 1) * (horizon - 1) for place in range(kept) if finals[place] >= aim]
    wrong = sum(final > best for final in finals[kept:])
    return Search(candidates + kept * (horizon - 1), best, candidates - kept, wrong, found[0] if found else None)


def one_ordering(task: tuple[Curves, int, int, float, list[str]]) -> dict[str, dict[str, Any]]:
    """Run every policy on one ordering; also return the epochs until the best candidate without stopping."""
    curves, ordering, candidates, control, names = task
    order = numpy.random.default_rng([ordering, len(curves.values)]).permutation(len(curves.values))
    horizon = curves.values.shape[1]
    finals = curves.sign * curves.values[order[:candidates], -1]
    aim, top = float(finals.max()), float((curves.sign * curves.values[:, -1]).max())
    plain = Search(candidates * horizon, aim, reached=(int(finals.argmax()) + 1) * horizon)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        policy = POLICIES[name]
        if name == "1 epoch":
            result = rank_after_one_epoch(curves, order, candidates, aim)
        elif policy is None:
            result = plain
        else:
            result = search(curves, order, policy(), candidates, aim, control, ordering)
        cut = finals[: max(1, result.epochs // horizon)].max()
        found[name] = {
            **asdict(result),
            "best": result.best if math.isfinite(result.best) else None,
            "regret": top - result.best if math.isfinite(result.best) else math.nan,
            "regret_none_at_equal_epochs": top - float(cut),
            "needed": plain.reached,
        }
    return found


def coverage(curves: Curves, known: int, seed: int = 0) -> list[float]:
    """Share of final values within the 90 % interval, after each of ``SHARES`` of the epochs."""
    values, horizon = curves.values, curves.values.shape[1]
    inside = numpy.zeros((2, len(SHARES)))
    for half in range(2):
        order = numpy.random.default_rng([seed, half]).permutation(len(values))
        predictor = BayesianCurve()
        predictor.fit([KnownCurve(int(i), tuple(values[i]), float(values[i, -1])) for i in order[:known]])
        tested = order[KNOWN : KNOWN + TESTED]
        for column, share in enumerate(SHARES):
            for i in tested:
                final = predictor.predict(
                    values[i, : max(3, round(share * horizon))].tolist(), horizon, "last", curves.mode
                )  # type: ignore[arg-type]
                low, high = final.interval(0.9)
                inside[half, column] += low <= values[i, -1] <= high
        inside[half] /= len(tested)
    return [float(share) for share in inside.mean(axis=0)]


def summary(runs: Sequence[dict[str, Any]], total: int) -> dict[str, float]:
    """One policy on one set; ``total``: epochs for all candidates without stopping."""
    reached = [total if run["reached"] is None else run["reached"] for run in runs]
    stops, decisions = sum(run["stops"] for run in runs), sum(run["decisions"] for run in runs)
    return {
        "speed_up": float(numpy.mean([run["needed"] for run in runs]) / numpy.mean(reached)),
        "not_reached": float(numpy.mean([run["reached"] is None for run in runs])),
        "epochs_saved": total / float(numpy.mean([run["epochs"] for run in runs])),
        "regret": float(numpy.nanmean([run["regret"] for run in runs])),
        "regret_none_at_equal_epochs": float(numpy.mean([run["regret_none_at_equal_epochs"] for run in runs])),
        "stops": stops,
        "wrong": sum(run["wrong"] for run in runs) / stops if stops else 0.0,
        "ms_per_decision": 1000 * sum(run["seconds"] for run in runs) / decisions if decisions else 0.0,
        "ms_slowest": 1000 * max(run["slowest"] for run in runs),
    }


def show(name: str, results: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title=name)
    for column in (
        "policy",
        "speed-up",
        "not reached",
        "epochs saved",
        "regret",
        "none, equal epochs",
        "wrong",
        "ms",
        "ms at most",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for policy, row in results.items():
        table.add_row(
            policy,
            f"{row['speed_up']:.2f} x",
            f"{row['not_reached']:.0%}",
            f"{row['epochs_saved']:.2f} x",
            f"{row['regret']:.4g}",
            f"{row['regret_none_at_equal_epochs']:.4g}",
            f"{row['wrong']:.1%} of {row['stops']:.0f}",
            f"{row['ms_per_decision']:.2f}",
            f"{row['ms_slowest']:.1f}",
        )
    console.print(table)


def plot(report: dict[str, Any], path: Path) -> None:
    """Plot the speedup and wrong stops of each policy by set; requires matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    names = list(report)
    policies = list(report[names[0]]["policies"])
    width = 0.8 / len(policies)
    for place, policy in enumerate(policies):
        x = numpy.arange(len(names)) + (place - (len(policies) - 1) / 2) * width
        rows = [report[name]["policies"][policy] for name in names]
        axes[0].bar(x, [row["speed_up"] for row in rows], width, label=policy)
        axes[1].bar(x, [100 * row["wrong"] for row in rows], width)
    axes[0].axhline(1, color="black", linewidth=0.8)
    axes[0].set(ylabel="speed-up to no stopping's regret, times")
    axes[1].axhline(3, color="black", linewidth=0.8)
    axes[1].set(ylabel="wrong stops, % of stops")
    for each in axes:
        each.set_xticks(numpy.arange(len(names)), names)
    axes[0].legend(fontsize=8)
    figure.savefig(path)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the curves (default: %(default)s)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "lightning-evo-curves",
        help="cache for the digits curves (default: %(default)s)",
    )
    parser.add_argument("--half", choices=["even", "odd"], default="odd", help="which curves (default: %(default)s)")
    parser.add_argument("--orderings", type=int, default=40, help="searches per policy and set (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=60, help="candidates per search (default: %(default)s)")
    parser.add_argument(
        "--control", type=float, default=0.0, help="share of candidates never stopped (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, help="parallel searches (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(POLICIES), default=list(POLICIES), help="policies to run")
    parser.add_argument("--sets", nargs="+", choices=[*FILES, DIGITS], default=[*FILES, DIGITS], help="sets to run")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg or .png; needs matplotlib)")
    options = parser.parse_args(args)
    for file, _, _ in FILES.values():
        if not (options.data / file).is_file():
            parser.error(f"--data {options.data}: has no {file}")
    if options.orderings < 1 or not 2 <= options.candidates <= 100 or not 0 <= options.control < 1:
        parser.error("needs --orderings of at least 1, --candidates from 2 to 100, --control from 0 to below 1")

    console = Console(width=max(130, Console().width))
    report: dict[str, Any] = {}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for curves in load(options.data, options.cache, options.half):
            if curves.name not in options.sets:
                continue
            tasks = [(curves, i, options.candidates, options.control, options.only) for i in range(options.orderings)]
            runs = pool.map(one_ordering, tasks, chunksize=1)
            total = options.candidates * curves.values.shape[1]
            policies = {name: summary([run[name] for run in runs], total) for name in options.only}
            covered = {str(known): pool.apply(coverage, (curves, known)) for known in (0, KNOWN)}
            report[curves.name] = {"policies": policies, "coverage": covered, "curves": len(curves.values)}
            show(
                f"{curves.name}: {len(curves.values)} curves, {options.orderings} orderings of {options.candidates}",
                policies,
                console,
            )
            for known, shares in covered.items():
                at = ", ".join(f"{share:.0%} after {part:.0%}" for share, part in zip(shares, SHARES, strict=True))
                console.print(f"  90 % interval with {known} known: {at} of the epochs")
    for name in options.only:
        average = numpy.mean([each["policies"][name]["speed_up"] for each in report.values()])
        print(f"Average speedup of {name}: {average:.2f} x")
    print(
        "Goals: 4 x on average, wrong stops at most 3 %, coverage 87 to 93 %, no set below 1 x, ahead of asha on average."
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    if options.plot:
        plot(report, options.plot)


if __name__ == "__main__":
    main()
