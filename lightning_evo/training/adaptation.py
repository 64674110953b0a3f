"""The parts of a config's Trainer that are left out or redirected in a candidate, and the notes about them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler

from lightning_evo._compat.lightning import callbacks_of, profiler_of, redirect_checkpoints, set_callbacks
from lightning_evo.archive.seals import CHECKPOINTS
from lightning_evo.callbacks import FitnessRecorder

__all__ = ["Adaptation", "AdaptationRecord", "without_bars"]

ON_EXCEPTION = "on_exception"
"""Where, in a candidate's directory, callbacks save that aren't a ``ModelCheckpoint``: for a failure to be looked at."""


@dataclass(frozen=True)
class AdaptationRecord:
    """In ``Result.extra``: what of the config was left out or redirected.

    Args:
        notes: A sentence for each.
    """

    key: ClassVar[str] = "adapted"

    notes: tuple[str, ...]

    def to_dict(self) -> list[str]:
        """As JSON."""
        return list(self.notes)

    @classmethod
    def from_dict(cls, record: Sequence[str]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(tuple(record))


class Adaptation:
    """Fits the Trainer that a config describes to a candidate: what would write beside its directory writes into it.

    Progress bars are left out. Checkpoint callbacks, those of ``configure_callbacks`` too, and profilers write into the
    candidate's directory.

    Args:
        directory: The candidate's.
        config: The candidate's complete config.
    """

    def __init__(self, directory: str | Path, config: Mapping[str, Any]) -> None:
        self.directory = Path(directory).absolute()
        self._notes: dict[str, None] = {}
        self._places: dict[str, Path] = {}
        asked = config.get("trainer") or {}
        if (place := asked.get("default_root_dir")) is not None:
            self._note(f"trainer.default_root_dir: each candidate has a directory of its own instead of {str(place)!r}")
        if (batches := asked.get("fast_dev_run")) not in (None, False, 0):
            self._note(
                f"trainer.fast_dev_run: each candidate trains on {int(batches)} batch(es), to try whether everything "
                "runs; the search itself then needs another evolution.directory"
            )
        if asked.get("enable_progress_bar"):
            self._note("trainer.enable_progress_bar: candidates train without one")

    @property
    def extra(self) -> dict[str, Any]:
        """For ``Result.extra``."""
        return {AdaptationRecord.key: AdaptationRecord(tuple(self._notes)).to_dict()} if self._notes else {}

    def before(self, arguments: dict[str, Any]) -> None:
        """Change the Trainer's arguments, objects by now."""
        given = arguments.get("callbacks") or []
        listed = given if isinstance(given, list) else [given]
        arguments["callbacks"] = [*self._fitting(listed), _AsItBegins(self)]

    def after(self, trainer: Trainer) -> None:
        """Change what the Trainer has made of its arguments."""
        profiler = profiler_of(trainer)
        if isinstance(profiler, PassThroughProfiler):
            return
        if profiler.filename is None:
            profiler.filename = "profile"
        if profiler.dirpath is None or not _lies_in(profiler.dirpath, self.directory):
            profiler.dirpath = self.directory
        self._note(f"{type(profiler).__name__} writes into each candidate's own directory")

    def callbacks(self, trainer: Trainer) -> None:
        """Change the callbacks that the module has added as the training begins."""
        listed = self._fitting(callbacks_of(trainer))
        # The user's checkpoints come before ours, as `trainer.checkpoint_callback` is the first one; sorting is stable.
        set_callbacks(trainer, sorted(listed, key=lambda callback: isinstance(callback, FitnessRecorder)))

    def _fitting(self, callbacks: Sequence[Callback]) -> list[Callback]:
        kept: list[Callback] = []
        for callback in callbacks:
            name = type(callback).__name__
            if isinstance(callback, ProgressBar):
                self._note(f"{name} is left out: candidates train without progress bars")
                continue
            if isinstance(callback, Checkpoint) and not isinstance(callback, FitnessRecorder):
                self._redirect(callback, name)
            kept.append(callback)
        return kept

    def _redirect(self, callback: Checkpoint, name: str) -> None:
        given = getattr(callback, "dirpath", self.directory)
        if given is not None and _lies_in(given, self.directory):
            return
        if not isinstance(callback, ModelCheckpoint):
            redirect_checkpoints(callback, self.directory / ON_EXCEPTION)
            self._note(f"{name} writes into each candidate's own directory, {ON_EXCEPTION}/")
            return
        redirect_checkpoints(callback, self._place(given))
        self._note(
            f"{name} writes into each candidate's own directory, {CHECKPOINTS}/; its files are kept as long as the "
            "candidate's own checkpoint is (evolution.keep_checkpoints)"
        )

    def _place(self, given: str | os.PathLike[str] | None) -> Path:
        """Where to write what would go to ``given``: two places stay two."""
        key = "" if given is None else os.path.normpath(str(given))
        if key not in self._places:
            name = os.path.basename(key)
            place = self.directory / CHECKPOINTS
            if name not in ("", CHECKPOINTS):
                place /= name
            taken = list(self._places.values())
            if place in taken:
                place = self.directory / CHECKPOINTS / f"{name or CHECKPOINTS}-{len(taken) + 1}"
            self._places[key] = place
        return self._places[key]

    def _note(self, note: str) -> None:
        self._notes[note] = None


def without_bars(arguments: dict[str, Any]) -> None:
    """Leave progress bars out of a Trainer's arguments, objects by now, where they are switched off besides."""
    given = arguments.get("callbacks")
    if arguments.get("enable_progress_bar") is False and given:
        listed = given if isinstance(given, list) else [given]
        arguments["callbacks"] = [callback for callback in listed if not isinstance(callback, ProgressBar)]


class _AsItBegins(Callback):
    """Adapts what the module's ``configure_callbacks`` has added, before checkpoint callbacks find their places."""

    def __init__(self, adaptation: Adaptation) -> None:
        self.adaptation = adaptation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.adaptation.callbacks(trainer)


def _lies_in(place: str | os.PathLike[str], directory: Path) -> bool:
    return Path(os.path.realpath(os.path.expanduser(place))).is_relative_to(os.path.realpath(directory))
