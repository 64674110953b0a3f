"""A search is the same where classes take more arguments than they did, and another where anything that was said differs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from searching import Recorded, threads

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.archive import ArchiveWriter
from lightning_evo.callbacks import EarlyFitnessPrediction
from lightning_evo.evolution import SearchError
from lightning_evo.evolution.description import complete, describe
from lightning_evo.genome import LogUniform


class Surer(EarlyFitnessPrediction):
    """Passes on what it doesn't name."""

    def __init__(self, in_a_row: int = 2, **settings):
        super().__init__(**settings)
        self.in_a_row = in_a_row


class Rounded(LogUniform):
    """A gene of two arguments of its own, one of them required."""

    def __init__(self, digits, *args, base=10, **kwargs):
        super().__init__(*args, **kwargs)
        self.digits, self.base = digits, base


def search(directory, pool, callbacks=(), trainer=None):
    return Evolution(
        space={"model.init_args.lr": LogUniform(1e-3, 1.0)},
        algorithm=RandomSearch(),
        objectives=[Objective("val_loss", "min")],
        budget=Budget(candidates=1),
        workers=Workers(slots=1),
        config={
            "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
            "data": {"class_path": "toys.ToyData"},
            "trainer": {"max_epochs": 4, "accelerator": "cpu", **(trainer or {})},
        },
        directory=directory,
        seed=2,
        executor=pool,
        progress=Recorded(),
        callbacks=list(callbacks),
        final=None,
    )


@pytest.fixture
def forget(tmp_path):
    """Makes of a finished search one that an earlier version began: without what its classes didn't take then."""

    def forgetting(change):
        with Archive(tmp_path) as archive:
            described = archive.meta["search"]
        change(described)
        with ArchiveWriter(tmp_path) as writer:
            writer.set_meta("search", described)

    return forgetting


def test_arguments_that_a_subclass_passes_on_are_described():
    described = describe(Surer(3, rank=4))["init_args"]
    assert (described["in_a_row"], described["rank"]) == (3, 4)
    assert describe(Rounded(2, 0.1, high=1.0))["init_args"] == {
        "digits": 2,
        "base": 10,
        "low": 0.1,
        "high": 1.0,
        "mutation": describe(LogUniform(0.1, 1.0))["init_args"]["mutation"],
        "when": {},
        "step": None,
    }


def test_a_search_in_few_words_is_that_of_the_long_form(tmp_path):
    with threads(1) as pool:
        long, short = search(tmp_path, pool), search(tmp_path, pool)
    lr = {"distribution": "log_uniform_values", "min": 0.001, "max": 1}
    short.space = Evolution(
        space={"parameters": {"model.init_args": {"parameters": {"lr": lr}}}},
        objectives=list(long.objectives),
        budget=long.budget,
        config=long.trainable,
    ).space
    assert short.describe() == long.describe()


def test_a_search_goes_on_where_classes_take_more_arguments_than_they_did(forget, tmp_path):
    def change(described):
        del described["config"]["trainer"]["barebones"]  # false
        del described["config"]["model"]["init_args"]["depth"]
        del described["evolution"]["algorithm"]["init_args"]["duplicate_retries"]
        described["config"]["trainer"]["gone"] = None
        (callback,) = described["evolution"]["callbacks"]
        callback["init_args"] = {"in_a_row": 2}  # as long as `**settings` weren't followed

    with threads(1) as pool:
        search(tmp_path, pool, [Surer(rank=4)]).run()
        forget(change)
        search(tmp_path, pool, [Surer(rank=4)]).run()


DIFFERENCES = {
    "said of the Trainer": (
        {"trainer": {"accumulate_grad_batches": 2}},
        "accumulate_grad_batches: 1 in the archive, 2",
    ),
    "another value": (
        {"trainer": {"gradient_clip_val": 0.5}},
        "trainer.gradient_clip_val: None in the archive, 0.5 given",
    ),
    "another callback": ({"callbacks": []}, "callbacks"),
    "another argument": ({"callbacks": [Surer(1)]}, "in_a_row: 2 in the archive, 1 given"),
    "an argument once absent": ({"callbacks": [Surer(rank=9)]}, "rank: absent in the archive, 9 given"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_whatever_is_said_now_and_was_not_then_is_another_search(case, forget, tmp_path):
    changes, message = DIFFERENCES[case]

    def change(described):
        del described["config"]["trainer"]["accumulate_grad_batches"]
        del described["evolution"]["callbacks"][0]["init_args"]["rank"]

    with threads(1) as pool:
        search(tmp_path, pool, [Surer()]).run()
        forget(change)
        with pytest.raises(SearchError, match=message):
            search(tmp_path, pool, **{"callbacks": [Surer()], **changes}).run()


@dataclass(frozen=True)
class Settings:
    """Of an algorithm, say."""

    size: int
    new: tuple[int, ...] = (1, 2)


def test_only_defaults_complete_what_was_stored():
    assert complete({"size": 3}, Settings(3)) == {"size": 3, "new": [1, 2]}
    assert complete({"size": 3}, Settings(3, (1,))) == {"size": 3}
    assert complete([{"size": 3}], [Settings(3)]) == [{"size": 3, "new": [1, 2]}]
    assert complete({"class_path": "another.Gene", "init_args": {}}, LogUniform(0.1, 1.0)) == {
        "class_path": "another.Gene",
        "init_args": {},
    }
