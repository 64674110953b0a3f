"""Growing a network in place: layers made wider or inserted, with the function it computes preserved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.functional.growth.growth import grow, growth_sites, plan_step, replay
    from lightning_evo.functional.growth.insertion import ZeroResidual
    from lightning_evo.functional.growth.optimizers import (
        extend_scheduler,
        grow_optimizer,
        grow_optimizers,
        why_not_extendable,
        why_not_growable,
    )
    from lightning_evo.functional.growth.steps import Growth, GrowthError, GrowthStep

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

_HOME = {
    "Growth": "steps",
    "GrowthError": "steps",
    "GrowthStep": "steps",
    "ZeroResidual": "insertion",
    "extend_scheduler": "optimizers",
    "grow": "growth",
    "grow_optimizer": "optimizers",
    "grow_optimizers": "optimizers",
    "growth_sites": "growth",
    "plan_step": "growth",
    "replay": "growth",
    "why_not_extendable": "optimizers",
    "why_not_growable": "optimizers",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
