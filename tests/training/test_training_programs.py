"""What somebody else's program makes is found out by running it as far as its LightningCLI."""

from __future__ import annotations

import sys

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from own_clis import LibraryCLI

from lightning_evo.training import Blueprint
from lightning_evo.training.programs import Program, ProgramError
from toys import ToyData, ToyNet

SCRIPT = """
from lightning.pytorch.cli import LightningCLI
from toys import ToyData, ToyNet

class Net(ToyNet):
    pass

def cli_main():
    LightningCLI(Net, ToyData, trainer_defaults={"max_epochs": 3})

GUARD
"""


@pytest.fixture(autouse=True)
def precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", ["own_clis:main", "own_clis:main_not_run"])
def test_a_function_says_which_cli_it_makes(name):
    made = Program(name, ("fit",)).made
    assert made.cli_class is LightningCLI
    assert made.arguments["model_class"] is ToyNet
    assert made.runs == (name == "own_clis:main")
    assert LightningCLI.__init__.__module__ == "lightning.pytorch.cli"
    assert Blueprint(program=Program("own_clis:main")).resolve({})["trainer"]["max_epochs"] == 1


def test_a_class_is_one_too():
    assert Program("own_clis:LibraryCLI").made.cli_class is LibraryCLI


@pytest.mark.parametrize(
    ("guard", "call"), [("if __name__ == '__main__': cli_main()", ""), ("cli_main()", ""), ("", ":cli_main")]
)
def test_a_script_is_run_and_its_classes_are_found_by_other_processes(guard, call, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"script_{abs(hash((guard, call)))}"
    path = tmp_path / f"{name}.py"
    path.write_text(SCRIPT.replace("GUARD", guard))
    main = sys.modules["__main__"]
    made = Program(f"{path}{call}", ("fit",)).made
    assert sys.modules["__main__"] is main
    assert made.arguments["model_class"].__module__ == name
    assert made.arguments["datamodule_class"] is ToyData
    assert Blueprint(program=Program(f"{path}{call}")).resolve({})["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_clis:main_without", "made no LightningCLI"),
        ("own_clis:main_with_arguments", "is called without arguments, but"),
        ("own_clis:nothing", "nothing"),
        ("own_clis:DEFAULT", "neither a function nor a class"),
        ("nowhere.py", "there is no such file"),
        ("no.such.module", "no script (.py), module, module:function or installed command"),
        ("no.such:main", "No module named 'no'"),
    ],
)
def test_what_makes_none_is_named(name, expected):
    with pytest.raises(ProgramError) as error:
        Program(name).made  # noqa: B018 - a property that runs it
    assert str(error.value).startswith(f"{name}: ")
    assert expected in str(error.value)
