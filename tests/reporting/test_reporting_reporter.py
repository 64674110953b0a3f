"""Reporters are told everything, in order, and never in the way of the search."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_evo.algorithms import RandomSearch, RegularizedEvolution
from lightning_evo.evolution import Budget, Evolution, SearchError, Workers
from lightning_evo.genome import Objective, Uniform
from lightning_evo.reporting.reporter import Reporter, ReporterError

POOL = ThreadPoolExecutor(1)


class Diary(Reporter):
    """Writes down what it is told."""

    interval = 0.0

    def __init__(self) -> None:
        self.entries: list[tuple] = []
        self.threads: set[str] = set()
        self.search = None

    def note(self, *entry) -> None:
        self.threads.add(threading.current_thread().name)
        self.entries.append(entry)

    def start(self, search):
        self.search = search
        self.note("start", search.resumed)

    def asked(self, candidate):
        self.note("asked", candidate.id)

    def running(self, trainings, state):
        self.note("running", *(each.candidate.id for each in trainings))

    def told(self, candidate, result, state):
        self.note("told", candidate.id, result.fitness, state.told)

    def finish(self, state, outcome):
        self.note("finish", outcome, state.asked, state.told)

    def of(self, *kinds: str) -> list[tuple]:
        return [entry for entry in self.entries if entry[0] in kinds]


class Forgetful(Diary):
    """Fails at its third result."""

    def told(self, candidate, result, state):
        super().told(candidate, result, state)
        if state.told == 3:
            raise ConnectionError("the other end is gone\nand more of that")

    def release(self):
        self.note("release")


class Asleep(Diary):
    """Never gets through its first event."""

    patience = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def start(self, search):
        self.released.wait()

    def release(self):
        self.note("release")


class Refusing(Reporter):
    """Can't work here."""

    def check(self):
        raise ReporterError("no login; set NOBODY_MODE=offline")


def square(genome, seed, directory):
    return {"y": genome["x"] ** 2}


def search(directory: Path, *reporters: Reporter, candidates: int = 6, function=square, **rest) -> Evolution:
    return Evolution(
        space={"x": Uniform(-1, 1)},
        objectives=[Objective("y", "min")],
        budget=Budget(candidates=candidates),
        algorithm=RandomSearch(),
        workers=Workers(slots=1),
        directory=directory,
        seed=3,
        reporters=list(reporters),
        function=function,
        executor=POOL,
        **{"progress": False, **rest},
    )


def test_a_reporter_is_told_everything_in_order_in_a_thread_of_its_own(tmp_path):
    diary = Diary()
    archive = search(tmp_path, diary).run()
    assert diary.entries[0] == ("start", False)
    assert diary.entries[-1] == ("finish", "finished", 6, 6)
    assert [entry[1] for entry in diary.of("asked")] == list(range(6))
    told = diary.of("told")
    assert [(id, fitness) for _, id, fitness, _ in told] == [(row["id"], (row["y"],)) for row in archive.candidates()]
    assert [count for *_, count in told] == [1, 2, 3, 4, 5, 6]
    for id in range(6):
        assert diary.entries.index(("asked", id)) < diary.entries.index(told[id])
    assert diary.threads == {"Diary"}
    assert diary.search.seed == 3
    assert diary.search.algorithm == "RandomSearch"


def test_it_is_shown_what_trains(tmp_path):
    diary = Diary()
    search(tmp_path, diary, candidates=3, function=slow_square).run()
    assert {id for _, *ids in diary.of("running") for id in ids} & {0, 1, 2}


def slow_square(genome, seed, directory):
    time.sleep(0.7)
    return square(genome, seed, directory)


def test_a_continued_search_tells_it_all_again_before_anything_new(tmp_path):
    search(tmp_path, candidates=4).run()
    diary = Diary()
    search(tmp_path, diary, candidates=6).run()
    assert diary.entries[0] == ("start", True)
    assert [id for _, id, *_ in diary.of("told")] == list(range(6))
    assert diary.entries[-1] == ("finish", "finished", 6, 6)


def test_a_reporter_that_fails_is_dropped_and_the_user_told_and_the_search_goes_on(tmp_path, capsys):
    forgetful, diary = Forgetful(), Diary()
    archive = search(tmp_path, forgetful, diary, progress=True).run()
    assert archive.counts()["completed"] == 6
    assert len(forgetful.of("told")) == 3
    assert not forgetful.of("finish")
    assert forgetful.entries[-1] == ("release",)
    assert not diary.of("release")
    assert len(diary.of("told")) == 6
    said = [line for line in capsys.readouterr().out.splitlines() if "Forgetful" in line]
    assert len(said) == 1
    assert "ConnectionError: the other end is gone;" in said[0]


def test_a_reporter_that_never_answers_holds_nobody_up(tmp_path, capsys):
    asleep = Asleep()
    try:
        archive = search(tmp_path, asleep, progress=True).run()
    finally:
        asleep.released.set()
    assert archive.counts()["completed"] == 6
    assert "Asleep did not finish" in capsys.readouterr().out
    assert asleep.entries == [("release",)]


class Talkative(Diary):
    """Says so at each result."""

    def told(self, candidate, result, state):
        super().told(candidate, result, state)
        self.search.notify(f"heard of {candidate.id}")


def test_what_a_reporter_says_is_shown_to_the_user(tmp_path, capsys):
    search(tmp_path, Talkative(), candidates=3, progress=True).run()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("heard of")]
    assert sorted(said) == ["heard of 0", "heard of 1", "heard of 2"]


class Census(Diary):
    """Counts who is in the population."""

    def told(self, candidate, result, state):
        self.note("told", candidate.id, state.population)


def test_it_is_told_who_is_in_the_population(tmp_path):
    census = Census()
    evolution = search(tmp_path, census, candidates=6)
    evolution.algorithm = RegularizedEvolution(population_size=3)
    evolution.run()
    populations = [population for _, _, population in census.of("told")]
    assert [len(population) for population in populations] == [1, 2, 3, 3, 3, 3]
    assert set(populations[-1]) == {individual.id for individual in evolution.algorithm.population}


def test_a_reporter_that_cannot_work_is_refused_before_anything_trains(tmp_path):
    with pytest.raises(SearchError, match=r"^evolution\.reporters\[1\] Refusing: no login; set NOBODY_MODE=offline$"):
        search(tmp_path / "run", Diary(), Refusing()).run()
    assert not (tmp_path / "run").exists()


class Clumsy(Reporter):
    """Fails at letting go."""

    def release(self):
        raise OSError("gone already")


def test_what_reporters_hold_since_their_check_is_released_when_the_search_is_refused(tmp_path):
    left = Forgetful()
    with pytest.raises(SearchError, match="Refusing: no login"):
        search(tmp_path / "run", left, Clumsy(), Refusing()).run()
    assert left.entries == [("release",)]


def test_it_is_told_when_a_search_fails(tmp_path):
    diary = Diary()
    with pytest.raises(SearchError):
        search(tmp_path, diary, function=broken).run()
    assert diary.entries[-1][:2] == ("finish", "failed")


def broken(genome, seed, directory):
    raise RuntimeError("no")


def test_reporters_do_not_make_it_another_search(tmp_path):
    assert search(tmp_path, Diary()).describe() == search(tmp_path).describe()
