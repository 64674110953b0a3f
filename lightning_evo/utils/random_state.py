"""How does something draw random numbers without anybody noticing? From a seed of its own; the process's states stay."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["isolated"]


@contextmanager
def isolated(seed: int, module: nn.Module | None = None) -> Iterator[None]:
    """Random numbers that depend on a seed alone, and leave those of the process (torch, random, NumPy) as they were.

    Args:
        seed: Of torch's numbers.
        module: On whose CUDA devices it holds as well; others aren't touched.
    """
    devices = {t.device.index for t in module.parameters() if t.device.type == "cuda"} if module is not None else set()
    numpy: Any = sys.modules.get("numpy")
    before, numpys = random.getstate(), numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng(list(devices)):
            # torch.manual_seed would seed all other devices, too.
            for generator in (torch.default_generator, *(torch.cuda.default_generators[index] for index in devices)):
                generator.manual_seed(seed)
            yield
    finally:
        random.setstate(before)
        if numpy is not None:
            numpy.random.set_state(numpys)
