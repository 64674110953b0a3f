"""Nothing that a job changes in its process reaches the next, whatever kind of state it is."""

import os

import execution_leaks as leaks
import pytest

from lightning_evo.execution import Job, LocalExecutor
from lightning_evo.genome import COMPLETED


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1, threads=1, max_retries=0) as executor:
        yield executor


@pytest.fixture(scope="module")
def run(executor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("jobs")

    def run(function, **arguments):
        job = Job(1, function, arguments, str(directory / "job"), modules=(function.__module__,))
        result = executor.submit(job).result(timeout=60)
        assert result.status == COMPLETED, result.error
        return result.extra

    return run


@pytest.mark.parametrize("name", leaks.KINDS)
def test_what_a_job_changes_is_put_back(run, name):
    before = run(leaks.look, name=name)
    changed = run(leaks.change, name=name)
    after = run(leaks.look, name=name)
    assert after["seen"] == before["seen"]
    assert changed["pid"] == before["pid"]
    assert after["pid"] == before["pid"] or "replaced_worker" in changed


@pytest.mark.parametrize("name", leaks.REPLACED)
def test_what_cannot_be_put_back_replaces_the_worker_and_is_said(run, name):
    before = run(leaks.look, name=name)
    changed = run(leaks.change, name=name)
    after = run(leaks.look, name=name)
    assert after["seen"] == before["seen"]
    assert changed["replaced_worker"].keys() >= {leaks.REPLACED[name][2]}
    assert after["pid"] != changed["pid"]
    assert "replaced_worker" not in before


def test_ordinary_jobs_replace_no_worker(run):
    pids = {run(leaks.look, name="a list")["pid"] for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids
