"""Each particle of a stack trains as it would alone."""

import copy
import csv
import inspect
import io
import pickle
from functools import cache

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from swarms_nets import Net, batches, copies, difference, modules, trained_alone, trainer
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_evo import ParticleStack
from lightning_evo.models import BitstringCNN, ImageClassifier
from lightning_evo.swarms import SwarmError

LOWERINGS = ["stack", "loop"]


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_after_50_steps_each_particle_is_what_it_would_be_alone(optimizer, lowering):
    stack = ParticleStack(modules(optimizer=optimizer, weight_decay=0.01), lowering=lowering)
    trainer(max_epochs=5).fit(stack, batches(), batches(40))
    assert stack.lowering == lowering
    for index, (module, metrics) in enumerate(alone_for_50_steps(optimizer)):
        assert difference(module, stack.particle(index)) < 1e-5
        assert stack.metrics[index] == pytest.approx(metrics, abs=1e-5)


@cache
def alone_for_50_steps(optimizer):
    """What both lowerings are compared with."""
    found = [
        trained_alone(module, batches(), batches(40), max_epochs=5)
        for module in modules(optimizer=optimizer, weight_decay=0.01)
    ]
    return [
        (module, {name: value for name, value in metrics.items() if name != "loss_step"}) for module, metrics in found
    ]


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.3},
        {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.3, "accumulate_grad_batches": 2},
        {"precision": 64},
    ],
    ids=str,
)
def test_the_trainers_settings_hold_for_each_particle(options, lowering):
    stack = ParticleStack(modules(optimizer="sgd"), lowering=lowering)
    trainer(**options).fit(stack, batches())
    for index, module in enumerate(alone_with(**options)):
        assert difference(module, stack.particle(index)) < 1e-5


@cache
def alone_with(**options):
    """What both lowerings are compared with."""
    return [trained_alone(module, batches(), **options)[0] for module in modules(optimizer="sgd")]


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_mixed_precision_stays_within_its_rounding(lowering):
    made = modules(optimizer="sgd", norm=False)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer(precision="bf16-mixed", max_epochs=1).fit(stack, batches())
    assert all(tensor.dtype == torch.float32 for tensor in stack.parameters())
    for index, module in enumerate(alone):
        trained_alone(module, batches(), precision="bf16-mixed", max_epochs=1)
        assert difference(module, stack.particle(index)) < 5e-3


def test_auto_chooses_by_measuring_and_leaves_no_trace():
    made = modules(3)
    forced = ParticleStack(copies(made), lowering="loop")
    stack = ParticleStack(made)
    assert stack.lowering == "auto"
    for each in (stack, forced):
        torch.manual_seed(7)
        trainer(max_epochs=1, limit_train_batches=3).fit(each, batches())
    assert stack.lowering in ("stack", "loop")
    assert stack.reason.startswith("measured per step: stack ")
    assert difference(stack, forced) < 1e-5
    counts = [particle.net[1].num_batches_tracked.item() for particle in stack.particles]
    assert counts == [3, 3, 3]


def test_dropout_differs_between_particles():
    torch.manual_seed(0)
    first = Net(dropout=0.5)
    stack = ParticleStack([first, copy.deepcopy(first)], lowering="stack")
    trainer(max_epochs=1, limit_train_batches=1).fit(stack, batches())
    assert stack.losses[0] != stack.losses[1]
    assert difference(*stack.particles) > 0


def test_a_broken_particle_harms_no_other():
    made = modules(3)
    with torch.no_grad():
        made[1].net[6].weight.fill_(float("nan"))
    alone = copies(made)
    stack = ParticleStack(made, lowering="stack")
    trainer(gradient_clip_val=0.3).fit(stack, batches(), batches(40))
    assert torch.isnan(stack.losses).tolist() == [False, True, False]
    assert torch.isnan(torch.tensor(stack.metrics[1]["val_loss"]))
    for index in (0, 2):
        module, metrics = trained_alone(alone[index], batches(), batches(40), gradient_clip_val=0.3)
        assert difference(module, stack.particle(index)) < 1e-5
        assert stack.metrics[index]["val_loss"] == pytest.approx(metrics["val_loss"], abs=1e-5)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("kind", ["image classifier", "bitstring cnn"])
def test_shipped_models_stack(kind, lowering):
    def build(index):
        torch.manual_seed(index)
        if kind == "bitstring cnn":
            sizes = {"num_classes": 3, "image_size": 8, "widths": (2, 3, 4, 5), "head": (8,)}
            return BitstringCNN(**sizes, dropout=0.0, block_dropout=0.0, lr=0.01 * (index + 1))
        layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
        return ImageClassifier(nn.Sequential(*layers), num_classes=3, lr=0.01 * (index + 1), schedule="cosine")

    made = [build(index) for index in range(2)]
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer(max_epochs=1).fit(stack, batches(64), batches(40))
    for index, module in enumerate(alone):
        module, metrics = trained_alone(module, batches(64), batches(40), max_epochs=1)
        assert stack.metrics[index] == pytest.approx(metrics, abs=1e-4)
        schedules = stack.trainer.lr_scheduler_configs[0].scheduler.schedulers
        assert schedules[index].get_last_lr() == module.trainer.lr_scheduler_configs[0].scheduler.get_last_lr()


class Measured(Net):
    """Counts with metric objects in every way that needs no value inside the step."""

    def __init__(self, **options):
        super().__init__(**options)
        self.train_mean = MeanMetric()
        self.accuracy = MulticlassAccuracy(3, average="micro")
        self.forwarded = MulticlassAccuracy(3, average="macro")
        self.many = MetricCollection({"f1": MulticlassF1Score(3), "acc": MulticlassAccuracy(3)})

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.train_mean.update(loss.detach(), weight=len(batch[0]))
        return {"loss": loss, "first": loss.detach()}

    def on_train_epoch_end(self):
        self.log("train_mean", self.train_mean)

    def validation_step(self, batch, batch_idx):
        scores = self(batch[0])
        self.accuracy(scores, batch[1])
        self.log("accuracy", self.accuracy)
        self.log("forwarded", self.forwarded(scores, batch[1]))
        self.many.update(scores, batch[1])

    def on_validation_epoch_end(self):
        self.log_dict(self.many.compute())
        self.many.reset()


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_metric_objects_count_each_particles_own_values(lowering):
    made = modules(kind=Measured)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer().fit(stack, batches(), batches(40))
    assert stack.metrics[0].keys() == {"train_mean", "accuracy", "forwarded", "f1", "acc"}
    for index, module in enumerate(alone):
        _, metrics = trained_alone(module, batches(), batches(40))
        assert stack.metrics[index] == pytest.approx(metrics, abs=1e-5)


def test_lightning_sees_each_particles_metrics_and_their_mean():
    stack = ParticleStack(modules(2))
    fit = trainer()
    fit.fit(stack, batches(), batches(40))
    seen = {name: value.item() for name, value in fit.callback_metrics.items()}
    for index, metrics in enumerate(stack.metrics):
        for name in ("val_loss", "val_acc", "loss"):
            assert seen[f"{name}/particle_{index}"] == pytest.approx(metrics[name])
    assert seen["val_acc"] == pytest.approx(sum(metrics["val_acc"] for metrics in stack.metrics) / 2)
    assert seen["loss_epoch"] == pytest.approx(sum(metrics["loss"] for metrics in stack.metrics) / 2)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_testing_and_predicting_go_through_every_particle(lowering):
    stack = ParticleStack(modules(2), lowering=lowering)
    single = trainer()
    single.test(stack, batches(40), verbose=False)
    predictions = single.predict(stack, batches(40))
    for index in range(2):
        module = stack.particle(index)
        own = trainer()
        (metrics,) = own.test(module, batches(40), verbose=False)
        assert stack.metrics[index] == pytest.approx(metrics, abs=1e-6)
        expected = own.predict(module, batches(40))
        for mine, theirs in zip(predictions, expected, strict=True):
            torch.testing.assert_close(mine[index], theirs)


def test_forward_gives_each_particles_outputs():
    stack = ParticleStack(modules(3)).eval()
    x = torch.randn(5, 1, 8, 8)
    outputs = stack(x)
    assert outputs.shape == (3, 5, 3)
    torch.testing.assert_close(outputs[2], stack.particle(2).eval()(x))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_each_particle_may_have_its_own_batches(lowering):
    def own(index):
        return batches(32, 16, seed=index)

    together = [[torch.stack(parts) for parts in zip(*pair, strict=True)] for pair in zip(own(0), own(1), strict=True)]
    made = modules(2)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering, own_batches=True)
    loader = DataLoader(together, batch_size=None)
    trainer(max_epochs=1).fit(stack, loader, loader)
    for index, module in enumerate(alone):
        module, metrics = trained_alone(module, own(index), own(index), max_epochs=1)
        assert difference(module, stack.particle(index)) < 1e-5
        assert stack.metrics[index]["val_loss"] == pytest.approx(metrics["val_loss"], abs=1e-5)


class Hooked(Net):
    """Notes which of its hooks are called, with what is its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def setup(self, stage):
        self.calls.append(f"setup {stage.value}")

    def on_train_epoch_start(self):
        self.calls.append(f"epoch {self.current_epoch}")

    def on_after_backward(self):
        self.calls.append(self.net[6].weight.grad.norm().item())

    def on_before_optimizer_step(self, optimizer):
        self.calls.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.calls.append(outputs["loss"].item())
        self.log("hooked", batch_idx, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self):
        self.log("at_end", self.lr)

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        assert outputs is None

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = self.lr

    def on_fit_end(self):
        self.calls.append("end")


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_hooks_are_called_on_every_particle(lowering):
    made = modules(2, kind=Hooked)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer(max_epochs=1, limit_train_batches=2).fit(stack, batches(), batches(40))
    for index, module in enumerate(alone):
        _, metrics = trained_alone(module, batches(), batches(40), max_epochs=1, limit_train_batches=2)
        mine = stack.particles[index].calls
        assert [call for call in mine if isinstance(call, str)] == ["setup fit", "epoch 0", "end"]
        numbers = [[call for call in calls if not isinstance(call, str)] for calls in (mine, module.calls)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
        assert stack.metrics[index]["hooked"] == metrics["hooked"]
        assert stack.metrics[index]["at_end"] == pytest.approx(metrics["at_end"])
        assert stack.particle_checkpoint(index)["mine"] == module.lr


def test_modes_of_submodules_survive_a_validation():
    made = modules(2)
    for module in made:
        module.net[1].eval()
    stack = ParticleStack(made, lowering="stack")
    trainer(max_epochs=1).fit(stack, batches(), batches(40))
    for particle in stack.particles:
        assert particle.training
        assert not particle.net[1].training
        assert particle.net[1].num_batches_tracked == 0
    trainer().predict(stack, batches(40))
    trainer().test(stack, batches(40), verbose=False)
    assert all(particle.training for particle in stack.particles)
    assert stack.training


def test_copying_and_pickling_keep_particles_tied():
    stack = ParticleStack(modules(2), lowering="stack")
    buffer = io.BytesIO()
    torch.save(stack, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(stack),
        pickle.loads(pickle.dumps(stack)),
        torch.load(buffer, weights_only=False),
    ):
        assert difference(twin, stack) == 0
        with torch.no_grad():
            twin.particles[1].net[6].bias.fill_(5.0)
        assert twin.stacked.net.get_submodule("6").bias[1].tolist() == [5.0, 5.0, 5.0]
        assert stack.stacked.net.get_submodule("6").bias[1].tolist() != [5.0, 5.0, 5.0]
        trainer(max_epochs=1, limit_train_batches=2).fit(twin, batches())


def test_moving_keeps_particles_tied():
    stack = ParticleStack(modules(2, kind=Measured)).double()
    particle = stack.particles[1]
    assert particle.net[6].weight.dtype == torch.float64
    assert particle.dtype == torch.float64
    with torch.no_grad():
        stack.stacked.net.get_submodule("6").bias.fill_(2.0)
    assert particle.net[6].bias.tolist() == [2.0, 2.0, 2.0]
    stack.load_state_dict({name: tensor * 2 for name, tensor in stack.state_dict().items()}, assign=True)
    assert particle.net[6].bias.tolist() == [4.0, 4.0, 4.0]


def test_a_particle_taken_out_is_on_its_own():
    stack = ParticleStack(modules(2))
    particle = stack.particle(0)
    assert type(particle) is Net
    with torch.no_grad():
        particle.net[6].weight.zero_()
        particle.net[1].running_mean.fill_(3.0)
    assert stack.particles[0].net[6].weight.abs().sum() > 0
    assert stack.particles[0].net[1].running_mean.sum() == 0
    assert particle.net[1].running_mean.untyped_storage().nbytes() == 4 * 4
    trained_alone(particle, batches(), batches(40))
    assert particle.log.__func__ is L.LightningModule.log


def test_particles_are_built_from_a_class_and_what_varies():
    stack = ParticleStack(Net, vary={"lr": [0.1, 0.2, 0.3]})
    assert [particle.lr for particle in stack.particles] == [0.1, 0.2, 0.3]
    assert [particle.hparams.lr for particle in stack.particles] == [0.1, 0.2, 0.3]
    assert len(ParticleStack(Net, size=2)) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ParticleStack([Net()]), "at least two particles, one was given"),
        (lambda: ParticleStack([]), "none was given"),
        (lambda: ParticleStack(Net, size=1), "size: 1 is not at least 2"),
        (lambda: ParticleStack(Net), "size is missing"),
        (lambda: ParticleStack(Net, size=3, vary={"lr": [0.1, 0.2]}), r"vary.lr has 2 values for 3 particles"),
        (lambda: ParticleStack(Net, vary={"momentum": [0.1, 0.2]}), "vary: 'momentum' is not an argument of Net"),
        (lambda: ParticleStack([Net(), Net()], vary={"lr": [0.1, 0.2]}), "needs particles that are built"),
        (lambda: ParticleStack([Net(), Net()], size=3), "size: 3 is not the number of particles given, 2"),
        (lambda: ParticleStack([Net(), Net(norm=False)]), r"particles 0 and 1 have different architectures: net\.1 is"),
        (lambda: ParticleStack([Net(), Measured()]), "different architectures"),
        (lambda: ParticleStack([Net(), nn.Linear(2, 2)]), "particle 1 is a Linear, not a LightningModule"),
        (lambda: ParticleStack(Net(), size=3), r"particles is one Net; give its class"),
        (lambda: ParticleStack([Net()] * 2), "particles 0 and 1 are the same module"),
        (lambda: ParticleStack(modules(2), lowering="vmap"), "lowering: 'vmap' is not one of"),
    ],
)
def test_bad_swarms_are_refused(build, message):
    with pytest.raises(SwarmError, match=message):
        build()


def test_frozen_and_manual_particles_are_named():
    frozen = Net()
    frozen.net[6].weight.requires_grad_(False)
    with pytest.raises(SwarmError, match=r"net\.6\.weight is trained in one and frozen in the other"):
        ParticleStack([Net(), frozen])

    class Manual(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(SwarmError, match="automatic_optimization = False"):
        ParticleStack(Manual, size=2)

    class Stepping(Net):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)

    with pytest.raises(SwarmError, match="overrides optimizer_step"):
        ParticleStack(Stepping, size=2)


@pytest.mark.skipif(
    "add_dataloader_idx and" not in inspect.getsource(L.LightningModule.log),
    reason="this version of Lightning lets nobody log under the names that it gives values of several loaders",
)
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_several_validation_loaders_keep_their_names(lowering):
    class Several(Net):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

        def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0):
            self.last_loader = dataloader_idx

    made = modules(2, kind=Several)
    alone = copies(made)
    loaders = [batches(40), batches(48, seed=3)]
    stack = ParticleStack(made, lowering=lowering)
    fit = trainer(max_epochs=1)
    fit.fit(stack, batches(32), loaders)
    assert stack.particles[1].last_loader == 1
    for index, module in enumerate(alone):
        _, metrics = trained_alone(module, batches(32), loaders, max_epochs=1)
        assert "val_acc/dataloader_idx_1" in stack.metrics[index]
        metrics.pop("loss_step")
        assert stack.metrics[index] == pytest.approx(metrics, abs=1e-5)
    assert f"val_acc/dataloader_idx_1/particle_{index}" in fit.callback_metrics


def test_loggers_get_means_of_steps_and_every_particle_per_epoch(tmp_path):
    logger = CSVLogger(tmp_path)
    stack = ParticleStack(modules(2))
    trainer(max_epochs=1, logger=logger, log_every_n_steps=5).fit(stack, batches(), batches(40))
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert sum("loss_step" in row for row in rows) == 2
    assert not any("loss_step/particle_0" in row for row in rows)
    last = {name: value for row in rows for name, value in row.items()}
    assert last["loss/particle_1"] == pytest.approx(stack.metrics[1]["loss"])
    assert last["val_acc/particle_0"] == pytest.approx(stack.metrics[0]["val_acc"])


def test_nothing_is_measured_where_results_must_be_reproducible():
    torch.use_deterministic_algorithms(True)
    try:
        stack = ParticleStack(modules(2))
        trainer(max_epochs=1, limit_train_batches=1).fit(stack, batches())
    finally:
        torch.use_deterministic_algorithms(False)
    assert stack.lowering == "stack"
    assert stack.reason.startswith("deterministic algorithms are requested")


def test_measuring_counts_nothing():
    made = modules(2, kind=Measured)
    alone = copies(made)
    stack = ParticleStack(made)
    trainer(max_epochs=1).fit(stack, batches(32))
    assert stack.reason.startswith("measured per step")
    _, metrics = trained_alone(alone[0], batches(32), max_epochs=1)
    assert stack.metrics[0] == pytest.approx(metrics, abs=1e-5)
