"""A candidate that publishes and averages as fast as it can.

Every publication holds weights that are all alike, so that a mixture of two files would show.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_evo.swarms.exchange import Exchange

SHAPE = (1, 300, 300)


def publish_and_read(directory: Path, name: str, turns: int) -> None:
    """Print after each turn how many publications there were, how many were met, and how many of those were torn."""
    exchange = Exchange(directory, name, "net", "0")
    torn, met = 0, 0
    for number in range(1, turns + 1):
        exchange.publish(
            [float(number)], {"w": torch.full(SHAPE, float(number)), "v": torch.full(SHAPE, float(number))}
        )
        for peer in exchange.peers():
            weights = peer.weights()
            if weights is None:
                continue
            met += 1
            torn += not all(bool((tensor == weights["w"][0, 0, 0]).all()) for tensor in weights.values())
        print(number, met, torn, flush=True)
    exchange.close()
