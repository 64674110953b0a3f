"""The small parts of a search: settings, kept checkpoints, interrupts, descriptions."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from searching import evolution, told

from lightning_evo import Budget, Evolution, Final, Objective, Workers
from lightning_evo.algorithms import NSGA2, Operator, PopulationBasedTraining, RegularizedEvolution
from lightning_evo.evolution.description import describe
from lightning_evo.evolution.errors import Interrupts
from lightning_evo.genome import Categorical, Integer, LogUniform, SearchSpace


@pytest.mark.parametrize(
    ("given_", "expected"), [(90, 90.0), ("90", 90.0), ("01:30", 90.0), ("1:00:00", 3600.0), ("1:00:00:01", 86401.0)]
)
def test_durations_are_seconds_or_clock_times(given_, expected):
    assert Budget(wall_time=given_).seconds == expected


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Budget(), "no limit is set"),
        (lambda: Budget(epochs=-1), "epochs: -1 is not above 0"),
        (lambda: Budget(wall_time="1:2:3:4:5"), "is not a number of seconds or"),
        (lambda: Workers(devices_per_candidate=0), "devices_per_candidate: 0 is not at least 1"),
        (lambda: Workers(max_retries=-1), "max_retries: -1 is not at least 0"),
        (lambda: Workers(time_limit=0), "time_limit: 0 is not above 0"),
        (lambda: Final(overrides={"trainer.max_epochs": 3}), "no effect without retrain"),
        (lambda: Objective("val_acc", "up"), "is not 'max' or 'min'"),
        (lambda: Objective(""), "monitor: '' is not"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_ctrl_c_asks_twice_and_handlers_are_put_back():
    said = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(said.append) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.stopping, interrupts.now) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert (interrupts.stopping, interrupts.now) == (True, True)
    assert len(said) == 2
    assert signal.getsignal(signal.SIGINT) == before


def test_sigterm_stops_at_once():
    with Interrupts(lambda text: None) as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.now


def test_a_search_in_a_thread_leaves_signals_alone():
    seen = []

    def enter():
        with Interrupts(lambda text: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_a_description_is_json_and_tells_searches_apart():
    def search(**changes):
        settings = {"low": 1, "high": 4} | changes
        space = SearchSpace({"a": Integer(**settings), "b": Categorical([{"class_path": "x"}, None])})
        return describe({"space": space, "algorithm": RegularizedEvolution(population_size=9)})

    assert json.loads(json.dumps(search())) == search()
    assert search() != search(high=5)
    assert describe(NSGA2()) != describe(NSGA2(mate=Operator("cxTwoPoint")))
    assert describe(LogUniform(1e-3, 1)) != describe(LogUniform(1e-3, 1, mutation=0.1))


def test_a_description_names_the_epochs_that_members_train(config):
    """They were recorded from the first on, also where the Trainer decides them."""
    search = Evolution(
        space={"model.init_args.lr": LogUniform(1e-3, 1.0)},
        algorithm=PopulationBasedTraining(4),
        objectives=[Objective("val_loss", "min")],
        budget=Budget(candidates=4),
        config=config,
    )
    assert search.describe()["evolution"]["algorithm"]["init_args"]["epochs"] == config["trainer"]["max_epochs"]
    assert search.algorithm.epochs is None


@pytest.mark.slow
def test_a_process_pool_runs_a_search_as_threads_do(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        in_processes = told(evolution(tmp_path / "a", pool).run())
    assert len(in_processes) == 12


@pytest.mark.slow
def test_dask_runs_a_search(tmp_path):
    distributed = pytest.importorskip("distributed")
    cluster = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.Client(**cluster) as client:
        archive = evolution(tmp_path, client.get_executor(pure=False)).run()
    assert archive.counts()["completed"] == 12


def test_an_archive_may_lie_in_a_database_that_several_searches_share(tmp_path):
    from searching import threads

    url = f"sqlite:///{tmp_path / 'team.sqlite'}"
    with threads() as pool:
        first = evolution(tmp_path / "a", pool, database=url).run()
        second = evolution(tmp_path / "b", pool, database=url, seed=2).run()
        again = evolution(tmp_path / "a", pool, database=url, budget=Budget(candidates=14)).run()
    assert first.run != second.run
    assert len(again.candidates()) == 14
    assert len(second.candidates()) == 12
