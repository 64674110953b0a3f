"""Does a network still compute what it did? It is run on a sample before and after a step, in eval mode, without traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from lightning_evo.functional.growth_frame import Part
from lightning_evo.functional.growth_steps import GrowthError
from lightning_evo.functional.growth_surgery import Undo
from lightning_evo.functional.randomness import isolated

__all__ = ["calibrate", "compare", "outputs"]

TOLERANCE = 1e-5
_COARSE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""In these dtypes summing over more units, though they add zeros, rounds otherwise."""


@torch.no_grad()
def outputs(module: nn.Module, sample: tuple[Any, ...], seed: int) -> list[Tensor]:
    """All tensors that a module gives on a sample: eval mode, full precision, modes and buffers as they were."""
    modes = [(part, part.training) for part in module.modules()]
    undo = Undo(module)
    device = next((t.device.type for t in module.parameters()), "cpu")
    try:
        for part, _ in modes:
            part.training = False
        with isolated(seed, module), _precise(device):
            given = module(*sample)
        return [leaf.detach().clone() for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    finally:
        for part, mode in modes:
            part.training = mode
        undo.restore_buffers()


def compare(before: list[Tensor], after: list[Tensor], preserving: bool, where: str) -> None:
    """Check that outputs have the shapes they had and, if they shall, the numbers.

    Raises:
        GrowthError: If not.
    """
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        shapes = [" and ".join(str(tuple(tensor.shape)) for tensor in each) for each in (before, after)]
        raise GrowthError(f"{where}: the network would give {shapes[1]} in place of {shapes[0]}")
    if not preserving:
        return
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point() or not old.numel():
            continue
        bound = _COARSE.get(old.dtype, TOLERANCE)
        largest = old.double().abs().max()
        off = (new.double() - old.double()).abs().max()
        if not bool(off <= bound * largest) and bool(torch.isfinite(largest)):
            raise GrowthError(
                f"{where}: the network would compute something else: {off.item():.1e} off, where {largest.item():.1e} is "
                f"the largest number it gives"
            )


@torch.no_grad()
def calibrate(part: Part, fresh: dict[str, Tensor], sample: tuple[Any, ...], seed: int) -> None:
    """Give the new channels of batch normalisations the mean and variance that their input has on a sample.

    Args:
        part: The part, changed already.
        fresh: For the names of batch normalisations which of their channels are new; nothing takes what these give yet.
        sample: Inputs of ``part.module``.
        seed: Of random numbers that the network draws.
    """
    handles = []
    for name, new in fresh.items():
        module = part.named[name]

        def note(norm: nn.Module, inputs: tuple[Any, ...], new: Tensor = new) -> None:
            assert isinstance(norm, _BatchNorm)
            values = inputs[0].detach().float().transpose(0, 1).flatten(1)
            if values.shape[1] > 1 and norm.running_mean is not None and norm.running_var is not None:
                seen.append((norm.running_mean, new, values.mean(1)[new]))
                seen.append((norm.running_var, new, values.var(1)[new]))

        handles.append(module.register_forward_pre_hook(note))
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        outputs(part.module, sample, seed)
    finally:
        for handle in handles:
            handle.remove()
    for statistic, new, values in seen:
        statistic[new] = values.to(statistic)


@contextmanager
def _precise(device: str) -> Iterator[None]:
    """Without autocast and TensorFloat32, which would round both runs differently."""
    with torch.autocast(device, enabled=False):
        if device != "cuda":
            yield
            return
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
