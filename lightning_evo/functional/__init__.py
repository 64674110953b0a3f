"""Computations on networks without training: pure functions on torch modules and tensors, torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.functional.growth.growth import grow, growth_sites, plan_step
    from lightning_evo.functional.growth.operations.insertion import ZeroResidual
    from lightning_evo.functional.growth.optimizers import (
        extend_scheduler,
        grow_optimizer,
        grow_optimizers,
        why_not_extendable,
        why_not_growable,
    )
    from lightning_evo.functional.growth.steps import Growth, GrowthError, GrowthStep
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

_HOME = {
    "Growth": "growth.steps",
    "GrowthError": "growth.steps",
    "GrowthStep": "growth.steps",
    "Inheritance": "inheritance.inheritance",
    "Particle": "particles",
    "Structure": "inheritance.inheritance",
    "ZeroResidual": "growth.operations.insertion",
    "can_stack": "stacking.optimizers",
    "combine": "mixing",
    "extend_scheduler": "growth.optimizers",
    "flops": "zero_cost",
    "gradient_norm": "zero_cost",
    "grow": "growth.growth",
    "grow_optimizer": "growth.optimizers",
    "grow_optimizers": "growth.optimizers",
    "growth_sites": "growth.growth",
    "inherit": "inheritance.inheritance",
    "inherit_optimizer": "inheritance.moments",
    "keep_freed_memory": "stacking.allocator",
    "naswot": "zero_cost",
    "parameters": "zero_cost",
    "plan_step": "growth.growth",
    "stacked_call": "stacking.stacking",
    "stacked_step": "stacking.optimizers",
    "structure_of": "inheritance.inheritance",
    "synflow": "zero_cost",
    "why_not_extendable": "growth.optimizers",
    "why_not_growable": "growth.optimizers",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
