"""What does an archive of thousands of candidates look like? As a long search leaves it, made within seconds."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting_records import CREATED, EPOCHS, OBJECTIVES, SPACE, described, early_fitness, inheritance

from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.database import JOURNAL
from lightning_evo.archive.events import Event, ask_event
from lightning_evo.archive.journal import Header, Journal
from lightning_evo.genome import Candidate, Genome, Objective, Prediction, Result, derive_seed


def synthetic(
    directory: Path, candidates: int = 20_000, seed: int = 0, objectives: int = 1, run: str | None = None
) -> Path:
    """An archive as a long search leaves it: bred by tournaments, trained on two slots, some stopped or failed.

    A smooth function of the genes plus noise takes the place of training. Written as a journal, from which the archive then
    builds its database: seconds for 20,000 candidates.

    Args:
        directory: Where to write it.
        candidates: How many; all have ended.
        seed: Decides everything.
        objectives: How many, 1 to 3.
        run: The run's name; default: the directory's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    events = enumerate(_Search(candidates, seed, OBJECTIVES[:objectives]).events(), start=1)
    journal = Journal(directory / JOURNAL)
    journal.rewrite(Header(run or directory.name, CREATED), ({**event, "sequence": at} for at, event in events))
    ArchiveWriter(directory).close()
    return directory


@dataclass
class _Search:
    """A search whose candidates are not trained but computed."""

    candidates: int
    seed: int
    objectives: tuple[Objective, ...]
    population: list[tuple[float, Candidate]] = field(default_factory=list)
    bar: float = 0.0

    def events(self) -> Iterator[Event]:
        rng = random.Random(derive_seed(self.seed, "synthetic"))
        yield {"kind": "meta", "values": described(SPACE, self.objectives, self.seed)}
        running: list[tuple[float, int, float, Candidate]] = []  # ended, slot, started, who
        now, asked = CREATED, 0
        while asked < self.candidates or running:
            free = {0, 1} - {slot for _, slot, *_ in running}
            while free and asked < self.candidates:
                candidate = self._breed(asked, rng)
                yield ask_event(candidate, queued=now)
                asked += 1
                if candidate.duplicate_of is None:
                    started = now + 0.02
                    lasts = 0.4 + 0.1 * candidate.genome["model.init_args.depth"] + rng.random() * 0.3
                    heapq.heappush(running, (started + lasts, free.pop(), started, candidate))
                else:
                    yield _told(candidate.id, self._answer(candidate.duplicate_of))
            if running:
                now, slot, started, candidate = heapq.heappop(running)
                yield _told(candidate.id, self._train(candidate, rng, slot, started, now))
        yield {"kind": "meta", "values": {"elapsed": now - CREATED, "checkpoints": CHECKPOINTS}}
        best = max(self.population, key=lambda each: each[0], default=None)
        if best is not None:
            request = {"candidate": best[1].id, "retrain": False, "test": True, "config": {}}
            final = {"request": request, "metrics": {"test_acc": best[0] - 0.01}, "tested": True}
            yield {"kind": "meta", "values": {"final": final}}

    def _breed(self, id: int, rng: random.Random) -> Candidate:
        known: dict[str, Any] = {"seed": derive_seed(self.seed, id)}
        if len(self.population) < 16:
            return Candidate(id, SPACE.sample(rng), **known)
        mother, father = (max(rng.sample(self.population, 8), key=lambda each: each[0])[1] for _ in range(2))
        known["generation"] = 1 + max(mother.generation, father.generation if id % 5 == 0 else 0)
        if id % 97 == 96:
            known |= {"parents": (mother.id,), "origin": "mutate", "duplicate_of": mother.id}
            return Candidate(id, mother.genome, **known)
        known["inherits"] = mother.id if rng.random() < 0.6 else None
        if id % 5 == 0:
            genome = SPACE.mutate(SPACE.crossover(mother.genome, father.genome, rng)[0], rng)
            known |= {"parents": (mother.id, father.id), "origin": "mate+mutate"}
        else:
            genome = SPACE.mutate(mother.genome, rng)
            known |= {"parents": (mother.id,), "origin": "mutate"}
        if id % 3 == 1:
            # A predictor that gets better the more it has learned from.
            error = rng.gauss(0.0, 0.01 + 2.0 / (id + 20))
            mean = self._fitness(_quality(genome) + error, _params(genome) * rng.uniform(0.9, 1.1), 0.7)
            std = (0.03, 2000.0, 0.1)[: len(self.objectives)]
            known["prediction"] = Prediction(mean, std, used=rng.random() < 0.8, results=id // 2)
        return Candidate(id, genome, **known)

    def _train(self, candidate: Candidate, rng: random.Random, slot: int, started: float, ended: float) -> Result:
        times: dict[str, Any] = {"started": started, "ended": ended, "slot": slot}
        goal = _quality(candidate.genome) + rng.gauss(0.0, 0.01)
        fate = rng.random()
        if fate < 0.03:
            error = ERRORS[candidate.id % len(ERRORS)]
            return Result(
                "failed", curve=_curve(goal, rng, 2), error=f"Traceback ...\n{error}", error_type=error, **times
            )
        stopped = goal < self.bar - 0.02 and fate > 0.7
        control = not stopped and fate < 0.13
        epochs = rng.randint(2, 6) if stopped else EPOCHS
        curve = _curve(goal, rng, epochs)
        params = _params(candidate.genome)
        accuracy = goal if stopped else curve[-1]["val_acc"]
        extra: dict[str, Any] = {}
        if stopped or control:
            at = epochs - 1 if stopped else 3 if fate > 0.06 else None
            front = [[self.bar, 1.0, 0.1][: len(self.objectives)]] if len(self.objectives) > 1 else None
            record = early_fitness(control, at, goal + rng.gauss(0, 0.02), self.bar, front)
            extra["early_fitness"] = record
        if candidate.inherits is not None:
            extra["inheritance"] = inheritance(candidate.inherits, candidate.inherits)
        self.bar = max(self.bar, accuracy)
        self.population = [*self.population[-63:], (accuracy, candidate)]
        return Result(
            "stopped" if stopped else "completed",
            fitness=self._fitness(accuracy, params, ended - started),
            metrics={name: value for name, value in curve[-1].items() if name != "epoch"},
            curve=curve,
            cost={
                "params": params,
                "flops": params * 40.0,
                "training_flops": params * 40.0 * 1500 * epochs,
                "seconds": ended - started - 0.1,
                "epochs": epochs,
                "peak_memory": 4e7 + params * 12,
                "samples_per_second": 1500 * epochs / (ended - started),
                "waiting": round(rng.random() * 0.1, 4),
                "utilisation": round(0.7 + rng.random() * 0.3, 4),
            },
            extra=extra,
            **times,
        )

    def _answer(self, original: int) -> Result:
        accuracy, candidate = next(each for each in self.population if each[1].id == original)
        params = _params(candidate.genome)
        cost = {"params": params, "seconds": 0, "epochs": 0, "training_flops": 0}
        fitness = self._fitness(accuracy, params, 0.7)
        return Result(
            "completed", fitness, {"val_acc": accuracy}, cost=cost, attempts=0, extra={"answered_by": original}
        )

    def _fitness(self, accuracy: float, params: float, seconds: float) -> tuple[float, ...]:
        values = {"val_acc": accuracy, "cost/params": float(params), "cost/seconds": seconds}
        return tuple(values[objective.monitor] for objective in self.objectives)


CHECKPOINTS = {"kept": 3, "bytes": 6_000_000, "peak_bytes": 21_000_000}
ERRORS = (
    "OutOfMemoryError: CUDA out of memory",
    "ValueError: loss is NaN",
    "TimeLimit: it took longer than 60 s",
)


def _told(id: int, result: Result) -> Event:
    return {"kind": "result", "id": id, "result": result.to_dict()}


def _quality(genome: Genome) -> float:
    """What a genome is worth: the learning rate and the chromosome matter most, the batch size not at all."""
    lr = math.log10(genome["model.init_args.lr"])
    width = {16: 0.0, 32: 0.03, 64: 0.05, 128: 0.055}[genome["model.init_args.width"]]
    activation = 0.02 if genome["model.init_args.activation"]["class_path"].endswith("GELU") else 0.0
    norm = 0.03 * genome["model.init_args.norm"] * genome.get("model.init_args.momentum", 0.0)
    bits = genome["model.init_args.chromosome"].count("1") / 20
    depth = 0.01 * genome["model.init_args.depth"]
    return 0.5 - 0.06 * (lr + 2.3) ** 2 + width + activation + norm + depth + 0.25 * bits


def _params(genome: Genome) -> int:
    return 400 * genome["model.init_args.width"] * genome["model.init_args.depth"]


def _curve(goal: float, rng: random.Random, epochs: int) -> list[dict[str, float]]:
    pace = rng.uniform(0.4, 0.7)
    return [
        {
            "epoch": epoch,
            "train_loss": round(2.3 * (1 - goal) + 1.5 * pace ** (epoch + 1), 6),
            "val_acc": round(goal * (1 - 0.5 * pace ** (epoch + 1)) + rng.gauss(0.0, 0.003), 6),
            "val_loss": round(2.4 * (1 - goal) + 1.5 * pace ** (epoch + 1), 6),
        }
        for epoch in range(epochs)
    ]
