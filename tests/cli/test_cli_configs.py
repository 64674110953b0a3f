"""Every config that ships is run: its own models, data, space and algorithm, on a small budget."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import run

from lightning_evo import Archive
from lightning_evo.callbacks.growth.loading import load_grown
from lightning_evo.cli import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
SEARCHES = [name for name in CONFIGS if "evolution" in yaml.safe_load((ROOT / "configs" / name).read_text())]
MODELS = {name: yaml.safe_load((ROOT / "configs" / name).read_text())["model"]["class_path"] for name in SEARCHES}
TRACED = {model: name for name, model in reversed(MODELS.items())}.values()
"""The first config of each model: whether its network can be traced doesn't depend on the search."""
FITS = [name for name in CONFIGS if name not in SEARCHES]
GROWING = {"growth_digits.yaml": (30, 778), "growth_cifar10.yaml": (20, 78_090)}
"""Epochs in which they grow, and parameters before."""

BUDGET = ["--evolution.budget.candidates=3", "--evolution.workers.slots=2", "--trainer.max_epochs=1"]

# The networks for a GPU, narrow enough for a CPU.
NARROW = ["--model.init_args.widths=[4, 4, 8, 8]", "--model.init_args.max_width=16", "--model.init_args.head=[16]"]


def pictures(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def raw_files(root: Path, name: str) -> list[str]:
    """The raw files of MNIST or Fashion-MNIST, with noise for pictures."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 300), ("t10k", 100)):
        images, labels = pictures(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        header = struct.pack(">HBBIII", 0, 0x08, 3, count, 28, 28)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 0x08, 1, count) + labels.tobytes())
        for name in (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"):
            (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    return [f"--data.root={root}", "--data.download=false"]


def fashion_mnist(root: Path) -> list[str]:
    return [*raw_files(root, "FashionMNIST"), *NARROW]


def fashion_mnist_templates(root: Path) -> list[str]:
    return raw_files(root, "FashionMNIST")


def mnist(root: Path) -> list[str]:
    return raw_files(root, "MNIST")


def cifar10(root: Path, train: int = 300, test: int = 100) -> list[str]:
    """torchvision checks CIFAR-10's checksums, so noise of that shape comes as arrays."""
    for name, count in (("train", train), ("test", test)):
        np.savez(root / f"{name}.npz", x=pictures(count, 32, 32, 3), y=np.arange(count) % 10)
    data = {
        "class_path": "NpzImages",
        "init_args": {"path": str(root / "train.npz"), "test_path": str(root / "test.npz")},
    }
    data["init_args"] |= {"crop_padding": 4, "flip": True, "resident": True}
    (root / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    return ["--config", str(root / "data.yaml")]


def cifar10_few(root: Path) -> list[str]:
    """For as many epochs as it takes a network of that size to grow."""
    return cifar10(root, 80, 20)


def cifar10_narrow(root: Path) -> list[str]:
    return [*cifar10(root), "--trainer.precision=32-true", *NARROW]


DATA = {
    "fashion_mnist.yaml": fashion_mnist,
    "cifar10.yaml": cifar10_narrow,
    "growth_cifar10.yaml": cifar10_few,
    "templates_fashion_mnist.yaml": fashion_mnist_templates,
    "swarm_mnist.yaml": mnist,
}


# What can't be seen in one epoch.
LONGER = {
    "early_stopping.yaml": ["--trainer.max_epochs=4"],
    "inheritance.yaml": ["--trainer.max_epochs=4", "--evolution.budget.candidates=6"],
    # The first candidates haven't grown; their children have.
    "growth_search.yaml": ["--evolution.budget.candidates=18"],
    # A swarm is trained whole or not at all.
    "swarm_digits.yaml": ["--evolution.budget.candidates=8"],
    "swarm_mnist.yaml": ["--evolution.budget.candidates=12"],
    "pbt.yaml": ["--trainer.max_epochs=3", "--evolution.budget.candidates=6"],
}


def search(arguments: list[str], directory: Path) -> Archive:
    main(["fit", *arguments, f"--evolution.directory={directory}"])
    archive = Archive(directory)
    failed = archive.candidates(status="failed")
    assert not failed, [archive.result(row["id"]).error for row in failed]
    assert sum(archive.counts().values()) >= 3
    assert archive.counts()["pending"] == 0
    return archive


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_config_that_ships_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples" / "own_model")
    monkeypatch.chdir(tmp_path)
    data = DATA.get(name)
    retrains = "final" in yaml.safe_load((ROOT / "configs" / name).read_text())["evolution"]
    final = ["--evolution.final.overrides={'trainer.max_epochs': 1}"] if retrains else []
    more = data(tmp_path) if data else []
    arguments = ["--config", str(ROOT / "configs" / name), *more, *BUDGET, *LONGER.get(name, []), *final]
    archive = search(arguments, tmp_path / "run")
    assert "test_acc" in archive.meta["final"]["metrics"]
    main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "best"), *["--torch-export"] * (name in TRACED)])
    expected = {"config.yaml", "model.ckpt", *["model.pt2"] * (name in TRACED)}
    if name == "pbt.yaml":
        expected |= {"schedule.yaml", "replay.yaml"}
    if name == "growth_search.yaml":
        grown = {id: steps for id, steps in archive.extras("growth").items() if steps}
        assert grown
        (best,) = archive.best(1)
        if any(step["operation"] != "widen" for step in grown.get(best["id"], [])):
            expected |= {"grown.yaml"}
    assert {path.name for path in (tmp_path / "best").iterdir()} == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FITS if name not in GROWING])
def test_a_config_that_ships_without_a_search_fits(name, tmp_path):
    fit(name, tmp_path, epochs=1)
    assert list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWING)
def test_a_config_of_growth_grows_and_what_it_leaves_opens_without_it(name, tmp_path):
    epochs, parameters = GROWING[name]
    # Beside the best, the last epoch's. Noise teaches nothing: accuracy and entropy are as steady as can be.
    saving = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename=end"]
    said = fit(name, tmp_path, epochs, *saving)
    assert f", {parameters:,} -> " in said
    (end,) = tmp_path.rglob("end.ckpt")
    module = load_grown(end)
    assert sum(p.numel() for p in module.parameters()) > parameters
    fit(name, tmp_path, epochs + 1, f"--ckpt_path={end}", *saving)  # and goes on


def fit(name: str, directory: Path, epochs: int, *more: str) -> str:
    """Run a config in a process of its own; what trains in several processes runs its command line again in each."""
    data = DATA.get(name)
    arguments = ["--config", str(ROOT / "configs" / name), *(data(directory) if data else []), *more]
    done = run("fit", *arguments, f"--trainer.max_epochs={epochs}", cwd=directory)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_every_config_is_covered():
    assert {"digits.yaml", "fashion_mnist.yaml", "cifar10.yaml", "hyperparameters.yaml", "pareto.yaml"} <= set(CONFIGS)
    assert {"templates_digits.yaml", "templates_fashion_mnist.yaml"} <= set(CONFIGS)
    assert {"swarm_digits.yaml", "swarm_mnist.yaml", "growth_search.yaml"} <= set(SEARCHES)
    assert {"growth_digits.yaml", "growth_cifar10.yaml"} <= set(FITS)
    assert set(LONGER) <= set(CONFIGS)
