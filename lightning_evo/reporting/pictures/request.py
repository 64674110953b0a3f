"""A request for a picture: the runs, and the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_evo.archive import Archive
from lightning_evo.genome import Objective
from lightning_evo.reporting.views import RunSnapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Against", "PictureRequest"]

Against = Literal["candidates", "epochs", "seconds"]


@dataclass(frozen=True, eq=False)
class PictureRequest:
    """The runs and options of a picture.

    Args:
        archives: The runs' archives.
        runs: The runs.
        metric: The objective or metric; ``None``: the first objective.
        candidate: The candidate; ``None``: the best.
        top: Number of candidates or genes; ``None``: as many as the picture shows well.
        against: The horizontal axis of ``progress``.
        height: Height in centimeters; ``None``: suited to the picture.
    """

    archives: Sequence[Archive]
    runs: Sequence[RunSnapshot]
    metric: str | None = None
    candidate: int | None = None
    top: int | None = None
    against: Against = "candidates"
    height: float | None = None

    @property
    def run(self) -> RunSnapshot:
        """The (first) run."""
        return self.runs[0]

    @property
    def objective(self) -> Objective:
        """The objective that :attr:`metric` names.

        Raises:
            ValueError: If the (first) run has no such objective.
        """
        return self.run.objective(self.metric)

    def no_fitness_error(self) -> ValueError:
        """The error of a picture that needs a candidate with a fitness."""
        counts = ", ".join(f"{count} {status}" for status, count in self.archives[0].counts().items() if count)
        return ValueError(f"{self.run.run}: no candidate has a fitness yet ({counts or 'no candidates'})")

    def set_height(self, figure: Figure, centimeters: float) -> None:
        """Set the height of the picture, unless the user has chosen one."""
        if self.height is None:
            figure.set_figheight(centimeters / 2.54)
