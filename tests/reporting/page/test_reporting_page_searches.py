"""What a real search leaves is what the page's data say of it: its budget, whether it is over, who was trained."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RegularizedEvolution
from lightning_evo.archive import Archive
from lightning_evo.genome import Uniform
from lightning_evo.reporting.page import payload
from lightning_evo.reporting.progress import ProgressDisplay
from toys import sphere


class Watching(ProgressDisplay):
    """Looks at the search from outside, each time somebody was told."""

    def __init__(self, directory):
        self.directory, self.seen = directory, []

    def told(self, candidate, result, state):
        self.seen.append(run_of(self.directory))

    def message(self, text):
        pass


def run_of(directory):
    with Archive(directory) as archive:
        (run,) = payload([archive])["runs"]
    return run


def search(directory, candidates, progress=False):
    with ThreadPoolExecutor(2) as pool:
        Evolution(
            {"x": Uniform(-1, 1), "y": Uniform(-1, 1)},
            [Objective("value")],
            Budget(candidates=candidates),
            RegularizedEvolution(population_size=8),
            Workers(slots=2),
            directory,
            seed=1,
            function=sphere,
            executor=pool,
            progress=progress,
        ).run()


def test_a_search_is_running_until_its_budget_is_spent_and_its_extension_is_known(tmp_path):
    watching = Watching(tmp_path)
    search(tmp_path, 10, watching)
    assert {run["status"] for run in watching.seen} == {"running"}
    assert [sum(status > 0 for status in run["candidates"]["status"]) for run in watching.seen] == list(range(1, 11))
    run = run_of(tmp_path)
    assert run["status"] == "finished"
    assert run["budget"] == {"candidates": 10}
    assert run["algorithm"].startswith("RegularizedEvolution(population_size=8")
    assert run["bands"]["value"]["window"] == 8
    search(tmp_path, 24)
    run = run_of(tmp_path)
    assert run["budget"] == {"candidates": 24}
    assert len(run["candidates"]["id"]) == 24
    assert [gene["path"] for gene in run["importance"]["value"]["genes"]] in (["x", "y"], ["y", "x"])
    with Archive(tmp_path) as archive:
        (best,) = archive.best()
    assert run["bands"]["value"]["best"][-1] == pytest.approx(best["value"], rel=1e-5)
