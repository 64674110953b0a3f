"""Batches stay the same, however they are loaded."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch
from fast_examples import CUDA, LOADERS, NOTHING, ImageNet, assert_equal_training, fit, images, trained
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lightning_evo.callbacks import FastTraining
from lightning_evo.callbacks.fast.choices import (
    Choice,
)
from lightning_evo.callbacks.fast.data import FastData, WholeBatches
from lightning_evo.data import Digits
from toys import ToyData, ToyNet


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_batches_are_the_same_tensors_in_the_same_order(make):
    fast = FastTraining(**NOTHING | {"data": True})
    assert_equal_training(trained(None, make), trained(fast, make))
    assert fast.choices["data"] == Choice(True, "whole batches are indexed from tensors on cpu", "on cpu")


def test_each_process_of_ddp_gets_its_own_share(tmp_path):
    make, settings = LOADERS["shuffled"], {"devices": 1}
    fast = FastTraining(**NOTHING | {"data": True})
    runs = []
    for callback in (None, fast):
        strategy = DDPStrategy(process_group_backend="gloo")
        runs.append(trained(callback, make, strategy=strategy, **settings))
        torch.distributed.destroy_process_group()
    assert_equal_training(*runs)
    assert fast.choices["data"].on


def test_a_loader_made_anew_in_every_epoch_is_rewritten_every_time():
    class Data(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(images(), 4, shuffle=True)

    fast, kinds = FastTraining(**NOTHING | {"data": True}), []

    class Watching(ImageNet):
        def training_step(self, batch, batch_idx):
            kinds.append(type(self.trainer.train_dataloader.dataset))
            return super().training_step(batch, batch_idx)

    fit(Watching(), Data(), fast=fast, reload_dataloaders_every_n_epochs=1)
    assert set(kinds) == {WholeBatches}


def test_several_loaders_are_all_rewritten():
    class Pairs(ToyNet):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    loaders = {"a": ToyData().train_dataloader(), "b": ToyData().val_dataloader()}
    trainer = fit(Pairs(), loaders, fast=FastTraining(**NOTHING | {"data": True}))
    assert {type(loader.dataset) for loader in trainer.train_dataloader.values()} == {WholeBatches}


def test_other_loaders_are_left_alone_on_a_cpu():
    class Own(DataLoader):
        pass

    class Batches:
        def __iter__(self):
            return iter([images()[:4]])

    for loader, why in (
        (Own(images(), 4), "Own is not a plain DataLoader"),
        (DataLoader([images()[i] for i in range(8)], 4), "batches aren't copied"),
        (Batches(), "a Batches, not a DataLoader"),
    ):
        fast = FastTraining()
        trainer = fit(ImageNet(), loader, fast=fast)
        assert trainer.train_dataloader is loader
        assert not fast.choices["data"].on
        assert why in fast.choices["data"].why


def test_after_the_training_loaders_are_asked_for_as_before():
    fast = FastTraining()
    trainer = fit(ImageNet(), DataLoader(images(), 4), fast=fast)
    plain = DataLoader(images(), 4)
    trainer.validate(ImageNet(), plain, verbose=False)
    assert trainer.validate_loop._combined_loader.flattened == [plain]
    assert "dataloader" not in vars(trainer.fit_loop._data_source)


def test_a_set_of_whole_batches_is_pickled_without_its_copies_on_the_device():
    copies = {}
    whole = WholeBatches([torch.arange(4)], None, torch.device("meta"), copies)
    whole.tensors_there()
    assert len(copies) == 1
    again = pickle.loads(pickle.dumps(whole))
    assert again[2] == (torch.tensor(2),)
    assert again.copies == {}


class Images(Dataset):
    """A set that reads one image at a time."""

    def __init__(self, device="cpu"):
        self.device = device

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.empty(3, 8, 8, device=self.device), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


@pytest.fixture
def gpu(monkeypatch):
    """What would be done on a GPU with 4 MiB free; nothing is computed there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**20, 8 * 2**20))
    return SimpleNamespace(
        strategy=SingleDeviceStrategy(CUDA),
        fit_loop=Trainer(accelerator="cpu").fit_loop,
        datamodule=None,
        num_devices=1,
    )


def on_gpu(trainer, loader, share=0.5, workers=3, model=None):
    data = FastData(trainer, model or ToyNet(), share, workers, lambda choice: None)
    return data.rewritten(loader)


def test_a_set_that_fits_the_gpu_is_kept_there(gpu):
    loader, choice = on_gpu(gpu, DataLoader(images(), 4, shuffle=True, num_workers=2))
    assert loader.dataset.device == CUDA
    assert (loader.num_workers, loader.pin_memory, choice.on) == (0, False, True)


def test_a_set_that_is_too_large_is_cut_into_pinned_batches(gpu):
    loader, choice = on_gpu(gpu, DataLoader(images(), 4), share=0.001)
    assert loader.dataset.device == torch.device("cpu")
    assert loader.pin_memory
    assert "exceed its share" in choice.why


def test_the_parts_of_one_set_take_the_gpus_memory_once(gpu):
    whole = images(2**20 // (3 * 8 * 8 * 4))
    data = FastData(gpu, ToyNet(), 0.3, 0, lambda choice: None)
    first, _ = data.rewritten(DataLoader(Subset(whole, range(10)), 2))
    other, choice = data.rewritten(DataLoader(images(2 * len(whole)), 2))
    assert first.dataset.device == CUDA
    assert other.dataset.device.type == "cpu"
    assert "exceed its share" in choice.why


def test_a_hook_that_wants_batches_on_the_cpu_gets_them_there(gpu):
    class Hooked(ToyNet):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch

    loader, choice = on_gpu(gpu, DataLoader(images(), 4), model=Hooked())
    assert loader.dataset.device.type == "cpu"
    assert "on_before_batch_transfer is overridden" in choice.why


def reading(fast_loader, plain_loader):
    """What two loaders give in three epochs, from the same seed each."""
    epochs = []
    for loader in (fast_loader, plain_loader):
        torch.manual_seed(3)
        epochs.append([torch.cat([labels for _, labels in loader]).tolist() for _ in range(3)])
        epochs[-1].append(torch.rand(1).item())
    return epochs


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(1), index


def test_workers_that_live_on_give_the_samples_in_the_order_of_those_that_did_not(gpu):
    loader, _ = on_gpu(gpu, DataLoader(Numbers(), 4, shuffle=True), workers=1)
    loader.pin_memory = False  # there is nothing to pin it for
    assert loader.persistent_workers
    fast, plain = reading(loader, DataLoader(Numbers(), 4, shuffle=True))
    assert fast == plain


@pytest.mark.parametrize(
    ("loader", "workers", "expected"),
    [
        (lambda: DataLoader(Images(), 4, shuffle=True), 3, (3, True, True)),
        (lambda: DataLoader(Images(), 4), 0, (0, True, False)),  # torch refuses workers that persist and aren't there
        (lambda: DataLoader(Images(), 4, num_workers=1), 3, (1, True, True)),
        (lambda: DataLoader(Stream(), 4, num_workers=2), 3, (2, True, True)),
        (lambda: DataLoader(Stream(), 4), 3, (0, False, False)),
        (lambda: DataLoader(Images("meta"), 4), 3, (0, False, False)),
    ],
)
def test_other_sets_are_pinned_and_their_workers_live_on(gpu, loader, workers, expected):
    before = loader()
    after, choice = on_gpu(gpu, before, workers=workers)
    assert (after.num_workers, after.pin_memory, after.persistent_workers) == expected
    assert choice.on == expected[1]
    assert after.batch_size == before.batch_size
    assert after.sampler is before.sampler or isinstance(before.dataset, IterableDataset)


def test_a_process_that_may_start_none_gets_no_workers(gpu, monkeypatch):
    monkeypatch.setitem(torch.multiprocessing.current_process()._config, "daemon", True)
    loader, choice = on_gpu(gpu, DataLoader(Images(), 4))
    assert loader.num_workers == 0
    assert "can't start others" in choice.why


def test_image_sets_of_this_package_stay_on_the_gpu_while_they_train(gpu):
    gpu.datamodule = Digits()
    told = []
    data = FastData(gpu, ToyNet(), 0.5, 0, told.append)
    assert gpu.datamodule.resident
    assert told[0].on
    data.undo()
    assert not gpu.datamodule.resident
