"""The cost of a training, against what can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lightning_evo.callbacks import CostMeter
from toys import ToyData, ToyNet


def fit(model, meter, tmp_path, **arguments):
    settings = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False} | arguments
    trainer = Trainer(
        callbacks=[meter],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, ToyData())
    return meter.cost


def test_flops_are_forward_and_backward_per_sample(tmp_path):
    cost = fit(ToyNet(width=5), CostMeter(), tmp_path)
    # Linear 2 -> 5 and 5 -> 2: forward 2·2·5 each; backward the same for the weights, and for the second layer's input.
    assert cost["flops"] == 2 * 2 * 5 * 2 + 2 * 2 * 5 * 2 + 2 * 2 * 5


def test_flops_per_sample_do_not_depend_on_the_batch_size(tmp_path):
    costs = []
    for batch_size in (8, 32):
        meter = CostMeter()
        trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[meter], enable_checkpointing=False)
        trainer.fit(ToyNet(), ToyData(batch_size=batch_size))
        costs.append(meter.cost["flops"])
    assert costs[0] == costs[1] > 0


def test_flops_of_the_whole_training_are_those_of_all_training_samples(tmp_path):
    # 64 samples an epoch; validation isn't counted.
    cost = fit(ToyNet(width=5), CostMeter(), tmp_path, max_epochs=3)
    assert cost["training_flops"] == 3 * 64 * cost["flops"]


def test_a_small_last_batch_counts_as_what_it_is(tmp_path):
    meter = CostMeter()
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[meter], enable_checkpointing=False)
    trainer.fit(ToyNet(), ToyData(batch_size=24))
    assert meter.cost["training_flops"] == 64 * meter.cost["flops"]


class Widens(Callback):
    """Puts in wider layers after the first epoch, and says so as StructuralGrowth does."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.net = ToyNet(width=9).net
            trainer.strategy.optimizers = [torch.optim.SGD(pl_module.parameters(), lr=0.1)]
            for callback in trainer.callbacks:
                if hasattr(callback, "on_structure_change"):
                    callback.on_structure_change(trainer, pl_module, None)


def test_a_network_that_changes_is_counted_anew_and_its_training_summed_up(tmp_path):
    narrow, wide = (fit(ToyNet(width=width), CostMeter(), tmp_path)["flops"] for width in (5, 9))
    meter = CostMeter()
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[Widens(), meter], enable_checkpointing=False
    )
    trainer.fit(ToyNet(width=5), ToyData())
    assert meter.cost["flops"] == wide
    assert meter.cost["training_flops"] == 64 * narrow + 2 * 64 * wide


def test_a_resumed_training_adds_up_also_from_a_checkpoint_that_knew_no_training_flops(tmp_path):
    first = CostMeter()
    fit(ToyNet(), first, tmp_path)
    state = first.state_dict()
    del state["cost"]["training_flops"]
    second = CostMeter()
    second.load_state_dict(state)
    assert fit(ToyNet(), second, tmp_path)["training_flops"] == 64 * second.cost["flops"]


def test_parameters_epochs_and_seconds_are_measured(tmp_path):
    cost = fit(ToyNet(width=5), CostMeter(), tmp_path, max_epochs=3)
    assert cost["params"] == 2 * 5 + 5 + 5 * 2 + 2
    assert cost["epochs"] == 3
    assert cost["seconds"] > 0
    assert cost["peak_memory"] >= 0


def test_a_large_allocation_shows_in_the_peak_memory(tmp_path):
    class Hungry(ToyNet):
        def training_step(self, batch, batch_idx):
            held = torch.ones(64 * 2**20 // 4)
            return super().training_step(batch, batch_idx) + 0 * held[0]

    cost = fit(Hungry(), CostMeter(), tmp_path)
    assert cost["peak_memory"] >= 48 * 2**20


def test_an_early_stop_counts_only_the_epochs_that_ran(tmp_path):
    class Stops(ToyNet):
        def on_train_epoch_end(self):
            self.trainer.should_stop = self.current_epoch == 1

    cost = fit(Stops(), CostMeter(), tmp_path, max_epochs=9)
    assert cost["epochs"] == 2


def test_a_crash_in_the_first_step_leaves_no_counter_switched_on(tmp_path):
    class Crashes(ToyNet):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("crash")

    meter = CostMeter()
    with pytest.raises(RuntimeError, match="crash"):
        fit(Crashes(), meter, tmp_path)
    assert _get_current_dispatch_mode() is None
    assert meter.cost["params"] > 0
