"""What can be computed of a network without training it? Pure functions on torch modules and tensors, torch alone."""

from lightning_evo.functional.growth.growth import Growth, GrowthError, GrowthStep, grow, growth_sites, plan_step
from lightning_evo.functional.growth.insertion import ZeroResidual
from lightning_evo.functional.growth.optimizers import (
    extend_scheduler,
    grow_optimizer,
    grow_optimizers,
    why_not_extendable,
    why_not_growable,
)
from lightning_evo.functional.inheritance.inheritance import Inheritance, Structure, inherit, structure_of
from lightning_evo.functional.inheritance.moments import inherit_optimizer
from lightning_evo.functional.mixing import combine
from lightning_evo.functional.particles import Particle
from lightning_evo.functional.stacking.allocator import keep_freed_memory
from lightning_evo.functional.stacking.optimizers import can_stack, stacked_step
from lightning_evo.functional.stacking.stacking import stacked_call
from lightning_evo.functional.zero_cost import flops, gradient_norm, naswot, parameters, synflow

__all__ = [
    "Growth",
    "GrowthError",
    "GrowthStep",
    "Inheritance",
    "Particle",
    "Structure",
    "ZeroResidual",
    "can_stack",
    "combine",
    "extend_scheduler",
    "flops",
    "gradient_norm",
    "grow",
    "grow_optimizer",
    "grow_optimizers",
    "growth_sites",
    "inherit",
    "inherit_optimizer",
    "keep_freed_memory",
    "naswot",
    "parameters",
    "plan_step",
    "stacked_call",
    "stacked_step",
    "structure_of",
    "synflow",
    "why_not_extendable",
    "why_not_growable",
]
