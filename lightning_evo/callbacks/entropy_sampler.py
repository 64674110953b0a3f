"""How is the entropy of layers' activations sampled while a network trains, without slowing it down?"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_evo.functional.entropy import covariance, histogram, shannon_entropy, spectral_entropy, take_samples

__all__ = ["EntropySampler"]

_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
"""Layers whose channels are the last dimension; others have them in the second."""


class EntropySampler:
    """Samples the entropy of layers' outputs on a few batches of an epoch.

    What is measured is what each layer itself puts out, before the activation that follows it (to measure behind it, name
    the activation, where it is a module): for ``covariance`` the normalised
    :func:`~lightning_evo.functional.entropy.covariance_entropy` of its channels over all sampled batches, for
    ``histogram`` the normalised :func:`~lightning_evo.functional.entropy.histogram_entropy` of those numbers, from the
    least to the greatest. Of a tuple of outputs it is the first; a layer that runs more than once counts every time.

    Forward hooks are on the layers during the sampled batches alone: the last ``batches`` of an epoch, or the first ones
    where nobody knows how many there will be. A hook copies at most ``max_samples`` positions and does no arithmetic; the
    entropies are worked out at the epoch's end with one transfer from the device. During a sampled batch
    ``torch.compile`` is told to stand aside (``force_eager``), as compiled code doesn't call hooks that were added later.

    Args:
        entropy: ``covariance`` (default) or ``histogram``.
        batches: How many batches are sampled, at least 1 (default 2).
        max_samples: From each output of a layer, at most so many samples (positions of maps), at least 2 (default 2048).
        max_channels: Of its channels, at most so many, evenly spread, at least 2 (default 256): a spectrum takes the third
            power of them.
        bins: Of histograms, at least 2 (default 64).

    Raises:
        ValueError: If ``entropy`` is neither of the two, or a number is too small.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> sampler = EntropySampler(batches=1)
        >>> sampler.arm({"0": net[0]})
        >>> for number in range(10):
        ...     _ = sampler.before_batch(number, total=10)
        ...     _ = net(torch.randn(32, 8))
        ...     sampler.after_batch()
        >>> 0 < sampler.values()["0"] <= 1
        True
    """

    def __init__(
        self,
        entropy: Literal["covariance", "histogram"] = "covariance",
        batches: int = 2,
        max_samples: int = 2048,
        max_channels: int = 256,
        bins: int = 64,
    ) -> None:
        if entropy not in ("covariance", "histogram"):
            raise ValueError(f"entropy {entropy!r} is neither 'covariance' nor 'histogram'")
        for name, value, least in (
            ("batches", batches, 1),
            ("max_samples", max_samples, 2),
            ("max_channels", max_channels, 2),
            ("bins", bins, 2),
        ):
            if value < least:
                raise ValueError(f"{name} {value!r} is not at least {least}")
        self.entropy, self.batches, self.bins = entropy, batches, bins
        self.max_samples, self.max_channels = max_samples, max_channels
        self._modules: dict[str, nn.Module] = {}
        self._taken: dict[str, list[Tensor]] = {}
        self._open = ExitStack()

    def arm(self, modules: Mapping[str, nn.Module]) -> None:
        """Sample these from now on, by name; what was sampled so far is forgotten. Nothing is registered yet."""
        self.disarm()
        self._modules = dict(modules)

    def disarm(self) -> None:
        """Take all hooks off and forget what was sampled; also after an exception amid a batch."""
        self.after_batch()
        self._taken = {}
        self._modules = {}

    def before_batch(self, batch_idx: int, total: int | float | None = None) -> bool:
        """Put hooks on the layers if this batch is to be sampled; call it before the batch's forward pass.

        Args:
            batch_idx: The batch's number in its epoch, from 0.
            total: How many batches the epoch has; ``None`` or infinite where nobody knows.

        Returns:
            Whether it is.
        """
        self.after_batch()
        known = total is not None and math.isfinite(total)
        sampled = total - self.batches <= batch_idx < total if known else batch_idx < self.batches  # type: ignore[operator]
        if not (sampled and self._modules):
            return False
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            self._open.enter_context(torch.compiler.set_stance("force_eager"))
        for name, module in self._modules.items():
            self._open.callback(module.register_forward_hook(self._hook(name)).remove)
        return True

    def after_batch(self) -> None:
        """Take the hooks off again, if they are on."""
        self._open.close()

    def values(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """The entropy of each layer in [0, 1], and start anew; call it at the epoch's end.

        Args:
            reduce: Given a vector (layers,) of this rank's entropies, on the layers' device, returns its mean over all
                ranks, such as ``partial(strategy.reduce, reduce_op="mean")``; it is called once on every rank.

        Returns:
            Name -> entropy, in the order of :meth:`arm`; NaN where nothing was sampled: the layer didn't run, put out no
            floats, or fewer than two samples.
        """
        taken = [self._taken.get(name, []) for name in self._modules]
        self._taken = {}
        if not taken:
            return {}
        entropies = self._entropies(taken)
        if reduce is not None:
            device = _device(each for module in self._modules.values() for each in module.parameters())
            # MPS has no float64.
            entropies = reduce(entropies.float().to(device)).cpu()
        return dict(zip(self._modules, entropies.tolist(), strict=True))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def take(module: nn.Module, _inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple | list) and output else output
            if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
                return
            channel = -1 if isinstance(module, _LAST) else 1
            self._taken.setdefault(name, []).append(
                take_samples(output, channel, self.max_samples, self.max_channels).clone()
            )

        return take

    def _entropies(self, taken: Sequence[Sequence[Tensor]]) -> Tensor:
        """(layers,) float64 on the CPU, from the (samples, channels) of each layer."""
        found = _fetched([self._statistic(many) for many in taken])
        return torch.stack([self._entropy_of(each.double()) for each in found])

    def _statistic(self, many: Sequence[Tensor]) -> Tensor:
        """What the entropy is computed of, as a vector on the device: counts, or a covariance and the number of samples."""
        # A layer that has grown meanwhile, or puts out maps of another depth from call to call: nothing to say.
        if not many or len({each.shape[1] for each in many}) > 1:
            return torch.zeros(0)
        samples = torch.cat(list(many))
        if self.entropy == "histogram":
            return histogram(samples, self.bins).to(samples.dtype)
        matrix, count = covariance(samples)
        return torch.cat([matrix.flatten(), count.to(matrix.dtype)[None]])

    def _entropy_of(self, statistic: Tensor) -> Tensor:
        if not len(statistic):
            return statistic.new_tensor(math.nan)
        if self.entropy == "histogram":
            return shannon_entropy(statistic)
        size = math.isqrt(len(statistic) - 1)
        return spectral_entropy(statistic[:-1].reshape(size, size), statistic[-1])


def _fetched(vectors: Sequence[Tensor]) -> list[Tensor]:
    """These on the CPU, by one transfer."""
    device = _device(vectors)
    joined = torch.cat([each.to(device) for each in vectors]).cpu()
    return list(joined.split([len(each) for each in vectors]))


def _device(tensors: Iterable[Tensor]) -> torch.device:
    """Where the first one is that isn't on the CPU."""
    return next((each.device for each in tensors if each.device.type != "cpu"), torch.device("cpu"))
