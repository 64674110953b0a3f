"""What does the user take home? A candidate as plain LightningCLI config and plain Lightning checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.evolution.winner import MODEL_FILE, intact_checkpoint, write_schedule
from lightning_evo.training.blueprint import Blueprint, load_yaml
from lightning_evo.training.candidate import CONFIG_FILE, isolated

__all__ = ["ExportError", "export"]


class ExportError(Exception):
    """A candidate that can't be exported, and why."""


def export(
    directory: Path,
    to: Path,
    candidate: int | None = None,
    onnx: bool = False,
    torch_export: bool = False,
) -> list[Path]:
    """Write ``config.yaml`` and ``model.ckpt``, which the stock ``LightningCLI`` and ``load_from_checkpoint`` open.

    Of a training whose hyperparameters changed also ``schedule.yaml`` and ``replay.yaml``, which repeats it.

    Args:
        directory: The search's directory.
        to: Where to write; made if absent.
        candidate: Which one. Default: the winner, as retrained where ``evolution.final`` did that.
        onnx: Also write ``model.onnx``.
        torch_export: Also write ``model.pt2``, which ``torch.export.load`` opens.

    Returns:
        The files written.

    Raises:
        ExportError: If the candidate, its config or its checkpoint isn't there.
        ArchiveError: If the archive can't be read.
    """
    with Archive(directory) as archive:
        found = _source(directory, archive, candidate)
        to.mkdir(parents=True, exist_ok=True)
        written = [_copy(found.config, to / CONFIG_FILE), _copy(found.checkpoint, to / MODEL_FILE)]
        written += write_schedule(archive, found.candidate, to)
    if onnx or torch_export:
        written += _traced(load_yaml(found.config.read_text()), to, onnx, torch_export)
    return written


@dataclass(frozen=True)
class _Source:
    candidate: int
    config: Path
    checkpoint: Path


def _source(directory: Path, archive: Archive, candidate: int | None) -> _Source:
    final = directory / "final"
    if candidate is None:
        outcome = archive.meta.get("final")
        if outcome is not None and (final / MODEL_FILE).is_file():
            return _Source(outcome["request"]["candidate"], final / CONFIG_FILE, final / MODEL_FILE)
        ranked = archive.best(1)
        if not ranked:
            raise ExportError(f"{directory}: no candidate has finished yet")
        candidate = int(ranked[0]["id"])
    result = archive.result(candidate)
    if result is None:
        raise ExportError(f"{directory}: candidate {candidate} is not there or has not finished")
    if "answered_by" in result.extra:
        return _source(directory, archive, result.extra["answered_by"])
    if result.fitness is None:
        raise ExportError(f"{directory}: candidate {candidate} failed: {result.error_type}")
    config = directory / "candidates" / f"{candidate:06d}" / CONFIG_FILE
    if not config.is_file():
        raise ExportError(f"{config} is missing: only candidates built from a LightningCLI config can be exported")
    checkpoint = intact_checkpoint(directory, result)
    if checkpoint is None:
        kept = "was not kept (evolution.keep_checkpoints)" if result.checkpoint is None else "is missing or damaged"
        raise ExportError(
            f"the checkpoint of candidate {candidate} {kept}; train it again, with the same seed, by "
            f"`lightning-evo fit --config {config}`"
        )
    return _Source(candidate, config, checkpoint)


def _copy(source: Path, target: Path) -> Path:
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
    return target


def _traced(config: Mapping[str, Any], to: Path, onnx: bool, torch_export: bool) -> list[Path]:
    """The network in formats that run without Python, traced on one batch of the candidate's own data."""
    import torch

    overrides = {"logger": False, "accelerator": "cpu", "devices": 1, "default_root_dir": str(to)}
    with isolated(config):
        parts = Blueprint().build(config, overrides)
    state = torch.load(to / MODEL_FILE, map_location="cpu", weights_only=True)["state_dict"]
    parts.model.configure_model()
    parts.model.load_state_dict(state)
    model = parts.model.eval()
    sample = model.example_input_array
    if sample is None:
        source: Any = parts.datamodule if parts.datamodule is not None else model
        source.prepare_data()
        source.setup("fit")
        # As the Trainer would hand it over: modules may normalise or convert on the way.
        batch = source.on_before_batch_transfer(next(iter(source.val_dataloader())), 0)
        batch = source.on_after_batch_transfer(batch, 0)
        sample = batch[0] if isinstance(batch, (list, tuple)) else batch
    arguments = sample if isinstance(sample, tuple) else (sample,)
    written = []
    if torch_export:
        batch_size = {0: torch.export.Dim.AUTO}
        program = torch.export.export(model, arguments, dynamic_shapes=[batch_size for _ in arguments])
        torch.export.save(program, to / "model.pt2")
        written.append(to / "model.pt2")
    if onnx:
        if find_spec("onnxscript") is None:
            raise ExportError("writing ONNX needs more packages: pip install 'lightning-evo[onnx]'")
        model.to_onnx(to / "model.onnx", arguments)
        written.append(to / "model.onnx")
    return written
