"""Opening checkpoints of networks that have grown: by their recipe, or by hyperparameters that build them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import warm
import yaml
from callbacks_grown_nets import Deep, Given, Net, Ratio, Together
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.callbacks.growth.loading import export_grown, express, load_grown
from lightning_evo.callbacks.growth.recipe import Recipe, attach_recipe, recipe_of
from lightning_evo.functional.growth import GrowthError, grow, resolve
from lightning_evo.models import ConvNet, ImageClassifier

HERE = Path(__file__).parent
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def _seeded():
    seed_everything(0, verbose=False)


def grown(module: LightningModule, *requests: dict) -> LightningModule:
    """The module after some steps, in eval mode, with its recipe."""
    for seed, request in enumerate(requests):
        step = resolve(module, request)
        recipe = recipe_of(module)
        growth = grow(module, step, new_units="net2wider", seed=seed)
        attach_recipe(module, recipe.then(step, growth.after))
    return module.eval()


def saved(module: LightningModule, path: Path) -> Path:
    """Its checkpoint, as a Trainer saves it."""
    trainer = Trainer(**QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=True)
    return path


WIDER = {"operation": "widen", "layer": "body.0", "settings": {"width": 16}}
INSERTED = {"operation": "insert", "layer": "body.3"}
RESIDUAL = {"operation": "residual", "layer": "body.0"}
images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
values = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


# load_grown -----------------------------------------------------------------------------------------------------------


def test_a_grown_network_opens_as_it_was(tmp_path):
    module = grown(Net(width=6, lr=0.3), WIDER | {"settings": {"width": 9}}, INSERTED, RESIDUAL)
    opened = load_grown(saved(module, tmp_path / "net.ckpt"))
    assert type(opened) is Net
    assert not opened.training
    assert torch.equal(opened(images), module(images))
    assert opened.hparams == module.hparams
    assert list(opened.state_dict()) == list(module.state_dict())


def test_what_is_opened_carries_its_recipe_on(tmp_path):
    module = grown(Net(), RESIDUAL, WIDER)
    again = load_grown(saved(load_grown(saved(module, tmp_path / "one.ckpt")), tmp_path / "two.ckpt"))
    assert recipe_of(again) == recipe_of(module)
    assert torch.equal(again(images), module(images))


def test_no_random_state_changes(tmp_path):
    path = saved(grown(Net(), WIDER), tmp_path / "net.ckpt")
    state = torch.get_rng_state()
    load_grown(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_whose_network_hasnt_grown_opens_as_well(tmp_path):
    module = Net(width=5).eval()
    opened = load_grown(saved(module, tmp_path / "net.ckpt"), cls=Net)
    assert torch.equal(opened(images), module(images))


def test_a_users_hooks_take_part(tmp_path):
    module = grown(Deep([4], scale=2.0), {"operation": "widen", "layer": "net.0"})
    opened = load_grown(saved(module, tmp_path / "net.ckpt"))
    assert opened.met == 2.0
    assert torch.equal(opened(values), module(values))


def test_hyperparameters_taken_together_are_handed_over_together(tmp_path):
    module = grown(Together({"width": 4}), {"operation": "widen", "layer": "net.0"})
    assert torch.equal(load_grown(saved(module, tmp_path / "net.ckpt"))(values), module(values))


def test_what_the_checkpoint_doesnt_hold_can_be_given(tmp_path):
    module = grown(
        Given(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))), {"operation": "insert", "place": 0}
    )
    path = saved(module, tmp_path / "net.ckpt")
    with pytest.raises(GrowthError, match=r"net\.ckpt: Given can't be built from its hyperparameters: .*'net'"):
        load_grown(path)
    opened = load_grown(path, net=nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert torch.equal(opened(values), module(values))


def test_a_grown_training_of_lightning_clis_opens(tmp_path):
    module = from_config({"class_path": "callbacks_grown_nets.Net", "init_args": {"width": 6}})
    grown(module, RESIDUAL)
    assert torch.equal(load_grown(saved(module, tmp_path / "net.ckpt"))(images), module(images))


def test_a_configs_section_is_found_in_a_checkpoint_and_goes_back_into_a_config(tmp_path):
    backbone = {"class_path": "lightning_evo.models.ConvNet", "init_args": {"widths": [10, 20], "image_size": 12}}
    arguments = {"backbone": backbone, "num_classes": 10, "lr": 0.5}
    module = from_config({"class_path": "lightning_evo.models.ImageClassifier", "init_args": arguments})
    hparams = dict(module.hparams)
    grown(module, {"operation": "widen", "layer": "network.0", "settings": {"width": 16}})
    opened = load_grown(saved(module, tmp_path / "net.ckpt"))
    assert dict(opened.hparams) == hparams
    written = export_grown(saved(opened, tmp_path / "again.ckpt"), tmp_path / "out")
    section = yaml.safe_load(written[1].read_text())
    assert section["class_path"] == "lightning_evo.models.ImageClassifier"
    assert section["init_args"]["backbone"]["init_args"]["widths"] == [16, 20]
    images = torch.randn(2, 1, 12, 12)
    again = ImageClassifier.load_from_checkpoint(written[0]).eval()
    assert torch.equal(again(images), module(images))
    made = from_config(section)
    made.load_state_dict(torch.load(written[0], weights_only=True)["state_dict"])
    assert torch.equal(made.eval()(images), module(images))


def from_config(section: dict) -> LightningModule:
    """A module as LightningCLI makes it, whose hyperparameters are its config's section."""
    cli = LightningCLI(
        LightningModule,
        subclass_mode_model=True,
        run=False,
        args={"model": section},
        save_config_callback=None,
        trainer_defaults=QUIET,
    )
    return cli.model


# Bad input ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist"):
        load_grown(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match="is a directory"):
        load_grown(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_file_is_said_to_be(tmp_path, share):
    path = saved(grown(Net(), WIDER), tmp_path / "net.ckpt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(GrowthError, match=r"net\.ckpt cannot be read; it is damaged, or no checkpoint"):
        load_grown(path)


def test_another_file_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(GrowthError, match="is not a Lightning checkpoint: it has no state_dict"):
        load_grown(tmp_path / "other.ckpt")


def test_code_in_a_checkpoint_runs_only_if_it_is_trusted(tmp_path):
    path = saved(grown(Net(), WIDER), tmp_path / "net.ckpt")
    held = torch.load(path, weights_only=True) | {"more": Path("of a class")}
    torch.save(held, path)
    with pytest.raises(GrowthError, match=r"holds more than tensors and plain data \(trusted=True"):
        load_grown(path)
    assert load_grown(path, trusted=True)(images).shape == (4, 3)


def test_another_way_to_build_the_module_than_lightnings_is_run_only_if_it_is_trusted(tmp_path):
    path = saved(grown(Net(), WIDER), tmp_path / "net.ckpt")
    held = torch.load(path, weights_only=True)
    held["hyper_parameters"]["_instantiator"] = "os.system"
    torch.save(held, path)
    with pytest.raises(GrowthError, match=r"'os\.system' is to build the module; trusted=True lets it"):
        load_grown(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the recipe has version 2"),
        ({"steps": [{"operation": "widen"}]}, "its recipe is damaged: 'layer'"),
        ({"steps": [{"operation": "fly", "layer": "body.0"}]}, "'fly' is not one of"),
        (
            {"steps": [{"operation": "residual", "layer": "head"}]},
            "its growth can't be repeated in Net: layer: .*'head'",
        ),
        ({"steps": []}, r"its weights don't fit Net: .*body\.0\.weight"),
        ({"class_path": "callbacks_grown_nets.Lost"}, "module 'callbacks_grown_nets' has no attribute 'Lost'"),
        ({"class_path": "os.path.join"}, "it is no LightningModule"),
        ({"class_path": "nowhere_at_all.Net"}, "No module named 'nowhere_at_all'"),
        ({"class_path": "a.f.<locals>.Net"}, "it was defined in a function"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_why(tmp_path, change, message):
    path = saved(grown(Net(), WIDER), tmp_path / "net.ckpt")
    held = torch.load(path, weights_only=True)
    held["grown"] |= change
    torch.save(held, path)
    with pytest.raises(GrowthError, match=message):
        load_grown(path, trusted=True)


def test_a_class_that_only_the_checkpoint_names_is_imported_only_if_it_is_trusted(tmp_path, monkeypatch):
    path = saved(grown(Net(), WIDER), tmp_path / "net.ckpt")
    held = torch.load(path, weights_only=True)
    held["grown"] |= {"class_path": "of_somebody_else.Net"}
    torch.save(held, path)
    (tmp_path / "of_somebody_else.py").write_text(
        "import pathlib\nfrom callbacks_grown_nets import Net\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_somebody_else", raising=False)
    with pytest.raises(GrowthError, match=r"of_somebody_else\.Net isn't imported, .* give the class as `cls`"):
        load_grown(path)
    assert not (tmp_path / "of_somebody_else.ran").exists()
    assert load_grown(path, Net)(images).shape == (4, 3)
    assert load_grown(path, trusted=True)(images).shape == (4, 3)
    assert load_grown(path)(images).shape == (4, 3)  # it is imported by now


def test_a_checkpoint_that_doesnt_tell_its_class_asks_for_it(tmp_path):
    with pytest.raises(GrowthError, match="doesn't tell the class of its module; give it as `cls`"):
        load_grown(saved(Net(), tmp_path / "net.ckpt"))


# express --------------------------------------------------------------------------------------------------------------


def fits(module: LightningModule, inputs: torch.Tensor) -> dict:
    """The hyperparameters found, after a check that what they build computes the same."""
    found = express(module)
    assert found is not None
    hparams = {name: value for name, value in found.hparams.items() if not name.startswith("_")}
    if "_instantiator" not in found.hparams:
        built = type(module)(**hparams)
        built.load_state_dict({found.names[name]: value for name, value in module.state_dict().items()})
        assert torch.allclose(built.eval()(inputs), module(inputs), atol=1e-6)
    return hparams


def test_a_users_width_is_found_among_other_numbers():
    assert fits(grown(Net(width=8, heads=8), WIDER), images) == {**Net().hparams, "width": 16}


def test_several_widths_kernels_and_activations_are_found():
    steps = [
        WIDER,
        {"operation": "widen", "layer": "body.3", "settings": {"width": 20}},
        {"operation": "kernel", "layer": "body.0"},
        {"operation": "activation", "layer": "body.2", "settings": {"activation": "GELU"}},
        {"operation": "activation", "layer": "body.4", "settings": {"activation": "GELU"}},
    ]
    expected = {**Net().hparams, "width": 16, "second": 20, "kernel": 5, "activation": "GELU"}
    assert fits(grown(Net(), *steps), images) == expected


def test_a_pruned_width_is_found():
    module = grown(Net(), {"operation": "prune", "layer": "body.0", "ratio": 0.5})
    assert fits(module, images)["width"] == 4


def test_an_inserted_layer_becomes_an_entry_of_a_list():
    module = grown(Deep([4, 6]), {"operation": "insert", "layer": "net.0", "settings": {"width": "same"}})
    assert fits(module, values)["hidden"] == [4, 4, 6]
    module = grown(Deep([8, 6]), {"operation": "insert", "layer": "net.2"})
    assert fits(module, values)["hidden"] == [8, 10, 6]
    module = grown(
        Deep([4, 6]),
        {"operation": "widen", "layer": "net.0", "settings": {"width": 7}},
        {"operation": "insert", "layer": "net.2", "settings": {"width": "same"}},
    )
    assert fits(module, values)["hidden"] == [7, 6, 6]


def test_the_projects_convnet_is_found_in_a_configs_nested_section():
    section = {"class_path": "lightning_evo.models.ConvNet", "init_args": {"widths": [10, 20], "image_size": 12}}
    module = from_config(
        {"class_path": "lightning_evo.models.ImageClassifier", "init_args": {"backbone": section, "num_classes": 10}}
    )
    grown(module, {"operation": "widen", "layer": "network.0", "settings": {"width": 16}})
    found = fits(module, torch.zeros(2, 1, 12, 12))
    assert found["backbone"]["init_args"]["widths"] == [16, 20]
    assert found["num_classes"] == 10


@pytest.mark.parametrize(
    ("make", "requests"),
    [
        (Net, [RESIDUAL]),
        (Net, [INSERTED]),
        (lambda: Ratio(4), [{"operation": "widen", "layer": "net.0", "settings": {"width": 8}}]),
        (
            lambda: Given(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))),
            [{"operation": "widen", "place": 0}],
        ),
        (lambda: ImageClassifier(ConvNet(image_size=12)), [{"operation": "widen", "place": 0}]),
        (Net, [{"operation": "activation", "layer": "body.2", "settings": {"activation": "GELU"}}]),
    ],
    ids=[
        "residual",
        "inserted convolution",
        "width decides more",
        "no hyperparameter",
        "module in Python",
        "one of two",
    ],
)
def test_what_no_hyperparameters_build_is_not_claimed(make, requests):
    assert express(grown(make(), *requests)) is None


def test_no_more_modules_are_built_than_allowed(monkeypatch):
    module, built = grown(Net(), WIDER), []
    monkeypatch.setattr(Net, "configure_model", lambda self: built.append(1))
    assert express(module, tries=1) is None
    assert len(built) == 1


# export_grown ---------------------------------------------------------------------------------------------------------


def files(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_an_expressed_network_opens_with_stock_lightning_in_a_process_without_this_package(tmp_path):
    module = grown(Net(), WIDER)
    written = export_grown(saved(module, tmp_path / "net.ckpt"), tmp_path / "out")
    assert files(written) == ["model.ckpt", "model.yaml"]
    torch.save((images, module(images).detach()), tmp_path / "expected.pt")
    code = f"""
import sys, torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from callbacks_grown_nets import Net
inputs, expected = torch.load({str(tmp_path / "expected.pt")!r})
net = Net.load_from_checkpoint({str(tmp_path / "out/model.ckpt")!r}, map_location="cpu").eval()
assert torch.equal(net(inputs), expected)
args = ["--model", {str(tmp_path / "out/model.yaml")!r}]
cli = LightningCLI(LightningModule, subclass_mode_model=True, run=False, args=args)
cli.model.load_state_dict(torch.load({str(tmp_path / "out/model.ckpt")!r})["state_dict"])
assert "lightning_evo" not in sys.modules
"""
    warm.run([sys.executable, "-c", code], cwd=HERE, check=True, env={"PYTHONPATH": str(HERE)}, capture_output=True)


def test_renamed_tensors_find_their_places(tmp_path):
    module = grown(Deep([4, 6]), {"operation": "insert", "layer": "net.0", "settings": {"width": "same"}})
    export_grown(saved(module, tmp_path / "net.ckpt"), tmp_path / "out")
    opened = Deep.load_from_checkpoint(tmp_path / "out/model.ckpt").eval()
    assert opened.hparams["hidden"] == [4, 4, 6]
    assert torch.equal(opened(values), module(values))


def test_what_cant_be_expressed_is_written_with_its_recipe(tmp_path):
    module = grown(Net(), RESIDUAL)
    path = saved(module, tmp_path / "net.ckpt")
    written = export_grown(path, tmp_path / "out")
    assert files(written) == ["model.ckpt", "grown.yaml"]
    assert written[0].read_bytes() == path.read_bytes()
    assert torch.equal(load_grown(written[0])(images), module(images))
    text = written[1].read_text()
    assert "lightning_evo.load_grown" in text
    assert Recipe.from_dict(yaml.safe_load(text)) == recipe_of(module)


def test_what_hasnt_grown_is_copied(tmp_path):
    path = saved(Net(width=5), tmp_path / "net.ckpt")
    written = export_grown(path, tmp_path / "out", cls=Net)
    assert files(written) == ["model.ckpt", "model.yaml"]
    assert yaml.safe_load(written[1].read_text())["init_args"]["width"] == 5


def test_a_trainings_own_state_is_left_out_and_testing_works_on_what_is_left(tmp_path):
    module = grown(Trained(), {"operation": "widen", "layer": "net.0"})
    data = DataLoader(TensorDataset(torch.randn(16, 5), torch.zeros(16, dtype=torch.long)), 8)
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    [path, _] = export_grown(tmp_path / "net.ckpt", tmp_path / "out")
    held = torch.load(path, weights_only=True)
    assert not {"optimizer_states", "callbacks", "lr_schedulers", "grown"} & set(held)
    assert held["mine"] == 1.0
    [result] = Trainer(default_root_dir=tmp_path, **QUIET).test(Trained([6]), data, ckpt_path=path, verbose=False)
    [expected] = Trainer(default_root_dir=tmp_path, **QUIET).test(module, data, verbose=False)
    assert result == pytest.approx(expected)


class Trained(Deep):
    """One that trains."""

    def __init__(self, hidden: list[int] = [4]) -> None:  # noqa: B006
        super().__init__(hidden)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
