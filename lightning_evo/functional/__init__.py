"""What can be computed of a network without training it? Pure functions on torch modules and tensors, torch alone."""

from lightning_evo.functional.inherit import Inheritance, inherit
from lightning_evo.functional.memory import keep_freed_memory
from lightning_evo.functional.mixing import combine
from lightning_evo.functional.moments import inherit_optimizer
from lightning_evo.functional.particles import Particle
from lightning_evo.functional.stacked_optimizers import can_stack, stacked_step
from lightning_evo.functional.stacking import stacked_call
from lightning_evo.functional.structure import Structure, structure_of
from lightning_evo.functional.zero_cost import flops, gradient_norm, naswot, parameters, synflow

__all__ = [
    "Inheritance",
    "Particle",
    "Structure",
    "can_stack",
    "combine",
    "flops",
    "gradient_norm",
    "inherit",
    "inherit_optimizer",
    "keep_freed_memory",
    "naswot",
    "parameters",
    "stacked_call",
    "stacked_step",
    "structure_of",
    "synflow",
]
