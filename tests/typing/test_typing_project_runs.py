"""The typed project isn't only accepted by mypy: it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "project"


@pytest.fixture
def project(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    import own_search

    return own_search


def test_genetics_and_functions_run(project):
    assert 0 <= project.sampled()["x"] <= 10
    added, entropy = project.functions()
    assert added > 0
    assert 0 <= float(entropy.mean()) <= 1


@pytest.mark.slow
def test_the_search_runs_with_everything_of_the_users_own(project, tmp_path):
    search = project.search(tmp_path / "run")
    search.run()
    assert search.algorithm.generations > 0
    assert len(project.read(tmp_path / "run")) == 4
