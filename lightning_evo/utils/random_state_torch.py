"""Isolation of all global random states: torch's on the CPU and on accelerators, Python's and NumPy's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from lightning_evo.utils.random_state import preserved_random_state

__all__ = ["isolated_random_state"]


@contextmanager
def isolated_random_state(
    seed: int | None = None, devices: nn.Module | Iterable[torch.device] | None = None
) -> Iterator[None]:
    """Put the random states of torch, Python and NumPy back at the end of the block.

    Args:
        seed: Seeds torch's generators, on the CPU and on ``devices``, for the block. Python's and NumPy's aren't seeded.
        devices: The accelerators whose states are isolated too: those of a module's parameters and buffers, or given ones.
            The default is every CUDA device. Generators of other devices aren't touched.

    >>> with isolated_random_state(seed=0):
    ...     first = torch.rand(1)
    >>> with isolated_random_state(seed=0):
    ...     assert torch.rand(1) == first
    """
    by_type: dict[str, set[int]] = {}
    for device in _accelerators(devices):
        by_type.setdefault(device.type, set()).add(device.index or 0)
    with ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind, indices in by_type.items():
            stack.enter_context(torch.random.fork_rng(sorted(indices), device_type=kind))
        if seed is not None:
            # torch.manual_seed would seed every device.
            torch.default_generator.manual_seed(seed)
            for kind, indices in by_type.items():
                for index in indices:
                    torch.get_device_module(kind).default_generators[index].manual_seed(seed)
        yield


def _accelerators(devices: nn.Module | Iterable[torch.device] | None) -> set[torch.device]:
    if devices is None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return {torch.device("cuda", index) for index in range(count)}
    if isinstance(devices, nn.Module):
        tensors = [*devices.parameters(), *devices.buffers()]
        return {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    return {device for device in devices if device.type != "cpu"}
