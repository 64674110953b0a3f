"""Zero-cost proxies, which rate an untrained network by one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import UninitializedParameter

from lightning_evo._compat.torch import PRELU_KERNEL, DropoutBase, NormBase, TorchDispatchMode
from lightning_evo.functional.flop_counter import FlopCounter
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["flops", "gradient_norm", "naswot", "parameters", "synflow"]

# Every function here runs the model on copies of its parameters and buffers, which `functional_call` puts in their place,
# so that nothing has to be restored but the modules' modes.


def naswot(model: nn.Module, images: Tensor) -> float:
    """How differently the images of a batch switch the network's units: log|det K|.

    Every image has a binary code: for each rectifying unit whether its input is above 0. K, of shape (N, N), counts for
    each two images the units on which their codes agree (the number of units less the Hamming distance). The more
    linear regions tell the images apart, the larger its determinant.

    A unit is an element that goes into a rectifier, be it a module or a function: ReLU, ReLU6, LeakyReLU, PReLU, RReLU,
    ELU, CELU, SELU, GELU, SiLU, Mish, Hardswish, Softplus. The paper has ReLU alone; the sign of the input is what its
    code holds. Tanh and sigmoid are not counted, nor is a rectifier whose input doesn't have the images as its first
    dimension. The model runs in train mode, as in the paper's code, but for dropout, which is off.

    Args:
        model: Called as ``model(images)``.
        images: Inputs of shape (N, ...), N at least 2 and the images distinct.

    Returns:
        The natural logarithm; ``-inf`` where images cannot be told apart by their codes (K is singular).

    Raises:
        ValueError: If the model has no such unit.

    Source:
        Mellor et al. 2021, Neural Architecture Search without Training, arXiv:2006.04647, equation 2.
    """
    with _measuring(model, train=True), torch.no_grad(), _Codes(len(images)) as codes:
        _call(model, images)
    if not codes.units:
        raise ValueError(
            f"naswot: {type(model).__name__} has no rectifying unit (ReLU, LeakyReLU, PReLU, ELU, GELU, SiLU, ...)"
        )
    if torch.linalg.matrix_rank(codes.agreement) < len(images):
        return -math.inf  # rounding would make some negative number of it
    return float(torch.linalg.slogdet(codes.agreement)[1])


def synflow(model: nn.Module, images: Tensor) -> float:
    """How much flows through all paths of weights: the sum of θ ∂R/∂θ over every weight θ.

    R is the sum of what the network gives for one input of ones, with the absolute value of every parameter in its
    place, and without normalization layers, which would undo the flow. For a network of linear layers (and ReLU, which
    lets everything positive pass) R = 1ᵀ|W_L|...|W_1|1, and each layer's weights add R once.

    Weights are the parameters of two or more dimensions; biases take part in the forward pass alone. Computed in double
    precision, in eval mode, and independent of the images' content. The result grows exponentially with depth: compare
    its logarithm.

    Args:
        model: Called as ``model(ones)``.
        images: Of shape (N, ...); tells the shape and device of one input.

    Returns:
        A number of at least 0; ``inf`` where double precision overflows.

    Raises:
        ValueError: If the model has no weight.

    Source:
        Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic flow,
        arXiv:2006.05467; without batch normalization and summed over the network as in Abdelfattah et al. 2021,
        Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134.
    """
    positive = {name: _double(tensor).abs() for name, tensor in model.named_parameters()}
    weights = [tensor.requires_grad_() for tensor in positive.values() if tensor.ndim > 1]
    if not weights:
        raise ValueError(f"synflow: {type(model).__name__} has no weight, a parameter of two or more dimensions")
    ones = torch.ones_like(images[:1], dtype=torch.float64 if images.is_floating_point() else None)
    buffers = {name: _double(tensor) for name, tensor in model.named_buffers()}
    with _measuring(model, train=False), _without_normalisation(model), torch.enable_grad():
        flow = functional_call(model, {**positive, **buffers}, (ones,)).sum()
        slopes = torch.autograd.grad(flow, weights, allow_unused=True)
    return sum(
        (slope * weight.detach()).abs().sum().item()
        for slope, weight in zip(slopes, weights, strict=True)
        if slope is not None
    )


def gradient_norm(
    model: nn.Module, images: Tensor, labels: Tensor, loss: Callable[[Any, Tensor], Tensor] | None = None
) -> float:
    """How strongly one batch pulls at the weights: the sum over all weights W of ‖∂loss/∂W‖₂.

    Weights are the trainable parameters of two or more dimensions (of convolution and linear layers). The model runs in
    train mode, but for dropout, which is off.

    Args:
        model: Called as ``model(images)``.
        images: Of shape (N, ...).
        labels: What ``loss`` compares the model's answer with.
        loss: Called as ``loss(model(images), labels)``, gives a scalar. Default: cross entropy.

    Returns:
        A number of at least 0.

    Raises:
        ValueError: If the model has no trainable weight.

    Source:
        Abdelfattah et al. 2021, Zero-Cost Proxies for Lightweight NAS, arXiv:2101.08134, section 3.1 (``grad_norm``).
    """
    copies = {
        name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in model.named_parameters()
    }
    weights = [tensor for tensor in copies.values() if tensor.requires_grad and tensor.ndim > 1]
    if not weights:
        raise ValueError(f"gradient_norm: {type(model).__name__} has no trainable weight of two or more dimensions")
    criterion = nn.functional.cross_entropy if loss is None else loss
    with _measuring(model, train=True), torch.enable_grad():
        value = criterion(_call(model, images, copies), labels)
        slopes = torch.autograd.grad(value, weights, allow_unused=True)
    return sum(float(slope.norm()) for slope in slopes if slope is not None)


def parameters(model: nn.Module) -> int:
    """The number of parameters, frozen ones included; those of a lazy layer that saw no input yet have no size."""
    return sum(p.numel() for p in model.parameters() if not isinstance(p, UninitializedParameter))


def flops(model: nn.Module, images: Tensor) -> float:
    """Floating-point operations of the forward pass of one image, in train mode.

    A multiplication with an addition counts as two; what works element by element is 0, as in ``cost/flops``. (That has the
    backward pass as well, about three times as much.)

    Args:
        model: Called as ``model(images)``.
        images: Of shape (N, ...); the first two are used, because batch normalization may need more than one.
    """
    few = images[:2]
    with _measuring(model, train=True), torch.no_grad(), FlopCounter() as counter:
        _call(model, few)
    return counter.total / len(few)


class _Codes(TorchDispatchMode):
    """Counts, for each two images, the units on which they agree, while a model runs."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images, self.units = images, 0
        self.agreement = torch.zeros(images, images, dtype=torch.float64)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if _is_rectifier(func, args) and args[0].ndim > 0 and len(args[0]) == self.images:
            active = (args[0].flatten(1) > 0).float()
            ones = active.sum(1)
            # Both on, or both off: x xᵀ + (1 − x)(1 − x)ᵀ. Exact: a layer has far fewer than 2²⁴ units.
            agreement = 2 * active @ active.T - ones - ones[:, None] + active.shape[1]
            self.agreement += agreement.to(self.agreement)
            self.units += active.shape[1]
        return func(*args, **(kwargs or {}))


_RECTIFIERS = {
    getattr(torch.ops.aten, name + suffix)
    for name in (
        "relu",
        "leaky_relu",
        "rrelu_with_noise",
        "elu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "threshold",
    )
    for suffix in ("", "_")
} | {torch.ops.aten.softplus, PRELU_KERNEL}
_CLIPPED = {torch.ops.aten.hardtanh, torch.ops.aten.hardtanh_}


def _is_rectifier(operation: Any, args: tuple) -> bool:
    packet = operation.overloadpacket
    # ReLU6 is a hardtanh from 0 to 6.
    return packet in _RECTIFIERS or (packet in _CLIPPED and len(args) > 1 and args[1] == 0)


def _call(model: nn.Module, images: Tensor, parameters: dict[str, Tensor] | None = None) -> Any:
    """``model(images)`` with copies of its parameters (or those given) and of its buffers."""
    if parameters is None:
        parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    buffers = {name: tensor.detach().clone() for name, tensor in model.named_buffers()}
    return functional_call(model, {**parameters, **buffers}, (images,))


def _double(tensor: Tensor) -> Tensor:
    """A detached copy, in double precision where it holds real numbers."""
    copy = tensor.detach().clone()
    return copy.double() if copy.is_floating_point() else copy


@contextmanager
def _measuring(model: nn.Module, train: bool) -> Iterator[None]:
    """Set every module's mode, dropout off, and torch's seed; the modes and random state of before behind it."""
    modes = [(module, module.training) for module in model.modules()]
    with isolated_random_state(
        seed=0, devices=model
    ):  # for what draws while it runs: functional dropout, stochastic depth
        try:
            for module, _ in modes:
                module.training = train and not isinstance(module, DropoutBase)
            yield
        finally:
            for module, mode in modes:
                module.training = mode


_NORMALISATION = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)


@contextmanager
def _without_normalisation(model: nn.Module) -> Iterator[None]:
    """Let every normalization layer hand on what it gets."""
    layers = [module for module in model.modules() if isinstance(module, _NORMALISATION)]
    before = [module.__dict__.get("forward") for module in layers]
    try:
        for module in layers:
            vars(module)["forward"] = _identity
        yield
    finally:
        for module, forward in zip(layers, before, strict=True):
            del module.forward
            if forward is not None:
                vars(module)["forward"] = forward


def _identity(inputs: Tensor, *_: Any, **__: Any) -> Tensor:
    return inputs
