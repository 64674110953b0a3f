"""Seeds that follow from plain data."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(*parts: object) -> int:
    """Return a 32-bit seed that ``parts`` alone decide (the run's seed, a purpose, a candidate's id), on every machine.

    >>> derive_seed(1, "breed", 7) == derive_seed(1, "breed", 7) != derive_seed(1, "breed", 8)
    True
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big")
