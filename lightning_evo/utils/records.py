"""Dataclasses read from stored records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

__all__ = ["known_fields"]


def known_fields(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a record that are fields of the dataclass ``kind``: a later version may have written more."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in record.items() if name in names}
