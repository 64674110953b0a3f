"""What can vary: genes, the search space, genomes, and the plain records of what was asked and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.genome.genes import (
        Bitstring,
        Boolean,
        Categorical,
        Gene,
        Integer,
        Json,
        LogUniform,
        Ordinal,
        Uniform,
        Value,
    )
    from lightning_evo.genome.genome import Genome
    from lightning_evo.genome.growth import GrowthSteps
    from lightning_evo.genome.records import (
        COMPLETED,
        FAILED,
        STOPPED,
        Candidate,
        Objective,
        Prediction,
        Result,
        Segment,
        Status,
        derive_seed,
    )
    from lightning_evo.genome.shorthand import read_gene
    from lightning_evo.genome.space import SearchSpace, SpaceError
    from lightning_evo.genome.templates import Layers, SequenceGene, Template

__all__ = [
    "COMPLETED",
    "FAILED",
    "STOPPED",
    "Bitstring",
    "Boolean",
    "Candidate",
    "Categorical",
    "Gene",
    "Genome",
    "GrowthSteps",
    "Integer",
    "Json",
    "Layers",
    "LogUniform",
    "Objective",
    "Ordinal",
    "Prediction",
    "Result",
    "SearchSpace",
    "Segment",
    "SequenceGene",
    "SpaceError",
    "Status",
    "Template",
    "Uniform",
    "Value",
    "derive_seed",
    "read_gene",
]

_HOME = {
    "Bitstring": "genes",
    "Boolean": "genes",
    "COMPLETED": "records",
    "Candidate": "records",
    "Categorical": "genes",
    "FAILED": "records",
    "Gene": "genes",
    "Genome": "genome",
    "GrowthSteps": "growth",
    "Integer": "genes",
    "Json": "genes",
    "Layers": "templates",
    "LogUniform": "genes",
    "Objective": "records",
    "Ordinal": "genes",
    "Prediction": "records",
    "Result": "records",
    "STOPPED": "records",
    "SearchSpace": "space",
    "Segment": "records",
    "SequenceGene": "templates",
    "SpaceError": "space",
    "Status": "records",
    "Template": "templates",
    "Uniform": "genes",
    "Value": "genes",
    "derive_seed": "records",
    "read_gene": "shorthand",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
