"""Export of one candidate as a plain LightningCLI config and a plain Lightning checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.meta import FinalOutcome, read_meta
from lightning_evo.evolution.controller import AnswerRecord
from lightning_evo.evolution.winner import intact_checkpoint, write_schedule
from lightning_evo.training.blueprint import Blueprint, load_yaml
from lightning_evo.training.candidate import CONFIG_FILE, isolated
from lightning_evo.training.packing import MODEL_FILE, mask_file, pack, restore_structure
from lightning_evo.utils.masking import Mask

__all__ = ["ExportError", "export"]


class ExportError(Exception):
    """A candidate can't be exported; the message says why."""


def export(
    directory: Path,
    to: Path,
    candidate: int | None = None,
    onnx: bool = False,
    torch_export: bool = False,
    notify: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Write ``config.yaml`` and ``model.ckpt``, which the stock ``LightningCLI`` and ``load_from_checkpoint`` open.

    For a training whose hyperparameters changed, also write ``schedule.yaml``, and ``replay.yaml``, which repeats it. For
    a network that has grown beyond what the arguments of its class can express, also write ``grown.yaml``, the recipe
    with which :func:`lightning_evo.load_grown` opens the checkpoint.

    Secrets (values of ``api_key``, ``password`` and the like, passwords in URLs) are masked in these files, the
    hyperparameters in the checkpoint included, unless the environment variable ``LIGHTNING_EVO_SHOW_SECRETS`` is ``1``. The
    first lines of a file say what is to be filled in.

    Args:
        directory: The search's directory.
        to: The directory to write to; created if it doesn't exist.
        candidate: The candidate's id. Default: the winner, retrained if ``evolution.final`` did so.
        onnx: Also write ``model.onnx``.
        torch_export: Also write ``model.pt2``, which ``torch.export.load`` opens.
        notify: Receives a line that explains how to open a network that has grown, and one that says what was masked.

    Returns:
        The files written.

    Raises:
        ExportError: If the candidate, its config or its checkpoint doesn't exist.
        ArchiveError: If the archive can't be read.
    """
    with Archive(directory) as archive:
        found = _source(directory, archive, candidate)
        to.mkdir(parents=True, exist_ok=True)
        mask = Mask(archive.meta)
        packed = pack(found.config.read_text(encoding="utf-8"), found.checkpoint, to)
        written = [*packed.files, *write_schedule(archive, found.candidate, to)]
    config = load_yaml((to / CONFIG_FILE).read_text(encoding="utf-8"))
    masked = {path.name: names for path in written if (names := mask_file(path, mask))}
    if remark := packed.message or found.remark:
        notify(remark)
    for name, names in masked.items():
        notify(f"{name}: masked, to be filled in: {', '.join(names)} (--show-secrets writes what they are)")
    if onnx or torch_export:
        written += _traced(config, to, onnx, torch_export)
    return written


@dataclass(frozen=True)
class _Source:
    """The files that an export starts from.

    Args:
        candidate: The candidate's id.
        config: Its config.
        checkpoint: Its checkpoint.
        remark: The remark from an earlier packing of this checkpoint.
    """

    candidate: int
    config: Path
    checkpoint: Path
    remark: str = ""


def _source(directory: Path, archive: Archive, candidate: int | None) -> _Source:
    final = directory / "final"
    if candidate is None:
        outcome = read_meta(archive.meta, FinalOutcome)
        if outcome is not None and (final / MODEL_FILE).is_file():
            return _Source(outcome.request.candidate, final / CONFIG_FILE, final / MODEL_FILE, outcome.packed)
        ranked = archive.best(1)
        if not ranked:
            raise ExportError(f"{directory}: no candidate has finished yet")
        candidate = int(ranked[0]["id"])
    result = archive.result(candidate)
    if result is None:
        raise ExportError(f"{directory}: candidate {candidate} does not exist or has not finished")
    if (answer := result.entry(AnswerRecord)) is not None:
        return _source(directory, archive, answer.original)
    if result.fitness is None:
        raise ExportError(f"{directory}: candidate {candidate} failed: {result.error_type}")
    config = directory / "candidates" / f"{candidate:06d}" / CONFIG_FILE
    if not config.is_file():
        raise ExportError(f"{config} is missing: only candidates built from a LightningCLI config can be exported")
    checkpoint = intact_checkpoint(directory, result)
    if checkpoint is None:
        kept = "was not kept (evolution.keep_checkpoints)" if result.checkpoint is None else "is missing or damaged"
        raise ExportError(
            f"the checkpoint of candidate {candidate} {kept}; to train it again with the same seed, run "
            f"`lightning-evo fit --config {config}`"
        )
    return _Source(candidate, config, checkpoint)


def _traced(config: Mapping[str, Any], to: Path, onnx: bool, torch_export: bool) -> list[Path]:
    """Write the network in formats that run without Python, traced on one batch of the candidate's data."""
    import torch

    overrides = {"logger": False, "accelerator": "cpu", "devices": 1, "default_root_dir": str(to)}
    with isolated(config):
        parts = Blueprint().build(config, overrides)
    state = torch.load(to / MODEL_FILE, map_location="cpu", weights_only=True)["state_dict"]
    parts.model.configure_model()
    restore_structure(parts.model, to / MODEL_FILE)
    parts.model.load_state_dict(state)
    model = parts.model.eval()
    sample = model.example_input_array
    if sample is None:
        source: Any = parts.datamodule if parts.datamodule is not None else model
        source.prepare_data()
        source.setup("fit")
        # As the Trainer passes it to the model: the hooks may normalize or convert it.
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
            raise ExportError("ONNX export requires more packages: pip install 'lightning-evo[onnx]'")
        model.to_onnx(to / "model.onnx", arguments)
        written.append(to / "model.onnx")
    return written
