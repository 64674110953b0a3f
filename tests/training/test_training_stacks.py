"""Several candidates train as one stack in this process; each leaves a candidate's usual files and its own result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from lightning_evo.execution.results import read_result, write_result
from lightning_evo.genome import Objective
from lightning_evo.training import Blueprint, TrainingRequest
from lightning_evo.training.candidate import train_candidate
from lightning_evo.training.stacks import Member, train_stack
from toys import ToyNet

VAL_LOSS = [Objective("val_loss", "min")]
SEED = 7


def config(lr=0.1, seed=1, model="toys.ToyNet", epochs=3, **arguments):
    return {
        "seed_everything": seed,
        "model": {"class_path": model, "init_args": {"lr": lr, **arguments}},
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu"},
    }


def members(tmp_path, *configs, finished=()) -> list[Member]:
    return [Member(i, each, str(tmp_path / f"{i:06d}"), i in finished) for i, each in enumerate(configs)]


def stack(tmp_path, made, **changes):
    whole = changes.pop("whole", False)
    request = {"directory": str(tmp_path / "stack"), "objectives": VAL_LOSS, "data_seed": SEED} | changes
    return train_stack(Blueprint(), made, TrainingRequest(**request), write_result, whole)


def alone(directory, each, **changes):
    request = {"directory": str(directory), "objectives": VAL_LOSS, "data_seed": SEED} | changes
    return train_candidate(Blueprint(), each, TrainingRequest(**request))


RATES = [config(lr, seed) for lr, seed in ((0.05, 11), (0.1, 12), (0.3, 13))]


class WithOptimizers(ToyNet):
    """Momentum and a schedule, each particle with its own."""

    def __init__(self, lr: float = 0.1, momentum: float = 0.0, gamma: float = 0.9) -> None:
        super().__init__(lr=lr)
        self.momentum, self.gamma = momentum, gamma

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)]


class LateNet(LightningModule):
    """Makes its layers in ``configure_model``."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net: nn.Module | None = None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


@pytest.mark.parametrize(
    "configs",
    [
        RATES,
        [
            config(lr, 5, f"{__name__}.WithOptimizers", momentum=m, gamma=g)
            for lr, m, g in ((0.1, 0.9, 0.5), (0.2, 0, 1.0))
        ],
        [config(lr, seed, f"{__name__}.LateNet") for lr, seed in ((0.1, 1), (0.1, 2))],
        [
            {**each, "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": lr}}}
            for each, lr in zip(RATES, (0.01, 0.02, 0.05), strict=True)
        ],
    ],
    ids=["rates", "schedules", "configure_model", "optimizer section"],
)
def test_each_member_trains_as_it_would_by_itself_on_the_same_data(configs, tmp_path):
    summary = stack(tmp_path, members(tmp_path, *configs))
    assert summary.status == "completed", summary.error
    for i, each in enumerate(configs):
        found, expected = read_result(tmp_path / f"{i:06d}"), alone(tmp_path / f"alone{i}", each)
        assert expected.status == "completed", expected.error
        assert found.fitness == pytest.approx(expected.fitness, rel=1e-4)
        for mine, other in zip(found.curve, expected.curve, strict=True):
            assert mine == pytest.approx(other, rel=1e-4)
        assert found.cost["params"] == expected.cost["params"]
        assert found.cost["flops"] == expected.cost["flops"]
        assert found.cost["training_flops"] == expected.cost["training_flops"] > 0
        assert found.cost["epochs"] == expected.cost["epochs"] == 3
        assert found.cost.keys() == expected.cost.keys()
        mine, other = (
            torch.load(place / "checkpoint.ckpt", weights_only=False)
            for place in (tmp_path / f"{i:06d}", tmp_path / f"alone{i}")
        )
        assert mine["epoch"] == other["epoch"]
        assert mine["hyper_parameters"] == other["hyper_parameters"]
        for name, tensor in other["state_dict"].items():
            torch.testing.assert_close(mine["state_dict"][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_members_files_are_those_of_a_candidate(tmp_path):
    stack(tmp_path, members(tmp_path, *RATES))
    alone(tmp_path / "alone", RATES[0])
    files = {path.name for path in (tmp_path / "alone").iterdir()}
    for i, each in enumerate(RATES):
        place = tmp_path / f"{i:06d}"
        assert {path.name for path in place.iterdir()} == files | {"result.json"}
        assert (place / "config.yaml").read_text().startswith(f"seed_everything: {each['seed_everything']}")
        assert len((place / "curve.jsonl").read_text().splitlines()) == 3
        assert ToyNet.load_from_checkpoint(place / "checkpoint.ckpt").hparams.lr == each["model"]["init_args"]["lr"]


def test_the_result_says_how_it_was_stacked(tmp_path):
    summary = stack(tmp_path, members(tmp_path, *RATES))
    for i in range(3):
        record = read_result(tmp_path / f"{i:06d}").extra["stack"]
        assert (record["id"], record["size"], record["position"]) == (0, 3, i)
        assert record["lowering"] == summary.extra["stack"]["lowering"] in ("stack", "loop")


def test_a_members_checkpoint_holds_nothing_of_its_neighbours(tmp_path):
    configs = [config(lr, 5, f"{__name__}.WithOptimizers", momentum=0.9) for lr in (0.1, 0.2, 0.3)]
    stack(tmp_path, members(tmp_path, *configs))
    state = torch.load(tmp_path / "000000" / "checkpoint.ckpt", weights_only=False)["optimizer_states"][0]["state"]
    momentum = state[0]["momentum_buffer"]
    assert momentum.untyped_storage().nbytes() == momentum.nbytes


def test_no_checkpoint_is_written_where_none_is_kept(tmp_path):
    stack(tmp_path, members(tmp_path, *RATES), save_checkpoint=False)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert read_result(tmp_path / "000000").checkpoint is None


@pytest.mark.parametrize("epoch", ["best", "last"])
def test_the_fitness_is_read_at_each_members_own_epoch(epoch, tmp_path):
    stack(tmp_path, members(tmp_path, *RATES), fitness_epoch=epoch)
    for i in range(3):
        result = read_result(tmp_path / f"{i:06d}")
        losses = [point["val_loss"] for point in result.curve]
        assert result.fitness == ((min(losses) if epoch == "best" else losses[-1]),)


def test_a_member_that_diverges_fails_alone(tmp_path):
    summary = stack(tmp_path, members(tmp_path, RATES[0], config(1e30, 12), RATES[2]))
    assert summary.status == "completed"
    found = [read_result(tmp_path / f"{i:06d}") for i in range(3)]
    assert [result.status for result in found] == ["completed", "failed", "completed"]
    assert found[1].error_type == "ArithmeticError: val_loss is nan at the best evaluation"
    assert found[2].fitness == pytest.approx(alone(tmp_path / "alone", RATES[2]).fitness, rel=1e-4)


def test_a_member_that_cannot_be_built_fails_alone(tmp_path):
    broken = config(0.1, 12, misbehave="crash")
    summary = stack(tmp_path, members(tmp_path, broken, *RATES[:2]))
    assert summary.status == "completed", summary.error
    assert read_result(tmp_path / "000000").error_type == "RuntimeError: this model always crashes"
    assert read_result(tmp_path / "000001").extra["stack"]["size"] == 2


def test_of_members_that_differ_in_structure_none_is_trained_and_the_reason_is_given(tmp_path):
    summary = stack(tmp_path, members(tmp_path, config(width=2), config(width=4)))
    assert summary.status == "failed"
    assert summary.error_type.startswith("SwarmError")
    assert read_result(tmp_path / "000000") is None


def test_a_metric_nobody_logs_fails_every_member_with_those_there_are(tmp_path):
    stack(tmp_path, members(tmp_path, *RATES), objectives=[Objective("val_acuracy")])
    for i in range(3):
        error = read_result(tmp_path / f"{i:06d}").error_type
        assert error.startswith("MetricNotLogged: val_acuracy: never logged; the module logs")


def test_after_its_process_died_it_leaves_the_members_to_others(tmp_path):
    made = members(tmp_path, *RATES)
    Path(made[1].directory).mkdir()
    (Path(made[1].directory) / "config.yaml").write_text("")
    summary = stack(tmp_path, made)
    assert summary.error_type == "NotStacked: the worker process that trained the stack died"


def test_a_swarm_begins_anew_after_its_process_died(tmp_path):
    made = members(tmp_path, *RATES)
    for each in made:
        Path(each.directory).mkdir()
        (Path(each.directory) / "config.yaml").write_text("")
        (Path(each.directory) / "curve.jsonl").write_text('{"epoch": 0}\n')
    assert stack(tmp_path, made, whole=True).status == "completed"
    assert len(read_result(tmp_path / "000001").curve) == 3


def test_who_has_a_result_trains_along_and_keeps_it(tmp_path):
    made = members(tmp_path, *RATES, finished=[1])
    Path(made[1].directory).mkdir()
    (Path(made[1].directory) / "result.json").write_text("kept")
    assert stack(tmp_path, made, whole=True).status == "completed"
    assert [path.name for path in Path(made[1].directory).iterdir()] == ["result.json"]
    assert (Path(made[1].directory) / "result.json").read_text() == "kept"
    assert read_result(tmp_path / "000002").fitness == pytest.approx(
        alone(tmp_path / "alone", RATES[2]).fitness, rel=1e-4
    )


class Seen(Callback):
    """Keeps what a callback sees."""

    def on_train_epoch_end(self, trainer, pl_module):
        names = sorted(trainer.callback_metrics)
        (Path(trainer.default_root_dir) / "seen.json").write_text(json.dumps([type(pl_module).__name__, names]))


def test_callbacks_see_the_stack_and_means_over_it(tmp_path):
    stack(tmp_path, members(tmp_path, *RATES), callbacks=[Seen()])
    kind, names = json.loads((tmp_path / "stack" / "seen.json").read_text())
    assert kind == "ParticleStack"
    assert {"val_loss", "val_loss/particle_0", "val_loss/particle_2"} <= set(names)


def test_callbacks_and_loggers_of_the_config_are_built_once_and_serve_the_stack(tmp_path):
    def whole(each):
        callbacks = [
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "stopping_threshold": 100.0}},
            {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val_acc", "mode": "max"}},
            {"class_path": "LearningRateMonitor"},
        ]
        logger = {
            "class_path": "CSVLogger",
            "init_args": {"save_dir": str(tmp_path / "logs"), "flush_logs_every_n_steps": 1},
        }
        return {**each, "trainer": {**each["trainer"], "callbacks": callbacks, "logger": logger}}

    summary = stack(tmp_path, members(tmp_path, *map(whole, RATES)))
    assert summary.status == "completed", summary.error
    # The mean of all is below the threshold after the first epoch.
    assert [len(read_result(tmp_path / f"{i:06d}").curve) for i in range(3)] == [1, 1, 1]
    (logged,) = tmp_path.glob("logs/**/metrics.csv")
    assert "val_loss/particle_2" in logged.read_text().splitlines()[0]


def test_the_process_keeps_its_random_state(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    stack(tmp_path, members(tmp_path, *RATES))
    assert torch.equal(torch.get_rng_state(), before)
