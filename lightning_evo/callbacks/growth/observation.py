"""The observations of a growing training: its history, examples on which steps are tried, and the entropy of activations."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_evo._compat.torch import buffers_dict
from lightning_evo.callbacks.records import GrownStep
from lightning_evo.functional.entropy import covariance, histogram, shannon_entropy, spectral_entropy, take_samples
from lightning_evo.functional.growth import Growth
from lightning_evo.utils.compiled import eagerly
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["EntropySampler", "ExampleBatch", "GrowthHistory"]


class GrowthHistory:
    """Curves by epoch, and the steps taken. All plain data.

    Attributes:
        metric: The monitored metric of each finished epoch, NaN where it is missing.
        train_metric: Its counterpart on training data.
        entropies: For each layer the entropy of its activations in each finished epoch.
        grown: Epochs at whose start the network has grown.
        history: One record per step.
        touched: For each layer the epoch in which it grew last.
        allowed: Layers that may grow; ``None``: all.
        turn: How many times the network has grown, which determines the next operation.
    """

    def __init__(self, allowed: Iterable[str] | None = None) -> None:
        self.metric: list[float] = []
        self.train_metric: list[float] = []
        self.entropies: dict[str, list[float]] = {}
        self.grown: list[int] = []
        self.history: list[dict[str, Any]] = []
        self.touched: dict[str, int] = {}
        self.allowed = None if allowed is None else list(allowed)
        self.turn = 0

    def note_metrics(self, epoch: int, metric: float | None, train_metric: float | None) -> None:
        """Record an epoch's metrics, as far as they are known; later values replace earlier ones."""
        for curve, value in ((self.metric, metric), (self.train_metric, train_metric)):
            _put(curve, epoch, value)

    def note_entropies(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the entropies at the end of an epoch."""
        for layer, value in values.items():
            _put(self.entropies.setdefault(layer, []), epoch, value)

    def ended(self, epochs: int) -> dict[str, Any]:
        """Return the curves of the first ``epochs`` epochs, as arguments of ``GrowthState``."""
        return {
            "metric": _padded(self.metric, epochs),
            "train_metric": _padded(self.train_metric, epochs),
            "entropies": {layer: _padded(curve, epochs) for layer, curve in self.entropies.items()},
        }

    def may_grow(self, layer: str) -> bool:
        """Whether a layer is allowed to grow."""
        return self.allowed is None or layer in self.allowed

    def note_step(self, growth: Growth, epoch: int | None, source: str, why: str) -> None:
        """Record a step, and rename layers that have another name now."""
        taken = GrownStep(
            **growth.step.to_dict(),
            epoch=epoch,
            source=source,
            before=growth.before,
            after=growth.after,
            preserving=growth.preserving,
            why=why,
            notes=[*growth.why_not, *growth.notes],
        )
        self.history.append(taken.to_dict())
        renamed = renamed_layers(growth)
        self.entropies = {renamed.get(layer, layer): curve for layer, curve in self.entropies.items()}
        self.touched = {renamed.get(layer, layer): at for layer, at in self.touched.items()}
        if self.allowed is not None:
            self.allowed = [renamed.get(layer, layer) for layer in self.allowed]
        if epoch is not None:
            self.touched[renamed.get(growth.step.layer, growth.step.layer)] = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data, for checkpoints."""
        return copy.deepcopy(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        for name in vars(self):
            setattr(self, name, copy.deepcopy(state[name]))


def renamed_layers(growth: Growth) -> dict[str, str]:
    """Return layers that have another name after a step: old name -> new."""
    pairs = {(old.rpartition(".")[0], new.rpartition(".")[0]) for old, new in growth.renamed.items()}
    return {old: new for old, new in pairs if old != new}


def _put(curve: list[float], epoch: int, value: float | None) -> None:
    curve.extend([math.nan] * (epoch + 1 - len(curve)))
    if value is not None:
        curve[epoch] = float(value)


def _padded(curve: list[float], epochs: int) -> tuple[float, ...]:
    return tuple([*curve, *[math.nan] * epochs][:epochs])


_BYTES = 4 * 2**20
_FEWEST = 2  # batch statistics of one example are none


class ExampleBatch:
    """A few training examples on which steps are checked.

    They are part of the state, so that a resumed training checks its steps on the same ones. At most 4 MiB of a batch are
    kept, but at least two examples.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._warned = False

    def keep(self, batch: Any) -> None:
        """Keep some examples of a batch."""
        self._batch = _few(batch)

    def inputs(self, trainer: Trainer, module: LightningModule) -> tuple[Any, ...] | None:
        """Return the inputs of the module's ``forward`` in a training step on them; ``None`` if they are unknown."""
        caught: list[tuple[Any, ...]] = []
        names = inspect.signature(module.forward)

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = names.bind(*args, **kwargs)
            if not caught and not bound.kwargs:
                caught.append(apply_to_collection(bound.args, Tensor, lambda value: value.detach().clone()))

        handle = module.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.no_grad():
                self._step(trainer, module)
        except Exception as error:  # whatever a user's step raises when it is called out of order
            if not self._warned:
                rank_zero_warn(
                    f"StructuralGrowth: steps are not checked on data, as training_step failed on part of a batch: {error}"
                )
            self._warned = True
        finally:
            handle.remove()
        return caught[0] if caught else None

    def loss(self, trainer: Trainer, module: LightningModule) -> Callable[[nn.Module], Tensor] | None:
        """Return a function that computes the module's training loss on them; ``None`` if there is no loss."""
        if self._batch is None or not module.automatic_optimization:
            return None

        def loss(_: nn.Module) -> Tensor:
            with torch.enable_grad():
                made = self._step(trainer, module)
            value = made.get("loss") if isinstance(made, Mapping) else made
            if not isinstance(value, Tensor):
                raise ValueError(f"{type(module).__name__}.training_step returned no loss")
            return value

        return loss

    def state_dict(self) -> Any:
        """Return the examples, if a checkpoint can hold them."""
        if not _holdable(self._batch):
            return None
        return apply_to_collection(self._batch, Tensor, lambda value: value.detach().cpu())

    def load_state_dict(self, state: Any) -> None:
        """Restore them."""
        self._batch = state

    def _step(self, trainer: Trainer, module: LightningModule) -> Any:
        """Run one training step that changes nothing but gradients."""
        if self._batch is None or not module.automatic_optimization:
            return None  # a step that runs its optimizer can't be tried
        from lightning_evo.swarms.logs import redirected_logs  # of the swarms nothing else is needed

        batch = trainer.strategy.batch_to_device(self._batch)
        takes = inspect.signature(module.training_step).parameters
        arguments = (batch, 0) if len(takes) > 1 else (batch,)
        holders = [part for part in module.modules() if isinstance(part, LightningModule)]
        with (
            isolated_random_state(seed=0),
            _undisturbed(module),
            redirected_logs(holders, _Silence()),  # type: ignore[arg-type]
            eagerly(),
            trainer.precision_plugin.train_step_context(),
        ):
            return module.training_step(*arguments)


class _Silence:
    """Ignores whatever is logged."""

    def log(self, *args: Any, **options: Any) -> None: ...

    def log_dict(self, *args: Any, **options: Any) -> None: ...


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Restore every attribute, buffer and metric state of a module afterwards, but not parameters."""
    before = []
    for part in module.modules():
        held = dict(vars(part))
        tensors = [value for value in [*held.values(), *buffers_dict(part).values()] if isinstance(value, Tensor)]
        lists = [(value, list(value)) for value in held.values() if type(value) is list]
        before.append((part, held, [(value, value.detach().clone()) for value in tensors], lists))
    try:
        yield
    finally:
        with torch.no_grad():
            for part, held, copies, lists in before:
                vars(part).clear()
                vars(part).update(held)
                for value, was in copies:
                    if not torch.equal(value, was):  # so that the version of an unchanged tensor stays
                        value.copy_(was)
                for values, had in lists:
                    values[:] = had


def _few(batch: Any) -> Any:
    """Return a batch's first examples, as many as fit into :data:`_BYTES`."""
    tensors: list[Tensor] = []

    def collect(value: Tensor) -> Tensor:
        tensors.append(value)
        return value

    apply_to_collection(batch, Tensor, collect)
    size = next((len(value) for value in tensors if value.ndim), 0)
    along = [value for value in tensors if value.ndim and len(value) == size]
    each = sum(value.nbytes for value in along) / size if size else 0
    count = size if not each else min(size, max(_FEWEST, int(_BYTES / each)))

    def cut(value: Tensor) -> Tensor:
        return (value[:count] if value.ndim and len(value) == size else value).detach().clone()

    return apply_to_collection(batch, Tensor, cut)


def _holdable(value: Any) -> bool:
    """Whether a value consists of tensors and plain data, which any checkpoint can hold."""
    if type(value) is dict:
        return all(isinstance(name, (str, int)) and _holdable(one) for name, one in value.items())
    if type(value) in (list, tuple):
        return all(_holdable(one) for one in value)
    return type(value) is Tensor or value is None or isinstance(value, (bool, int, float, str))


_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
"""Layers whose channels are the last dimension; those of others are the second."""


class EntropySampler:
    """Samples the entropy of layers' outputs on a few batches of an epoch.

    The output of each layer itself is measured, before the activation that follows it (to measure behind it, name the
    activation, if it is a module): for ``covariance`` the normalized
    :func:`~lightning_evo.functional.entropy.covariance_entropy` of its channels over all sampled batches, for
    ``histogram`` the normalized :func:`~lightning_evo.functional.entropy.histogram_entropy` of those numbers, from the
    least to the greatest. Of a tuple of outputs it is the first; a layer that runs more than once counts every time.

    Forward hooks are on the layers during the sampled batches alone: the last ``batches`` of an epoch, or the first ones
    where their number is unknown. A hook copies at most ``max_samples`` positions and does no arithmetic; the
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
            raise ValueError(f"entropy: {entropy!r} is not 'covariance' or 'histogram'")
        for name, value, least in (
            ("batches", batches, 1),
            ("max_samples", max_samples, 2),
            ("max_channels", max_channels, 2),
            ("bins", bins, 2),
        ):
            if value < least:
                raise ValueError(f"{name}: {value!r} is not at least {least}")
        self.entropy, self.batches, self.bins = entropy, batches, bins
        self.max_samples, self.max_channels = max_samples, max_channels
        self._sampled: dict[str, nn.Module] = {}
        self._taken: dict[str, list[Tensor]] = {}
        self._open = ExitStack()

    def arm(self, modules: Mapping[str, nn.Module]) -> None:
        """Sample these modules from now on, by name; earlier samples are dropped. Nothing is registered yet."""
        self.disarm()
        self._sampled = dict(modules)

    def disarm(self) -> None:
        """Remove all hooks and drop all samples; also after an exception during a batch."""
        self.after_batch()
        self._taken = {}
        self._sampled = {}

    def before_batch(self, batch_idx: int, total: int | float | None = None) -> bool:
        """Register hooks on the layers if this batch is sampled; call it before the batch's forward pass.

        Args:
            batch_idx: The batch's number in its epoch, from 0.
            total: How many batches the epoch has; ``None`` or infinite if unknown.

        Returns:
            Whether it is sampled.
        """
        self.after_batch()
        if total is not None and math.isfinite(total):
            sampled = total - self.batches <= batch_idx < total
        else:
            sampled = batch_idx < self.batches
        if not (sampled and self._sampled):
            return False
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            self._open.enter_context(eagerly())
        for name, module in self._sampled.items():
            self._open.callback(module.register_forward_hook(self._hook(name)).remove)
        return True

    def after_batch(self) -> None:
        """Remove the hooks, if there are any."""
        self._open.close()

    def values(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Return the entropy of each layer in [0, 1], and start again; call it at the epoch's end.

        Args:
            reduce: Given a vector (layers,) of this rank's entropies, on the layers' device, returns its mean over all
                ranks, such as ``partial(strategy.reduce, reduce_op="mean")``; it is called once on every rank.

        Returns:
            Name -> entropy, in the order of :meth:`arm`; NaN where nothing was sampled: the layer didn't run, put out no
            floats, or fewer than two samples.
        """
        taken = [self._taken.get(name, []) for name in self._sampled]
        self._taken = {}
        if not taken:
            return {}
        entropies = self._entropies(taken)
        if reduce is not None:
            device = _device(each for module in self._sampled.values() for each in module.parameters())
            # MPS has no float64.
            entropies = reduce(entropies.float().to(device)).cpu()
        return dict(zip(self._sampled, entropies.tolist(), strict=True))

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
        """Return entropies, (layers,) float64 on the CPU, from the (samples, channels) of each layer."""
        found = _fetched([self._statistic(many) for many in taken])
        return torch.stack([self._entropy_of(each.double()) for each in found])

    def _statistic(self, many: Sequence[Tensor]) -> Tensor:
        """Return the sufficient statistic as a vector on the device: counts, or a covariance and the number of samples."""
        # A layer that has grown meanwhile, or whose number of channels varies, has no entropy.
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
    """Return vectors on the CPU, by one transfer."""
    device = _device(vectors)
    joined = torch.cat([each.to(device) for each in vectors]).cpu()
    return list(joined.split([len(each) for each in vectors]))


def _device(tensors: Iterable[Tensor]) -> torch.device:
    """Return the device of the first tensor that isn't on the CPU."""
    return next((each.device for each in tensors if each.device.type != "cpu"), torch.device("cpu"))
