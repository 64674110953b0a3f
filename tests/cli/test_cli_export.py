"""What an export holds, and how it opens, for every way in which a search may build its models."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import nn

from lightning_evo import EvolutionCLI
from lightning_evo.cli import main
from lightning_evo.training.launch import LaunchRecord
from toys import ToyData, ToyNet


class KeepsClass(ToyNet):
    """Has a class among its hyperparameters."""

    def __init__(self, width: int = 4, activation: nn.Module | None = None) -> None:
        super().__init__(width)
        self.hparams["kind"] = type(self)
        self.activation = activation


class Forgets(ToyNet):
    """Saves none of its hyperparameters, and can't be built without them."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.hparams.clear()


class OwnCLI(EvolutionCLI):
    """Has an argument of its own."""

    def add_arguments_to_parser(self, parser):
        super().add_arguments_to_parser(parser)
        parser.add_argument("--note", default="")


def searched(folder: Path, model: dict, genes: list[str], cli=None) -> Path:
    """A search of one candidate."""
    config = {
        "seed_everything": 1,
        "model": model,
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "evolution": {
            "space": {gene: {"class_path": "Ordinal", "init_args": {"choices": [5]}} for gene in genes},
            "objectives": [{"monitor": "val_loss", "mode": "min"}],
            "budget": {"candidates": 1},
            "algorithm": {"class_path": "RandomSearch"},
            "directory": str(folder / "run"),
            "final": None,
            "keep_checkpoints": 1,
            "workers": {"slots": 1},
        },
    }
    if cli is not None:
        del config["data"]["class_path"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["fit", "--config", str(folder / "config.yaml")]
    if cli is None:
        main(arguments)
    else:
        cli(ToyNet, ToyData, args=arguments)
    return folder / "run"


SECTION = {"class_path": "torch.nn.ReLU"}
MODELS = {
    "plain": ({"class_path": "toys.ToyNet"}, ["model.init_args.width"], None, "ToyNet.load_from_checkpoint("),
    "own": ({"width": 4}, ["model.width"], OwnCLI, "ToyNet.load_from_checkpoint("),
    "objects": (
        {"class_path": f"{__name__}.KeepsClass", "init_args": {"activation": SECTION}},
        ["model.init_args.width"],
        None,
        "weights_only=False)",
    ),
    "forgets": (
        {"class_path": f"{__name__}.Forgets", "init_args": {"width": 4}},
        ["model.init_args.width"],
        None,
        "Forgets.load_from_checkpoint(",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_an_export_opens_as_it_says_and_names_nothing_of_the_search(kind, tmp_path, capsys):
    model, genes, cli, said = MODELS[kind]
    run = searched(tmp_path, model, genes, cli)
    main(["export", str(run), "--to", str(tmp_path / "best"), "--torch-export"])
    assert said in capsys.readouterr().err
    held = torch.load(tmp_path / "best/model.ckpt", weights_only=False)
    assert held["callbacks"] == {}
    assert ("_instantiator" in held.get("hyper_parameters", {})) == (kind == "objects")
    if kind == "own":
        assert ToyNet(**held["hyper_parameters"]).net[0].out_features == 5
    points = torch.randn(7, 2)
    program = torch.export.load(tmp_path / "best/model.pt2").module()
    net = ToyNet(width=5).eval()
    net.load_state_dict({name: value for name, value in held["state_dict"].items() if name.startswith("net.")})
    torch.testing.assert_close(program(points), net(points))
    if kind == "own":
        Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False).fit(
            net, ToyData(), ckpt_path=tmp_path / "best/model.ckpt"
        )
        next((run / "candidates").rglob("checkpoint.ckpt")).unlink()
        with pytest.raises(SystemExit):
            main(["export", str(run), "--to", str(tmp_path / "best")])
        assert "`lightning-evo fit --config" not in capsys.readouterr().err


SCRIPT = """
from toys import ToyNet

class Own(ToyNet):
    pass

if __name__ == "__main__":
    raise SystemExit("the search runs again")
"""


def test_a_class_of_a_script_is_found_again_without_running_it(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    arguments = {"model_class": {"class": "__main__.Own"}, "subclass_mode_data": True}
    record = LaunchRecord(
        ["python", "train.py", "fit"], str(script), "lightning_evo.cli.EvolutionCLI", arguments
    ).marked()
    assert LaunchRecord.from_dict(record.to_dict()) == record
    assert record.is_own
    assert not LaunchRecord.from_dict({**record.to_dict(), "script": "other.py"}).is_own
    assert pickle.loads(pickle.dumps(record.model_class())).__name__ == "Own"  # a worker or a cache may pickle it
    assert record.blueprint().cli_arguments["subclass_mode_data"]
