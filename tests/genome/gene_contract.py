"""Every gene that ships, in the forms that behave differently. A new gene joins the contract tests by one row."""

from __future__ import annotations

from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Categorical,
    Gene,
    GrowthSteps,
    Integer,
    Layers,
    LogUniform,
    Ordinal,
    Uniform,
)
from lightning_evo.models.chromosome import LENGTH, canonical_chromosome

GENES: dict[str, Gene] = {
    "bitstring": Bitstring(7, flip=0.3),
    "bitstring of one bit": Bitstring(1),
    "bitstring with equal networks": Bitstring(LENGTH, canonical=canonical_chromosome),
    "boolean": Boolean(),
    "categorical": Categorical(["relu", None, 1, 1.0, True, [1, {"x": 2}], {"class_path": "torch.nn.ReLU"}]),
    "categorical of one choice": Categorical(["only"]),
    "growth steps": GrowthSteps(["widen", "prune"], max_steps=3, ratios=[1.5, 3.0], initial_steps=1),
    "integer": Integer(-3, 9, step=4, mutation=0.5),
    "integer of one value": Integer(5, 5),
    "logarithmic integer": Integer(1, 64, log=True),
    "logarithmic integer in steps": Integer(32, 256, step=8, log=True),
    "layers": Layers([3, 16, 16], 10, max_conv=4, max_linear=2),
    "layers of a vector": Layers([1, 1, 1], 2, max_conv=1, norm_probability=0.0, residual_probability=0.0),
    "log uniform": LogUniform(1e-5, 1e-1),
    "ordinal": Ordinal([16, 32, 64]),
    "uniform": Uniform(-1, 1, mutation=0.1),
    "uniform in steps": Uniform(0.0, 0.5, step=0.1),
    "uniform under a condition": Uniform(0, 2, when={"switch": [True]}),
}

REAL = (Uniform, LogUniform)
"""Genes of real numbers, which come back from their encoding up to rounding."""

SINGLE = {"categorical of one choice", "integer of one value"}
"""Rows whose range holds one value, which mutation can't change."""
