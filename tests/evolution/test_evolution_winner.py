"""The winner as it is finished: retrained with what shaped its training, and with the schedule that it followed."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import yaml
from searching import Recorded, threads

import toys
from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import PopulationBasedTraining, RandomSearch
from lightning_evo.callbacks import HyperparameterSchedule, StructuralGrowth
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.cli import main
from lightning_evo.evolution.settings import Final
from lightning_evo.genome import LogUniform


def search(directory, pool, algorithm, candidates, **settings):
    Evolution(
        space={"model.init_args.lr": LogUniform(1e-3, 1.0)},
        algorithm=algorithm,
        objectives=[Objective("val_loss", "min")],
        budget=Budget(candidates=candidates),
        workers=Workers(slots=1),
        config={
            "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
            "data": {"class_path": "toys.ToyData"},
            "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        },
        directory=directory,
        seed=2,
        executor=pool,
        progress=Recorded(),
        **settings,
    ).run()


class Ending(SearchCallback):
    """Compares a training with others, of which there are none once the search is over."""

    ends_trainings = True
    joined: ClassVar[list[str]] = []

    def join_search(self, context):
        self.joined.append(context.directory)


def test_a_retrained_winner_grows_by_the_searchs_callbacks_and_is_not_stopped_by_them(tmp_path):
    callbacks = [StructuralGrowth(initial=[{"operation": "widen", "place": 0.0, "ratio": 2.0}]), Ending()]
    with threads(1) as pool:
        search(tmp_path, pool, RandomSearch(), 1, callbacks=callbacks, final=Final(retrain=True, test=True))
    assert Ending.joined == [str(tmp_path / "candidates/000000")]
    with Archive(tmp_path) as archive:
        assert archive.meta["final"]["retrained"]
        assert "test_loss" in archive.meta["final"]["metrics"]
        trained = torch.load(tmp_path / archive.result(0).checkpoint, weights_only=False)["state_dict"]
    retrained = torch.load(tmp_path / "final/model.ckpt", weights_only=False)["state_dict"]
    shapes = {name: tensor.shape for name, tensor in retrained.items()}
    assert shapes == {name: tensor.shape for name, tensor in trained.items()}
    assert shapes["net.0.weight"] == (8, 2)


class Followed(HyperparameterSchedule):
    """A schedule by another name."""


class Population(PopulationBasedTraining):
    """Declares what follows its schedules."""

    schedule_callback = f"{__name__}.Followed"


@pytest.mark.parametrize("algorithm", [Population, PopulationBasedTraining])
def test_an_export_names_the_callback_that_the_algorithm_declares(algorithm, tmp_path):
    with threads(1) as pool:
        search(tmp_path / "run", pool, algorithm(2, epochs=2, quantile=0.5), 4, final=None)
    main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "best")])
    (callback,) = yaml.safe_load((tmp_path / "best/replay.yaml").read_text())["trainer"]["callbacks+"]
    assert callback["class_path"] == algorithm.schedule_callback


# -- the test split, once ------------------------------------------------------------------------------------------------


@pytest.fixture
def tests_made(monkeypatch):
    """How often the test split was loaded."""
    made = []
    original = toys.ToyData.test_dataloader

    def test_dataloader(self):
        made.append(self)
        return original(self)

    monkeypatch.setattr(toys.ToyData, "test_dataloader", test_dataloader)
    return made


def found(directory):
    with Archive(directory) as archive:
        final = archive.meta["final"]
    assert final["tested"]
    assert (directory / "final/model.ckpt").is_file()
    return final["request"]["candidate"], final["metrics"]["test_loss"]


@pytest.mark.parametrize("final", [Final(), Final(retrain=True, test=True)])
def test_a_winner_is_tested_once_though_the_controller_dies_before_it_records_the_test(
    tmp_path, tests_made, monkeypatch, final
):
    def die(*arguments):
        raise MemoryError("as good as a kill: nothing is recorded")

    with threads(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr("lightning_evo.evolution.winner.write_schedule", die)
            with pytest.raises(MemoryError):
                search(tmp_path, pool, RandomSearch(), 2, final=final)
        with Archive(tmp_path) as archive:
            assert "final" not in archive.meta
        assert len(tests_made) == 1
        search(tmp_path, pool, RandomSearch(), 2, final=final)
    assert len(tests_made) == 1
    found(tmp_path)


def test_a_winner_is_tested_once_whatever_happens_to_its_files_and_the_budget(tmp_path, tests_made):
    with threads(1) as pool:
        search(tmp_path, pool, RandomSearch(), 1)
        winner, loss = found(tmp_path)
        for lost in (
            ["final/model.ckpt"],
            ["tested.json", "final/model.ckpt"],
            ["final/model.ckpt", f"candidates/{winner:06d}/checkpoint.ckpt"],
        ):
            for name in lost:
                (tmp_path / name).unlink()
            search(tmp_path, pool, RandomSearch(), 1)
            assert found(tmp_path) == (winner, loss)
        assert len(tests_made) == 1
        search(tmp_path, pool, RandomSearch(), 4)
        # Each model that ever won is tested once.
        assert len(tests_made) == (1 if found(tmp_path)[0] == winner else 2)
        search(tmp_path, pool, RandomSearch(), 4, final=Final(test=False))
        search(tmp_path, pool, RandomSearch(), 4)
    assert len(tests_made) <= 2
