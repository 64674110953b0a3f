"""The contents of every export: a run's candidates, results and metadata, and strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.meta import SearchDescription, read_meta
from lightning_evo.genome import Candidate, Result
from lightning_evo.reporting.outgoing import masked_candidate, masked_result
from lightning_evo.utils.masking import Mask

__all__ = ["candidates_and_results", "run_metadata", "strict_json", "text_to_float"]

_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def candidates_and_results(archive: Archive, mask: Mask) -> tuple[dict[int, Candidate], dict[int, Result]]:
    """All candidates and all results by id, each in the order in which they were recorded, their secrets masked."""
    candidates: dict[int, Candidate] = {}
    results: dict[int, Result] = {}
    for candidate, result in archive.events():
        if result is None:
            candidates[candidate.id] = masked_candidate(candidate, mask)
        else:
            results[candidate.id] = masked_result(result, mask)
    return candidates, results


def run_metadata(archive: Archive, mask: Mask) -> dict[str, Any]:
    """A run's name, directory, objectives, metadata and search space, its secrets masked."""
    meta = mask.data(archive.meta)
    return {
        "run": archive.run,
        "directory": str(archive.directory),
        "objectives": meta.get("objectives", []),
        "meta": meta,
        "space": (read_meta(meta, SearchDescription) or SearchDescription()).space or None,
    }


def strict_json(value: Any, indent: int | None = None) -> str:
    """``value`` as strict JSON, which has no NaN and no infinities: these become ``"NaN"`` and ``"Infinity"``."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # few records hold NaN, and searching for it takes longer than writing
        return json.dumps(_float_to_text(value), indent=indent, allow_nan=False)


def text_to_float(value: Any) -> Any:
    """``value`` with the texts of :func:`strict_json` turned back into NaN and infinities."""
    if isinstance(value, str):
        return _FLOATS.get(value, value)
    if isinstance(value, Mapping):
        return {key: text_to_float(element) for key, element in value.items()}
    return [text_to_float(element) for element in value] if isinstance(value, list) else value


def _float_to_text(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _float_to_text(element) for key, element in value.items()}
    return [_float_to_text(element) for element in value] if isinstance(value, (list, tuple)) else value
