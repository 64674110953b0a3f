"""What goes wrong with a swarm, and what should be changed about it?"""

from __future__ import annotations

__all__ = ["SwarmError"]


class SwarmError(ValueError):
    """A swarm that can't train as it was asked to; the message names what was given and says what to change."""
