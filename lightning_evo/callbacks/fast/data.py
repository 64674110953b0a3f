"""Faster loaders with the same batches: from tensors on the device, or by workers and pinned memory."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
import torch.multiprocessing
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from lightning_evo._compat.lightning import data_sources, datamodule_of
from lightning_evo._compat.torch import begun_iterator
from lightning_evo.callbacks.records import Choice
from lightning_evo.data.images import TensorImages
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["FastData", "WholeBatches", "most_workers"]

MOST_WORKERS = 4
"""Worker processes per device: more of them seldom help one GPU, and candidates of a search share the cores."""


class FastData:
    """Replaces the loaders of a ``fit`` by faster ones when the Trainer requests them, until :meth:`undo`.

    Batches hold the same samples in the same order as before, from the same random numbers of the same generators.

    Args:
        trainer: The Trainer with the loaders.
        pl_module: The module, whose hooks may need batches on the CPU.
        memory_share: Share of the GPU's free memory that the data sets may use.
        num_workers: Worker processes for a loader that has none and can't be held on the device; ``None``: a few on CUDA.
        report: Called with the choice for the training data.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        memory_share: float,
        num_workers: int | None,
        report: Callable[[Choice], None],
    ) -> None:
        self.device = trainer.strategy.root_device
        self.num_workers = most_workers(trainer) if num_workers is None else num_workers
        self.free = int(memory_share * torch.cuda.mem_get_info(self.device)[0]) if self.device.type == "cuda" else 0
        hooked = _wants_host_batches(trainer, pl_module)
        self._why_host = f"{hooked} is overridden and may want its batches on the CPU" if hooked else ""
        self._copies: dict[int, Tensor] = {}
        self._sets: list[WholeBatches] = []
        self._images: TensorImages | None = None
        self._sources = data_sources(trainer)
        datamodule = datamodule_of(trainer)
        if isinstance(datamodule, TensorImages):
            report(self._keep_on_device(datamodule))
            return
        for source, reports in zip(self._sources, (report, None), strict=True):
            # Lightning asks its source for the loaders whenever it needs them; an attribute hides the method.
            source.dataloader = self._rewriting(source.dataloader, reports)

    def undo(self) -> None:
        """Restore the sources and free the device's memory."""
        for source in self._sources:
            source.__dict__.pop("dataloader", None)
        for whole in self._sets:
            whole.release()
        self._copies.clear()
        if self._images is not None:
            self._images.resident = False

    def _rewriting(self, ask: Callable[[], Any], report: Callable[[Choice], None] | None) -> Callable[[], Any]:
        def dataloader() -> Any:
            choices: list[Choice] = []

            def rewrite(loader: DataLoader) -> DataLoader:
                faster, choice = self.rewritten(loader)
                choices.append(choice)
                return faster

            loaders = ask()
            if isinstance(loaders, CombinedLoader):
                loaders.flattened = [rewrite(one) if isinstance(one, DataLoader) else one for one in loaders.flattened]
            else:
                loaders = apply_to_collection(loaders, DataLoader, rewrite)
            if report is not None:
                none = Choice(False, f"the training data comes from a {type(loaders).__name__}, not a DataLoader")
                report(next((one for one in choices if one.on), choices[0] if choices else none))
            return loaders

        return dataloader

    def rewritten(self, loader: DataLoader) -> tuple[DataLoader, Choice]:
        """A faster loader of the same batches and the choice made; the same loader if there is none."""
        if type(loader) is not DataLoader:
            return loader, Choice(False, f"{type(loader).__name__} is not a plain DataLoader")
        if loader.batch_size is not None and loader.collate_fn is default_collate:
            found = _tensors_of(loader.dataset)
            if found is not None:
                return self._whole(loader, *found)
        if self.device.type != "cuda":
            return loader, Choice(
                False, f"on {self.device.type} batches aren't copied, and the set isn't made of tensors"
            )
        return self._pinned(loader)

    def _whole(self, loader: DataLoader, tensors: Sequence[Tensor], index: Tensor | None) -> tuple[DataLoader, Choice]:
        place, why = self._place(tensors)
        whole = WholeBatches(tensors, index, place, self._copies)
        self._sets.append(whole)
        pinned = place.type == "cpu" and self.device.type == "cuda"
        changes = {"num_workers": 0, "prefetch_factor": None, "persistent_workers": False, "pin_memory": pinned}
        faster = _rebuilt(loader, dataset=whole, collate_fn=_as_it_is, **changes)
        return faster, Choice(True, why, "pinned" if pinned else f"on {place.type}")

    def _place(self, tensors: Sequence[Tensor]) -> tuple[torch.device, str]:
        here = tensors[0].device
        if here.type != "cpu" or self.device.type != "cuda":
            return here, f"whole batches are indexed from tensors on {here.type}"
        if self._why_host:
            return here, f"whole batches are indexed and pinned: {self._why_host}"
        size = sum(tensor.nbytes for tensor in tensors if id(tensor) not in self._copies)
        if size > self.free:
            excess = f"{size / 2**20:,.0f} MiB exceed its share of the GPU's memory, {self.free / 2**20:,.0f} MiB"
            return here, f"whole batches are indexed and pinned: {excess}"
        self.free -= size
        return self.device, f"the set's {size / 2**20:,.0f} MiB fit the GPU's memory"

    def _pinned(self, loader: DataLoader) -> tuple[DataLoader, Choice]:
        """Pinned memory, from which Lightning copies without blocking, and workers that live on between epochs."""
        if (why := _unpinnable(loader)) is not None:
            return loader, Choice(False, why)
        workers, reasons = loader.num_workers, ["the set isn't made of tensors"]
        if workers == 0 and self.num_workers > 0:
            if (obstacle := _worker_obstacle(loader)) is None:
                workers = self.num_workers
                reasons.append(f"{workers} workers, as there were none")
            else:
                reasons.append(f"no workers: {obstacle}")
        # With no worker to persist, torch would refuse it.
        changes: dict[str, Any] = {"pin_memory": True, "persistent_workers": workers > 0, "num_workers": workers}
        why = "; ".join(reasons)
        return _rebuilt(loader, **changes), Choice(True, why, "pinned, persistent workers" if workers else "pinned")

    def _keep_on_device(self, images: TensorImages) -> Choice:
        if self.device.type != "cuda":
            return Choice(False, f"{type(images).__name__} indexes whole batches in memory already")
        if images.resident:
            return Choice(False, f"{type(images).__name__} is resident already")
        size = images.images.images.nbytes + images.images.labels.nbytes
        if size > self.free:
            return Choice(False, f"{size / 2**20:,.0f} MiB exceed its share of the GPU's free memory")
        images.resident, self._images = True, images
        return Choice(
            True, f"the set's {size / 2**20:,.0f} MiB fit the GPU's memory", "on cuda, augmented there in batches"
        )


class WholeBatches(Dataset):
    """A data set of tensors that returns whole batches, by indexing each tensor once instead of once per sample.

    Use it in a ``DataLoader`` with a ``collate_fn`` that changes nothing; sampler and generators are the loader's.

    Args:
        tensors: Samples along their first dimension, on any device.
        index: (N,): positions of the samples (default: all).
        device: Where batches are indexed. The tensors are copied there with the first batch.
        copies: Copies on the device by ``id`` of the tensor, shared with other sets over the same tensors.

    Example:
        >>> whole = WholeBatches([torch.arange(4) * 10], torch.tensor([3, 1]), torch.device("cpu"))
        >>> len(whole), whole.__getitems__([1, 0])
        (2, [tensor([10, 30])])
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        index: Tensor | None,
        device: torch.device,
        copies: dict[int, Tensor] | None = None,
    ) -> None:
        self.tensors, self.index, self.device = tuple(tensors), index, device
        self.copies = {} if copies is None else copies

    def __len__(self) -> int:
        return len(self.tensors[0] if self.index is None else self.index)

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        at = position if self.index is None else self.index[position]
        return tuple(tensor[at] for tensor in self.tensors)

    def __getitems__(self, positions: Sequence[int]) -> list[Tensor]:
        """The samples at these positions, stacked as ``default_collate`` would."""
        chosen = torch.as_tensor(positions, dtype=torch.long)
        if self.index is not None:
            chosen = self.index[chosen]
        if self.device.type == "cuda":
            # From pinned memory the copy doesn't wait for what the device still has to do.
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        return [tensor.index_select(0, chosen) for tensor in self.tensors_there()]

    def tensors_there(self) -> list[Tensor]:
        """The tensors on the device, copied there if they aren't yet."""
        for tensor in self.tensors:
            if tensor.device != self.device and id(tensor) not in self.copies:
                self.copies[id(tensor)] = tensor.to(self.device)
        return [self.copies.get(id(tensor), tensor) for tensor in self.tensors]

    def release(self) -> None:
        """Free the device's memory; another batch allocates it again."""
        self.copies.clear()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"copies": {}}


def most_workers(trainer: Trainer) -> int:
    """Worker processes for a loader without any: none where the training itself runs on the CPU cores."""
    if trainer.strategy.root_device.type != "cuda":
        return 0
    return min(MOST_WORKERS, (os.cpu_count() or 1) // max(1, trainer.num_devices))


def _wants_host_batches(trainer: Trainer, pl_module: LightningModule) -> str:
    """The overridden hook that handles batches before their transfer to the device; empty if there is none."""
    parts = [pl_module, datamodule_of(trainer)]
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device")
    found = (hook for part in parts if part is not None for hook in hooks if is_overridden(hook, part))
    return next(found, "")


def _tensors_of(dataset: Dataset) -> tuple[tuple[Tensor, ...], Tensor | None] | None:
    """The tensors of a ``TensorDataset`` and the positions of its samples, also of a ``Subset``; ``None`` for other sets."""
    index: Tensor | None = None
    while type(dataset) is Subset:
        own = torch.as_tensor(dataset.indices, dtype=torch.long)
        index, dataset = own if index is None else own[index], dataset.dataset
    if type(dataset) is not TensorDataset:
        return None
    tensors = dataset.tensors
    alike = len({tensor.device for tensor in tensors}) == 1 and all(
        tensor.layout == torch.strided for tensor in tensors
    )
    return (tensors, index) if alike and not any(tensor.requires_grad for tensor in tensors) else None


def _unpinnable(loader: DataLoader) -> str | None:
    """The reason why a loader's samples can't be pinned; ``None`` if they can."""
    if loader.num_workers > 0:
        return None  # workers give tensors on the CPU
    if isinstance(loader.dataset, IterableDataset):
        return "an iterable set without workers may give tensors on the GPU"
    elsewhere: list[Tensor] = []
    with isolated_random_state():
        apply_to_collection(
            loader.dataset[0], Tensor, lambda t: elsewhere.append(t) if t.device.type != "cpu" else None
        )
    return f"the set gives tensors on {elsewhere[0].device.type}" if elsewhere else None


def _worker_obstacle(loader: DataLoader) -> str | None:
    """The reason why a loader can't have worker processes; ``None`` if it can."""
    if torch.multiprocessing.current_process().daemon:
        return "this process can't start others"
    if torch.multiprocessing.get_start_method() == "fork":
        return None
    try:
        pickle.dumps((loader.dataset, loader.collate_fn))
    except Exception as error:
        return f"the set can't be pickled ({error})"
    return None


def _rebuilt(loader: DataLoader, **changes: Any) -> DataLoader:
    """The same loader with other arguments."""
    known = signature(DataLoader.__init__).parameters
    same = ("dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator", "in_order")
    kind = _loader_type(loader.persistent_workers, changes["persistent_workers"])
    arguments: dict[str, Any] = {name: getattr(loader, name) for name in same if name in known}
    arguments |= {"prefetch_factor": loader.prefetch_factor, "persistent_workers": loader.persistent_workers, **changes}
    if arguments["num_workers"] > 0:
        arguments["multiprocessing_context"] = loader.multiprocessing_context
    else:
        arguments |= {"prefetch_factor": None, "timeout": 0}
    if isinstance(loader.dataset, IterableDataset):
        arguments |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_size is None and loader.batch_sampler is not None:
        arguments["batch_sampler"] = loader.batch_sampler
    else:
        arguments |= {"batch_size": loader.batch_size, "sampler": loader.sampler}
        if loader.batch_size is not None:
            arguments["drop_last"] = loader.drop_last
    return kind(**arguments)


class _DrawsEveryEpoch(DataLoader):
    """Its workers persist, but it draws a seed for them in every epoch, as a loader does whose workers don't."""

    def __iter__(self) -> Any:
        if begun_iterator(self) is not None:
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return super().__iter__()


class _DrawsOnce(DataLoader):
    """It has no workers, but draws a seed for them in the first epoch alone, as a loader does whose workers persist."""

    begun = False

    def __iter__(self) -> Any:
        if not self.begun:
            self.begun = True
            return super().__iter__()
        generator = self.generator if self.generator is not None else torch.default_generator
        state = generator.get_state()
        iterator = super().__iter__()
        generator.set_state(state)
        return iterator


def _loader_type(persisted: bool, persist: bool) -> type[DataLoader]:
    """What draws as the loader did: which samples come depends on it, as they are drawn from the same generator."""
    if persisted == persist:
        return DataLoader
    return _DrawsEveryEpoch if persist else _DrawsOnce


def _as_it_is(batch: list[Tensor]) -> list[Tensor]:
    return batch
