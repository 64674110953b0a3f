"""Genes that suit a config's arguments, guessed from their names, types and values."""

from __future__ import annotations

import enum
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_evo.cli.given_values import hints_of
from lightning_evo.utils.imports import import_by_name

__all__ = ["Proposal", "proposed_genes"]


@dataclass
class Proposal:
    """A gene for one argument.

    Args:
        path: The argument's config path.
        gene: The gene in few words, as YAML reads it.
        value: What the config has.
        reason: Why it is left for the user to switch on; empty where it is on.
    """

    path: str
    gene: Any
    value: Any
    reason: str = ""


def proposed_genes(
    config: Mapping[str, Any],
    classes: Mapping[str, type] | None = None,
    of_module: Sequence[str] = ("model", "optimizer", "lr_scheduler"),
) -> list[Proposal]:
    """Genes for the arguments of model, optimizer, scheduler and data in a complete config.

    Args:
        config: Plain data.
        classes: Section -> its class, where the section has none (a LightningCLI of one model class).
        of_module: The sections that make the LightningModule and its optimizers; others but the Trainer's are data's.
    """
    found: list[Proposal] = []
    others = (name for name in config if name != "trainer" and name not in of_module)
    for section in (*of_module, *others):
        if isinstance(part := config.get(section), Mapping):
            found += _of_section(section, part, (classes or {}).get(section), section not in of_module)
    return found


def _of_section(path: str, part: Mapping[str, Any], kind: Any, is_data: bool) -> Iterator[Proposal]:
    arguments = part
    if isinstance(part.get("class_path"), str):
        kind, path, arguments = _imported(part["class_path"]), f"{path}.init_args", part.get("init_args") or {}
    hints = _hints_of(kind)
    for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
        if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
            yield from _of_section(f"{path}.{name}", value, None, is_data)
            continue
        proposal = _for_argument(name, value, hints.get(name), is_data)
        if proposal is not None:
            gene, reason = proposal
            yield Proposal(f"{path}.{name}", gene, value, reason)


def _imported(path: str) -> Any:
    try:
        return import_by_name(path)
    except ImportError:
        return None


def _hints_of(kind: Any) -> dict[str, Any]:
    """Parameter -> type hint, of a class or of a function that a ``class_path`` names."""
    if isinstance(kind, type):
        return {name: hint for name, (hint, _) in hints_of(kind).items()}
    try:
        return typing.get_type_hints(kind) if inspect.isroutine(kind) else {}
    except Exception:  # a name that only type checkers see
        return {}


_LEFT_TO_YOU = "switch it on if it matters"

_FIXED = re.compile(
    r"(^|_)(num_classes|n_classes|classes|num_labels|in_channels|out_channels|in_features|out_features|in_dim|out_dim|vocab_size|"
    r"workers|seed|version|index|idx|image_size|img_size|max_length|max_len|epochs|steps|interval|last_epoch|pin_memory|pretrained|"
    r"download|debug|dtype|device)$|^(input|output|pad|verbos|every_n)|_(in|out)$|"
    r"^(size|(num_|n_)?features|foreach|fused|capturable|differentiable|maximize|persistent_workers|drop_last|shuffle)$"
)
"""What belongs to the task or the machine."""


def _for_argument(name: str, value: Any, hint: Any, is_data: bool) -> tuple[Any, str] | None:
    """A gene for an argument, and why it isn't on; ``None`` where there is nothing to vary."""
    if value is None or (_FIXED.search(name) and not re.search(_DROPOUT, name)):
        return None
    choices = _choices(hint)
    if len(choices) > 1:
        return choices, "" if not is_data else _LEFT_TO_YOU
    if isinstance(value, bool):
        return [False, True], _LEFT_TO_YOU
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    is_integer = isinstance(value, int) and not _allows_float(hint)
    for pattern, of_integers, make in _RULES:
        if re.search(pattern, name) and of_integers == is_integer and (gene := make(value)) is not None:
            return gene, "" if not is_data or name == "batch_size" else _LEFT_TO_YOU
    if value <= 0 or is_data:
        return None
    if is_integer:
        return {"low": max(1, value // 2), "high": 2 * value}, _LEFT_TO_YOU
    return {"low": _round(value / 3), "high": _round(value * 3), "log": True}, _LEFT_TO_YOU


def _choices(hint: Any) -> list[Any]:
    """The values of a Literal or an Enum."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [member.name for member in hint]
    return []


def _allows_float(hint: Any) -> bool:
    return hint is float or float in typing.get_args(hint)


def _around(value: float) -> list[int] | None:
    """Half of it, itself and the double."""
    whole = int(value)
    return sorted({max(1, whole // 2), whole, 2 * whole}) if whole >= 1 else None


def _near(value: float) -> dict[str, Any] | None:
    return {"low": max(1, int(value) - 1), "high": int(value) + 2} if value >= 1 else None


def _decades(value: float) -> dict[str, Any] | None:
    return {"low": _round(value / 10), "high": _round(value * 10), "log": True} if value > 0 else None


_DROPOUT = r"drop_?(out|rate|path|prob)|^p_drop"

_RULES: tuple[tuple[str, bool, Callable[[float], Any]], ...] = (
    (r"(^|_)(lr|learning_rate|base_lr|max_lr)$", False, _decades),
    (r"(^|_)(weight_decay|l2|wd)$", False, lambda value: {"low": 1e-6, "high": 0.1, "log": True}),
    (_DROPOUT, False, lambda value: {"low": 0.0, "high": max(0.5, value)}),
    (r"(^|_)momentum$", False, lambda value: {"low": 0.5, "high": 0.99}),
    (r"label_smoothing", False, lambda value: {"low": 0.0, "high": max(0.2, value)}),
    (r"(^|_)batch_size$", True, _around),
    (r"kernel", True, lambda value: [3, 5, 7] if value in (3, 5, 7) else None),
    (r"(^|_)(depth|n?_?layers|num_layers|n_layers|blocks|num_blocks|stages)$", True, _near),
    (
        r"width|hidden|channels|units|filters|embed|(^|_)(d_model|dim|dims|heads|num_heads|n_heads|rank|groups)$",
        True,
        _around,
    ),
)
"""Pattern of names, whether of integers, and the gene for a value; the first that fits holds."""


def _round(value: float) -> float:
    return float(f"{value:.3g}")
