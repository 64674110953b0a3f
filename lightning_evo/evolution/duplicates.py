"""What is the result of a candidate that was answered, not trained? That of the one it duplicates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from lightning_evo.genome import Result

__all__ = ["AnswerRecord", "echo_of"]


@dataclass(frozen=True)
class AnswerRecord:
    """Whose result a candidate has that was answered, not trained.

    Args:
        original: Id of the candidate it duplicates.
    """

    key: ClassVar[str] = "answered_by"

    original: int

    def to_dict(self) -> int:
        """As JSON: the id."""
        return self.original

    @classmethod
    def from_dict(cls, record: int) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(record)


def echo_of(result: Result, original: int) -> Result:
    """The result of a candidate that was answered, not trained: the original's, at no cost of its own."""
    answer = AnswerRecord(original)
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
        extra={answer.key: answer.to_dict()},
    )
