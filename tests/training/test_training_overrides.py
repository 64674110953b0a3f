"""Where a gene's value goes in a config."""

from __future__ import annotations

import pytest

from lightning_evo.training.overrides import apply_genome

CONFIG = {
    "model": {"class_path": "a.Net", "init_args": {"width": 4, "head": {"dropout": 0.1}}},
    "trainer": {
        "max_epochs": 3,
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"patience": 3}},
            {"class_path": "my.Callback"},
        ],
    },
    "lr_scheduler": None,
}


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        ("model.init_args.width", 8, lambda c: c["model"]["init_args"]["width"]),
        ("model.init_args.head.dropout", 0.5, lambda c: c["model"]["init_args"]["head"]["dropout"]),
        ("trainer.max_epochs", 9, lambda c: c["trainer"]["max_epochs"]),
        ("trainer.callbacks.0.init_args.patience", 7, lambda c: c["trainer"]["callbacks"][0]["init_args"]["patience"]),
        (
            "trainer.callbacks.EarlyStopping.init_args.patience",
            7,
            lambda c: c["trainer"]["callbacks"][0]["init_args"]["patience"],
        ),
        ("trainer.callbacks.Callback.init_args.size", 2, lambda c: c["trainer"]["callbacks"][1]["init_args"]["size"]),
        ("trainer.callbacks.1", {"class_path": "my.Other"}, lambda c: c["trainer"]["callbacks"][1]),
        ("lr_scheduler", {"class_path": "x.S"}, lambda c: c["lr_scheduler"]),
        ("lr_scheduler.init_args.gamma", 0.5, lambda c: c["lr_scheduler"]["init_args"]["gamma"]),
        ("optimizer.init_args.lr", 0.5, lambda c: c["optimizer"]["init_args"]["lr"]),
        ("seed_everything", 5, lambda c: c["seed_everything"]),
    ],
)
def test_a_value_goes_to_its_path_and_the_config_stays_as_it_was(path, value, at):
    before = repr(CONFIG)
    assert at(apply_genome(CONFIG, {path: value})) == value
    assert repr(CONFIG) == before


def test_arguments_chosen_with_a_class_are_not_dropped_with_the_old_ones():
    changed = apply_genome(CONFIG, {"model.init_args.depth": 2, "model.class_path": "a.Other"})
    assert changed["model"] == {"class_path": "a.Other", "init_args": {"depth": 2}}


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("trainer.callbacks.ModelCheckpoint.init_args.x", "'ModelCheckpoint' names no element of the list, which has"),
        ("trainer.callbacks.2", "the list has 2 elements"),
        ("trainer.max_epochs.x", "trainer.max_epochs is 3, which has no 'x' in it"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_by_name(path, complaint):
    with pytest.raises(KeyError, match=complaint):
        apply_genome(CONFIG, {path: 1})
