"""Archives to report on: one small with everything that can happen in it, one as large as wished, and the poor ones."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from reporting_records import (
    CREATED,
    EPOCHS,
    OBJECTIVES,
    SPACE,
    described,
    early_fitness,
    growth,
    inheritance,
)
from reporting_synthetic import synthetic

from lightning_evo.archive import ArchiveWriter
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Candidate,
    Categorical,
    Genome,
    GrowthSteps,
    Integer,
    Layers,
    LogUniform,
    Objective,
    Ordinal,
    Prediction,
    Result,
    SearchSpace,
    Segment,
    Uniform,
    derive_seed,
)

__all__ = [
    "CREATED",
    "EPOCHS",
    "FEATURED",
    "FEATURED_SPACE",
    "HOSTILE",
    "OBJECTIVES",
    "SPACE",
    "STRANGE_GENE",
    "empty",
    "featured",
    "synthetic",
    "unfinished",
]

HOSTILE = "<img src=x onerror=window.hacked=1>"
"""What a page must show and never execute: a run's name, a gene's value, an error."""

STRANGE_GENE = 'model.init_args.a<b>"c'

FEATURED_SPACE = SearchSpace(
    {
        "model.init_args.lr": LogUniform(1e-4, 0.1),
        "model.init_args.width": Ordinal([16, 32, 64, 128]),
        "data.init_args.width": Integer(1, 8),
        STRANGE_GENE: Categorical(
            ["relu", HOSTILE, {"class_path": "torch.nn.GELU", "init_args": {"approximate": "tanh"}}]
        ),
        "model.init_args.norm": Boolean(),
        "model.init_args.momentum": Uniform(0.5, 0.99, when={"model.init_args.norm": [True]}),
        "model.init_args.chromosome": Bitstring(6),
        "model.init_args.layers": Layers((1, 8, 8), 10),
        "trainer.callbacks.StructuralGrowth.init_args.initial": GrowthSteps(),
    }
)
"""What :func:`featured` searches."""


# -- poor ones ---------------------------------------------------------------------------------------------------------


def empty(directory: Path) -> Path:
    """A search that has begun and asked for nobody yet."""
    with ArchiveWriter(directory) as writer:
        writer.update_meta(described(SPACE, OBJECTIVES[:1], seed=0))
    return directory


def unfinished(directory: Path) -> Path:
    """Four candidates, of which two failed and two are pending."""
    with ArchiveWriter(directory) as writer:
        writer.update_meta(described(SPACE, OBJECTIVES[:1], seed=0))
        for id in range(4):
            rng = random.Random(id)
            writer.record_candidate(Candidate(id, SPACE.sample(rng), seed=derive_seed(0, id)), queued=CREATED + id)
        for id in range(2):
            error = "Traceback (most recent call last):\n  ...\nRuntimeError: no memory"
            times = {"started": CREATED + 1 + id, "ended": CREATED + 5 + id, "slot": id}
            writer.record_result(id, Result("failed", error=error, error_type="RuntimeError: no memory", **times))
    return directory


# -- one of everything -------------------------------------------------------------------------------------------------

FEATURED = 24
"""Candidates of :func:`featured`; the last two are pending."""


def featured(directory: Path, objectives: int = 2, run: str = HOSTILE, seed: int = 0) -> Path:
    """A small search in which everything happens that can happen.

    Statuses of all kinds; a NaN fitness (candidate 5), an infinite metric (6), failures with markup in their errors (3 and
    11), a duplicate (9, of 4), early stops (7, 14) and controls (8, 15), predictions, inheritance from a parent, from an
    older ancestor and from nobody, growth, stacks, a training in segments (16 and 17), pending ones (22, 23).

    Args:
        directory: Where to write it.
        objectives: How many, 1 to 3.
        run: The run's name.
        seed: Decides genomes and numbers.
    """
    sought = OBJECTIVES[:objectives]
    with ArchiveWriter(directory, run=run) as writer:
        writer.update_meta(described(FEATURED_SPACE, sought, seed))
        genomes: list[Genome] = []
        for id in range(FEATURED):
            candidate = _featured_candidate(id, genomes, objectives, seed)
            genomes.append(candidate.genome)
            writer.record_candidate(candidate, queued=CREATED + 2.0 * id)
            if id < FEATURED - 2:
                writer.record_result(id, _featured_result(id, sought, seed))
        writer.update_meta(
            {
                "elapsed": 60.0,
                "checkpoints": {"kept": 3, "bytes": 2_000_000, "peak_bytes": 5_000_000},
                "predictor_quality": [
                    {
                        "monitor": objective.monitor,
                        "results": results,
                        "tau": 0.2 + results / 50,
                        "r2": results / 40,
                        "baseline": 0.3,
                        "earned": results > 10,
                        "seconds": 0.4,
                    }
                    for results in (8, 16)
                    for objective in sought
                ],
                "final": {
                    "request": {"candidate": 4, "retrain": False, "test": True, "config": {}},
                    "metrics": {"test_acc": 0.875},
                    "tested": True,
                },
            }
        )
    return directory


def _featured_candidate(id: int, earlier: list[Genome], objectives: int, seed: int) -> Candidate:
    rng = random.Random(derive_seed(seed, "featured", id))
    if id < 6:
        genome, parents, origin = FEATURED_SPACE.sample(rng), (), "sample"
    elif id == 9:
        genome, parents, origin = earlier[4], (4,), "mutate"
    elif id % 4 == 2:
        parents = (id - 4, id - 5)
        genome = FEATURED_SPACE.crossover(earlier[id - 4], earlier[id - 5], rng)[0]
        origin = "mate+mutate"
    else:
        parents = (id - 6,)
        genome, origin = FEATURED_SPACE.mutate(earlier[id - 6], rng), "mutate"
    mean, std = (0.5 + id / 100, 1000.0, 2.0)[:objectives], (0.05, 100.0, 0.5)[:objectives]
    predicted = Prediction(mean, std, used=id % 2 == 0, results=8)
    return Candidate(
        id,
        genome,
        parents=parents,
        generation=id // 6,
        seed=derive_seed(seed, id),
        origin=origin,
        inherits=16 if id == 17 else parents[0] if parents and id % 2 else None,
        duplicate_of=4 if id == 9 else None,
        prediction=predicted if id >= 12 else Prediction(proxies={"synflow": 1.5}) if id == 10 else None,
        segment={16: Segment(0, 5), 17: Segment(5, 10)}.get(id),
    )


def _featured_result(id: int, objectives: tuple[Objective, ...], seed: int) -> Result:
    rng = random.Random(derive_seed(seed, "result", id))
    best, slot = 0.4 + id / 60 + rng.uniform(-0.1, 0.1), id % 2
    started = CREATED + 1 + 4.0 * (id // 2) + slot
    epochs = {7: 3, 14: 4, 11: 2, 3: 0}.get(id, EPOCHS)
    curve = [
        {"epoch": e, "val_acc": best * (1 - 0.6 ** (e + 1)), "train_loss": 2 * 0.8**e, "val_loss": 2.2 * 0.85**e}
        for e in range(epochs)
    ]
    times: dict[str, Any] = {"started": started, "ended": started + 0.35 * epochs, "slot": slot}
    if id in (3, 11):
        said = f"RuntimeError: </script><script>window.hacked=1</script> {'' if id == 3 else HOSTILE}"
        return Result("failed", curve=curve, error=f"Traceback ...\n{said}", error_type=said, **times)
    cost = {
        "params": 1000 * (1 + id % 5),
        "flops": 2e6 * (1 + id % 5),
        "training_flops": 2e6 * (1 + id % 5) * 1500 * epochs,
        "seconds": 0.3 * epochs,
        "epochs": epochs,
        "peak_memory": 4e7 + id,
        "samples_per_second": 5000.0 + id,
        "waiting": 0.05,
        "utilisation": 0.8,
    }
    accuracy = math.nan if id == 5 else best * (1 - 0.6**EPOCHS)
    values = {"val_acc": accuracy, "cost/params": float(cost["params"]), "cost/seconds": cost["seconds"]}
    result = Result(
        "stopped" if id in (7, 14) else "completed",
        fitness=tuple(values[objective.monitor] for objective in objectives),
        metrics={"val_acc": accuracy, "val_loss": math.inf if id == 6 else 0.4, "train_loss": 0.3},
        curve=curve,
        cost=cost,
        checkpoint=f"candidates/{id:06d}/checkpoint.ckpt" if id in (1, 4, 20) else None,
        checkpoint_bytes=1_000_000 if id in (1, 4, 20) else None,
        extra=_featured_extra(id, accuracy, objectives),
        attempts=2 if id == 13 else 1,
        **times,
    )
    if id == 9:
        return Result(result.status, result.fitness, result.metrics, cost=cost, attempts=0, extra={"answered_by": 4})
    return result


def _featured_extra(id: int, accuracy: float, objectives: tuple[Objective, ...]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if id in (7, 14, 8, 15, 10):
        extra["early_fitness"] = early_fitness(
            control=id in (8, 15, 10),
            at=None if id == 10 else 3 if id == 14 else 2,
            mean=accuracy + 0.02,
            bar=0.9 if len(objectives) == 1 else None,
            front=[[0.9] + [1.0] * (len(objectives) - 1)] if len(objectives) > 1 else None,
        )
    if id in (13, 19, 21):
        parent = id - 6
        extra["inheritance"] = inheritance(
            None if id == 21 else parent - 1 if id == 19 else parent, parent, "checkpoint gone" if id == 21 else ""
        )
    if id in (16, 17):
        before = None if id == 16 else 16
        extra["continuation"] = {
            "from": before,
            "asked": before,
            "why": "",
            "start": 5 * (id - 16),
            "end": 5 * (id - 15),
        }
    if id in (12, 18):
        extra["growth"] = [
            growth("widen", "net.0", 1000, 1500, None, width=24),
            growth("insert", "net.2", 1500, 2000, 4),
        ]
    if id in (0, 1, 20):
        lowering = "alone" if id == 20 else "stack"
        size = 1 if id == 20 else 2
        why = "RuntimeError: lr is too much" if id == 20 else "measured per step: stack 1.00 ms, loop 2.00 ms"
        extra["stack"] = {"id": 0, "position": id % 2, "size": size, "lowering": lowering, "reason": why}
    return extra
