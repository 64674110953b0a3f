"""A module is validated outside a Trainer as a Trainer validates it."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.models import ImageClassifier
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.validation import validate


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(10, 1, 8, 8, generator=generator), torch.randint(0, 3, (10,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=4)


def classifier():
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 3)]
    return ImageClassifier(torch.nn.Sequential(*layers), num_classes=3)


def test_a_shipped_model_gets_what_the_trainer_gives_it(loader, tmp_path):
    module = classifier()
    trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    (expected,) = trainer.validate(module, loader, verbose=False)
    assert validate(module, loader) == pytest.approx(expected)


def test_nothing_of_the_module_changes(loader):
    module = classifier()
    module.train()
    module.network.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    validate(module, loader)
    assert module.training
    assert not module.network.training
    assert not module.val_acc.update_called
    assert not module.val_loss.update_called
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert "log" not in module.__dict__


def test_all_validation_hooks_run_in_order_and_may_log():
    calls = []

    class Net(L.LightningModule):
        def on_validation_start(self):
            calls.append("start")

        def on_validation_epoch_start(self):
            calls.append("epoch start")
            self.seen = 0

        def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0):
            calls.append(f"batch {batch_idx}")

        def validation_step(self, batch):
            self.seen += len(batch)
            assert not self.training
            assert not torch.is_grad_enabled()
            return batch.sum()

        def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
            self.log("sum", outputs, reduce_fx="sum")

        def on_validation_epoch_end(self):
            calls.append("epoch end")
            self.log("seen", self.seen)

        def on_validation_end(self):
            calls.append("end")

    metrics = validate(Net(), [torch.ones(2), torch.ones(3)])
    assert calls == ["start", "epoch start", "batch 0", "batch 1", "epoch end", "end"]
    assert metrics == {"sum": 5.0, "seen": 5.0}


def test_a_module_without_validation_and_no_batches_are_refused():
    with pytest.raises(SwarmError, match="has no validation_step"):
        validate(L.LightningModule(), [torch.ones(1)])
    module = classifier()
    module.train()
    with pytest.raises(SwarmError, match="no batches"):
        validate(module, [])
    assert module.training
