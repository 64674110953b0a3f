"""What happens while a model trains? Lightning callbacks that work alone in any Trainer, and in a search."""

from lightning_evo.callbacks.cost import CostMeter
from lightning_evo.callbacks.fitness import FitnessRecorder

__all__ = ["CostMeter", "FitnessRecorder"]
