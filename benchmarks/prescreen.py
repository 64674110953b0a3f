"""Cost of prescreening per ask, and of refits, for the controller as results accumulate. Nothing is trained.

    python benchmarks/prescreen.py [--at 100 1000 10000] [--only NAME ...] [--asks 50] [--json PATH]

A search over layer templates and a learning rate receives a number of simulated results (a smooth function of a template's
size and depth, with noise), and then continues. An ask without a refit breeds ten children, computes their features,
predicts their fitness and chooses one; the time and frequency of validation and refit are measured separately.
Milliseconds of this process's CPU time (medians), one thread. Goal: an ask below 100 ms at 10,000 results.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_evo.algorithms import (
    Algorithm,
    Predictor,
    PredictorSearch,
    Prescreen,
    RandomSearch,
    RegularizedEvolution,
    SearchSetup,
)
from lightning_evo.algorithms.prescreen import REFIT, REVALIDATE
from lightning_evo.genome import Genome, Layers, LogUniform, Objective, Result, SearchSpace
from lightning_evo.predictors import EnsemblePredictor, ForestPredictor, GaussianProcessPredictor, LSTMPredictor

LAYERS = "model.init_args.layers"
SPACE = SearchSpace(
    {LAYERS: Layers(input_shape=[1, 28, 28], num_classes=10), "model.init_args.lr": LogUniform(1e-4, 1e-1)}
)
GOAL = 100.0


def prescreened(predictor: Callable[[], Predictor]) -> Callable[[], Algorithm]:
    return lambda: RegularizedEvolution(prescreen=Prescreen(predictor()))


SEARCHES: dict[str, Callable[[], Algorithm]] = {
    "no prescreen": RegularizedEvolution,
    "forest": prescreened(ForestPredictor),
    "LSTM": prescreened(LSTMPredictor),
    "ensemble": prescreened(EnsemblePredictor),
    "Gaussian process": prescreened(GaussianProcessPredictor),
    "PredictorSearch, forest": lambda: PredictorSearch(ForestPredictor()),
}


def simulated(genome: Genome, rng: random.Random) -> Result:
    template = SPACE[LAYERS].template(genome[LAYERS])  # type: ignore[attr-defined]
    size = math.log10(template.params) - 4.5
    step = math.log10(genome["model.init_args.lr"]) + 2.5
    accuracy = 0.9 - 0.05 * size**2 - 0.03 * step**2 + 0.002 * len(template.lines) + rng.gauss(0, 0.01)
    return Result("completed", (accuracy,), cost={"params": template.params, "flops": template.flops})


def measure(make: Callable[[], Algorithm], results: list, asks: int) -> dict[str, float]:
    """Milliseconds of an ask (median and maximum), and of the first validation and refit, with their numbers of results."""
    algorithm = make()
    algorithm.bind(SearchSetup(SPACE, [Objective("val_acc")], seed=1))
    for candidate, result in results:
        algorithm.recall(candidate)
        algorithm.tell(candidate, result)
    rng = random.Random(2)
    refits, plain = [], []
    for i in range(asks):
        started = time.process_time()
        if algorithm.screen is not None:
            algorithm.screen.ready()
        refitted = time.process_time()
        candidate = algorithm.ask()
        asked = time.process_time()
        if i == 0 or refitted - started > 0.01:  # bringing nothing up to date takes microseconds
            refits.append(1000 * (refitted - started))
        plain.append(1000 * (asked - refitted))
        algorithm.tell(candidate, simulated(candidate.genome, rng))
    return {"ask": statistics.median(plain), "longest": max(plain), "refit": max(refits)}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at", type=int, nargs="+", default=[100, 1000, 10_000], help="numbers of previous results")
    parser.add_argument("--only", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="searches to measure")
    parser.add_argument("--asks", type=int, default=50, help="asks to measure at each (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if min(options.at) < 20 or options.asks < 1:
        parser.error(f"--at {options.at} --asks {options.asks}: needs 20 results and one ask, or more")
    torch.set_num_threads(1)

    search = RandomSearch()
    search.bind(SearchSetup(SPACE, [Objective("val_acc")], seed=0))
    rng, results = random.Random(1), []
    for _ in range(max(options.at)):
        candidate = search.ask()
        result = simulated(candidate.genome, rng)
        search.tell(candidate, result)
        results.append((candidate, result))

    table = Table(title=f"CPU milliseconds of the controller, median of {options.asks} asks")
    table.add_column("search", no_wrap=True)
    for at in options.at:
        table.add_column(f"ask at {at}", justify="right")
        table.add_column("longest", justify="right")
        table.add_column("validation + refit", justify="right")
    report: dict[str, dict[int, dict[str, float]]] = {}
    for name in options.only:
        report[name] = {at: measure(SEARCHES[name], results[:at], options.asks) for at in options.at}
        cells = [f"{figures[key]:.1f}" for figures in report[name].values() for key in ("ask", "longest", "refit")]
        table.add_row(name, *cells)
    Console(width=max(140, Console().width)).print(table)
    print(
        f"A refit comes whenever results have grown by {REFIT - 1:.0%}, a validation (five more fits) by "
        f"{REVALIDATE - 1:.0%}; what a fit learns from is bounded by each predictor's max_results."
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    slow = [name for name in options.only if report[name][max(options.at)]["ask"] > GOAL]
    print(
        f"Goal, an ask below {GOAL:.0f} ms at {max(options.at)} results: {'missed by ' + ', '.join(slow) if slow else 'met'}"
    )
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
