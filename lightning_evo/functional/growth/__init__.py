"""Growing a network in place: layers made wider or inserted, with the function it computes preserved."""

from lightning_evo.functional.growth.growth import (
    Growth,
    GrowthError,
    GrowthStep,
    grow,
    growth_sites,
    plan_step,
    replay,
)
from lightning_evo.functional.growth.insertion import ZeroResidual
from lightning_evo.functional.growth.optimizers import (
    extend_scheduler,
    grow_optimizer,
    grow_optimizers,
    why_not_extendable,
    why_not_growable,
)

__all__ = [
    "Growth",
    "GrowthError",
    "GrowthStep",
    "ZeroResidual",
    "extend_scheduler",
    "grow",
    "grow_optimizer",
    "grow_optimizers",
    "growth_sites",
    "plan_step",
    "replay",
    "why_not_extendable",
    "why_not_growable",
]
