"""A copy of a particle draws the initial weights that another seed would have given it."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_evo.models.bitstring_cnn import BitstringCNN
from lightning_evo.swarms.ranks.reinitialize import reinitialize, weights_digest
from lightning_evo.training import Blueprint
from toys import ToyNet


class Scaled(LightningModule):
    """Keeps no hyperparameters, and initializes its layer in a way of its own."""

    def __init__(self, width: int, scale: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        if scale:
            self.scale = nn.Parameter(torch.rand(width))


class Initialised(ToyNet):
    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        nn.init.constant_(self.net[0].bias, 0.5)
        nn.init.normal_(self.net[0].weight, std=10.0)


class Late(LightningModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.width, self.layer = width, None

    def configure_model(self) -> None:
        if self.layer is None:
            self.layer = nn.Linear(self.width, 1)


def drawn(module, seed):
    reinitialize(module, seed)
    return weights_digest(module)


@pytest.mark.parametrize("make", [lambda: ToyNet(width=6), lambda: BitstringCNN(image_size=8), lambda: Scaled(5)])
def test_the_seed_decides_and_nothing_else(make):
    modules = [make() for _ in range(3)]
    assert drawn(modules[0], 1) == drawn(modules[1], 1)
    assert drawn(modules[2], 2) != weights_digest(modules[0])


def test_a_model_is_built_anew_with_its_own_initialisation():
    module = Initialised(width=64)
    before = module.net[0].weight.clone()
    reinitialize(module, 1)
    assert not torch.equal(module.net[0].weight, before)
    assert module.net[0].weight.std() > 5
    assert module.net[0].bias.eq(0.5).all()


def test_a_model_that_a_config_made_is_built_anew_from_it(config):
    config["model"]["init_args"] |= {"width": 7, "activation": "tanh"}
    models = [Blueprint().build(Blueprint().resolve(config), {}, []).model for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn(models[0], 3) == drawn(models[1], 3)
    alone = ToyNet(width=7, activation="tanh")
    reinitialize(alone, 3)
    assert torch.equal(alone.net[0].weight, models[0].net[0].weight)


def test_layers_made_late_are_drawn_too():
    modules = [Late() for _ in range(2)]
    for module in modules:
        module.configure_model()
    assert drawn(modules[0], 1) == drawn(modules[1], 1)


def test_weights_that_nothing_draws_stay_and_are_named():
    module = Scaled(4, scale=True)
    kept, layer = module.scale.clone(), module.layer.weight.clone()
    with pytest.warns(UserWarning, match="can't be rebuilt .*: scale are the same in all particles"):
        reinitialize(module, 1)
    assert torch.equal(module.scale, kept)
    assert not torch.equal(module.layer.weight, layer)


def test_parameters_stay_the_same_objects_and_random_state_as_it_was():
    module = ToyNet()
    parameters, state = list(module.parameters()), torch.get_rng_state()
    reinitialize(module, 1)
    assert all(one is other for one, other in zip(parameters, module.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_digest_tells_bits_apart():
    first, second = ToyNet(), ToyNet()
    assert weights_digest(first) != weights_digest(second)
    second.load_state_dict(first.state_dict())
    assert weights_digest(first) == weights_digest(second)
    with torch.no_grad():
        second.net[0].bias[0] = torch.nextafter(second.net[0].bias[0], torch.tensor(9.0))
    assert weights_digest(first) != weights_digest(second)
