"""Under a loss scale each particle skips its own overflowing steps, and nobody else's."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from swarms_nets import Net, batches, copies, difference, modules, trained_alone, trainer

from lightning_evo import ParticleStack


def scaled(scale=2.0**8):
    """Mixed precision whose loss scale is there on a CPU, too."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler)


class Overflowing(Net):
    """Its gradients overflow in every third step where the learning rate is 0.05: that of particle 1."""

    def on_after_backward(self):
        if self.lr == 0.05 and self.global_step % 3 == 1:
            self.net[6].bias.grad.fill_(float("inf"))


@pytest.mark.parametrize("lowering", ["stack", "loop"])
def test_a_loss_scale_changes_nothing_else(lowering):
    made = modules(2, norm=False)
    alone = copies(made)
    stack = ParticleStack(made, lowering=lowering)
    trainer(plugins=[scaled()], max_epochs=1, gradient_clip_val=0.5).fit(stack, batches())
    for index, module in enumerate(alone):
        trained_alone(module, batches(), plugins=[scaled()], max_epochs=1, gradient_clip_val=0.5)
        assert difference(module, stack.particle(index)) < 5e-3


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_only_the_particle_whose_gradients_overflow_skips_the_step(optimizer):
    made = modules(2, kind=Overflowing, norm=False, optimizer=optimizer)
    alone = copies(made)
    stack = ParticleStack(made, lowering="loop")
    plugin = scaled()
    trainer(plugins=[plugin], max_epochs=1).fit(stack, batches())
    assert plugin.scaler.get_scale() == 2.0**8 / 2**3, "the scale falls at each overflow"
    for index, module in enumerate(alone):
        trained_alone(module, batches(), plugins=[scaled()], max_epochs=1)
        assert difference(module, stack.particle(index)) < 2e-2
        assert all(tensor.isfinite().all() for tensor in stack.particles[index].parameters())


def test_a_particle_that_is_broken_for_good_does_not_pull_the_scale_down():
    class Broken(Net):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    made = modules(2, kind=Broken, norm=False)
    with torch.no_grad():
        made[1].net[6].weight.fill_(float("nan"))
    alone = copies(made)
    stack = ParticleStack(made, lowering="stack")
    plugin = scaled()
    trainer(plugins=[plugin], max_epochs=1).fit(stack, batches())
    assert plugin.scaler.get_scale() == 2.0**8
    trained_alone(alone[0], batches(), plugins=[scaled()], max_epochs=1)
    assert difference(alone[0], stack.particle(0)) < 5e-3
