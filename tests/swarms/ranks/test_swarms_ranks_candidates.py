"""A candidate on two devices, in two real processes: by DDP one model, under ``strategy: swarm`` two that stay apart."""

from __future__ import annotations

import pytest
import torch

from lightning_evo.genome import Objective
from lightning_evo.training import Blueprint, TrainingRequest
from lightning_evo.training.distributed import train_candidate_distributed
from toys import ToyNet

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_programs")]


def train(config, directory, **trainer):
    whole = {"seed_everything": 7, **config, "trainer": {**config["trainer"], **trainer}}
    return train_candidate_distributed(
        Blueprint(),
        Blueprint().resolve(whole),
        TrainingRequest(str(directory), (Objective("val_loss", "min"),), devices=2, fitness_epoch="last"),
    )


def test_by_ddp_each_process_takes_half_of_the_data_and_there_is_one_model(config, tmp_path):
    result = train(config, tmp_path, strategy="ddp")
    assert result.status == "completed", result.error
    assert torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)["global_step"] == 2  # 64 samples, 2 ranks of 32
    assert not (tmp_path / "rank1.checkpoint.ckpt").exists()


def test_under_strategy_swarm_each_process_takes_all_of_it_for_a_model_of_its_own(config, tmp_path):
    result = train(config, tmp_path, strategy="swarm")
    assert result.status == "completed", result.error
    losses = []
    for name in ("checkpoint.ckpt", "rank1.checkpoint.ckpt"):
        assert torch.load(tmp_path / name, weights_only=True)["global_step"] == 4
        model = ToyNet.load_from_checkpoint(tmp_path / name)
        points, labels = Blueprint().build(Blueprint().resolve(config), {}, []).datamodule._loader(1).dataset.tensors
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(model(points), labels).item())
    assert losses[0] != losses[1]
    # What the search goes by is the mean of the swarm.
    assert result.fitness == pytest.approx((sum(losses) / 2,), rel=1e-4)
