"""Inheriting a parent's weights: layers aligned, channels mapped, and what grew filled so that the function stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.functional.inheritance.inheritance import Inheritance, Structure, inherit, structure_of
    from lightning_evo.functional.inheritance.moments import inherit_optimizer

__all__ = [
    "Inheritance",
    "Structure",
    "inherit",
    "inherit_optimizer",
    "structure_of",
]

_HOME = {
    "Inheritance": "inheritance",
    "Structure": "inheritance",
    "inherit": "inheritance",
    "inherit_optimizer": "moments",
    "structure_of": "inheritance",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
