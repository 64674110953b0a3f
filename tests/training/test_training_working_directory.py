"""Candidates in their own working directories find what the config's relative paths mean, and write apart."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_evo.genome import Candidate, Genome, Objective
from lightning_evo.training import Blueprint, FunctionTrainable, TrainingRequest, train_candidate
from lightning_evo.training.blueprint import load_yaml
from lightning_evo.training.final import finish_candidate
from lightning_evo.training.hydra import HydraBlueprint
from lightning_evo.training.stacks import Member, train_stack
from lightning_evo.training.working_directory import anchored, working_in
from toys import ToyData, ToyNet


class OnDisk(ToyData):
    """Reads files by relative paths, at different times."""

    def __init__(
        self, root: str, labels: Path, listing: str, kind: str = "files", splits: list[str] | None = None
    ) -> None:
        super().__init__()
        self.root, self.labels, self.splits, self.kind = root, labels, splits or [], kind
        assert Path(listing).read_text() == "listing"

    def prepare_data(self):
        os.makedirs(self.root, exist_ok=True)

    def setup(self, stage):
        assert Path(self.labels).read_text() == "labels"
        assert all(Path(split).exists() for split in self.splits)
        assert self.kind == "files"


class Writing(ToyNet):
    """Writes to its working directory."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr=lr)

    def on_train_end(self):
        with open("predictions.csv", "x") as file:
            file.write(str(self.lr))

    def on_test_end(self):
        Path("tested.csv").touch()


def write_place(genome, seed, directory):
    with open("place.txt", "x") as file:
        file.write(directory)
    return {"value": genome["x"]}


@pytest.fixture
def whole(config, tmp_path, monkeypatch):
    """A config in which relative paths lead to files of the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"labels": "labels", "in/list.txt": "listing", "files": "", "in/a": "", "in/b": ""}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    paths = {"root": "made/later", "labels": "labels", "listing": "in/list.txt", "splits": ["in/a", "in/b"]}
    config["model"] = {"class_path": f"{__name__}.Writing"}
    config["data"] = {"class_path": f"{__name__}.OnDisk", "init_args": paths}
    config["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    return Blueprint().resolve({"seed_everything": 3, **config})


def request_for(directory: Path, **changes):
    return TrainingRequest(str(directory), [Objective("val_acc")], chdir=True, **changes)


def test_a_candidate_and_its_test_write_into_their_directory_and_read_where_the_config_says(whole, tmp_path):
    first, second = (tmp_path / "net" / "candidates" / f"{id:06d}" for id in range(2))
    for directory in (first, second):
        result = train_candidate(Blueprint(), whole, request_for(directory))
        assert result.status == "completed", result.error
        assert (directory / "predictions.csv").exists()
        assert load_yaml((directory / "config.yaml").read_text())["data"]["init_args"]["listing"] == "in/list.txt"
    final = request_for(tmp_path / "net" / "final", trusted=True)
    Path(final.directory).mkdir()
    tested = finish_candidate(Blueprint(), whole, final, str(first / "checkpoint.ckpt"), test=True)
    assert "test_acc" in tested.metrics, tested.error
    assert (tmp_path / "net" / "final" / "tested.csv").exists()
    assert Path.cwd() == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {"files", "in", "labels", "logs", "made", "net"}
    assert {path.name for path in (tmp_path / "logs" / "lightning_logs").iterdir()} == {
        "net-000000",
        "net-000001",
        "net-final",
    }


def test_a_stack_writes_into_its_own(whole, tmp_path):
    whole["model"]["class_path"] = "toys.ToyNet"
    members = [
        Member(id, {**whole, "seed_everything": id}, str(tmp_path / "net" / "candidates" / f"{id:06d}"))
        for id in (0, 1)
    ]
    request = request_for(tmp_path / "net" / "stacks" / "000000", data_seed=1)
    result = train_stack(Blueprint(), members, request, lambda directory, text: None)
    assert result.status == "completed", result.error
    assert (tmp_path / "made").is_dir()
    assert Path.cwd() == tmp_path


def test_a_function_writes_into_its_own(tmp_path):
    for id in range(2):
        directory = tmp_path / f"{id:06d}"
        candidate = Candidate(id, Genome({"x": 0.5}), seed=id)
        request = replace(request_for(directory), objectives=[Objective("value")])
        task = FunctionTrainable(write_place).task(candidate, request)
        result = task.function(**task.arguments)
        assert result.status == "completed", result.error
        assert (directory / "place.txt").read_text() == str(directory)


def test_what_is_no_path_stays(config):
    config["trainer"]["callbacks"] = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "best", "monitor": "val_acc", "dirpath": "s3://bucket/there"},
    }
    whole = Blueprint().resolve(config)
    assert anchored(Blueprint(), whole, "/launched/here") == whole
    composed = {"paths": {"root_dir": "${oc.env:PROJECT_ROOT}"}, "data": {"data_dir": "${paths.root_dir}/data"}}
    assert anchored(HydraBlueprint(), composed, "/launched/here") == composed


@pytest.mark.parametrize(
    ("value", "expected"),
    [("sqlite:///mlflow.db", "sqlite:////here/mlflow.db"), ("file:./mlruns", "file:/here/mlruns")],
)
def test_urls_of_files_are_paths_too(config, value, expected):
    config["trainer"]["logger"] = {"class_path": "MLFlowLogger", "init_args": {"tracking_uri": value}}
    changed = anchored(Blueprint(), Blueprint().resolve(config), "/here")["trainer"]["logger"]["init_args"]
    assert changed["tracking_uri"] == expected
    assert changed["save_dir"] == "/here/mlruns"


def test_threads_are_refused(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def enter():
        with working_in(str(tmp_path)):
            pass

    with ThreadPoolExecutor(1) as threads, pytest.raises(RuntimeError, match=r"workers\.chdir: candidates in threads"):
        threads.submit(enter).result()
