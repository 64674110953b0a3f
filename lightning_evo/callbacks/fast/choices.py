"""Choices of settings that make a training faster on its device, each with the reason, and fused optimizer kernels."""

from __future__ import annotations

from inspect import signature
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from lightning_evo.callbacks.records import Choice
from lightning_evo.callbacks.search import StackedModule

__all__ = [
    "PrecisionName",
    "choose_benchmark",
    "choose_channels_last",
    "choose_precision",
    "choose_tf32",
    "follow_formats",
    "follows_formats",
    "fuse",
    "image_weights",
]


PrecisionName = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

FUSED: tuple[type[Optimizer], ...] = (SGD, Adam, AdamW, Adagrad)
"""The optimizers of torch that have a fused kernel."""


def choose_precision(setting: PrecisionName, trainer: Trainer, pl_module: LightningModule) -> Choice:
    """Mixed precision where the device computes it faster: bfloat16, or float16 with a scaler on older GPUs."""
    strategy = trainer.strategy
    if type(strategy.precision_plugin) is not Precision:
        return Choice(False, f"the Trainer has precision {trainer.precision} already")
    if setting == "32-true":
        return Choice(False, "switched off")
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        return Choice(False, f"{type(strategy).__name__} sets its own precision")
    device = strategy.root_device
    if setting != "auto":
        return Choice(True, "asked for", setting)
    if device.type != "cuda":
        return Choice(False, f"on {device.type} it speeds up large convolutions only; ask for bf16-mixed")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice(True, "the GPU computes in bfloat16", "bf16-mixed")
    major, minor = torch.cuda.get_device_capability(device)
    if major < 7:
        return Choice(False, f"the GPU's compute capability {major}.{minor} has no tensor cores")
    if not pl_module.automatic_optimization:
        return Choice(False, "the GPU only has float16, and manual optimization may not scale the loss")
    return Choice(True, "the GPU has tensor cores for float16", "16-mixed")


def choose_tf32(setting: bool | Literal["auto"], device: torch.device) -> Choice:
    """TF32 for what stays in single precision: tensor cores, at ten bits of mantissa."""
    if setting is False:
        return Choice(False, "switched off")
    if device.type != "cuda":
        return Choice(False, f"there is no TF32 on {device.type}")
    present = torch.get_float32_matmul_precision()
    if present != "highest":
        return Choice(False, f"torch.set_float32_matmul_precision is {present!r} already")
    if torch.cuda.get_device_capability(device)[0] < 8:
        return Choice(False, "the GPU is older than Ampere")
    return Choice(True, "the GPU multiplies float32 matrices on tensor cores")


def choose_benchmark(setting: bool | Literal["auto"], device: torch.device) -> Choice:
    """cuDNN tries its convolution algorithms once per shape and keeps the fastest."""
    if setting is False:
        return Choice(False, "switched off")
    if device.type != "cuda":
        return Choice(False, f"there is no cuDNN on {device.type}")
    if torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic:
        return Choice(False, "the Trainer is deterministic")
    if torch.backends.cudnn.benchmark:
        return Choice(False, "the Trainer has benchmark=True already")
    return Choice(True, "shapes of batches repeat")


def choose_channels_last(setting: bool | Literal["auto"], trainer: Trainer, pl_module: LightningModule) -> Choice:
    """Channels last in memory, which tensor cores and a CPU's convolutions read best."""
    if setting is False:
        return Choice(False, "switched off")
    if not follows_formats(trainer, pl_module):
        return Choice(False, f"{_owner(trainer, pl_module)} lays weights out itself")
    if not image_weights(pl_module):
        return Choice(False, "there is no Conv2d")
    if setting is True:
        return Choice(True, "asked for")
    device = trainer.strategy.root_device
    if device.type == "cpu":
        return Choice(True, "convolutions are at least as fast on a CPU")
    if device.type != "cuda":
        return Choice(False, f"it hasn't been measured on {device.type}")
    if not isinstance(trainer.precision_plugin, MixedPrecision):
        return Choice(False, "without mixed precision GPUs may convolve more slowly in this format")
    return Choice(True, "tensor cores convolve in this format")


def follows_formats(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether weights and optimizers belong to one plain module, so that they can be laid out and fused."""
    plain = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
    return plain and not isinstance(pl_module, StackedModule)


def image_weights(module: nn.Module) -> list[nn.Parameter]:
    """The four-dimensional weights of a network that convolves images; empty for others."""
    if not any(isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) for layer in module.modules()):
        return []
    weights: list[Any] = [p for p in module.parameters() if not isinstance(p, nn.parameter.UninitializedParameter)]
    return [weight for weight in weights if weight.ndim == 4]


def _owner(trainer: Trainer, pl_module: LightningModule) -> str:
    part: object = pl_module if isinstance(pl_module, StackedModule) else trainer.strategy
    return type(part).__name__


def fuse(optimizer: Optimizer) -> str:
    """Make an optimizer use its fused kernel, in all of its groups or in none; return the reason if it can't, else "".

    Existing states are converted. The user's choice of ``fused`` or ``foreach`` is kept. Unlike an optimizer fused by its
    constructor, this one doesn't claim to unscale gradients itself: a gradient scaler unscales them before the step, so
    that they can be clipped.

    Example:
        >>> weight = nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.AdamW([weight])
        >>> fuse(optimizer), optimizer.param_groups[0]["fused"]
        ('', True)
        >>> fuse(torch.optim.RMSprop([weight]))
        'RMSprop has no fused kernel'
    """
    kind = type(optimizer)
    if kind not in FUSED:
        return f"{kind.__name__} has no fused kernel"
    for group in optimizer.param_groups:
        if (why := _obstacle(kind, group)) is not None:
            return why
    for group in optimizer.param_groups:
        group["fused"] = True
    optimizer.defaults["fused"] = True
    for parameter, state in optimizer.state.items():
        if isinstance(step := state.get("step"), Tensor):
            state["step"] = step.to(device=parameter.device, dtype=torch.float32)
    follow_formats(optimizer)
    return ""


def follow_formats(optimizer: Optimizer) -> None:
    """Give every moment the memory format of its parameter, as fused kernels require."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _obstacle(kind: type[Optimizer], group: dict[str, Any]) -> str | None:
    """The reason why a group can't be fused, if any: the user's settings, or torch's error for such a parameter."""
    if group.get("fused") is False or group.get("foreach") is True:
        return f"the optimizer was made with fused={group.get('fused')}, foreach={group.get('foreach')}"
    if group.get("differentiable"):
        return "the optimizer is differentiable"
    known = signature(kind.__init__).parameters
    if "fused" not in known:
        return f"this version of torch has no fused {kind.__name__}"
    settings = {name: value for name, value in group.items() if name in known} | {"fused": True, "foreach": None}
    settings.pop("params", None)
    for device, dtype in {(p.device, p.dtype) for p in group["params"]}:
        trial = nn.Parameter(torch.zeros(1, device=device, dtype=dtype), requires_grad=dtype.is_floating_point)
        trial.grad = torch.zeros_like(trial)
        try:
            kind([trial], **settings).step()
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            return f"torch can't fuse {kind.__name__} of {dtype} on {device.type} ({str(error).splitlines()[0]})"
    return None
