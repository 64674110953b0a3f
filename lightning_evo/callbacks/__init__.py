"""Lightning callbacks that work alone in any Trainer, and in a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.callbacks.averaging.swarm_averaging import SwarmAveraging
    from lightning_evo.callbacks.continuation import Continuation
    from lightning_evo.callbacks.cost import CostMeter
    from lightning_evo.callbacks.early_fitness import EarlyFitnessPrediction
    from lightning_evo.callbacks.fast.fast_training import FastTraining
    from lightning_evo.callbacks.fitness import FitnessRecorder
    from lightning_evo.callbacks.growth.structural_growth import StructuralGrowth
    from lightning_evo.callbacks.hyperparameter_schedule import HyperparameterSchedule
    from lightning_evo.callbacks.inheritance import WeightInheritance
    from lightning_evo.callbacks.speed import SpeedMeter

__all__ = [
    "Continuation",
    "CostMeter",
    "EarlyFitnessPrediction",
    "FastTraining",
    "FitnessRecorder",
    "HyperparameterSchedule",
    "SpeedMeter",
    "StructuralGrowth",
    "SwarmAveraging",
    "WeightInheritance",
]

_HOME = {
    "Continuation": "continuation",
    "CostMeter": "cost",
    "EarlyFitnessPrediction": "early_fitness",
    "FastTraining": "fast.fast_training",
    "FitnessRecorder": "fitness",
    "HyperparameterSchedule": "hyperparameter_schedule",
    "SpeedMeter": "speed",
    "StructuralGrowth": "growth.structural_growth",
    "SwarmAveraging": "averaging.swarm_averaging",
    "WeightInheritance": "inheritance",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
