"""A genome: one value per active gene; immutable, hashable, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lightning_evo.genome.genes import Value, identity
from lightning_evo.genome.representation import html_table

__all__ = ["Genome"]


class Genome(Mapping[str, Value]):
    """Config path -> value for every *active* gene.

    Two genomes are equal when their values are; the mutation rates a genome may carry are inherited along with it but
    don't make it another genome.

    Args:
        values: Config path -> JSON value.
        rates: Self-adaptive mutation rates this genome carries: config path -> rate, and under ``""`` the rate at which
            rates change. Empty where rates are fixed.

    >>> Genome({"model.lr": 0.1}) == Genome({"model.lr": 0.1}, rates={"model.lr": 0.02})
    True
    """

    __slots__ = ("_identity", "_rates", "_values")

    def __init__(self, values: Mapping[str, Value], rates: Mapping[str, float] | None = None) -> None:
        self._values = MappingProxyType(dict(values))
        self._rates = MappingProxyType(dict(rates or {}))
        self._identity = identity(dict(values))

    @property
    def rates(self) -> Mapping[str, float]:
        """The mutation rates carried along; empty where rates are fixed."""
        return self._rates

    def __getitem__(self, path: str) -> Value:
        return self._values[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Genome) and self._identity == other._identity

    def __repr__(self) -> str:
        return f"Genome({dict(self._values)!r})"

    def _repr_html_(self) -> str:
        rates = [["mutation rate", *(self._rates.get(path) for path in self)]] if self._rates else []
        return html_table(["", *self], [["value", *self._values.values()], *rates])

    def __reduce__(self) -> tuple[Any, ...]:
        return Genome, (dict(self._values), dict(self._rates))

    def to_json(self) -> str:
        """The genome as JSON text; :meth:`from_json` gives an equal genome with the same rates."""
        return json.dumps({"values": dict(self._values), "rates": dict(self._rates)})

    @classmethod
    def from_json(cls, text: str) -> Genome:
        """Read what :meth:`to_json` wrote."""
        stored = json.loads(text)
        return cls(stored["values"], stored["rates"])
