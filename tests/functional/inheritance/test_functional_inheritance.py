"""A child that only grew computes what its parent computes, and every tensor is accounted for."""

from __future__ import annotations

import copy
import io
import itertools
from collections import OrderedDict

import pytest
import torch
from functional_nets import Net, grown, lived_in, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_evo.functional import Structure, inherit, structure_of

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-11}
"""Rounding, and in double precision nothing but rounding."""


def difference(child, parent, mode, shape=(8, 3, 6, 6)):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(next(parent.parameters()))
    child, parent = copy.deepcopy(child).train(mode), copy.deepcopy(parent).train(mode)
    with torch.no_grad():
        return (child(inputs) - parent(inputs)).abs().max().item()


@torch.no_grad()
def outputs_of(net, dtype=None):
    """What a network gives in each mode; in single precision with errors, which some normalizations amplify."""
    dtype = dtype or next(net.parameters()).dtype
    inputs = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(5)).to(next(net.parameters())).to(dtype)
    copied = copy.deepcopy(net).to(dtype)
    return {mode: copied.train(mode)(inputs) for mode in (False, True)}  # training changes statistics, so it comes last


def saved(parent):
    """A parent as it is known from a file: its state dict and its structure."""
    file = io.BytesIO()
    torch.save([parent.state_dict(), structure_of(parent).to_dict()], file)
    file.seek(0)
    state, structure = torch.load(file, weights_only=True)
    return {"parent": state, "structure": Structure.from_dict(structure)}


def accounted(result):
    return sorted([*result.copied, *result.sliced, *result.identity, *result.fresh])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_child_that_only_grew_computes_what_its_parent_does_in_both_modes(data):
    check_growth(data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_same_over_many_more_networks(data):
    check_growth(data)


def check_growth(data):
    spec = data.draw(specs())
    torch.manual_seed(data.draw(st.integers(0, 9)))
    parent, larger = lived_in(Net(spec), seed=1), data.draw(grown(spec))
    new_units, from_file = data.draw(st.sampled_from(("zero", "net2wider"))), data.draw(st.booleans())
    for dtype, bound in BOUNDS.items():
        parent, child = parent.to(dtype), Net(larger).to(dtype)
        known = saved(parent) if from_file else {"parent": parent}
        result = inherit(child, **known, new_units=new_units)
        assert result.preserving, result.why_not
        assert accounted(result) == sorted(child.state_dict())
        outputs, expected, exact = outputs_of(child), outputs_of(parent), outputs_of(parent, torch.float64)
        for mode in (True, False):
            rounding = (expected[mode].double() - exact[mode]).abs().max().item()
            assert (outputs[mode] - expected[mode]).abs().max().item() <= max(bound, 4 * rounding)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_promised_of_any_two_networks_holds(data):
    parent = lived_in(Net(data.draw(specs())), seed=1).double()
    child = Net(data.draw(specs())).double()
    result = inherit(child, **saved(parent))
    assert accounted(result) == sorted(child.state_dict())
    if result.preserving:
        assert difference(child, parent, mode=True) <= 1e-11
        assert difference(child, parent, mode=False) <= 1e-11


def test_a_state_dict_alone_inherits_the_same_and_promises_nothing():
    parent, child, other = mlp(3, 4, 2), mlp(3, 6, 6, 2), mlp(3, 6, 6, 2)
    other.load_state_dict(child.state_dict())
    inherit(child, parent)
    assert inherit(other, parent.state_dict()).why_not == ("what lies between the parent's layers isn't known",)
    assert all(torch.equal(tensor, child.state_dict()[name]) for name, tensor in other.state_dict().items())


def mlp(*widths, act=nn.ReLU, norm=None):
    layers = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), *([norm(outputs)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def convs(*widths, kernel=3, size=4, classes=3):
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * size * size, classes))


def test_the_same_network_is_copied_with_its_buffers_and_shares_no_memory():
    parent, child = lived_in(mlp(3, 4, 2, norm=nn.BatchNorm1d), seed=2), mlp(3, 4, 2, norm=nn.BatchNorm1d)
    parameters = dict(child.named_parameters())
    before = copy.deepcopy(parent.state_dict())
    result = inherit(child, parent)
    assert list(result.copied) == list(child.state_dict())
    assert result.preserving
    assert all(torch.equal(child.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(child.get_parameter(name) is parameter for name, parameter in parameters.items())
    for tensor in child.state_dict().values():
        tensor.fill_(9)
    assert all(torch.equal(parent.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_wider_layer_holds_the_parents_slices_and_takes_nothing_from_new_units():
    parent, child = mlp(3, 4, 2), mlp(3, 6, 2)
    fresh = child[0].weight.detach().clone()
    result = inherit(child, parent)
    assert torch.equal(child[0].weight[:4], parent[0].weight)
    assert torch.equal(child[0].weight[4:], fresh[4:])
    assert torch.equal(child[2].weight[:, :4], parent[2].weight)
    assert (child[2].weight[:, 4:] == 0).all()
    assert result.sliced == ("0.weight", "0.bias", "2.weight")
    assert result.copied == ("2.bias",)


def test_net2wider_divides_what_is_taken_from_a_unit_among_its_copies():
    parent, child = mlp(3, 2, 2), mlp(3, 4, 2)
    inherit(child, parent, new_units="net2wider", seed=4)
    for unit in range(2):
        copies = [i for i in range(4) if torch.equal(child[0].weight[i], parent[0].weight[unit])]
        assert copies
        for i in copies:
            assert torch.allclose(child[2].weight[:, i], parent[2].weight[:, unit] / len(copies))


def test_a_spread_parts_copies_without_changing_what_is_computed():
    parent, child = mlp(3, 4, 2), mlp(3, 8, 2)
    result = inherit(child, parent, new_units="net2wider", spread=0.5)
    twins = [
        (i, j) for i in range(8) for j in range(i) if torch.equal(child[0].weight[i], child[0].weight[j])
    ]  # fmt: skip
    assert twins
    assert all(not torch.allclose(child[2].weight[:, i], child[2].weight[:, j]) for i, j in twins)
    assert result.preserving
    assert difference(child, parent, True, (5, 3)) < 1e-5


def test_flattened_maps_are_followed_channel_by_channel():
    parent, child = convs(2, 3), convs(2, 5)
    assert inherit(child, **saved(parent)).preserving
    old = child[3].weight.reshape(3, 5, 16)
    assert torch.equal(old[:, :3], parent[3].weight.reshape(3, 3, 16))
    assert (old[:, 3:] == 0).all()


def test_kernels_are_laid_centre_on_centre():
    parent, child, smaller = convs(2, 3), convs(2, 3, kernel=5), convs(2, 3, kernel=1)
    assert inherit(child, **saved(parent)).preserving
    assert torch.equal(child[0].weight[..., 1:4, 1:4], parent[0].weight)
    assert child[0].weight.count_nonzero() == parent[0].weight.count_nonzero()
    result = inherit(smaller, parent)
    assert (result.preserving, result.why_not) == (False, ("0 has a smaller kernel",))
    assert torch.equal(smaller[0].weight, parent[0].weight[..., 1:2, 1:2])


def test_a_larger_kernel_without_more_padding_is_not_said_to_preserve():
    parent = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    child = nn.Sequential(nn.Conv2d(2, 3, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    assert not inherit(child, parent).preserving


def test_grouped_channels_stay_in_their_group():
    def net(width):
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=2), nn.Conv2d(width, 2, 1)
        )

    parent, child = net(4), net(8)
    assert inherit(child, **saved(parent)).preserving
    assert torch.equal(child[0].weight[[0, 1, 4, 5]], parent[0].weight)
    assert difference(child, parent, True) < 1e-5


def test_a_dense_convolution_can_hold_a_grouped_one_but_not_the_other_way_round():
    def net(groups):
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=groups), nn.Conv2d(8, 2, 1))

    dense, grouped = net(1), net(4)
    result = inherit(dense, grouped)
    assert result.preserving, result.why_not
    assert difference(dense, grouped, True) < 1e-5
    assert inherit(net(4), net(1)).why_not == ("1 can't hold all of the parent's weights",)


def test_a_new_head_begins_fresh_while_the_body_is_inherited():
    parent, child = mlp(3, 4, 2), mlp(3, 4, 5)
    head = copy.deepcopy(child[2])
    result = inherit(child, parent)
    assert result.fresh == ("2.weight", "2.bias")
    assert result.copied == ("0.weight", "0.bias")
    assert torch.equal(child[2].weight, head.weight)
    assert result.why_not == ("2 gives 5 outputs, the parent's 2",)


def test_a_narrower_child_gets_slices_and_is_not_said_to_preserve():
    parent, child = mlp(3, 6, 2), mlp(3, 4, 2)
    result = inherit(child, parent)
    assert torch.equal(child[0].weight, parent[0].weight[:4])
    assert torch.equal(child[2].weight, parent[2].weight[:, :4])
    assert "6 channels were cut to 4" in result.why_not


def test_a_shallower_child_says_what_it_lost():
    parent, child = mlp(3, 4, 4, 2), mlp(3, 4, 2)
    result = inherit(child, parent)
    assert torch.equal(child[2].weight, parent[4].weight)
    assert result.unused == ("2.weight", "2.bias")
    assert "2 of the parent has no counterpart" in result.why_not


class Residual(nn.Module):
    """Named as in a ResNet."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(3)))
        self.fc = nn.Linear(width, 2)

    def forward(self, images):
        maps = self.bn1(self.conv1(images))
        return self.fc((maps + self.layer1(maps)).mean((2, 3)))


def mobile(width: int = 4) -> nn.Module:
    """Named as a MobileNet: its convolutions can be aligned with those of any other network."""
    layers = [nn.Conv2d(3, width, 3), nn.ReLU(), *(nn.Conv2d(width, width, 3) for _ in range(4))]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers, *pooled), classifier=nn.Linear(width, 2)))


def test_layers_of_another_family_stay_fresh():
    families = [
        (mlp(3, 4, 2), convs(2, 3)),
        (convs(2, 3), mlp(3, 4, 2)),
        (mobile(), Residual()),
        (Residual(), mobile()),
    ]
    for parent, child in families:
        fresh = copy.deepcopy(child.state_dict())
        result = inherit(child, parent.state_dict())
        assert list(result.fresh) == list(fresh)
        assert not result.preserving
        assert all(torch.equal(child.state_dict()[name], tensor) for name, tensor in fresh.items())


def test_a_network_of_one_family_inherits_by_other_names_widths_and_depths():
    wrapped = nn.Sequential(OrderedDict(body=Residual(8)))
    assert inherit(wrapped, Residual(6).state_dict()).sliced
    assert inherit(mobile(6), mobile(4).state_dict()).sliced
    renamed = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 6, 3), rest=nn.Conv2d(6, 6, 3), head=nn.Conv2d(6, 9, 1)))
    assert inherit(
        renamed, nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 2, 1)).state_dict()
    ).copied


def test_an_identity_is_only_promised_where_the_activation_allows():
    for act, allowed in ((nn.ReLU, True), (nn.ReLU6, True), (nn.Identity, True), (nn.Tanh, False), (nn.GELU, False)):
        parent, child = mlp(3, 4, 2, act=act), mlp(3, 4, 4, 2, act=act)
        result = inherit(child, parent)
        assert result.identity == ("2.weight", "2.bias")
        assert torch.equal(child[2].weight, torch.eye(4))
        assert result.preserving == allowed, (act, result.why_not)
        assert (difference(child, parent, True, (5, 3)) < 1e-5) == allowed


def test_a_new_batch_normalisation_in_line_is_the_identity_in_eval_mode_and_nearly_in_train_mode():
    torch.manual_seed(0)
    parent = mlp(6, 16, 4, norm=nn.BatchNorm1d)
    inputs = torch.randn(512, 6)
    for _ in range(200):
        parent(inputs)
    child = mlp(6, 16, 16, 4, norm=nn.BatchNorm1d)
    result = inherit(child, parent)
    assert result.why_not == ("4 (BatchNorm1d) is new and normalises in train mode",)
    assert difference(child, parent, False, (512, 6)) < 1e-5
    assert difference(child, parent, True, (512, 6)) < 0.1 * parent(inputs).abs().max()


def test_layer_normalisation_is_kept_by_multiples_and_otherwise_not_promised():
    def net(width):
        return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 2))

    parent = lived_in(net(4), seed=3)
    double, more = net(8), net(6)
    assert inherit(double, parent).preserving
    assert difference(double, parent, True, (5, 3)) < 1e-5
    halves = double[3].weight[:, 0::2], double[3].weight[:, 1::2]
    assert not torch.allclose(*halves)  # or the twins would learn the same for ever
    assert inherit(more, parent).why_not == ("1 (LayerNorm) normalises over new units too",)


def test_groups_that_stay_as_large_are_kept_where_their_number_grows():
    def net(width, groups):
        return nn.Sequential(nn.Conv2d(3, width, 1), nn.GroupNorm(groups, width), nn.Conv2d(width, 2, 1))

    parent, child = lived_in(net(4, 1), seed=3), net(8, 2)
    assert inherit(child, **saved(parent)).preserving
    assert difference(child, parent, True) < 1e-5


def test_a_parent_with_other_activations_pooling_or_strides_is_found_out():
    parent = convs(2, 3)
    others = [copy.deepcopy(parent) for _ in range(3)]
    others[0][1] = nn.Tanh()
    others[1][1] = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1))
    others[2][0] = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
    for child in others:
        assert inherit(child, parent).why_not == (
            "what lies between the layers differs: activations, pooling, strides, padding or joins",
        )


class Untraceable(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, values):
        return self.last(self.first(values).relu() if values.sum() > 0 else self.first(values))


def test_a_network_that_cannot_be_traced_inherits_in_the_order_of_its_layers_without_a_promise():
    parent, child = Untraceable(4), Untraceable(6)
    result = inherit(child, parent)
    assert torch.equal(child.first.weight[:4], parent.first.weight)
    assert torch.equal(child.last.weight[:, :4], parent.last.weight)
    assert result.why_not == ("Untraceable cannot be traced: its control flow depends on its inputs",)


class Guarded(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = mlp(3, width, 2)

    def forward(self, values):
        if values.shape[1:] != (3,):
            raise ValueError(f"values of shape {tuple(values.shape)}")
        self.seen = values
        return self.net(values)


def test_a_check_of_the_inputs_is_followed_and_nothing_of_the_tracing_stays_behind():
    parent, child = Guarded(4), Guarded(6)
    attributes = set(vars(child))
    assert inherit(child, **saved(parent)).preserving
    assert set(vars(child)) == attributes
    assert all("forward" not in vars(module) for module in child.modules())
    assert difference(child, parent, True, (5, 3)) < 1e-5


class Scaled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1)
        self.scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, values):
        return self.last(self.conv(values) * self.scale)


def test_loose_parameters_follow_the_channels_they_scale():
    parent, child = Scaled(4), Scaled(6)
    result = inherit(child, **saved(parent))
    assert result.preserving, result.why_not
    assert torch.equal(child.scale[:4], parent.scale)
    assert difference(child, parent, True) < 1e-5


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.words, self.out = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, words):
        return self.out(self.words(words))


def test_tied_weights_stay_tied_and_promise_nothing_where_they_are_to_be_two_things():
    parent, child, wider = Tied(4), Tied(4), Tied(6)
    assert inherit(child, parent).preserving
    assert child.out.weight is child.words.weight
    assert torch.equal(child.out.weight, parent.out.weight)
    result = inherit(wider, parent)
    assert wider.out.weight is wider.words.weight
    assert result.why_not == ("out.weight is tied to another tensor, which asks for other values",)
    assert not result.preserving


class Shared(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.again = self.middle

    def forward(self, values):
        return self.last(self.again(self.middle(self.first(values)).relu()).relu())


@pytest.mark.parametrize("as_state", [True, False])
def test_a_shared_module_is_one_layer(as_state):
    parent, child = Shared(4), Shared(6)
    result = inherit(child, **(saved(parent) if as_state else {"parent": parent}))
    assert result.preserving, result.why_not
    assert difference(child, parent, True, (5, 3)) < 1e-5


def test_prefixes_of_compiled_and_distributed_modules_do_not_matter():
    parent = mlp(3, 4, 2)
    compiled = torch.compile(mlp(3, 6, 2))  # never called, so nothing is compiled
    state = {f"module._orig_mod.{name}": tensor for name, tensor in parent.state_dict().items()}
    result = inherit(compiled, state, structure=structure_of(torch.compile(parent)))
    assert result.sliced == ("0.weight", "0.bias", "2.weight")
    assert result.preserving


def test_a_part_that_is_compiled_is_looked_into():
    class Wrapped(nn.Module):
        def __init__(self, width, compiled):
            super().__init__()
            self.first, self.net = nn.Linear(3, 3), mlp(3, width, 2)
            if compiled == "in place":
                self.net.compile()
            elif compiled:
                self.net = torch.compile(self.net)

        def forward(self, values):
            return self.net(self.first(values))

    for compiled in ("in place", "wrapped"):
        parent, child = Wrapped(4, compiled), Wrapped(6, compiled)
        called = child.net._compiled_call_impl
        result = inherit(child, **saved(parent))
        assert result.preserving, result.why_not
        assert result.sliced == ("net.0.weight", "net.0.bias", "net.2.weight")
        assert child.net._compiled_call_impl is called


def test_lazy_parameters_are_refused_by_name():
    with pytest.raises(ValueError, match=r"child: 0\.weight is lazy and has no shape yet"):
        inherit(nn.Sequential(nn.LazyLinear(4)), mlp(3, 4))


def test_weights_keep_the_childs_precision():
    parent, child = mlp(3, 4, 2).double(), mlp(3, 6, 2).to(torch.bfloat16)
    inherit(child, parent)
    assert child[0].weight.dtype == torch.bfloat16
    assert torch.equal(child[0].weight[:4], parent[0].weight.to(torch.bfloat16))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="new_units: 'copy' is not 'zero' or 'net2wider'"):
        inherit(mlp(3, 4, 2), mlp(3, 4, 2), new_units="copy")
    with pytest.raises(ValueError, match=r"spread: -1 is not in \[0, 1\)"):
        inherit(mlp(3, 4, 2), mlp(3, 4, 2), spread=-1)
