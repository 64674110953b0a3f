"""Inheriting a parent's weights: layers aligned, channels mapped, and what grew filled so that the function stays."""

from lightning_evo.functional.inheritance.inheritance import Inheritance, Structure, inherit, structure_of
from lightning_evo.functional.inheritance.moments import inherit_optimizer

__all__ = ["Inheritance", "Structure", "inherit", "inherit_optimizer", "structure_of"]
