"""One candidate from config to result: build, train, fitness, cost."""

from lightning_evo.training.blueprint import Blueprint, ConfigError
from lightning_evo.training.builder import BuilderTrainable
from lightning_evo.training.candidate import train_candidate
from lightning_evo.training.request import TrainingRequest
from lightning_evo.training.trainable import ConfigTrainable, FunctionTrainable, Task, Trainable

__all__ = [
    "Blueprint",
    "BuilderTrainable",
    "ConfigError",
    "ConfigTrainable",
    "FunctionTrainable",
    "Task",
    "Trainable",
    "TrainingRequest",
    "train_candidate",
]
