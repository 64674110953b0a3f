"""The number of samples in a training batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import BatchSampler

from lightning_evo._compat.lightning import forget_given_batch_size, given_batch_size

__all__ = ["begin_batch", "samples_in"]


def begin_batch(trainer: Trainer) -> None:
    """Prepare for :func:`samples_in`: call it in ``on_train_batch_start``."""
    forget_given_batch_size(trainer)


def samples_in(trainer: Trainer, batch: Any, batch_idx: int) -> int:
    """Return the number of samples in a training batch, as far as it is known.

    The batch itself doesn't tell: the first dimension of its first tensor may count the nodes of its graphs, the steps of
    its sequences, or the views of its images. Asked are, in this order,

    1. the ``batch_size`` that the training step gave to ``self.log``, unless it is more than the loader's (it then counts
       something else, such as nodes or tokens);
    2. the loader: its ``batch_size``, or that of its (batch) sampler; in a last batch what is left of the set;
    3. ``num_graphs`` or ``batch_size`` of the first object that has one, and the number of packed sequences;
    4. the first dimension of the first tensor.

    Of several loaders the first one counts.

    Args:
        trainer: A Trainer in its fit loop.
        batch: The batch, as the training step got it.
        batch_idx: Its number in the epoch.

    Returns:
        At least 1; 1 where there are no tensors.
    """
    loader, part = _first(trainer.train_dataloader, batch)
    expected, exact = _expected(loader, batch_idx)
    given = given_batch_size(trainer)
    if given is not None and (expected is None or given <= expected):
        return max(1, given)
    if exact:
        assert expected is not None
        return expected
    sizes = _sizes(part)
    own = next(sizes, None)
    if expected is None:
        return max(1, own or 1)
    # A stream's last batch may be smaller, and a sampler may promise more than it gives. Where nothing in the batch has the
    # promised size, a smaller one is likelier; a larger one counts something else.
    return max(1, own) if own is not None and own < expected and expected not in sizes else expected


def _first(loaders: Any, batch: Any) -> tuple[Any, Any]:
    """The first of several loaders, and its part of the batch; those that are exhausted give none."""
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.iterables
    if isinstance(loaders, Mapping) and isinstance(batch, Mapping):
        pairs = [(loaders[name], batch[name]) for name in loaders if batch.get(name) is not None]
    elif isinstance(loaders, list | tuple) and isinstance(batch, list | tuple):
        pairs = [(one, part) for one, part in zip(loaders, batch, strict=False) if part is not None]
    else:
        return loaders, batch
    return _first(*pairs[0]) if pairs else (None, None)


def _expected(loader: Any, batch_idx: int) -> tuple[int | None, bool]:
    """The size that a loader gives its batches, and whether it is surely that of this batch."""
    for source in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        size = _number(getattr(source, "batch_size", None))
        if size is None:
            continue
        sampler: Any = getattr(source, "batch_sampler", source)
        samples: Any = getattr(sampler, "sampler", None)
        if type(sampler) is not BatchSampler:
            return size, False
        try:
            # A shorter loader is cycled through beside a longer one.
            left = len(samples) - batch_idx % len(sampler) * size
        except (TypeError, NotImplementedError, ZeroDivisionError):
            return size, False
        return min(size, left), True
    return None, False


def _number(value: Any) -> int | None:
    """A size, be it a number, a tensor of one, or the shape of a TensorDict."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value):
        value = value[0]
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _sizes(batch: Any, depth: int = 0) -> Iterator[int]:
    """The sizes of a batch's parts, in their order."""
    if isinstance(batch, PackedSequence):
        yield int(batch.batch_sizes[0])
        return
    if isinstance(batch, Tensor):
        if batch.is_nested or batch.ndim:
            yield batch.size(0)
        return
    if batch is None or isinstance(batch, str | bytes | int | float) or depth > _DEEPEST:
        return
    for name in ("num_graphs", "batch_size"):
        if (size := _number(getattr(batch, name, None))) is not None:
            yield size
            return
    parts: Iterable[Any]
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif is_dataclass(batch):
        parts = [getattr(batch, field.name) for field in fields(batch)]
    elif isinstance(batch, Iterable):
        parts = batch
    else:
        parts = getattr(batch, "__dict__", {}).values()
    for part in parts:
        yield from _sizes(part, depth + 1)


_DEEPEST = 20
