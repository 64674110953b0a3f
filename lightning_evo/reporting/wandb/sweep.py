"""A search in W&B's terms: genes as a sweep's parameters, candidates as its runs' configs, summaries, notes and tags."""

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
    "CANDIDATE_FIELDS",
    "candidate_config",
    "gene_keys",
    "plain_value",
    "run_notes",
    "run_summary",
    "run_tags",
    "sweep_config",
]

CANDIDATE_FIELDS = ("candidate", "generation", "origin", "parents", "seed", "inherits", "duplicate_of", "segment")
"""The keys of a candidate's config besides its genes."""

_MAX_TAG_LENGTH = 64


def gene_keys(paths: Sequence[str]) -> dict[str, str]:
    """Map each config path to its key in a run's config: its short name in letters, digits and underscores.

    W&B reads a dot as nesting, and can't filter or sort by keys with other characters.

    >>> list(gene_keys(["model.init_args.width", "data.init_args.width", "model.init_args.2d", "seed"]).values())
    ['model_width', 'data_width', '_2d', 'gene_seed']
    """
    keys: dict[str, str] = {}
    for path, name in short_names(list(paths)).items():
        key = re.sub(r"\W", "_", name, flags=re.ASCII)
        key = f"_{key}" if key[:1].isdigit() else key
        if key in CANDIDATE_FIELDS or key == "_wandb":
            key = f"gene_{key}"
        taken, number, stem = set(keys.values()), 2, key
        while key in taken:
            key, number = f"{stem}_{number}", number + 1
        keys[path] = key
    return keys


def plain_value(value: Any) -> Any:
    """A gene's value as the run table and parallel coordinates can show it: a number, a boolean or a text.

    >>> plain_value(0.1), plain_value({"class_path": "torch.nn.ReLU"}), plain_value(["Linear 10"])
    (0.1, 'torch.nn.ReLU', 'Linear 10')
    >>> plain_value([{"a": 1}])
    '[{"a": 1}]'
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
    """The config of the sweep whose runs are a search's candidates.

    Args:
        name: The sweep's name.
        description: One line about the search.
        space: The search space.
        objectives: The objectives; the sweep's metric is the first.
        keys: From :func:`gene_keys`.

    Returns:
        The config. A sweep must have one of W&B's methods; it is ``random``, although no agent is meant to run it.
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
    if isinstance(gene, Uniform):
        kind = "log_uniform_values" if isinstance(gene, LogUniform) else "uniform"
        steps = {} if gene.step is None else {"q": gene.step}
        return {"distribution": f"q_{kind}" if steps else kind, "min": gene.low, "max": gene.high, **steps}
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
        return {"values": [plain_value(choice) for choice in choices]}
    return {"value": repr(gene)}  # layers, bit strings, custom genes: W&B has no distribution for them


def candidate_config(candidate: Candidate, keys: Mapping[str, str]) -> dict[str, Any]:
    """The config of a candidate's run: its active genes, and those of the :data:`CANDIDATE_FIELDS` that it has."""
    segment = candidate.segment
    fields = {
        "candidate": candidate.id,
        "generation": candidate.generation,
        "origin": candidate.origin,
        "parents": list(candidate.parents),
        "seed": candidate.seed,
        "inherits": candidate.inherits,
        "duplicate_of": candidate.duplicate_of,
        "segment": None if segment is None else [segment.start, segment.end],
    }
    genes = {keys[path]: plain_value(value) for path, value in candidate.genome.items()}
    return {**genes, **{name: value for name, value in fields.items() if value is not None}}


def run_summary(candidate: Candidate, result: Result, objectives: Sequence[Objective]) -> dict[str, Any]:
    """The summary of a candidate's run.

    The fitness is stored under each objective's own name. The fitness of a candidate that was stopped early is predicted
    and stored under ``predicted/...``. What was predicted before training is stored under ``prescreen/...``.
    """
    summary: dict[str, Any] = {"status": result.status, "attempts": result.attempts, **result.metrics}
    summary |= {f"cost/{name}": value for name, value in result.cost.items()}
    monitors = [objective.monitor for objective in objectives]
    for name, value in zip(monitors, result.fitness or (), strict=result.fitness is not None):
        predicted = result.status == STOPPED and not name.startswith("cost/")  # costs are measured in any case
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


def run_notes(candidate: Candidate, result: Result, max_length: int = 8000) -> str | None:
    """The notes of a candidate's run: why it failed, or which candidate it duplicates; ``None`` for any other.

    W&B renders notes as Markdown: a traceback is fenced, so that nothing in it is interpreted.
    """
    if result.status == FAILED:
        error = (result.error or result.error_type or "failed")[-max_length:].strip()
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", error)), default=0))
        return f"failed:\n{fence}\n{error}\n{fence}"
    if candidate.duplicate_of is not None:
        return f"Not trained: a duplicate of candidate {candidate.duplicate_of}, whose result it shares."
    return None


def run_tags(candidate: Candidate, result: Result | None, tags: Sequence[str]) -> tuple[str, ...]:
    """The user's tags and the candidate's own: its status, and ``duplicate`` for a duplicate."""
    own: list[str] = ["running" if result is None else result.status]
    own += ["duplicate"] if candidate.duplicate_of is not None else []
    return tuple(dict.fromkeys(tag[:_MAX_TAG_LENGTH] for tag in (*tags, *own) if tag))
