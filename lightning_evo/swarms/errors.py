"""The error of swarms."""

from __future__ import annotations

__all__ = ["SwarmError"]


class SwarmError(ValueError):
    """A swarm that can't be trained as configured; the message names what was given and says what to change."""
