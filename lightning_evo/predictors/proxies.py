"""Which zero-cost proxies are there, and how do their values become features?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["PROXIES", "check_proxies", "proxy_features"]

PROXIES = ("naswot", "synflow", "gradient_norm", "params", "flops")
"""What can be measured of an untrained candidate; what each means is said in :mod:`lightning_evo.functional.zero_cost`."""

_LOGARITHMS = ("synflow", "gradient_norm", "params", "flops")
"""Proxies that spread over orders of magnitude. The log-determinant of ``naswot`` is a logarithm already."""


def check_proxies(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: If one isn't a proxy.
    """
    if isinstance(names, str):
        raise ValueError(f"proxies {names!r} is not a list of names among {', '.join(PROXIES)}")
    for name in names:
        if name not in PROXIES:
            raise ValueError(f"proxies: {name!r} is none of {', '.join(PROXIES)}")
    return tuple(dict.fromkeys(names))


def proxy_features(values: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The proxies as numbers of similar size: logarithms of those that spread over orders of magnitude; NaN stays.

    >>> proxy_features({"params": 999.0, "naswot": 12.5}, ["params", "naswot"])
    [6.907755278982137, 12.5]
    """
    row = []
    for name in names:
        value = float(values.get(name, math.nan))
        if not math.isfinite(value):
            row.append(math.nan)
        else:
            row.append(math.log1p(value) if name in _LOGARITHMS and value >= 0 else value)
    return row
