"""How well is an architecture's accuracy predicted, after training how many others?

    python benchmarks/predictor.py [--data digits|fashion_mnist] [--models 500] [--directory DIR] [--json PATH] [--plot PATH]

First a harvest: random templates, each really trained for a few short epochs by an ordinary search (`RandomSearch`), two
at a time on one thread each. It is kept in `--directory`, where the same command continues it, or only evaluates it again.
Then every predictor learns from 25, 50, ... of the models and is judged on those that the largest sample leaves, never
fewer than 100; five times over, each time with other models held out. `size` is a forest that sees parameters and FLOPs
alone. Goals: R² above 0.8 with at most 400 models, and Kendall's τ at 50 models at least 0.10 above that of size, of
FLOPs and of parameters, whichever is best.

`--again N` trains N of the models once more with other seeds: how much of the accuracy is luck bounds what any predictor
can reach (the reliability, the correlation between both trainings, is the highest R² there is). `digits` are
scikit-learn's 1,797 images, `fashion_mnist` 6,000 images of `--images`, 5,000 of them to train on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.genome import Layers

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_IMAGES = ROOT.parent / "shared" / "data" / "images" / "fashion_mnist.npz"
GENE = "model.init_args.layers"
GOAL_R2, GOAL_TAU, TEST = 0.8, 0.10, 100

RANGES: dict[str, Any] = {"num_classes": 10, "max_conv": 5, "max_linear": 3, "max_layers": 30, "max_features": 1024}
SPACES = {
    "digits": {**RANGES, "channels": [8, 16, 32, 64], "kernels": [1, 3, 5], "widths": [32, 64, 128, 256]},
    "fashion_mnist": {**RANGES, "channels": [8, 16, 32], "kernels": [1, 3, 5], "widths": [32, 64, 128, 256]},
}
SIDES = {"digits": 8, "fashion_mnist": 28}


def harvest(data: str, models: int, directory: Path, images: Path, epochs: int, seed: int) -> None:
    """Train random templates until there are ``models``; continues what the directory holds."""
    side = SIDES[data]
    config = {
        "model": {
            "class_path": "lightning_evo.models.TemplateNet",
            "init_args": {"input_shape": [1, side, side], "num_classes": 10, "lr": 3e-3, "schedule": "onecycle"},
        },
        "data": {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": 32}}
        if data == "digits"
        else {
            "class_path": "lightning_evo.data.NpzImages",
            "init_args": {
                "path": str(images.resolve()),
                "batch_size": 64,
                "limit_train": 5000,
                "limit_validation": 1000,
            },
        },
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_model_summary": False},
    }
    Evolution(
        config=config,
        space={GENE: Layers(input_shape=[1, side, side], **SPACES[data])},
        algorithm=RandomSearch(),
        objectives=[Objective("val_acc", "max")],
        budget=Budget(candidates=models),
        workers=Workers(slots=2, threads=1),
        directory=directory,
        seed=seed,
        keep_checkpoints=0,
        final=None,
    ).run()
