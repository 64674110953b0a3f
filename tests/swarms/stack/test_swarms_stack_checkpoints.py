"""What is saved of a stack resumes bit by bit, and each particle's checkpoint is a plain one of its class."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from swarms_nets import Net, batches, copies, difference, modules, trained_alone, trainer
from torch import nn

from lightning_evo import ParticleStack
from lightning_evo.models import ImageClassifier
from lightning_evo.swarms import SwarmError
from lightning_evo.swarms.stack.stack import StackParticles


class Scheduled(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)}


@pytest.mark.parametrize("lowering", ["stack", "loop"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_resumed_stack_goes_on_bit_by_bit(tmp_path, optimizer, lowering):
    options = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    made = modules(2, kind=Scheduled, optimizer=optimizer, dropout=0.2)
    again = copies(made)
    torch.manual_seed(1)
    undisturbed = ParticleStack(copies(made), lowering=lowering)
    trainer(max_epochs=2, gradient_clip_val=0.5).fit(undisturbed, batches(40))
    state = torch.get_rng_state()
    trainer(max_epochs=4, gradient_clip_val=0.5)
    torch.manual_seed(1)
    first = ParticleStack(made, lowering=lowering)
    half = trainer(max_epochs=2, gradient_clip_val=0.5, **options)
    half.fit(first, batches(40))
    assert difference(first, undisturbed) == 0
    path = tmp_path / "stack.ckpt"
    half.save_checkpoint(path)

    torch.manual_seed(1)
    whole = ParticleStack(copies(again), lowering=lowering)
    trainer(max_epochs=4, gradient_clip_val=0.5).fit(whole, batches(40))
    torch.set_rng_state(state)
    second = ParticleStack(again, lowering=lowering)
    trainer(max_epochs=4, gradient_clip_val=0.5).fit(second, batches(40), ckpt_path=path)
    assert difference(second, whole) == 0
    rates = [optimizer.param_groups[0]["lr"] for optimizer in second.trainer.optimizers[0].optimizers]
    assert rates == [optimizer.param_groups[0]["lr"] for optimizer in whole.trainer.optimizers[0].optimizers]


def test_a_resumed_stack_keeps_the_lowering_that_was_chosen(tmp_path):
    stack = ParticleStack(modules(2))
    first = trainer(max_epochs=1)
    first.fit(stack, batches(32))
    first.save_checkpoint(tmp_path / "stack.ckpt")
    resumed = ParticleStack(modules(2))
    trainer(max_epochs=2).fit(resumed, batches(32), ckpt_path=tmp_path / "stack.ckpt")
    assert (resumed.lowering, resumed.reason) == (stack.lowering, stack.reason)


@pytest.mark.parametrize("lowering", ["stack", "loop"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_particles_checkpoint_resumes_alone(tmp_path, optimizer, lowering):
    made = modules(2, kind=Scheduled, optimizer=optimizer)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer(max_epochs=2).fit(stack, batches(40), batches(40))
    for index, module in enumerate(alone):
        path = tmp_path / f"{index}.ckpt"
        torch.save(stack.particle_checkpoint(index), path)
        opened = Scheduled.load_from_checkpoint(path, weights_only=False)
        assert opened.hparams == module.hparams
        assert difference(opened, stack.particle(index)) == 0
        resumed, _ = trained_alone(opened, batches(40), batches(40), max_epochs=2)
        single = trainer(max_epochs=4)
        resumed = Scheduled(**module.hparams)
        single.fit(resumed, batches(40), batches(40), ckpt_path=path)
        assert single.global_step == 12
        trained_alone(module, batches(40), batches(40), max_epochs=4)
        assert difference(resumed, module) < 1e-5
        rate = resumed.trainer.optimizers[0].param_groups[0]["lr"]
        assert rate == module.trainer.optimizers[0].param_groups[0]["lr"]


def test_a_particles_checkpoint_holds_its_own_memory_only(tmp_path):
    stack = ParticleStack([nn_module(index) for index in range(8)], lowering="stack")
    trainer(max_epochs=1).fit(stack, batches(32))
    torch.save(stack.particle_checkpoint(0), tmp_path / "one.ckpt")
    module = stack.particle(0)
    single = trainer(max_epochs=1)
    single.fit(module, batches(32))
    single.save_checkpoint(tmp_path / "alone.ckpt")
    assert (tmp_path / "one.ckpt").stat().st_size < 1.2 * (tmp_path / "alone.ckpt").stat().st_size
    weights = stack.particle_checkpoint(0, weights_only=True)
    assert "optimizer_states" not in weights
    assert weights["state_dict"].keys() == module.state_dict().keys()


def nn_module(index):
    layers = [nn.Flatten(), nn.Linear(64, 50), nn.BatchNorm1d(50), nn.Linear(50, 3)]
    return ImageClassifier(nn.Sequential(*layers), num_classes=3, lr=0.01 * (index + 1))


def test_a_checkpoint_before_training_has_weights_and_hyperparameters(tmp_path):
    stack = ParticleStack(Net, vary={"lr": [0.1, 0.2]})
    torch.save(stack.particle_checkpoint(1), tmp_path / "one.ckpt")
    opened = Net.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=False)
    assert opened.lr == 0.2
    assert difference(opened, stack.particle(1)) == 0


def test_lightnings_callbacks_work_on_means_and_on_single_particles(tmp_path):
    stack = ParticleStack(modules(2))
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val_acc/particle_1", mode="max", filename="best")
    callbacks = [best, EarlyStopping("val_loss", patience=1, min_delta=10.0)]
    fit = trainer(max_epochs=5, callbacks=callbacks, enable_checkpointing=True)
    fit.fit(stack, batches(), batches(40))
    assert fit.current_epoch == 2
    saved = torch.load(best.best_model_path, weights_only=False)
    assert saved["state_dict"]["stacked.net.6.bias"].shape == (2, 3)


def test_a_checkpoint_of_another_number_of_particles_is_refused(tmp_path):
    stack = ParticleStack(modules(2))
    first = trainer(max_epochs=1)
    first.fit(stack, batches(32))
    optimizer = first.optimizers[0]
    second = trainer(max_epochs=1)
    second.fit(ParticleStack(modules(3)), batches(32))
    with pytest.raises(SwarmError, match="of 2 particles; this stack has 3"):
        second.optimizers[0].load_state_dict(optimizer.state_dict())
    with pytest.raises(SwarmError, match="of no stack"):
        optimizer.load_state_dict(torch.optim.SGD(modules(1)[0].parameters(), lr=0.1).state_dict())


class Plateau(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Cyclic(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        total = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=int(total))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.mark.parametrize("kind", [Plateau, Cyclic])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_each_particle_follows_its_own_schedule(kind, optimizer):
    made = modules(3, kind=kind, optimizer=optimizer)
    alone = copies(made)
    stack = ParticleStack(made, lowering="stack")
    trainer(max_epochs=5).fit(stack, batches(), batches(40, seed=9))
    for index, module in enumerate(alone):
        trained_alone(module, batches(), batches(40, seed=9), max_epochs=5)
        rate = stack.trainer.optimizers[0].optimizers[index].param_groups[0]["lr"]
        assert rate == pytest.approx(module.trainer.optimizers[0].param_groups[0]["lr"], rel=1e-6)
        assert difference(module, stack.particle(index)) < 2e-3  # RMSprop multiplies rounding


def test_schedules_cause_no_warning_about_their_order(recwarn):
    trainer(max_epochs=2).fit(ParticleStack(modules(2, kind=Scheduled)), batches(32))
    assert not [warning for warning in recwarn if "lr_scheduler.step()" in str(warning.message)]


@pytest.mark.parametrize("change", ["interval", "number", "none", "two"])
def test_what_a_stack_cant_step_together_is_refused(change):
    class Odd(Net):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            if change == "none":
                return None
            if change == "two":
                return [optimizer, super().configure_optimizers()]
            if self.lr == 0.1:
                return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
            return [optimizer] if change == "number" else ([optimizer], [scheduler])

    messages = {
        "interval": r"differ in interval \(epoch, step\)",
        "number": "different numbers of schedulers",
        "none": "returned None",
        "two": "returned 2 optimizers",
    }
    with pytest.raises(SwarmError, match=messages[change]):
        trainer().fit(ParticleStack(modules(2, kind=Odd)), batches(32))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_averaging_sees_and_changes_weights_and_moments(optimizer):
    stack = ParticleStack(modules(3, optimizer=optimizer), lowering="stack")
    fit = trainer(max_epochs=1)

    class Meddle(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            particles = StackParticles(pl_module, trainer)
            assert particles.losses(outputs).shape == (3,)
            names = {name.split(":")[0] for name in particles.moments()}
            assert (
                names
                == {
                    "sgd": {"momentum_buffer"},
                    "adamw": {"exp_avg", "exp_avg_sq", "step"},
                    "rmsprop": {"square_avg", "step"},
                }[optimizer]
            )
            for tensor in particles.moments().values():
                assert tensor.shape[0] == 3
                tensor[1] = 3.0
            for name, tensor in particles.weights().items():
                assert tensor.shape[1:] == pl_module.particles[0].state_dict()[name].shape
            state = trainer.optimizers[0].optimizers[1].state_dict()["state"]
            assert all((value == 3.0).all() for mine in state.values() for value in mine.values())
            particles.reset_moments([1])
            trainer.should_stop = True

    fit.callbacks.append(Meddle())
    fit.fit(stack, batches())
    states = [each.state_dict()["state"] for each in fit.optimizers[0].optimizers]
    assert all((value == 0).all() for mine in states[1].values() for value in mine.values())
    assert any((value != 0).any() for mine in states[0].values() for value in mine.values())


@pytest.mark.parametrize("lowering", ["stack", "loop"])
def test_optimizers_that_were_made_before_the_stack_go_on_working(lowering):
    class Early(Net):
        def __init__(self, **options):
            super().__init__(**options)
            self.made = torch.optim.AdamW(self.parameters(), lr=self.lr / 10)

        def configure_optimizers(self):
            return self.made

    made = modules(2, kind=Early)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer(max_epochs=1).fit(stack, batches())
    assert stack.trainer.optimizers[0].reason is None
    for index, module in enumerate(alone):
        trained_alone(module, batches(), max_epochs=1)
        assert difference(module, stack.particles[index]) < 1e-5


def test_parameter_groups_that_differ_step_one_by_one():
    class Grouped(Net):
        def configure_optimizers(self):
            parameters = list(self.parameters())
            first = 1 if self.lr == 0.1 else 2
            groups = [{"params": parameters[:first], "lr": 0.01}, {"params": parameters[first:]}]
            return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)

    made = modules(2, kind=Grouped)
    alone = copies(made)
    stack = ParticleStack(made, lowering="stack")
    trainer(max_epochs=1).fit(stack, batches())
    assert "parameter groups of particle 1 aren't those of particle 0" in stack.trainer.optimizers[0].reason
    for index, module in enumerate(alone):
        trained_alone(module, batches(), max_epochs=1)
        assert difference(module, stack.particles[index]) < 1e-5


def test_what_a_particle_adds_to_its_checkpoint_comes_back_to_it(tmp_path):
    class Remembering(Net):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["sum"] = checkpoint["state_dict"]["net.6.bias"].sum().item()

        def on_load_checkpoint(self, checkpoint):
            self.remembered = checkpoint["sum"], checkpoint["global_step"]

    stack = ParticleStack(modules(2, kind=Remembering))
    first = trainer(max_epochs=1)
    first.fit(stack, batches(32))
    first.save_checkpoint(tmp_path / "stack.ckpt")
    resumed = ParticleStack(modules(2, kind=Remembering))
    trainer(max_epochs=1).fit(resumed, batches(32), ckpt_path=tmp_path / "stack.ckpt")
    for particle in resumed.particles:
        assert particle.remembered == (particle.net[6].bias.sum().item(), 2)


def test_what_one_particle_does_not_log_is_nan_for_it():
    class Waiting(Net):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

        def validation_step(self, batch, batch_idx):
            if self.lr == 0.1:
                super().validation_step(batch, batch_idx)

    stack = ParticleStack(modules(2, kind=Waiting))
    trainer(max_epochs=1).fit(stack, batches(32), batches(32))
    assert torch.isnan(torch.tensor(stack.metrics[1]["val_loss"])), "what a particle didn't log is NaN"
