"""Structural growth while a network trains: when to grow, where, and everything that has to follow the new parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.callbacks.growth.loading import export_grown, load_grown
    from lightning_evo.callbacks.growth.structural_growth import StructuralGrowth

__all__ = ["StructuralGrowth", "export_grown", "load_grown"]

_HOME = {
    "StructuralGrowth": "structural_growth",
    "export_grown": "loading",
    "load_grown": "loading",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
