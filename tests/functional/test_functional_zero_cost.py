"""Zero-cost proxies equal their papers' formulas, computed apart, and leave the network as they found it."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_evo.functional import flops, gradient_norm, naswot, parameters, synflow


def mlp(*widths: int, activation=nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def convnet(dropout: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.GELU(), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 3),
    )  # fmt: skip


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- naswot ------------------------------------------------------------------------------------------------------------


def agreement(codes: np.ndarray) -> float:
    """log|det K|, with every entry of K counted one by one."""
    kernel = np.array([[np.sum(a == b) for b in codes] for a in codes], dtype=float)
    return float(np.linalg.slogdet(kernel)[1]) if np.linalg.matrix_rank(kernel) == len(codes) else -np.inf


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 6), width=st.integers(8, 24))
@example(seed=226, count=6, width=8)  # images of the same codes: the determinant is 0
def test_naswot_is_the_log_determinant_of_the_agreement_of_codes(seed, count, width):
    model, inputs = mlp(5, width, 7, 3, seed=seed), images(count, 5, seed=seed)
    first = inputs.numpy() @ model[0].weight.detach().numpy().T + model[0].bias.detach().numpy()
    second = np.maximum(first, 0) @ model[2].weight.detach().numpy().T + model[2].bias.detach().numpy()
    expected = agreement(np.concatenate([first > 0, second > 0], axis=1))
    assert naswot(model, inputs) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish],
)
def test_every_rectifier_is_a_unit_with_the_code_of_a_relu(activation):
    same = mlp(5, 32, 3, activation=activation)
    assert naswot(same, images(6, 5)) == pytest.approx(naswot(mlp(5, 32, 3), images(6, 5)))


def test_rectifiers_that_are_functions_count_as_modules_do():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp(5, 32, 3)

        def forward(self, inputs):
            return self.layers[2](torch.relu(self.layers[0](inputs)))

    assert naswot(Functional(), images(6, 5)) == naswot(mlp(5, 32, 3), images(6, 5))


def test_naswot_of_equal_images_is_minus_infinity():
    assert naswot(mlp(5, 32, 3), images(1, 5).repeat(2, 1)) == -np.inf


def test_a_model_without_rectifiers_has_no_naswot():
    with pytest.raises(ValueError, match="no rectifying unit"):
        naswot(mlp(5, 8, 3, activation=nn.Tanh), images(4, 5))


# -- synflow -----------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), widths=st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_synflow_of_a_linear_network_is_its_closed_form_once_per_layer(seed, widths):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    flow = np.ones(widths[0])
    for layer in layers:
        flow = np.abs(layer.weight.detach().double().numpy()) @ flow
    score = synflow(nn.Sequential(*layers), images(2, widths[0]))
    assert score == pytest.approx(len(layers) * flow.sum(), rel=1e-9)


def test_synflow_sums_weight_times_slope_with_biases_and_without_normalisation():
    model = convnet()
    score = synflow(model, images(3, 1, 8, 8))
    plain = copy.deepcopy(model).double().eval()
    for name in ("1", "6", "9"):
        plain[int(name)] = nn.Identity()
    for parameter in plain.parameters():
        parameter.data.abs_()
    plain(torch.ones(1, 1, 8, 8, dtype=torch.float64)).sum().backward()
    weights = [p for p in plain.parameters() if p.ndim > 1]
    assert score == pytest.approx(sum(float((p.grad * p.data).sum()) for p in weights), rel=1e-9)


def test_synflow_does_not_depend_on_the_images():
    model = convnet()
    assert synflow(model, images(3, 1, 8, 8, seed=1)) == synflow(model, images(2, 1, 8, 8, seed=2))


# -- gradient norm -----------------------------------------------------------------------------------------------------


def test_the_gradient_norm_is_the_sum_of_the_weights_norms():
    model, inputs, labels = mlp(5, 8, 3), images(6, 5), torch.arange(6) % 3
    loss = nn.functional.cross_entropy(model(inputs), labels)
    slopes = torch.autograd.grad(loss, [model[0].weight, model[2].weight])
    expected = sum(float(np.sqrt((slope.double().numpy() ** 2).sum())) for slope in slopes)
    assert gradient_norm(model, inputs, labels) == pytest.approx(expected, rel=1e-5)


def test_any_loss_can_be_given_and_frozen_weights_do_not_count():
    model, inputs = mlp(5, 8, 1), images(6, 5)
    model[0].weight.requires_grad_(False)
    hidden = torch.relu(model[0](inputs)).detach().numpy()
    # The slope of the mean square of w·h + b by w.
    answer = model(inputs).detach().numpy()[:, 0]
    expected = np.linalg.norm(2 * (answer[:, None] * hidden).mean(0))
    assert gradient_norm(model, inputs, torch.zeros(6, 1), nn.functional.mse_loss) == pytest.approx(expected, rel=1e-5)


# -- size --------------------------------------------------------------------------------------------------------------


def test_parameters_and_flops_are_those_counted_by_hand():
    model = mlp(5, 8, 3)
    assert parameters(model) == 5 * 8 + 8 + 8 * 3 + 3
    assert flops(model, images(4, 5)) == 2 * (5 * 8 + 8 * 3)
    convolution = nn.Conv2d(2, 4, 3, padding=1)
    assert flops(convolution, images(3, 2, 6, 6)) == 2 * 4 * 36 * 2 * 9


def test_a_lazy_layer_has_no_parameters_before_its_first_input():
    assert parameters(nn.LazyLinear(4)) == 0


# -- all ---------------------------------------------------------------------------------------------------------------

EVERY = {
    "naswot": naswot,
    "synflow": synflow,
    "gradient_norm": lambda model, inputs: gradient_norm(model, inputs, torch.arange(len(inputs)) % 3),
    "parameters": lambda model, inputs: parameters(model),
    "flops": flops,
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_found(name, training):
    model, inputs = convnet().train(training), images(4, 1, 8, 8)
    model[0].weight.requires_grad_(False)
    model[5].eval()
    model[10].weight.grad = torch.ones_like(model[10].weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {module: set(vars(module)) for module in model.modules()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    EVERY[name](model, inputs)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in (model, model[3], model[5])] == [training, training, False]
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert {id(p) for p in model.parameters() if p.grad is not None} == {id(model[10].weight)}
    assert torch.equal(model[10].weight.grad, torch.ones_like(model[10].weight))
    assert attributes == {module: set(vars(module)) for module in model.modules()}


@pytest.mark.parametrize("name", EVERY)
def test_a_proxy_is_the_same_every_time_whatever_the_random_state(name):
    model, inputs = convnet(), images(4, 1, 8, 8)
    values = set()
    for seed in range(3):
        torch.manual_seed(seed)
        values.add(EVERY[name](model, inputs))
    assert len(values) == 1


def test_what_raises_leaves_the_model_as_it_was_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout()).eval()
    for proxy in (naswot, synflow, flops):
        with pytest.raises(RuntimeError):
            proxy(model, images(3, 5))
    assert not any(module.training for module in model.modules())
    assert "forward" not in vars(model[1])


def test_gradients_may_be_switched_off_around_a_call():
    with torch.no_grad():
        assert gradient_norm(mlp(5, 8, 3), images(3, 5), torch.arange(3)) > 0
        assert synflow(mlp(5, 8, 3), images(3, 5)) > 0
