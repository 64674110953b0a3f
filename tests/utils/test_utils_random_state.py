"""Random states are put back, whatever happens inside, and a seed decides what is drawn."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy
import pytest
import torch
from torch import nn

from lightning_evo.utils.random_state import preserved_random_state
from lightning_evo.utils.random_state_torch import isolated_random_state


def drawn() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def seed_all(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.parametrize("raises", [False, True])
def test_python_and_numpy_go_on_as_if_nothing_was_drawn(raises):
    seed_all(1)
    expected = drawn()
    seed_all(1)
    try:
        with preserved_random_state():
            seed_all(2)
            torch.manual_seed(1)
            if raises:
                raise RuntimeError
    except RuntimeError:
        pass
    assert drawn() == expected


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"seed": 5}, {"devices": ()}, {"seed": 5, "devices": nn.Linear(1, 1)}])
def test_all_three_go_on_as_if_nothing_was_drawn(raises, arguments):
    seed_all(1)
    expected = drawn()
    seed_all(1)
    try:
        with isolated_random_state(**arguments):
            drawn()
            seed_all(2)
            if raises:
                raise RuntimeError
    except RuntimeError:
        pass
    assert drawn() == expected


def test_a_seed_decides_torchs_numbers_alone():
    seed_all(1)
    expected = random.random(), float(numpy.random.rand())
    seed_all(1)
    with isolated_random_state(seed=7):
        first = torch.rand(3)
        assert (random.random(), float(numpy.random.rand())) == expected
    torch.manual_seed(7)
    assert torch.equal(first, torch.rand(3))


def test_without_a_seed_the_numbers_are_those_that_would_have_come():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with isolated_random_state():
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("devices", [None, [torch.device("cuda", 0)], "module"])
def test_cuda_states_are_isolated_where_asked(devices):
    net = nn.Linear(1, 1, device="cuda") if devices == "module" else devices
    torch.cuda.manual_seed(1)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed(1)
    with isolated_random_state(seed=4, devices=net):
        seeded = torch.rand(2, device="cuda")
    assert torch.equal(torch.rand(2, device="cuda"), expected)
    torch.cuda.manual_seed(4)
    assert torch.equal(torch.rand(2, device="cuda"), seeded)


def test_the_part_for_rooms_without_torch_imports_none():
    modules = "files", "imports", "lazy", "random_state"
    code = "\n".join(f"import lightning_evo.utils.{module}" for module in modules)
    code += "\nimport sys\nassert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
