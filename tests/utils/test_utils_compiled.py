"""Modules under ``torch.compile`` are recognized, and their names are those without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_evo.utils.compiled import eagerly, is_compiled, original_module, plain_name


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1)))


def test_names_of_a_compiled_module_are_those_of_the_original(net):
    names = list(net.state_dict())
    net[1] = torch.compile(net[1], backend="eager")
    whole = torch.compile(net, backend="eager")
    assert list(whole.state_dict()) != names
    assert [plain_name(name) for name in whole.state_dict()] == names
    plain = {plain_name(name) for name, _ in whole.named_modules()}
    assert plain == {"", "0", "1", "1.0"}


def test_names_that_only_look_alike_stay():
    assert plain_name("my_orig_mod.weight") == "my_orig_mod.weight"
    assert plain_name("layers.0.weight") == "layers.0.weight"
    assert plain_name("<built-in function add>") == "<built-in function add>"


def test_a_wrapper_gives_the_module_inside(net):
    assert original_module(torch.compile(net, backend="eager")) is net
    assert original_module(net) is None


def test_both_ways_of_compiling_are_recognised(net):
    assert not is_compiled(net)
    assert is_compiled(torch.compile(net, backend="eager"))
    assert not is_compiled(net)
    net[1].compile(backend="eager")
    assert is_compiled(net[1])
    assert not is_compiled(net)


def test_blocks_without_compiled_code_may_overlap_in_any_order():
    ran = []

    def backend(graph, _inputs):
        return lambda *inputs: ran.append("compiled") or graph(*inputs)

    compiled = torch.compile(lambda x: x + 1, backend=backend)
    one, other = eagerly(), eagerly()
    with one:
        other.__enter__()
        compiled(torch.ones(2))
    compiled(torch.ones(2))
    other.__exit__(None, None, None)
    assert ran == []
    compiled(torch.ones(2))
    assert ran == ["compiled"]
