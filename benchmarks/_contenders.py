"""The same small trainings under each library: one function each, measured from within its own process."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from _models import TRAINER, bare_fit, be_quiet, evolved_fit, timed_fit
from _processes import Process, cpu_between, family, keep_orphans

SLOTS = 2
WARM_UP = 10
"""Candidates before those that count: both workers have then started, imported, and met their first candidate."""

WIDTHS = [8, 16, 32, 64]
LRS = (1e-3, 1.0)


class Span:
    """CPU and wall-clock time of a search for ``count`` candidates, from the end of the warm-up to the last.

    Args:
        count: Candidates that count; the search runs ``total`` of them.
    """

    def __init__(self, count: int) -> None:
        self.count, self.total = count, count + WARM_UP
        self._ended = 0
        self._begun = time.perf_counter()
        self._marks: list[tuple[list[Process], float]] = []
        keep_orphans()

    def ended(self, *_: Any, **__: Any) -> None:
        """Record that a candidate has ended and its search has received the result."""
        self._ended += 1
        if self._ended in (1, WARM_UP, self.total):
            self.mark()

    def mark(self) -> None:
        self._marks.append((family(os.getpid()), time.perf_counter() - self._begun))

    def figures(self, times: Iterable[tuple[float, float]], slots: int = SLOTS) -> dict[str, float]:
        """Milliseconds per candidate; ``times`` are starts and ends of all candidates, in seconds."""
        (_, first), (before, wall), (after, wall_end) = self._marks
        return {
            "cpu": 1000 * cpu_between(before, after) / self.count,
            "wall": 1000 * (wall_end - wall) / self.count,
            "busy": busy_fraction(sorted(times)[-self.count :], slots),
            "start": first,
        }


def busy_fraction(times: Sequence[tuple[float, float]], slots: int) -> float:
    """Share of the time, from the first start to the last end, in which slots had a candidate."""
    whole = max(end for _, end in times) - min(start for start, _ in times)
    return sum(end - start for start, end in times) / (slots * whole)


def read_times(path: Path) -> list[tuple[float, float]]:
    return [(float(start), float(end)) for start, end in (line.split() for line in path.read_text().splitlines())]


# -- lightning-evo -----------------------------------------------------------------------------------------------------


def evolve(folder: Path, count: int, **changes: Any) -> dict[str, float]:
    """A steady-state search over a LightningCLI config, with all defaults of the package."""
    from lightning_evo import Archive, Budget, Evolution, Objective, Workers
    from lightning_evo.algorithms import RegularizedEvolution
    from lightning_evo.genome import LogUniform, Ordinal
    from lightning_evo.reporting.progress import PlainProgress

    span = Span(count)

    class Counted(PlainProgress):
        def told(self, *arguments: Any) -> None:
            super().told(*arguments)
            span.ended()

    prefix = "" if "function" in changes else "model.init_args."
    settings: dict[str, Any] = {
        "space": {f"{prefix}width": Ordinal(WIDTHS), f"{prefix}lr": LogUniform(*LRS)},
        "algorithm": RegularizedEvolution(population_size=16),
        "objectives": [Objective("val_loss", "min")],
        "budget": Budget(candidates=span.total),
        "workers": Workers(slots=SLOTS, threads=1),
        "directory": folder / "run",
        "seed": 1,
        "final": None,
        "progress": Counted(),
    }
    if "function" not in changes:
        settings["config"] = config()
    Evolution(**(settings | changes)).run()
    with Archive(folder / "run") as archive:
        rows = archive.candidates()
        if archive.counts()["completed"] != span.total:
            raise RuntimeError(f"not all candidates completed: {archive.counts()}")
    return span.figures((row["started"], row["ended"]) for row in rows if row["duplicate_of"] is None)


def config(batches: int = 1, sleep: float = 0.0) -> dict[str, Any]:
    return {
        "model": {"class_path": "_models.Perceptron", "init_args": {"sleep": sleep}},
        "data": {"class_path": "_models.Points", "init_args": {"batches": batches}},
        "trainer": TRAINER,
    }


def evolve_config(folder: Path, count: int) -> dict[str, float]:
    return evolve(folder, count)


def evolve_without_checkpoints(folder: Path, count: int) -> dict[str, float]:
    return evolve(folder, count, keep_checkpoints=0)


def evolve_function(folder: Path, count: int) -> dict[str, float]:
    return evolve(folder, count, function=evolved_fit)


def evolve_sleepers(folder: Path, count: int, seconds: float = 2.0) -> dict[str, float]:
    """Candidates that sleep for ``seconds`` in four training steps, to measure how busy slots are."""
    return evolve(folder, count, config=config(batches=4, sleep=seconds / 4))


# -- others ------------------------------------------------------------------------------------------------------------


def ray_tune(folder: Path, count: int) -> dict[str, float]:
    """Ray Tune with reused actors and otherwise default settings."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import tune

    times = folder / "times"

    class Fit(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            be_quiet()

        def step(self) -> dict[str, Any]:
            return {"val_loss": timed_fit(self.config["width"], self.config["lr"], str(times)), "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

    span = Span(count)

    class Counted(tune.Callback):
        def on_trial_complete(self, *arguments: Any, **named: Any) -> None:
            span.ended()

    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        results = tune.Tuner(
            tune.with_resources(Fit, {"cpu": 1}),
            param_space={"width": tune.choice(WIDTHS), "lr": tune.loguniform(*LRS)},
            tune_config=tune.TuneConfig(num_samples=span.total, reuse_actors=True, metric="val_loss", mode="min"),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                verbose=0,
                callbacks=[Counted()],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    finally:
        ray.shutdown()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed; the first: {results.errors[0]!r}")
    return span.figures(read_times(times))


def deephyper_process(folder: Path, count: int) -> dict[str, float]:
    """DeepHyper's random search with its process workers."""
    from deephyper.evaluator import Evaluator
    from deephyper.evaluator.callback import Callback
    from deephyper.hpo import HpProblem, RandomSearch

    be_quiet()  # its workers are forked
    span = Span(count)

    class Counted(Callback):
        def on_done(self, job: Any) -> None:
            span.ended()

    problem = HpProblem()
    problem.add_hyperparameter((*LRS, "log-uniform"), "lr")
    problem.add_hyperparameter(WIDTHS, "width")
    method = {
        "num_workers": SLOTS,
        "callbacks": [Counted()],
        "run_function_kwargs": {"times": str(folder / "times")},
    }
    evaluator = Evaluator.create(deephyper_job, method="process", method_kwargs=method)
    search = RandomSearch(problem, random_state=1, log_dir=str(folder), verbose=0)
    search.search(evaluator, max_evals=span.total, max_evals_strict=True)
    return span.figures(read_times(folder / "times"))


def deephyper_job(job: Any, times: str) -> float:
    return -timed_fit(int(job.parameters["width"]), float(job.parameters["lr"]), times)


def optuna_inline(folder: Path, count: int) -> dict[str, float]:
    """Optuna in one process, one trial after the other, in memory, without slots."""
    import optuna

    be_quiet()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    span = Span(count)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(OptunaObjective(folder / "times"), n_trials=span.total, callbacks=[span.ended])
    return span.figures(read_times(folder / "times"), slots=1)


def optuna_processes(folder: Path, count: int) -> dict[str, float]:
    """Distributed Optuna: independent processes that share a study through a journal file."""
    import optuna

    span = Span(count)
    path = str(folder / "journal")
    optuna.create_study(study_name="study", storage=optuna_storage(path))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(SLOTS + 1, timeout=600)
    shares = [(WARM_UP // SLOTS, count // SLOTS + (i < count % SLOTS)) for i in range(SLOTS)]
    processes = [
        context.Process(target=optuna_worker, args=(path, i, share, str(folder / "times"), barrier), daemon=True)
        for i, share in enumerate(shares)
    ]
    for process in processes:
        process.start()
    for _ in range(3):  # after the first trials, the warm-up, the trials that count
        barrier.wait()  # the workers have come to it
        span.mark()
        barrier.wait()  # the workers may go on
    for process in processes:
        process.join()
    return span.figures(read_times(folder / "times"))


def optuna_worker(path: str, seed: int, shares: tuple[int, int], times: str, barrier: Any) -> None:
    import optuna

    be_quiet()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.load_study(study_name="study", storage=optuna_storage(path), sampler=sampler)
    try:
        for trials in (1, shares[0] - 1, shares[1]):
            study.optimize(OptunaObjective(Path(times)), n_trials=trials)
            barrier.wait()
            barrier.wait()
    except BaseException:
        barrier.abort()  # nobody need wait for this process
        raise


def optuna_storage(path: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(path))


class OptunaObjective:
    def __init__(self, times: Path) -> None:
        self.times = times

    def __call__(self, trial: Any) -> float:
        width, lr = trial.suggest_categorical("width", WIDTHS), trial.suggest_float("lr", *LRS, log=True)
        return timed_fit(width, lr, str(self.times))


# -- the yardstick -----------------------------------------------------------------------------------------------------


def bare(folder: Path, count: int, slots: int = SLOTS) -> dict[str, Any]:
    """Milliseconds of each of ``count`` fits in a warm process; ``slots`` processes do it at once, as in a search."""
    processes = [
        multiprocessing.get_context("spawn").Process(target=bare_worker, args=(str(folder / str(i)), count))
        for i in range(slots)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    measured = [json.loads((folder / str(i)).read_text()) for i in range(slots)]
    return {name: [number for one in measured for number in one[name]] for name in ("cpu", "wall")}


def bare_alone(folder: Path, count: int) -> dict[str, Any]:
    """The same in one process: the baseline for contenders with a single slot."""
    return bare(folder, count, slots=1)


def bare_worker(path: str, count: int) -> None:
    be_quiet()
    measured: dict[str, list[float]] = {"cpu": [], "wall": []}
    for i in range(WARM_UP + count):
        cpu, wall = time.process_time(), time.perf_counter()
        bare_fit(WIDTHS[i % len(WIDTHS)], 0.1)
        if i >= WARM_UP:
            measured["cpu"].append(1000 * (time.process_time() - cpu))
            measured["wall"].append(1000 * (time.perf_counter() - wall))
    Path(path).write_text(json.dumps(measured))


# -- the state of the process ------------------------------------------------------------------------------------------


def put_state_back(folder: Path, count: int) -> dict[str, float]:
    """Milliseconds of CPU in which a worker looks at the state of its process and puts it back, after a bare fit."""
    import lightning_evo.training.preload  # noqa: F401 - what a worker has imported
    from lightning_evo.execution.process_state import ProcessState

    be_quiet()
    process, measured = ProcessState(), []
    for i in range(WARM_UP + count):
        spent = 0.0
        for part in (lambda: process.prepare(["_models"]), process.begin):
            spent -= time.process_time()
            part()
            spent += time.process_time()
        bare_fit(WIDTHS[i % len(WIDTHS)], 0.1)
        for part in (process.put_back, process.end_what_runs):
            spent -= time.process_time()
            part()
            spent += time.process_time()
        if i >= WARM_UP:
            measured.append(1000 * spent)
    return {"cpu": statistics.median(measured)}


STATE = "state put back"


# -- checkpoints -------------------------------------------------------------------------------------------------------

HASHES = "checkpoints hashed"
SIZES = {"20 KB": 5_000, "1 MB": 250_000, "100 MB": 25_000_000}
"""Of a checkpoint -> how many numbers it holds."""


def hash_checkpoints(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Milliseconds of CPU, by size: hashing the file, reading it as it is, and reading it while its hash is compared."""
    import torch

    from lightning_evo.utils.checkpoints import read_checkpoint
    from lightning_evo.utils.files import digest_of

    be_quiet()
    found = {}
    for size, numbers in SIZES.items():
        path = folder / f"{numbers}.ckpt"
        torch.save({"state_dict": {"weight": torch.rand(numbers)}}, path)
        digest = digest_of(path)
        works: dict[str, Callable[[], object]] = {
            "hash": lambda path=path: digest_of(path),  # type: ignore[misc]
            "read": lambda path=path: read_checkpoint(path),  # type: ignore[misc]
            "read and compare": lambda path=path, digest=digest: read_checkpoint(path, digest=digest),  # type: ignore[misc]
        }
        spent: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(max(5, count if numbers < 10**6 else count // 10)):
            for name, work in works.items():
                began = time.process_time()
                work()
                spent[name].append(1000 * (time.process_time() - began))
        found[size] = {name: statistics.median(values) for name, values in spent.items()}
    return found


OURS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "lightning-evo": evolve_config,
    "lightning-evo, no checkpoints": evolve_without_checkpoints,
    "lightning-evo, a function": evolve_function,
}
OTHERS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "Ray Tune": ray_tune,
    "DeepHyper": deephyper_process,
    "Optuna, 2 processes": optuna_processes,
    "Optuna, in process": optuna_inline,
}
SLEEPERS = "lightning-evo, 2 s each"
CONTENDERS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    **OURS,
    **OTHERS,
    STATE: put_state_back,
    HASHES: hash_checkpoints,
    SLEEPERS: evolve_sleepers,
    "bare": bare,
    "bare, alone": bare_alone,
}
