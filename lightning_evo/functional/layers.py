"""What kind of layer is a module, and what beside its weights decides what it computes?"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["groups_of", "hyperparameters", "kind_of", "paddings"]


def kind_of(module: nn.Module) -> str:
    """``linear``, ``conv``, ``transposed``, ``embedding``, ``channelwise``, ``statistic`` or ``other``.

    ``channelwise`` treats each channel by itself (batch and instance normalisation, PReLU), ``statistic`` normalises
    over channels (layer, group and RMS normalisation).
    """
    # Subclasses may compute something else (nn.MultiheadAttention's linear layer, spectral norm): exact types alone.
    kind = type(module)
    if isinstance(module, nn.Linear | _ConvNd | nn.Embedding) and "weight" not in module._parameters:
        return "other"  # weight normalisation and its like
    if kind in (nn.Linear, nn.LazyLinear):
        return "linear"
    if isinstance(module, _ConvTransposeNd):
        return "transposed"
    if isinstance(module, _ConvNd) and kind.__module__.startswith("torch.nn"):
        return "conv"
    if kind is nn.Embedding:
        return "embedding"
    if (isinstance(module, _NormBase) and kind.__module__.startswith("torch.nn")) or kind is nn.PReLU:
        return "channelwise"
    if kind is nn.GroupNorm or (kind in (nn.LayerNorm, nn.RMSNorm) and len(module.normalized_shape) == 1):  # type: ignore[arg-type]
        return "statistic"
    return "other"


def paddings(module: _ConvNd) -> tuple[float, ...]:
    """Padding on each side, in each dimension."""
    if module.padding == "same":
        return tuple(spread * (size - 1) / 2 for spread, size in zip(module.dilation, module.kernel_size, strict=True))
    return (0.0,) * len(module.kernel_size) if isinstance(module.padding, str) else module.padding


def hyperparameters(module: nn.Module) -> tuple:
    """What beside its weights decides what a layer computes, widths and kernels apart."""
    if isinstance(module, _ConvNd):
        # Where the centre of the kernel begins: this is what a centred kernel keeps.
        begins = tuple(
            pad - spread * (size - 1) / 2
            for pad, spread, size in zip(paddings(module), module.dilation, module.kernel_size, strict=True)
        )
        more = getattr(module, "output_padding", ())
        return (type(module).__name__, module.stride, module.dilation, begins, module.padding_mode, more)
    if isinstance(module, nn.Linear | nn.PReLU):
        return (type(module).__name__,)
    ignored = {"num_features", "num_channels", "num_groups", "normalized_shape", "momentum", "affine", "training"}
    ignored |= {"num_embeddings", "embedding_dim"}
    plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str) and k not in ignored}
    return (type(module).__name__, *sorted((k, repr(v)) for k, v in plain.items() if not k.startswith("_")))


def groups_of(module: nn.Module) -> int:
    """How many blocks of channels a layer treats apart."""
    return int(getattr(module, "num_groups", getattr(module, "groups", 1)))
