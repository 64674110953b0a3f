"""Names that earlier versions stored for classes and functions of this package, and the public names they have now.

Until public names were stored, a run's archive, a checkpoint's recipe of growth and ``replay.yaml`` named the module of each
class. The table is complete and closed: it changes only where a public name does.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

__all__ = ["EARLIER_NAMES", "install_earlier_modules"]

# Package -> module within lightning_evo that once had them -> names that the package exports.
_EARLIER = {
    "lightning_evo.algorithms": {
        "algorithms.generational_evolution": "GenerationalEvolution",
        "algorithms.local_search": "LocalSearch",
        "algorithms.nsga2": "NSGA2",
        "algorithms.population_based_training": "PopulationBasedTraining",
        "algorithms.predictor_search": "PredictorSearch",
        "algorithms.random_search": "RandomSearch",
        "algorithms.regularized_evolution": "RegularizedEvolution",
        "algorithms.swarm_optimization": "SwarmOptimization",
    },
    "lightning_evo.callbacks": {
        "callbacks.averaging.swarm_averaging": "SwarmAveraging",
        "callbacks.continuation": "Continuation",
        "callbacks.cost": "CostMeter",
        "callbacks.early_fitness": "EarlyFitnessPrediction",
        "callbacks.fast.fast_training": "FastTraining",
        "callbacks.fast_training": "FastTraining",
        "callbacks.fitness": "FitnessRecorder",
        "callbacks.growth.structural_growth": "StructuralGrowth",
        "callbacks.hyperparameter_schedule": "HyperparameterSchedule",
        "callbacks.inheritance": "WeightInheritance",
        "callbacks.speed": "SpeedMeter",
        "callbacks.structural_growth": "StructuralGrowth",
        "callbacks.swarm_averaging": "SwarmAveraging",
    },
    "lightning_evo.cli": {
        "cli.lightning": "EvolutionCLI",
    },
    "lightning_evo.data": {
        "data.arrays": "ImageSet",
        "data.digits": "Digits",
        "data.folder": "ImageFolder",
        "data.images": "TensorImages",
        "data.npz": "NpzImages",
        "data.torchvision_images": "TorchvisionImages",
    },
    "lightning_evo.genome": {
        "genome.genes": "Bitstring Boolean Categorical Integer LogUniform Ordinal Uniform",
        "genome.growth": "GrowthSteps",
        "genome.templates.gene": "Layers",
    },
    "lightning_evo.models": {
        "models.bitstring_cnn": "BitstringCNN ChromosomeNetwork",
        "models.chromosome": "canonical_chromosome",
        "models.classifier": "Classifier",
        "models.convnet": "ConvNet",
        "models.image_classifier": "ImageClassifier",
        "models.template_net": "TemplateNet TemplateNetwork",
    },
    "lightning_evo.predictors": {
        "predictors.curve_bayes": "BayesianCurve",
        "predictors.curve_policies": "Hyperband MedianRule Patience ProbabilityOfImprovement SuccessiveHalvingRule",
        "predictors.curve_regression": "RegressionCurve",
        "predictors.curves.bayes": "BayesianCurve",
        "predictors.curves.learning_curve": "LastValue",
        "predictors.curves.policies": "Hyperband MedianRule Patience ProbabilityOfImprovement SuccessiveHalvingRule",
        "predictors.curves.regression": "RegressionCurve",
        "predictors.ensemble": "EnsemblePredictor",
        "predictors.forest": "ForestPredictor",
        "predictors.gaussian_process": "GaussianProcessPredictor",
        "predictors.genomes.ensemble": "EnsemblePredictor",
        "predictors.genomes.forest": "ForestPredictor",
        "predictors.genomes.gaussian_process": "GaussianProcessPredictor",
        "predictors.genomes.lstm": "LSTMPredictor",
        "predictors.genomes.zero_cost": "ZeroCostPredictor",
        "predictors.learning_curve": "LastValue",
        "predictors.lstm": "LSTMPredictor",
        "predictors.zero_cost": "ZeroCostPredictor",
    },
    "lightning_evo.swarms": {
        "swarms.ranks.strategy": "SwarmStrategy",
        "swarms.stack": "ParticleStack",
        "swarms.stack.stack": "ParticleStack",
        "swarms.strategy": "SwarmStrategy",
    },
}

EARLIER_NAMES = {
    f"lightning_evo.{module}.{name}": f"{package}.{name}"
    for package, modules in _EARLIER.items()
    for module, names in modules.items()
    for name in names.split()
}
"""Earlier name -> public name."""

_MODULES: defaultdict[str, dict[str, str]] = defaultdict(dict)
for _earlier, _name in EARLIER_NAMES.items():
    _MODULES[_earlier.rpartition(".")[0]][_earlier.rpartition(".")[2]] = _name


class _EarlierModules(MetaPathFinder, Loader):
    """Stands in for modules that are no longer there, with nothing in them but the classes of the table."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in _MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        for name, current in _MODULES[module.__name__].items():
            setattr(module, name, resolve_name(current))


def install_earlier_modules() -> None:
    """Have imports find the modules that are named in earlier configs: the parser of a config imports what it names."""
    # Last, so that it is asked only for what isn't there.
    if not any(isinstance(finder, _EarlierModules) for finder in sys.meta_path):
        sys.meta_path.append(_EarlierModules())
