"""Growing a network in place: wider or additional layers, with the function it computes preserved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.functional.growth.growth import added_by, grow, growth_sites, plan_step, replay, resolve
    from lightning_evo.functional.growth.operations.insertion import ZeroResidual
    from lightning_evo.functional.growth.optimizers import (
        extend_scheduler,
        grow_optimizer,
        grow_optimizers,
        why_not_extendable,
        why_not_growable,
    )
    from lightning_evo.functional.growth.steps import (
        Added,
        Growth,
        GrowthError,
        GrowthStep,
        Moved,
        NewWeights,
        NothingChanged,
        Operation,
        Site,
    )

__all__ = [
    "Added",
    "Growth",
    "GrowthError",
    "GrowthStep",
    "Moved",
    "NewWeights",
    "NothingChanged",
    "Operation",
    "Site",
    "ZeroResidual",
    "added_by",
    "extend_scheduler",
    "grow",
    "grow_optimizer",
    "grow_optimizers",
    "growth_sites",
    "plan_step",
    "replay",
    "resolve",
    "why_not_extendable",
    "why_not_growable",
]

_HOME = {
    "Added": "steps",
    "Growth": "steps",
    "GrowthError": "steps",
    "GrowthStep": "steps",
    "Moved": "steps",
    "NewWeights": "steps",
    "NothingChanged": "steps",
    "Operation": "steps",
    "Site": "steps",
    "ZeroResidual": "operations.insertion",
    "added_by": "growth",
    "extend_scheduler": "optimizers",
    "grow": "growth",
    "grow_optimizer": "optimizers",
    "grow_optimizers": "optimizers",
    "growth_sites": "growth",
    "plan_step": "growth",
    "replay": "growth",
    "resolve": "growth",
    "why_not_extendable": "optimizers",
    "why_not_growable": "optimizers",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
