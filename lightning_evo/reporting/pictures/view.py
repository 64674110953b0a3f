"""What does a picture show? Runs as they were read, and what was asked to be seen of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_evo.archive import Archive
from lightning_evo.genome import Objective
from lightning_evo.reporting.views import Recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Against", "View"]

Against = Literal["candidates", "epochs", "seconds"]


@dataclass(frozen=True, eq=False)
class View:
    """What is to be drawn.

    Args:
        archives: The runs' archives.
        runs: The runs as they were read.
        metric: Which objective or metric; ``None``: the first objective.
        candidate: Which candidate; ``None``: the best.
        top: How many; ``None``: as many as the picture shows well.
        against: What the horizontal axis of a course is.
        height: The picture's height in centimetres, where it was asked for.
    """

    archives: Sequence[Archive]
    runs: Sequence[Recorded]
    metric: str | None = None
    candidate: int | None = None
    top: int | None = None
    against: Against = "candidates"
    height: float | None = None

    @property
    def run(self) -> Recorded:
        """The run, where there is one."""
        return self.runs[0]

    @property
    def objective(self) -> Objective:
        """The objective of the (first) run that is meant.

        Raises:
            ValueError: If there is none of this name.
        """
        return self.run.objective(self.metric)

    def unfinished(self) -> ValueError:
        """The error of a picture that needs a candidate with a fitness, where there is none."""
        counts = ", ".join(f"{count} {status}" for status, count in self.archives[0].counts().items() if count)
        return ValueError(f"{self.run.run}: no candidate has a fitness yet ({counts or 'no candidates'})")

    def let_height(self, figure: Figure, centimetres: float) -> None:
        """Give the picture the height that suits what is in it, unless one was asked for."""
        if self.height is None:
            figure.set_figheight(centimetres / 2.54)
