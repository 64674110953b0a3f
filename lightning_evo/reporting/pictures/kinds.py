"""The kinds of pictures and their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of picture, drawn by the module of its name.

    Args:
        description: What it shows.
        options: Its options besides its size -> their meaning for this kind.
        several: Whether it can show several runs.
    """

    description: str
    options: Mapping[str, str] = field(default_factory=dict)
    several: bool = False


_OBJECTIVE = "the objective (default: the first)"

KINDS: Mapping[str, Kind] = {
    "progress": Kind(
        "the best fitness so far, and the median and quartiles of the population",
        {"metric": _OBJECTIVE, "against": "candidates (default), epochs or seconds"},
        several=True,
    ),
    "parallel": Kind(
        "a line per candidate through its genes and its fitness",
        {"metric": _OBJECTIVE, "top": "number of best candidates (default: up to 300 over the whole range)"},
    ),
    "importance": Kind(
        "the importance of each gene for the fitness (permutation importance of a random forest)",
        {"metric": _OBJECTIVE, "top": "number of genes (default: 10)"},
    ),
    "front": Kind("the Pareto front of two or three objectives, and the other candidates"),
    "lineage": Kind(
        "the ancestors of a candidate, and the genes that changed between generations",
        {"candidate": "the candidate (default: the best)", "top": "maximum number of ancestors (default: 24)"},
    ),
    "curves": Kind(
        "learning curves, early stops, and predicted final values",
        {
            "metric": "the logged metric (default: the first objective)",
            "candidate": "the candidate to highlight (default: the best)",
            "top": "number of other candidates: the best, the latest and others (default: 40)",
        },
    ),
    "predicted": Kind("predicted versus true fitness", {"metric": _OBJECTIVE}),
    "occupation": Kind("which candidate trained in which slot, and when"),
    "costs": Kind("costs by status, and what early stopping and inheritance saved"),
}
"""The kinds by name."""
