"""Figures for papers: the report's plots as vector graphics in the width of a column."""

from lightning_evo.reporting.pictures.kinds import KINDS, Kind
from lightning_evo.reporting.pictures.picture import check_picture, plot

__all__ = ["KINDS", "Kind", "check_picture", "plot"]
