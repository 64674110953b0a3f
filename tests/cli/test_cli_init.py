"""``lightning-evo init``: what it proposes is what ``fit`` then runs."""

from __future__ import annotations

import enum
import re
from typing import Literal

import pytest
import yaml
from commands import write
from lightning.pytorch import LightningModule

from lightning_evo import Archive
from lightning_evo.cli import main
from lightning_evo.cli.proposals import proposed_genes
from lightning_evo.genome import read_gene


class Norm(enum.Enum):
    BATCH = 1
    LAYER = 2


class ManyNet(LightningModule):
    """Arguments of every kind."""

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 3,
        heads: int = 4,
        kernel_size: int = 3,
        drop_out: float = 0.1,
        act: Literal["relu", "gelu"] = "relu",
        norm: Norm = Norm.BATCH,
        residual: bool = True,
        temperature: float = 0.7,
        lr: float = 1e-3,
        num_classes: int = 10,
        input_dropout: float = 0.0,
        output_dim: int = 3,
        name: str = "many",
        mean: tuple = (0.1, 0.2),
        limit: int | None = None,
    ) -> None:
        super().__init__()


def test_genes_are_proposed_by_name_type_and_value():
    model = {
        "hidden_size": 64,
        "num_layers": 3,
        "heads": 4,
        "kernel_size": 3,
        "drop_out": 0.1,
        "act": "relu",
        "norm": "BATCH",
    }
    model |= {
        "residual": True,
        "temperature": 0.7,
        "lr": 1e-3,
        "num_classes": 10,
        "input_dropout": 0.0,
        "output_dim": 3,
    }
    model |= {"name": "many", "mean": [0.1, 0.2], "limit": None}
    config = {
        "model": {"class_path": f"{__name__}.ManyNet", "init_args": model},
        "data": {
            "class_path": "toys.ToyData",
            "init_args": {"size": 64, "batch_size": 32, "num_workers": 0, "noise": 0.1},
        },
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9, "nesterov": False}},
        "trainer": {"max_epochs": 3},
    }
    proposals = proposed_genes(config)
    on = {one.path.replace("init_args.", ""): one.gene for one in proposals if not one.reason}
    assert on == {
        "model.hidden_size": [32, 64, 128],
        "model.num_layers": {"low": 2, "high": 5},
        "model.heads": [2, 4, 8],
        "model.kernel_size": [3, 5, 7],
        "model.drop_out": {"low": 0.0, "high": 0.5},
        "model.act": ["relu", "gelu"],
        "model.norm": ["BATCH", "LAYER"],
        "model.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "model.input_dropout": {"low": 0.0, "high": 0.5},
        "data.batch_size": [16, 32, 64],
        "optimizer.lr": {"low": 0.01, "high": 1.0, "log": True},
        "optimizer.momentum": {"low": 0.5, "high": 0.99},
    }
    off = {one.path.replace("init_args.", "") for one in proposals if one.reason}
    assert off == {"model.residual", "model.temperature", "optimizer.nesterov"}
    for one in proposals:
        read_gene(one.gene)
    arguments = {"model": {"lr": 0.1}}
    assert [one.path for one in proposed_genes(arguments, {"model": ManyNet})] == ["model.lr"]


def test_what_is_proposed_runs_and_the_command_line_overrides_it(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    main(["init", "--config", "config.yaml", "--force"])
    assert "it logs train_loss, val_acc, val_loss; the objective is val_acc (max)" in capsys.readouterr().out
    space = yaml.safe_load((tmp_path / "search.yaml").read_text())["evolution"]["space"]
    assert space["model.init_args.width"] == [2, 4, 8]
    with pytest.raises(SystemExit) as ended:
        main(["init", "--config", "config.yaml"])
    assert ended.value.code == 2
    assert "init: --to search.yaml: exists; give another name, or --force" in capsys.readouterr().err
    fit = ["fit", "--config", "config.yaml", "--config", "search.yaml", "--evolution.workers.slots=1"]
    main([*fit, "--evolution.budget.candidates=1", f"--evolution.directory={tmp_path / 'other'}"])
    with Archive(tmp_path / "other") as archive:
        [row] = archive.candidates()
        assert row["status"] == "completed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config["model"].update(class_path="toys.NoNet"), "--config config.yaml: model: "),
        (
            lambda config: config["model"]["init_args"].update(misbehave="crash"),
            "the config itself doesn't train: ",
        ),
        (lambda config: config.update(evolution={}), "--config config.yaml: has an evolution section already"),
        (lambda config: config.clear(), "--config config.yaml: "),
    ],
)
def test_a_config_that_no_search_can_be_proposed_for_is_refused(change, said, tmp_path, monkeypatch, capsys):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    change(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as ended:
        main(["init", "--config", "config.yaml", "--to", "new.yaml"])
    assert ended.value.code == 2
    assert f"init: {said}" in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()


def test_a_gene_that_cannot_be_built_is_commented_out_with_the_reason(tmp_path, monkeypatch, capsys):
    write(tmp_path, lambda config, whole: config["model"]["init_args"].update(misbehave="crash-if-wide"))
    monkeypatch.chdir(tmp_path)
    main(["init", "--config", "config.yaml", "--force"])
    text = (tmp_path / "search.yaml").read_text()
    # jsonargparse before 4.49 makes a ValueError of what a constructor raises.
    reason = r"can't be built: (Runtime|Value)Error: width 8 is too much"
    assert re.search(rf"# model\.init_args\.width: \[2, 4, 8\]  # now 4; {reason}", text)
    assert "\n    model.init_args.lr: {low: 0.01, high: 1.0, log: true}" in text


def test_a_projects_own_cli_is_proposed_a_search_that_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["init", "--cli", "their_cli:main"])
    told = capsys.readouterr().out
    assert "start it with: lightning-evo fit --cli their_cli:main --config search.yaml" in told
    text = (tmp_path / "search.yaml").read_text()
    assert "\n    routine.lr: {low: 0.01, high: 1.0, log: true}" in text
    assert "routine.width" not in text  # it follows the data's
    assert "directory: runs/their_cli" in text
    main(["fit", "--cli", "their_cli:main", "--config", "search.yaml", "--evolution.budget.candidates=1"])
    with Archive(tmp_path / "runs" / "their_cli") as archive:
        assert archive.counts()["completed"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --config FILE, or with --cli PROGRAM the project's own LightningCLI"),
        (["--cli", "their_cli:nothing"], "--cli their_cli:nothing: "),
        (["--config", "config.yaml", "--import", "no_such_module"], "--import No module named 'no_such_module'"),
    ],
)
def test_what_init_needs_is_said(words, said, tmp_path, monkeypatch, capsys):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["init", *words])
    assert ended.value.code == 2
    assert f"init: {said}" in capsys.readouterr().err
