"""The number of samples in a batch, whatever its first tensor counts."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from lightning_evo.callbacks import CostMeter, SpeedMeter
from lightning_evo.callbacks.batches import begin_batch, samples_in


@dataclass
class Graphs:
    """A batch of graphs of ten nodes each."""

    x: Tensor
    y: Tensor


def graphs(ones) -> Graphs:
    return Graphs(torch.ones(10 * len(ones), 16), torch.ones(len(ones)))


def known(number, **more):
    """A batch of graphs that knows how many there are, as those of torch_geometric and DGL do."""
    return SimpleNamespace(x=torch.ones(10 * number, 16), edge_index=torch.ones(2, 40), **more)


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def made(*batches) -> DataLoader:
    """A loader of batches that are made already."""
    return DataLoader(Stream(batches), batch_size=None, collate_fn=lambda batch: batch)


def steps_first(ones):
    return torch.ones(20, len(ones), 3), torch.ones(len(ones))


ONES = TensorDataset(torch.ones(20, 3))
LOADERS = {
    "graphs": (lambda: DataLoader(range(20), 8, collate_fn=graphs), [8, 8, 4]),
    "graphs of a stream": (lambda: DataLoader(Stream(range(20)), 8, collate_fn=graphs), [8, 8, 8]),
    "sequences with the steps first": (lambda: DataLoader(range(20), 8, collate_fn=steps_first), [8, 8, 4]),
    "sequences of a stream": (
        lambda: DataLoader(Stream(range(20)), 8, collate_fn=lambda x: torch.ones(5, 8, 3)),
        [5, 5, 5],
    ),
    "packed sequences": (
        lambda: DataLoader(range(8), 4, collate_fn=lambda x: pack_padded_sequence(torch.ones(7, 4, 3), [7, 5, 2, 1])),
        [4, 4],
    ),
    "packed sequences in batches of their own": (
        lambda: made((pack_padded_sequence(torch.ones(7, 4, 3), [7, 5, 2, 1]), torch.ones(4))),
        [4],
    ),
    "two views of each image": (
        lambda: DataLoader(range(8), 4, collate_fn=lambda x: {"views": torch.ones(8, 3)}),
        [4, 4],
    ),
    "dictionaries of a stream": (lambda: DataLoader(Stream([{"x": torch.ones(3)}] * 6), 4), [4, 2]),
    "a batch sampler": (
        lambda: DataLoader(ONES, batch_sampler=BatchSampler(SequentialSampler(ONES), 8, drop_last=False)),
        [8, 8, 4],
    ),
    "batches of any size": (lambda: DataLoader(ONES, batch_sampler=[[0, 1], [2, 3, 4]]), [2, 3]),
    "a sampler of batches": (
        lambda: DataLoader(ONES, batch_size=None, sampler=BatchSampler(SequentialSampler(ONES), 8, drop_last=True)),
        [8, 8],
    ),
    "no batching": (lambda: DataLoader(Stream([torch.ones(7, 3), torch.ones(2, 3)]), batch_size=None), [7, 2]),
    "graphs that know their number": (
        lambda: made((known(8, num_graphs=8), torch.ones(1)), (known(3, num_graphs=3), 0)),
        [8, 3],
    ),
    "graphs that know their batch": (
        lambda: made(known(8, batch_size=torch.Size([8])), {"a": known(3, batch_size=3)}),
        [8, 3],
    ),
    "a list of nothing but text": (lambda: made(["a", "b"]), [1]),
    "several loaders": (
        lambda: {"labeled": DataLoader(range(6), 4, collate_fn=graphs), "other": DataLoader(range(99), 33)},
        [4, 2, 4],
    ),
    "the longest of several loaders": (
        lambda: CombinedLoader([DataLoader(ONES, 16), DataLoader(range(6), 2, collate_fn=graphs)], "max_size"),
        [16, 4, 2],
    ),
}


class Sizes(Callback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        begin_batch(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(samples_in(trainer, batch, batch_idx))


class Module(LightningModule):
    def __init__(self, logged: int | None = None) -> None:
        super().__init__()
        self.layer, self.logged = torch.nn.Linear(16, 1), logged

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch.x if hasattr(batch, "x") else torch.ones(1, 16)).sum()
        if self.logged is not None:
            self.log_dict({"loss": loss}, batch_size=self.logged)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(module: LightningModule, loader, *callbacks: Callback) -> None:
    Trainer(
        callbacks=list(callbacks),
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)


@pytest.mark.parametrize("case", LOADERS)
def test_samples_are_counted_not_nodes_steps_or_views(case):
    loader, expected = LOADERS[case]
    sizes = Sizes()
    fit(Module(), loader(), sizes)
    assert sizes.seen == expected


@pytest.mark.parametrize(("loader", "logged", "expected"), [("no batching", 5, [5, 5]), ("graphs", 80, [8, 8, 4])])
def test_a_logged_batch_size_counts_unless_it_counts_something_else(loader, logged, expected):
    sizes = Sizes()
    fit(Module(logged), LOADERS[loader][0](), sizes)
    assert sizes.seen == expected


def test_flops_and_samples_are_those_of_graphs(recwarn):
    meter, speed = CostMeter(), SpeedMeter()
    fit(Module(), LOADERS["graphs"][0](), meter, speed)
    per_graph = 10 * 16 * 2 * 2  # ten nodes, forward and backward
    assert meter.cost["flops"] == per_graph
    assert meter.cost["training_flops"] == 20 * per_graph
    assert speed.totals["samples"] + speed.totals["first_samples"] == 20
    assert not [warning for warning in recwarn if "ambiguous" in str(warning.message)]
