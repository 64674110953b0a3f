"""Export of one candidate as a plain LightningCLI config and a plain Lightning checkpoint."""

from __future__ import annotations

import errno
import os
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_evo._compat.torch import tree_map
from lightning_evo.archive import Archive
from lightning_evo.archive.entries import run_that_holds
from lightning_evo.archive.meta import FINAL_CHECKPOINT, FinalOutcome, read_meta
from lightning_evo.archive.seals import StoredCheckpoint
from lightning_evo.evolution.checkpoints import CANDIDATES, look_at
from lightning_evo.evolution.controller import AnswerRecord
from lightning_evo.evolution.errors import SearchError
from lightning_evo.evolution.winner import REPLAY_FILE, SCHEDULE_FILE, write_schedule
from lightning_evo.functional.growth.steps import GrowthError
from lightning_evo.training.blueprint import Parts, error_summary, load_yaml
from lightning_evo.training.builder import blueprint_of
from lightning_evo.training.candidate import CONFIG_FILE, isolated
from lightning_evo.training.launch import LaunchRecord
from lightning_evo.training.packing import (
    MODEL_FILE,
    UntrustedNetwork,
    held_by,
    mask_file,
    pack,
    plain_checkpoint,
    restore_structure,
)
from lightning_evo.utils.checkpoints import kind_of
from lightning_evo.utils.files import OutsideError, atomic_directory, digest_of, inside
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.masking import Mask

__all__ = ["FILES", "ExportError", "export"]

FILES = (
    CONFIG_FILE,
    MODEL_FILE,
    "grown.yaml",
    SCHEDULE_FILE,
    REPLAY_FILE,
    "model.onnx",
    "model.onnx.data",
    "model.pt2",
)
"""The possible contents of an export."""


class ExportError(Exception):
    """A candidate can't be exported; the message says why."""


def export(
    directory: Path,
    to: Path,
    candidate: int | None = None,
    onnx: bool = False,
    torch_export: bool = False,
    notify: Callable[[str], object] = lambda text: None,
    trust: bool = False,
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
        to: The directory to write, with all files or not at all. It may be new, empty, or an earlier export, which is
            replaced.
        candidate: The candidate's id. Default: the winner, retrained if ``evolution.final`` did so.
        onnx: Also write ``model.onnx``.
        torch_export: Also write ``model.pt2``, which ``torch.export.load`` opens.
        notify: Receives a line that explains how to open a network that has grown, and one that says what was masked.
        trust: Whether to run code that the checkpoint holds or the config names, though the candidate was not trained by
            you on this machine. Where the checkpoint holds tensors and plain data alone, only ``onnx``,
            ``torch_export``, and networks that have grown need it.

    Returns:
        The files written.

    Raises:
        ExportError: If the candidate, its config or its checkpoint doesn't exist, is damaged or needs trust, or if ``to``
            can't be written.
        ArchiveError: If the archive can't be read.
    """
    _check_target(to)
    with Archive(directory) as archive:
        found = _source(directory, archive, candidate, trust)
        if (onnx or torch_export) and not found.trusted:
            raise ExportError(
                f"{found.config} was not made by you on this machine, and tracing the network runs code that it names: if "
                "you trust whoever made it, run the same again with --trust (in Python trust=True)"
            )
        mask = Mask(archive.meta)
        try:
            with atomic_directory(to, FILES) as part:
                try:
                    packed = pack(found.config.read_text(encoding="utf-8"), found.checkpoint, part, found.trusted)
                except UntrustedNetwork as error:
                    advice = "if you trust whoever made it, run the same again with --trust (in Python trust=True)"
                    raise ExportError(f"{error}: {advice}") from error
                except GrowthError as error:
                    raise ExportError(str(error)) from error
                written = [*packed.files, *write_schedule(archive, found.candidate, part)]
                config = load_yaml((part / CONFIG_FILE).read_text(encoding="utf-8"))
                launched = read_meta(archive.meta, LaunchRecord)
                if launched is not None and not (trust or launched.is_own):
                    launched = None  # what it names is not to be imported
                cls = _model_class(config, launched) if found.trusted else None
                plain_checkpoint(part / MODEL_FILE, config, cls, found.trusted)
                masked = {path.name: names for path in written if (names := mask_file(path, mask, found.trusted))}
                opens = (
                    _try_to_open(part / MODEL_FILE, to / MODEL_FILE, config, cls) if cls and not packed.message else ""
                )
                if onnx or torch_export:
                    written += _traced(config, launched or LaunchRecord(), part, onnx, torch_export)
        except OSError as error:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
            raise ExportError(f"--to {to}: cannot write the directory ({reason})") from error
    if remark := packed.message or found.remark:
        notify(remark)
    if opens:
        notify(opens)
    for name, names in masked.items():
        notify(f"{name}: masked, to be filled in: {', '.join(names)} (--show-secrets writes what they are)")
    return [to / path.name for path in written]


def _check_target(to: Path) -> None:
    """Refuse a directory in which something else than an earlier export would be overwritten."""
    if (run := run_that_holds(to)) is not None:
        raise ExportError(f"--to {to}: belongs to the search in {run}; give another directory")
    if not os.path.lexists(to):
        return
    if not to.is_dir():
        raise ExportError(f"--to {to}: is a file; give a directory")
    held = {name for name in os.listdir(to) if name != ".part"}
    others = sorted(held - set(FILES))
    if others or (held and not {CONFIG_FILE, MODEL_FILE} <= held):
        raise ExportError(
            f"--to {to}: holds other files ({', '.join(others or sorted(held))}); give a new or empty directory, or one "
            "that an earlier export made"
        )


@dataclass(frozen=True)
class _Source:
    """The files that an export starts from.

    Args:
        candidate: The candidate's id.
        config: Its config.
        checkpoint: Its checkpoint.
        trusted: Whether code that the two hold or name may run.
        remark: The remark from an earlier packing of this checkpoint.
    """

    candidate: int
    config: Path
    checkpoint: Path
    trusted: bool
    remark: str = ""


def _source(directory: Path, archive: Archive, candidate: int | None, trust: bool) -> _Source:
    if candidate is None:
        outcome = read_meta(archive.meta, FinalOutcome)
        if outcome is not None and os.path.lexists(directory / FINAL_CHECKPOINT):
            stored = StoredCheckpoint(FINAL_CHECKPOINT, seal=outcome.seal)
            advice = "run the search's own command again, which makes it anew"
            return _checked(directory, outcome.request.candidate, stored, trust, advice, outcome.packed)
        ranked = archive.best(1)
        if not ranked:
            raise ExportError(f"{directory}: no candidate has finished yet")
        candidate = int(ranked[0]["id"])
    result = archive.result(candidate)
    if result is None:
        raise ExportError(f"{directory}: candidate {candidate} does not exist or has not finished")
    if (answer := result.entry(AnswerRecord)) is not None:
        return _source(directory, archive, answer.original, trust)
    if result.fitness is None:
        raise ExportError(f"{directory}: candidate {candidate} failed: {result.error_type}")
    config = directory / CANDIDATES / f"{candidate:06d}" / CONFIG_FILE
    if not config.is_file():
        raise ExportError(f"{config} is missing: only candidates built from a LightningCLI config can be exported")
    launched = read_meta(archive.meta, LaunchRecord)
    command = shlex.join(launched.command) if launched is not None and launched.command else "lightning-evo fit"
    again = f"to train it again with the same seed, run `{command} --config {config}`"
    if launched is not None and launched.has_configs_of_its_own:
        again = f"to train it again, raise evolution.keep_checkpoints and run the search's own command, `{command}`"
    found = StoredCheckpoint.of(result)
    if found is None:
        raise ExportError(f"the checkpoint of candidate {candidate} was not kept (evolution.keep_checkpoints); {again}")
    return _checked(directory, candidate, found, trust, again)


def _checked(
    directory: Path, candidate: int, stored: StoredCheckpoint, trust: bool, advice: str, remark: str = ""
) -> _Source:
    """A checkpoint and the config beside it, if they are what the search left."""
    try:
        fault, trusted = look_at(directory, stored, trust)
        if fault:
            raise ExportError(f"the checkpoint of candidate {candidate}, {stored.path}, {fault}; {advice}")
        checkpoint = inside(directory, stored.path)
        config = inside(directory, Path(stored.path).with_name(CONFIG_FILE))
    except (SearchError, OutsideError) as error:
        raise ExportError(str(error)) from None
    if (
        stored.seal is not None
        and stored.seal.config
        and (not config.is_file() or digest_of(config) != stored.seal.config)
    ):
        raise ExportError(f"{config} is not the config by which candidate {candidate} was trained; put it back")
    return _Source(candidate, config, checkpoint, trusted, remark)


def _model_class(config: Mapping[str, Any], launched: LaunchRecord | None) -> type | None:
    """The class of a candidate's model, if its config or its CLI names one that can be imported."""
    section = config.get("model")
    try:
        named = section.get("class_path", section.get("_target_")) if isinstance(section, Mapping) else None
        own = launched.model_class() if launched is not None else None
        found = import_by_name(named) if isinstance(named, str) else own
    except Exception:  # whatever the user's module raises
        return None
    return found if isinstance(found, type) and hasattr(found, "load_from_checkpoint") else None


def _try_to_open(model: Path, shown: Path, config: Mapping[str, Any], cls: Any) -> str:
    """Open an exported checkpoint as its user will; say how, or what is missing."""
    call = f"{cls.__name__}.load_from_checkpoint({str(shown)!r}"
    try:
        with isolated(config), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held = held_by(model, trusted=True)
            plain = kind_of(model) == "plain"
            more = {} if plain else {"weights_only": False}
            if "weights_only" not in signature(cls.load_from_checkpoint).parameters:
                more = {}
            cls.load_from_checkpoint(model, map_location="cpu", **more)
    except Exception as error:  # whatever the user's constructor raises
        kept = "" if held_by(model, trusted=True).get("hyper_parameters") else " (it saves no hyperparameters)"
        return f"model.ckpt needs arguments{kept}: {call}, ...): {_line(error)}"
    del held
    return f"model.ckpt opens with {call}{', weights_only=False' if more else ''})"


def _traced(config: Mapping[str, Any], launched: LaunchRecord, to: Path, onnx: bool, torch_export: bool) -> list[Path]:
    """Write the network in formats that run without Python, traced on one batch of the candidate's data."""
    if onnx and find_spec("onnxscript") is None:
        raise ExportError("ONNX export requires more packages: pip install 'lightning-evo[onnx]'")
    option = "--onnx" if onnx else "--torch-export"
    overrides = {"logger": False, "accelerator": "cpu", "devices": 1, "default_root_dir": str(to)}
    try:
        with isolated(config):
            blueprint = launched.blueprint() if launched.cli else blueprint_of(config)
            parts = blueprint.build(config, overrides)
            parts.model.configure_model()
            restore_structure(parts.model, to / MODEL_FILE, trusted=True)
            held = held_by(to / MODEL_FILE, trusted=True)
            parts.model.on_load_checkpoint(held)
            parts.model.load_state_dict(held["state_dict"], strict=parts.model.strict_loading)
    except Exception as error:  # whatever the user's constructor raises
        own = (
            "" if launched.cli else "; if the search has its own LightningCLI, run its command again, which notes that"
        )
        raise ExportError(f"{option}: the network can't be built from its config: {_line(error)}{own}") from error
    try:
        return _trace(parts, to, onnx, torch_export)
    except Exception as error:  # whatever tracing raises
        advice = "example_input_array of the module says on what to trace it"
        raise ExportError(f"{option}: the network can't be traced: {_line(error)}; {advice}") from error


def _line(error: Exception) -> str:
    return (error_summary(error).splitlines() or [type(error).__name__])[0]


def _trace(parts: Parts, to: Path, onnx: bool, torch_export: bool) -> list[Path]:
    import torch

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
    if not is_overridden("forward", model):
        raise TypeError(f"{type(model).__name__} defines no forward")
    named = dict(sample) if isinstance(sample, Mapping) and sample is model.example_input_array else {}
    arguments = () if named else sample if isinstance(sample, tuple) else (sample,)
    written = []
    if torch_export:
        program = torch.export.export(model, arguments, named, dynamic_shapes=_any_batch_size(model, arguments, named))
        torch.export.save(program, to / "model.pt2")
        written.append(to / "model.pt2")
    if onnx:
        model.to_onnx(to / "model.onnx", named or arguments)
        written.append(to / "model.onnx")
    return written


def _any_batch_size(model: Any, arguments: tuple, named: Mapping[str, Any]) -> Any:
    """The dimensions that may differ from the sample's: the first of each tensor."""
    import torch

    def first(value: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) and value.ndim else None

    if any(each.kind is each.VAR_POSITIONAL for each in signature(model.forward).parameters.values()):
        return None
    return tree_map(first, dict(named)) if named else tree_map(first, arguments)
