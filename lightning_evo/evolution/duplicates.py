"""What is the result of a candidate that was answered, not trained? That of the one it duplicates."""

from __future__ import annotations

from dataclasses import replace

from lightning_evo.genome import Result

__all__ = ["echo_of"]


def echo_of(result: Result, original: int) -> Result:
    """The result of a candidate that was answered, not trained: the original's, at no cost of its own."""
    spent = {name: 0 for name in ("seconds", "epochs", "training_flops") if name in result.cost}
    return replace(
        result,
        cost={**result.cost, **spent},
        curve=(),
        checkpoint=None,
        checkpoint_bytes=None,
        started=None,
        ended=None,
        slot=None,
        attempts=0,
        extra={"answered_by": original},
    )
