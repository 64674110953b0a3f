"""What training one candidate gives, and what it leaves behind."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_evo.archive.shared_results import SharedResult, SharedResultsWriter
from lightning_evo.callbacks import EarlyFitnessPrediction
from lightning_evo.callbacks.search import SearchContext
from lightning_evo.genome import Objective
from lightning_evo.training import Blueprint, TrainingRequest, train_candidate
from lightning_evo.training.blueprint import load_yaml
from lightning_evo.training.candidate import COSTS, read_curve
from lightning_evo.training.distributed import train_candidate_distributed
from toys import ToyNet

ACCURACY = Objective("val_acc")


def train(config, tmp_path, *objectives, function=train_candidate, **arguments):
    complete = Blueprint().resolve({"seed_everything": 7, **config})
    settings = {"objectives": objectives or (ACCURACY,), "directory": str(tmp_path)} | arguments
    return function(Blueprint(), complete, TrainingRequest(**settings))


def test_a_candidate_becomes_a_completed_result(config, tmp_path):
    result = train(config, tmp_path)
    assert result.status == "completed"
    assert result.fitness == (max(point["val_acc"] for point in result.curve),)
    assert [point["epoch"] for point in result.curve] == [0, 1]
    assert set(result.cost) == set(COSTS)
    assert result.cost["epochs"] == 2
    assert (tmp_path / result.checkpoint).stat().st_size == result.checkpoint_bytes


def test_its_directory_holds_config_curve_and_checkpoint(config, tmp_path):
    result = train(config, tmp_path)
    assert load_yaml((tmp_path / "config.yaml").read_text())["model"]["init_args"]["width"] == 4
    assert tuple(read_curve(tmp_path)) == result.curve
    model = ToyNet.load_from_checkpoint(tmp_path / "checkpoint.ckpt")
    assert model.hparams.width == 4


@pytest.mark.parametrize("strategy", ["ddp", "swarm"])
def test_on_one_device_a_strategy_of_several_processes_is_left_out(config, tmp_path, strategy):
    result = train({**config, "trainer": {**config["trainer"], "strategy": strategy}}, tmp_path)
    assert result.status == "completed", result.error
    assert result.fitness == train(config, tmp_path / "ordinary").fitness


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(config, tmp_path):
    weights = []
    for directory, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(config | {"seed_everything": seed}, tmp_path / directory)
        weights.append(torch.load(tmp_path / directory / "checkpoint.ckpt", weights_only=True)["state_dict"])
    first, again, other = ({k: v.tolist() for k, v in w.items()} for w in weights)
    assert first == again != other


def test_random_state_and_environment_are_left_as_they_were(config, tmp_path):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    environment = dict(os.environ)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    train(config, tmp_path)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert dict(os.environ) == environment


def test_costs_are_objectives_like_any_other(config, tmp_path):
    result = train(config, tmp_path, Objective("cost/params", "min"), ACCURACY)
    assert result.fitness == (2 * 4 + 4 + 4 * 2 + 2, result.metrics["val_acc"])


def test_all_objectives_are_read_at_the_same_epoch(config, tmp_path):
    result = train(config, tmp_path, ACCURACY, Objective("val_loss", "min"), fitness_epoch="last")
    last = result.curve[-1]
    assert result.fitness == (last["val_acc"], last["val_loss"])


@pytest.mark.parametrize(
    ("misbehave", "error_type", "fatal"),
    [
        ("crash", "RuntimeError: this model always crashes", False),
        ("nan", "ArithmeticError: val_acc is nan at the best evaluation", False),
        ("out-of-memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("full", "OSError: [Errno 28] No space left on device", True),
    ],
)
def test_a_model_that_misbehaves_is_a_failed_candidate_with_its_traceback(
    misbehave, error_type, fatal, config, tmp_path
):
    config["model"]["init_args"]["misbehave"] = misbehave
    result = train(config, tmp_path)
    assert (result.status, result.fitness) == ("failed", None)
    assert (result.error_type, result.fatal) == (error_type, fatal)
    if misbehave != "nan":
        assert "Traceback" in result.error
        assert "toys.py" in result.error


def test_a_failure_keeps_the_curve_so_far(config, tmp_path):
    result = train(config, tmp_path, Objective("val_accuracy"))
    assert result.status == "failed"
    assert "module logs train_loss, val_acc, val_loss" in result.error
    assert len(result.curve) == 2


def test_a_result_is_plain_data(config, tmp_path):
    json.dumps(train(config, tmp_path).to_dict())


def test_the_callers_logger_stays_but_none_is_made_up(config, tmp_path):
    train(config, tmp_path / "none")
    assert not (tmp_path / "none" / "lightning_logs").exists()
    config["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path / "own")},
    }
    train(config, tmp_path / "some")
    assert list((tmp_path / "own").rglob("metrics.csv"))


def test_precision_compile_and_clipping_are_ordinary_options(config, tmp_path):
    config["trainer"] |= {"precision": "bf16-mixed", "gradient_clip_val": 0.5}
    assert train(config, tmp_path).status == "completed"


def test_a_curve_cut_off_by_a_kill_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / "curve.jsonl").write_text('{"epoch": 0, "val_acc": 0.5}\n{"epoch": 1, "val_')
    assert read_curve(tmp_path) == [{"epoch": 0, "val_acc": 0.5}]


@pytest.mark.parametrize("line", ["3", "[]", '{"val_acc": "high"}', '{"val_acc": [0.5]}', "[" * 50_000])
def test_a_line_of_a_curve_that_is_json_but_no_point_ends_it(tmp_path, line):
    (tmp_path / "curve.jsonl").write_text(f'{{"epoch": 0, "val_acc": 0.5}}\n{line}\n')
    assert read_curve(tmp_path) == [{"epoch": 0, "val_acc": 0.5}]


@pytest.mark.slow
def test_two_devices_train_one_candidate_together(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = {"ModelCheckpoint": {"dirpath": "elsewhere"}, "TQDMProgressBar": {}, "LearningRateMonitor": {}}
    config["trainer"]["callbacks"] = [
        {"class_path": f"lightning.pytorch.callbacks.{kind}", "init_args": arguments}
        for kind, arguments in kinds.items()
    ]
    config["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}
    own = tmp_path / "net" / "candidates" / "000000"
    asked = {"function": train_candidate_distributed, "devices": 2, "fitness_epoch": "last", "chdir": True}
    result = train(config, own, **asked)
    assert result.status == "completed", result.error
    assert result.cost["epochs"] == 2
    assert torch.load(own / "checkpoint.ckpt", weights_only=True)["global_step"] == 2  # 64 samples, 2 ranks of 32
    assert len(list((own / "checkpoints").rglob("*.ckpt"))) == 1
    assert [path.name for path in (tmp_path / "logs" / "lightning_logs").iterdir()] == ["net-000000"]
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "net"}


def hopeless(directory):
    """A search in which somebody has reached what a toy never will."""
    known = directory / "known.jsonl"
    SharedResultsWriter(known).add([SharedResult(0, "completed", (-1.0,))])
    return SearchContext(7, seed=1, objectives=(Objective("val_loss", "min"),), shared_results=str(known))


def test_a_candidate_that_a_callback_stops_has_a_predicted_fitness_and_a_checkpoint(config, tmp_path):
    config["trainer"]["max_epochs"] = 20
    early = EarlyFitnessPrediction(controls=0)
    result = train(config, tmp_path, Objective("val_loss", "min"), callbacks=[early], context=hopeless(tmp_path))
    assert result.status == "stopped"
    assert result.fitness == (result.extra["early_fitness"]["predicted"]["val_loss"]["median"],)
    assert result.cost["epochs"] == len(result.curve) < 20
    assert (tmp_path / result.checkpoint).stat().st_size == result.checkpoint_bytes
    assert early.extra == {}, "the candidate's callback is a copy"


@pytest.mark.slow
@pytest.mark.usefixtures("warm_programs")
def test_two_devices_stop_together(config, tmp_path):
    config["trainer"]["max_epochs"] = 20
    result = train(
        config,
        tmp_path,
        Objective("val_loss", "min"),
        function=train_candidate_distributed,
        devices=2,
        callbacks=[EarlyFitnessPrediction(controls=0)],
        context=hopeless(tmp_path),
    )
    assert result.status == "stopped", result.error
    assert result.cost["epochs"] == len(result.curve) < 20


@pytest.mark.slow
@pytest.mark.usefixtures("warm_programs")
@pytest.mark.parametrize("misbehave", ["crash-if-wide", "die-on-rank-1"])
def test_a_crash_on_two_devices_is_a_failed_candidate(misbehave, config, tmp_path):
    config["model"]["init_args"] |= {"misbehave": misbehave, "width": 8}
    result = train(config, tmp_path, function=train_candidate_distributed, devices=2)
    assert result.status == "failed"
    assert not Path(tmp_path / "distributed.pickle").exists()
