"""Which pictures are there, and what can be said about each?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of picture, drawn by the module of its name.

    Args:
        description: What it shows.
        options: Those that it takes besides its size -> what they mean there.
        several: Whether several runs can be in it.
    """

    description: str
    options: Mapping[str, str] = field(default_factory=dict)
    several: bool = False


_OBJECTIVE = "which objective (default: the first)"

KINDS: Mapping[str, Kind] = {
    "progress": Kind(
        "the best so far, with the median and quartiles of the population",
        {"metric": _OBJECTIVE, "against": "candidates (default), epochs or seconds"},
        several=True,
    ),
    "parallel": Kind(
        "a line per candidate through its genes and its fitness",
        {"metric": _OBJECTIVE, "top": "only so many, the best (default: up to 300 over the whole range)"},
    ),
    "importance": Kind(
        "how much each gene matters for the fitness (permutation importance of a random forest)",
        {"metric": _OBJECTIVE, "top": "so many genes (default 10)"},
    ),
    "front": Kind("the Pareto front of two or three objectives, before all other candidates"),
    "lineage": Kind(
        "the ancestors of a candidate, and the genes that changed from one to the next",
        {"candidate": "whose (default: the best)", "top": "at most so many ancestors (default 24)"},
    ),
    "curves": Kind(
        "learning curves, where training was stopped, and how it was expected to end",
        {
            "metric": "which logged metric (default: the first objective)",
            "candidate": "the one to stand out (default: the best)",
            "top": "so many besides it: the best and others over the whole search (default 40)",
        },
    ),
    "predicted": Kind("predicted against true fitness", {"metric": _OBJECTIVE}),
    "occupation": Kind("which candidate trained in which slot and when"),
    "costs": Kind("where the costs went, and what early stopping and inheritance saved"),
}
"""The pictures by name."""
