"""An archive as it may leave this machine: everything, with its secrets masked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.genome import Candidate, Categorical, Gene, Genome, Ordinal, Result, SearchSpace
from lightning_evo.utils.masking import Mask

__all__ = ["mask_of", "masked_candidate", "masked_result", "masked_row", "masked_space"]


def mask_of(archive: Archive) -> Mask:
    """The mask of a run, which knows the secrets of its config."""
    return Mask(archive.meta)


def masked_row(row: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    """A candidate's row; its numbers are its own."""
    return {
        column: mask.data(value, column) if isinstance(value, (str, list, dict)) else value
        for column, value in row.items()
    }


def masked_candidate(candidate: Candidate, mask: Mask) -> Candidate:
    """A candidate with the texts in its genome masked."""
    masked = mask.data(dict(candidate.genome))
    if masked == dict(candidate.genome):
        return candidate
    return replace(candidate, genome=Genome(masked, candidate.genome.rates))


def masked_space(space: SearchSpace, mask: Mask) -> SearchSpace:
    """A search space whose genes choose among masked texts, so that it describes masked candidates."""

    def masked(path: str, gene: Gene) -> Gene:
        when = mask.data(gene.when)
        if isinstance(gene, (Categorical, Ordinal)) and type(gene) in (Categorical, Ordinal):
            return type(gene)(mask.data(gene.choices, path), when)
        other = copy.copy(gene)
        other.when = when
        return other

    return SearchSpace({path: masked(path, gene) for path, gene in space.items()})


def masked_result(result: Result, mask: Mask) -> Result:
    """A result with its error and what callbacks left of the training masked."""
    return replace(
        result,
        error=None if result.error is None else mask.text(result.error),
        error_type=None if result.error_type is None else mask.text(result.error_type),
        extra=mask.data(dict(result.extra)),
    )
