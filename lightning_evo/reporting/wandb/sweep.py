"""What is a search in Weights & Biases' words? A sweep: its parameters are the genes, each candidate is a run's config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_evo.genome import (
    FAILED,
    STOPPED,
    Boolean,
    Candidate,
    Gene,
    Integer,
    LogUniform,
    Objective,
    Result,
    SearchSpace,
    Uniform,
)
from lightning_evo.genome.names import short_names

__all__ = [
    "ABOUT",
    "describe_candidate",
    "gene_keys",
    "notes_on",
    "plain",
    "summarise",
    "sweep_config",
    "tags_of",
]

ABOUT = ("candidate", "generation", "origin", "parents", "seed", "inherits", "duplicate_of", "segment")
"""What a candidate's config says of it besides its genes."""

_LONGEST_TAG = 64


def gene_keys(paths: Sequence[str]) -> dict[str, str]:
    """For each config path the key it has in a run's config: its short name in letters, digits and underscores.

    W&B takes a dot for a level below, and other characters can't be filtered or sorted by.

    >>> list(gene_keys(["model.init_args.width", "data.init_args.width", "model.init_args.2d", "seed"]).values())
    ['model_width', 'data_width', '_2d', 'gene_seed']
    """
    keys: dict[str, str] = {}
    for path, name in short_names(list(paths)).items():
        key = re.sub(r"\W", "_", name, flags=re.ASCII)
        key = f"_{key}" if key[:1].isdigit() else key
        if key in ABOUT or key == "_wandb":
            key = f"gene_{key}"
        taken, number, begun = set(keys.values()), 2, key
        while key in taken:
            key, number = f"{begun}_{number}", number + 1
        keys[path] = key
    return keys


def plain(value: Any) -> Any:
    """A gene's value as parallel coordinates and the run table can show it: a number, a truth value or a text.

    >>> plain(0.1), plain({"class_path": "torch.nn.ReLU"}), plain(["Linear 10"]), plain([{"a": 1}])
    (0.1, 'torch.nn.ReLU', 'Linear 10', '[{"a": 1}]')
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping) and set(value) == {"class_path"}:
        return value["class_path"]
    if isinstance(value, list) and value and all(isinstance(element, str) for element in value):
        return "\n".join(value)
    return json.dumps(value)


def sweep_config(
    name: str, description: str, space: SearchSpace, objectives: Sequence[Objective], keys: Mapping[str, str]
) -> dict[str, Any]:
    """The sweep that a search's candidates are the runs of.

    Args:
        name: What the sweep is called.
        description: One line about the search.
        space: What varies.
        objectives: What is optimised; the sweep's metric is the first.
        keys: From :func:`gene_keys`.

    Returns:
        A sweep's config. Its method is ``random``, of those W&B knows, since each has to be one: nobody is meant to
        start an agent on it.
    """
    first = objectives[0]
    return {
        "name": name,
        "description": description,
        "method": "random",
        "metric": {"name": first.monitor, "goal": "maximize" if first.mode == "max" else "minimize"},
        "parameters": {keys[path]: _parameter(gene) for path, gene in space.items()},
    }


def _parameter(gene: Gene) -> dict[str, Any]:
    if isinstance(gene, LogUniform):
        return {"distribution": "log_uniform_values", "min": gene.low, "max": gene.high}
    if isinstance(gene, Uniform):
        return {"distribution": "uniform", "min": gene.low, "max": gene.high}
    if isinstance(gene, Integer) and gene.step == 1 and not gene.log:
        return {"distribution": "int_uniform", "min": gene.low, "max": gene.high}
    if isinstance(gene, Integer) and gene.log:
        return {"distribution": "q_log_uniform_values", "min": gene.low, "max": gene.high, "q": gene.step}
    if isinstance(gene, Integer):
        return {"distribution": "q_uniform", "min": gene.low, "max": gene.high, "q": gene.step}
    if isinstance(gene, Boolean):
        return {"values": [False, True]}
    choices = getattr(gene, "choices", None)
    if choices is not None:
        return {"values": [plain(choice) for choice in choices]}
    return {"value": repr(gene)}  # layers, bit strings, a user's own: no range that W&B has a word for


def describe_candidate(candidate: Candidate, keys: Mapping[str, str]) -> dict[str, Any]:
    """A candidate's config: its active genes, and :data:`ABOUT` it what there is to say."""
    segment = candidate.segment
    about = {
        "candidate": candidate.id,
        "generation": candidate.generation,
        "origin": candidate.origin,
        "parents": list(candidate.parents),
        "seed": candidate.seed,
        "inherits": candidate.inherits,
        "duplicate_of": candidate.duplicate_of,
        "segment": None if segment is None else [segment.start, segment.end],
    }
    genes = {keys[path]: plain(value) for path, value in candidate.genome.items()}
    return {**genes, **{name: value for name, value in about.items() if value is not None}}


def summarise(candidate: Candidate, result: Result, objectives: Sequence[Objective]) -> dict[str, Any]:
    """What a run's summary says of how its candidate ended.

    Fitness stands under each objective's own name, but where a candidate was stopped early: its fitness is predicted,
    and stands under ``predicted/...``. What was predicted before training stands under ``prescreen/...``.
    """
    summary: dict[str, Any] = {"status": result.status, "attempts": result.attempts, **result.metrics}
    summary |= {f"cost/{name}": value for name, value in result.cost.items()}
    monitors = [objective.monitor for objective in objectives]
    for name, value in zip(monitors, result.fitness or (), strict=result.fitness is not None):
        predicted = result.status == STOPPED and not name.startswith("cost/")  # costs are measured all the same
        summary[f"predicted/{name}" if predicted else name] = value
    if candidate.prediction is not None and candidate.prediction.mean:
        prediction = candidate.prediction
        summary |= {f"prescreen/{name}": value for name, value in zip(monitors, prediction.mean, strict=True)}
        summary |= {f"prescreen_std/{name}": value for name, value in zip(monitors, prediction.std, strict=True)}
    if result.slot is not None:
        summary["slot"] = result.slot
    if result.error_type is not None:
        summary["error"] = result.error_type
    return summary


def notes_on(candidate: Candidate, result: Result, longest: int = 8000) -> str | None:
    """A run's notes: why a candidate failed, or whose result it was answered with; ``None`` where there is nothing to say.

    W&B reads notes as Markdown: a traceback is fenced, so that nothing in it is taken for anything else.
    """
    if result.status == FAILED:
        error = (result.error or result.error_type or "failed")[-longest:].strip()
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", error)), default=0))
        return f"failed:\n{fence}\n{error}\n{fence}"
    if candidate.duplicate_of is not None:
        return f"not trained: it would have been the network of candidate {candidate.duplicate_of}, whose result it has"
    return None


def tags_of(candidate: Candidate, result: Result | None, tags: Sequence[str]) -> tuple[str, ...]:
    """The user's tags and what distinguishes a candidate: its status, and whether it was answered as a duplicate."""
    own: list[str] = ["running" if result is None else result.status]
    own += ["duplicate"] if candidate.duplicate_of is not None else []
    return tuple(dict.fromkeys(tag[:_LONGEST_TAG] for tag in (*tags, *own) if tag))
