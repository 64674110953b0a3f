"""Quality of the network that each algorithm finds in 50, 100 and 300 evaluations, and the cost of ask and tell.

    python benchmarks/search_efficiency.py [--table PATH] [--seeds 50] [--json PATH] [--plot PATH]

The table is NAS-Bench-201 on CIFAR-10 (all 15,625 cells of six edges with five operations, trained for 200 epochs with
2 or 3 seeds). An evaluation returns the validation accuracy of one of the cell's seeds at random, as a training would; the
choice depends only on (run seed, number of the evaluation), so that all searches see the same noise. Reported is the *mean*
validation accuracy over all seeds of the cell that each search ranks best. A duplicate counts as an evaluation every time,
though a real search answers it from its archive. Searches don't know which cells are isomorphic. Optuna's samplers are
included if it is installed.

Searches with a prescreen use a forest. Its features are either the six choices alone, as in every other search, or
("paths") the sequences of operations along the paths through the cell, a description that a user who knows cells would
provide (`cell_paths` below, after the path encoding of BANANAS). The last lines show how many evaluations each search needs
to reach the final quality of regularized evolution.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy
from rich.console import Console
from rich.table import Table

from lightning_evo.algorithms import (
    NSGA2,
    Algorithm,
    GenerationalEvolution,
    LocalSearch,
    PredictorSearch,
    Prescreen,
    RandomSearch,
    RegularizedEvolution,
    SearchSetup,
)
from lightning_evo.genome import Categorical, Objective, Result, SearchSpace, derive_seed
from lightning_evo.predictors import ForestPredictor

DEFAULT_TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "tables" / "nasbench201_cifar10.npz"
EDGES = [f"model.init_args.edge_{start}_{end}" for start, end in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))]

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "RandomSearch": RandomSearch,
    "LocalSearch": LocalSearch,
    "RegularizedEvolution": RegularizedEvolution,
    "GenerationalEvolution": GenerationalEvolution,
    "GenerationalEvolution mu+lambda": partial(GenerationalEvolution, strategy="mu+lambda"),
    "GenerationalEvolution mu,lambda": partial(GenerationalEvolution, strategy="mu,lambda", offspring=32),
    "NSGA2 (one objective)": NSGA2,
    "RegularizedEvolution, prescreen": lambda: RegularizedEvolution(prescreen=Prescreen(ForestPredictor())),
    "RegularizedEvolution, prescreen, paths": lambda: RegularizedEvolution(
        prescreen=Prescreen(ForestPredictor(features=cell_paths))
    ),
    "PredictorSearch": lambda: PredictorSearch(ForestPredictor()),
    "PredictorSearch, paths": lambda: PredictorSearch(ForestPredictor(features=cell_paths)),
}

CUT, SKIP = "none", "skip_connect"
OPERATIONS = ["nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
ROUTES = [(3,), (0, 4), (1, 5), (0, 2, 5)]
"""The ways from a cell's input to its output, as positions of edges in ``EDGES``."""

SEQUENCES = [s for length in range(4) for s in itertools.product(OPERATIONS, repeat=length)]


def cell_paths(genome: Mapping[str, str]) -> list[float]:
    """Features of a cell: the operations along each path; a skip adds no operation, a zeroed edge cuts the path.

    How often each sequence of operations occurs (40 numbers), the number of ways, the length of the longest, the shortest
    and all; the most and all occurrences of each operation; and how many edges have each operation.
    """
    ways = [[genome[EDGES[edge]] for edge in route] for route in ROUTES]
    paths = [tuple(op for op in way if op != SKIP) for way in ways if CUT not in way]
    lengths = [len(path) for path in paths]
    row = [float(paths.count(sequence)) for sequence in SEQUENCES]
    row += [len(paths), max(lengths, default=-1), min(lengths, default=-1), sum(lengths)]
    for op in OPERATIONS:
        counts = [path.count(op) for path in paths]
        row += [max(counts, default=-1), sum(counts)]
    edges = [genome[edge] for edge in EDGES]
    return row + [float(edges.count(op)) for op in (SKIP, *OPERATIONS)]


class Benchmark:
    """NAS-Bench-201 as a function of an edge list, with the noise of one run.

    Args:
        path: The table: ``ops`` (cells, 6), ``op_names``, ``valid_cifar10`` (cells, seeds; NaN where not trained).
        seed: Decides which training seed each evaluation meets.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.op_names, self._accuracies, self._cells = _load(path)
        self._seed = seed
        self._curve: list[float] = []
        self._best = -math.inf

    def evaluate(self, ops: Sequence[str]) -> float:
        """The validation accuracy (%) of the cell, as trained with one of its seeds."""
        trained = self._accuracies[self._cells[tuple(self.op_names.index(op) for op in ops)]]
        observed = random.Random(derive_seed(self._seed, "evaluation", len(self._curve))).choice(trained)
        if observed > self._best:
            self._best, self._mean_of_best = observed, sum(trained) / len(trained)
        self._curve.append(self._mean_of_best)
        return observed

    @property
    def curve(self) -> list[float]:
        """Mean validation accuracy (%) of the cell ranked best, after each evaluation."""
        return self._curve


@cache
def _load(path: Path) -> tuple[list[str], list[list[float]], dict[tuple[int, ...], int]]:
    with numpy.load(path, allow_pickle=False) as table:
        names = [str(name) for name in table["op_names"]]
        accuracies = [[float(a) for a in row if not math.isnan(a)] for row in table["valid_cifar10"]]
        cells = {tuple(int(op) for op in ops): i for i, ops in enumerate(table["ops"])}
    return names, accuracies, cells


def run_ours(name: str, path: Path, seed: int, evaluations: int) -> tuple[list[float], float]:
    """The curve of one search, and the CPU seconds of all its asks and tells."""
    benchmark = Benchmark(path, seed)
    algorithm = ALGORITHMS[name]()
    space = SearchSpace({edge: Categorical(benchmark.op_names) for edge in EDGES})
    algorithm.bind(SearchSetup(space, [Objective("val_acc")], seed))
    seconds = 0.0
    for _ in range(evaluations):
        start = time.process_time()
        candidate = algorithm.ask()
        seconds += time.process_time() - start
        assert candidate is not None, "everything asked has been told"
        result = Result("completed", fitness=(benchmark.evaluate([candidate.genome[edge] for edge in EDGES]),))
        start = time.process_time()
        algorithm.tell(candidate, result)
        seconds += time.process_time() - start
    return benchmark.curve, seconds


def run_optuna(name: str, path: Path, seed: int, evaluations: int) -> tuple[list[float], float]:
    """Like :func:`run_ours`, with Optuna's in-memory study and a sampler with default settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    benchmark = Benchmark(path, seed)
    samplers = {"Optuna random": optuna.samplers.RandomSampler, "Optuna TPE": optuna.samplers.TPESampler}
    study = optuna.create_study(direction="maximize", sampler=samplers[name](seed=seed))
    seconds = 0.0
    for _ in range(evaluations):
        start = time.process_time()
        trial = study.ask()
        ops = [trial.suggest_categorical(edge, benchmark.op_names) for edge in EDGES]
        seconds += time.process_time() - start
        observed = benchmark.evaluate(ops)
        start = time.process_time()
        study.tell(trial, observed)
        seconds += time.process_time() - start
    return benchmark.curve, seconds


def run(task: tuple[str, Path, int, int]) -> tuple[list[float], float]:
    name, path, seed, evaluations = task
    return (run_ours if name in ALGORITHMS else run_optuna)(name, path, seed, evaluations)


def mean_and_interval(values: numpy.ndarray) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (normal approximation; the seeds are 50 or more)."""
    spread = numpy.std(values, ddof=1) if len(values) > 1 else math.nan
    return float(numpy.mean(values)), float(1.96 * spread / math.sqrt(len(values)))


def contenders() -> list[str]:
    names = list(ALGORITHMS)
    try:
        import optuna  # noqa: F401
    except ImportError:
        return names
    return [*names, "Optuna random", "Optuna TPE"]


def plot(curves: dict[str, numpy.ndarray], path: Path) -> None:
    """Mean curves with their intervals; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    for name, runs in curves.items():
        mean = runs.mean(axis=0)
        half = 1.96 * runs.std(axis=0, ddof=1) / math.sqrt(len(runs))
        x = numpy.arange(1, runs.shape[1] + 1)
        (line,) = axes.plot(x, mean, label=name, linestyle="--" if name.startswith("Optuna") else "-")
        axes.fill_between(x, mean - half, mean + half, alpha=0.15, color=line.get_color())
    axes.set(xlabel="evaluations", ylabel="validation accuracy of the best, %", xscale="log", ylim=(88.5, None))
    axes.set_title(f"NAS-Bench-201, CIFAR-10: mean and 95 % interval of {len(next(iter(curves.values())))} seeds")
    axes.legend(fontsize=8)
    figure.savefig(path)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--table", type=Path, default=DEFAULT_TABLE, help="NAS-Bench-201 as .npz (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=50, help="searches per algorithm (default: %(default)s)")
    parser.add_argument("--at", type=int, nargs="+", default=[50, 100, 300], help="evaluations to report after")
    parser.add_argument("--processes", type=int, default=2, help="searches at a time (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=contenders(), default=contenders(), help="algorithms to run")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--plot", type=Path, help="draw the mean curves here (.svg or .png; needs matplotlib)")
    options = parser.parse_args(args)
    if not options.table.is_file():
        parser.error(f"--table {options.table}: no such file")
    if options.seeds < 2 or min(options.at) < 1:
        parser.error(f"--seeds {options.seeds} --at {options.at}: needs two seeds, and one evaluation, or more")

    evaluations = max(options.at)
    tasks = [(name, options.table, seed, evaluations) for name in options.only for seed in range(options.seeds)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        results = pool.map(run, tasks, chunksize=1)

    table = Table(title=f"Mean validation accuracy (%) of the best found, {options.seeds} paired seeds, 95 % interval")
    table.add_column("algorithm", no_wrap=True)
    for at in options.at:
        table.add_column(f"after {at}", justify="right", no_wrap=True)
    table.add_column(f"minus {options.only[0]}", justify="right")
    table.add_column("ms per ask+tell", justify="right")
    report: dict[str, dict[str, object]] = {}
    curves: dict[str, numpy.ndarray] = {}
    for i, name in enumerate(options.only):
        own = results[i * options.seeds : (i + 1) * options.seeds]
        curves[name] = numpy.array([curve for curve, _ in own])
        after = {at: mean_and_interval(curves[name][:, at - 1]) for at in options.at}
        gain = mean_and_interval(curves[name][:, -1] - curves[options.only[0]][:, -1])
        milliseconds = 1000 * sum(seconds for _, seconds in own) / (options.seeds * evaluations)
        report[name] = {"after": after, "gain": gain, "milliseconds_per_ask_and_tell": milliseconds}
        cells = [f"{mean:.3f} ± {half:.3f}" for mean, half in after.values()]
        table.add_row(name, *cells, f"{gain[0]:+.3f} ± {gain[1]:.3f}", f"{milliseconds:.2f}")
    Console(width=max(120, Console().width)).print(table)
    reference = "RegularizedEvolution"
    if reference in curves:
        aim = float(curves[reference].mean(axis=0)[-1])
        print(f"Evaluations until the mean reaches {aim:.3f} %, which {reference} has after {evaluations}:")
        for name, runs in curves.items():
            reached = numpy.flatnonzero(runs.mean(axis=0) >= aim)
            print(f"  {name}: {reached[0] + 1 if len(reached) else 'not reached'}")
    best = max(sum(row) / len(row) for row in _load(options.table)[1])
    print(f"Best cell of the table: {best:.3f} %. CPU time of this process, one thread.")
    if options.json:
        options.json.write_text(json.dumps({"seeds": options.seeds, "best": best, "algorithms": report}, indent=2))
    if options.plot:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
