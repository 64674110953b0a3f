"""Projects that import ``pytorch_lightning`` are searched as they are."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import warm
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from lightning_evo import Archive

TESTS = Path(__file__).parents[1]
CONFIG = """
model: {class_path: other_lightning.Net}
data: {class_path: other_lightning.Data}
trainer:
  accelerator: cpu
  max_epochs: 1
  callbacks: [{class_path: other_lightning.Note}, {class_path: pytorch_lightning.callbacks.LearningRateMonitor}]
evolution:
  space: {model.init_args.width: [2, 4]}
  objectives: [{monitor: val_loss, mode: min}]
  budget: {candidates: 1}
  directory: run
"""


def run(folder, *command):
    (folder / "config.yaml").write_text(CONFIG)
    paths = os.pathsep.join([str(folder), str(TESTS / "cli"), str(TESTS), str(TESTS.parent)])
    return warm.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("pytorch_lightning", "lightning.pytorch"),
        ("pytorch_lightning.callbacks.early_stopping", "lightning.pytorch.callbacks.early_stopping"),
        ("pytorch_lightning.utilities.types", "lightning.pytorch.utilities.types"),
        ("lightning_fabric.plugins.precision", "lightning.fabric.plugins.precision"),
    ],
)
def test_modules_of_the_other_lightning_are_those_of_lightning(name, ours):
    module = importlib.import_module(name)
    assert module is importlib.import_module(ours)
    assert module.__spec__.name == module.__name__ == ours


def test_what_is_in_neither_is_not_found_and_what_is_pickled_is_found():
    assert find_spec("pytorch_lightning.no_such_module") is None
    with pytest.raises(ModuleNotFoundError, match=r"pytorch_lightning\.no_such_module"):
        importlib.import_module("pytorch_lightning.no_such_module")
    assert importlib.import_module("pytorch_lightning.cli").LightningCLI is LightningCLI
    assert pickle.loads(b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n.") is ModelCheckpoint


def test_a_project_of_the_other_lightning_is_searched(tmp_path):
    done = run(tmp_path, "-c", "from lightning_evo.cli import main; main()", "fit", "--config", "config.yaml")
    assert done.returncode == 0, done.stderr
    with Archive(tmp_path / "run") as archive:
        assert archive.counts()["completed"] == 1
    plain = (
        "import torch; print(torch.load('run/final/model.ckpt', weights_only=True)['hyper_parameters']['width'] > 1)"
    )
    assert run(tmp_path, "-c", plain).stdout == "True\n"


@pytest.mark.parametrize("given", ["", "Net, Data"])
def test_where_it_was_imported_before_the_way_out_is_named(given, tmp_path):
    script = f"""
import pytorch_lightning
from other_lightning import Data, Net
from lightning_evo import EvolutionCLI

if __name__ == "__main__":
    EvolutionCLI({given})
"""
    (tmp_path / "script.py").write_text(script)
    done = run(tmp_path, "script.py", "fit", "--config", "config.yaml")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "import lightning_evo first, or write `import lightning.pytorch as pl`" in done.stderr.splitlines()[-1]
