"""What can be computed of a network without training it? Pure functions on torch modules and tensors, torch alone."""

from lightning_evo.functional.inherit import Inheritance, inherit
from lightning_evo.functional.moments import inherit_optimizer
from lightning_evo.functional.structure import Structure, structure_of
from lightning_evo.functional.zero_cost import flops, gradient_norm, naswot, parameters, synflow

__all__ = [
    "Inheritance",
    "Structure",
    "flops",
    "gradient_norm",
    "inherit",
    "inherit_optimizer",
    "naswot",
    "parameters",
    "structure_of",
    "synflow",
]
