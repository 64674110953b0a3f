"""Everything of this package that an archive describes: each gene, algorithm, predictor, policy and search's callback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lightning_evo.algorithms import (
    NSGA2,
    GenerationalEvolution,
    LocalSearch,
    PopulationBasedTraining,
    PredictorSearch,
    Prescreen,
    RandomSearch,
    RegularizedEvolution,
    SwarmOptimization,
)
from lightning_evo.callbacks import (
    Continuation,
    EarlyFitnessPrediction,
    FastTraining,
    StructuralGrowth,
    SwarmAveraging,
    WeightInheritance,
)
from lightning_evo.evolution.description import describe
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Categorical,
    GrowthSteps,
    Integer,
    Layers,
    LogUniform,
    Ordinal,
    Uniform,
)
from lightning_evo.models.chromosome import LENGTH, canonical_chromosome
from lightning_evo.predictors import (
    BayesianCurve,
    EnsemblePredictor,
    ForestPredictor,
    GaussianProcessPredictor,
    Hyperband,
    LastValue,
    LSTMPredictor,
    MedianRule,
    Patience,
    ProbabilityOfImprovement,
    RegressionCurve,
    SuccessiveHalvingRule,
    ZeroCostPredictor,
)

GENES = {
    "bitstring": Bitstring(LENGTH, flip=0.3, canonical=canonical_chromosome),
    "boolean": Boolean(),
    "categorical": Categorical(["relu", None, {"class_path": "lightning_evo.models.convnet.ConvNet"}]),
    "growth_steps": GrowthSteps(["widen", "prune"], max_steps=3),
    "integer": Integer(-3, 9, step=4, mutation=0.5),
    "layers": Layers([3, 32, 32], 100, max_conv=8, when={"boolean": [True]}),
    "log_uniform": LogUniform(1e-5, 1e-1),
    "ordinal": Ordinal([16, 32, 64]),
    "uniform": Uniform(-1, 1),
}

_PREDICTORS = [ForestPredictor(), GaussianProcessPredictor(), LSTMPredictor(), ZeroCostPredictor()]

ALGORITHMS = [
    RandomSearch(),
    RegularizedEvolution(prescreen=Prescreen(EnsemblePredictor(_PREDICTORS))),
    GenerationalEvolution(population_size=4),
    LocalSearch(),
    NSGA2(),
    PopulationBasedTraining(),
    PredictorSearch(ForestPredictor()),
    SwarmOptimization(),
]

CALLBACKS = [
    Continuation(),
    FastTraining(),
    StructuralGrowth(),
    SwarmAveraging(),
    WeightInheritance(),
    EarlyFitnessPrediction(predictor=RegressionCurve(fallback=LastValue())),
    *(
        EarlyFitnessPrediction(policy=policy)
        for policy in (
            Hyperband(),
            MedianRule(),
            Patience(),
            ProbabilityOfImprovement(BayesianCurve()),
            SuccessiveHalvingRule(),
        )
    ),
]


def descriptions() -> dict[str, Any]:
    return {"space": describe(GENES), "algorithms": describe(ALGORITHMS), "callbacks": describe(CALLBACKS)}


if __name__ == "__main__":  # how samples/descriptions.json was made, by the code before public names were stored
    Path(sys.argv[1]).write_text(json.dumps(descriptions(), indent=1) + "\n")
