"""Summaries of an archive in a few lines of text: growth, stacks, and what early stopping and inheritance saved."""

from lightning_evo.reporting.summaries.growth import (
    GrowthEvent,
    describe_growth,
    growth_lineage,
    growth_remark,
    is_growth_steps,
    short_step,
)
from lightning_evo.reporting.summaries.savings import (
    EarlyStoppingSavings,
    InheritanceSavings,
    Savings,
    compute_savings,
    savings,
)
from lightning_evo.reporting.summaries.stacks import describe_stacks, stack_remark

__all__ = [
    "EarlyStoppingSavings",
    "GrowthEvent",
    "InheritanceSavings",
    "Savings",
    "compute_savings",
    "describe_growth",
    "describe_stacks",
    "growth_lineage",
    "growth_remark",
    "is_growth_steps",
    "savings",
    "short_step",
    "stack_remark",
]
