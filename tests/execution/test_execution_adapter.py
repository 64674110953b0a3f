"""What holds for executors of someone else's making alone."""

import concurrent.futures
import multiprocessing
import threading

import execution_jobs as jobs
import pytest

from lightning_evo.execution import FuturesExecutor, Job
from lightning_evo.genome import COMPLETED, FAILED


class AtOnce(concurrent.futures.Executor):
    """Runs what it is given while it is being submitted."""

    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        future.set_result(function(*args, **kwargs))
        return future


class Losing(concurrent.futures.Executor):
    """Loses what it is given."""

    def __init__(self, error=None):
        self.error = error

    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        if self.error is None:
            future.cancel()
        else:
            future.set_exception(self.error)
        return future


class BreakingUnderLock(concurrent.futures.Executor):
    """Tells of its end while it holds the lock that submitting takes, as process pools do from Python 3.12 on."""

    def __init__(self):
        self.lock, self.futures = threading.Lock(), []

    def submit(self, function, /, *args, **kwargs):
        assert self.lock.acquire(timeout=5), "submitting would wait forever"
        self.futures.append(concurrent.futures.Future())
        self.lock.release()
        return self.futures[-1]

    def end(self):
        with self.lock:
            for future in self.futures:
                future.set_exception(concurrent.futures.BrokenExecutor("a worker died"))


@pytest.fixture
def job(tmp_path):
    return lambda id, function, **arguments: Job(id, function, arguments, str(tmp_path / f"job{id}"))


def test_a_time_limit_is_refused(tmp_path):
    executor = FuturesExecutor(concurrent.futures.ThreadPoolExecutor(), 1)
    with pytest.raises(ValueError, match="job 4: time_limit 10 was given, but ThreadPoolExecutor cannot end"):
        executor.submit(Job(4, jobs.succeed, {}, str(tmp_path), time_limit=10))


def test_fewer_than_one_slot_is_refused():
    with concurrent.futures.ThreadPoolExecutor() as pool, pytest.raises(ValueError, match="slots: 0 is not at least 1"):
        FuturesExecutor(pool, 0)


def test_the_executor_stays_its_owners(job):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with FuturesExecutor(pool, 1) as executor:
            executor.submit(job(1, jobs.succeed)).result()
        assert pool.submit(abs, -1).result() == 1


def test_no_more_jobs_than_slots_run_at_once(job, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool, FuturesExecutor(pool, 2) as executor:
        futures = [executor.submit(job(i, jobs.wait_for, path=str(tmp_path / "go"))) for i in range(6)]
        while len(list(tmp_path.glob("job*"))) < 2:
            pass
        assert dict(executor.running) == {0: 0, 1: 1}
        (tmp_path / "go").touch()
        assert {future.result().slot for future in futures} <= {0, 1}


def test_an_executor_that_runs_jobs_at_once_is_not_called_ever_deeper(job):
    with FuturesExecutor(AtOnce(), 1) as executor:
        executor.submit(job(0, jobs.succeed)).add_done_callback(
            lambda _: [executor.submit(job(i, jobs.succeed)) for i in range(1, 20)]
        )
        assert executor.submit(job(20, jobs.succeed)).result(timeout=10).status == COMPLETED


def test_a_broken_process_pool_is_fatal(job):
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool, FuturesExecutor(pool, 1) as executor:
        first, second = (executor.submit(job(i, jobs.leave_at_once, code=1)) for i in range(2))
        for future in (first, second):
            result = future.result()
            assert (result.status, result.fatal) == (FAILED, True)
            assert result.error_type.startswith("WorkerDied: BrokenProcessPool")


def test_a_pool_that_is_breaking_is_given_no_more_jobs(job):
    pool = BreakingUnderLock()
    with FuturesExecutor(pool, 1) as executor:
        futures = [executor.submit(job(i, jobs.succeed)) for i in range(3)]
        pool.end()
        results = [future.result(timeout=10) for future in futures]
    assert len(pool.futures) == 1
    assert {(result.status, result.fatal, result.error_type) for result in results} == {
        (FAILED, True, "WorkerDied: BrokenExecutor: a worker died")
    }


def test_a_closed_executor_is_fatal(job):
    pool = concurrent.futures.ThreadPoolExecutor()
    pool.shutdown()
    with FuturesExecutor(pool, 1) as executor:
        result = executor.submit(job(1, jobs.succeed)).result(timeout=10)
    assert result.fatal
    assert "after shutdown" in result.error_type


@pytest.mark.parametrize("error", [None, OSError("worker lost"), KeyboardInterrupt()])
def test_a_job_the_executor_lost_has_failed(job, error):
    with FuturesExecutor(Losing(error), 1) as executor:
        result = executor.submit(job(1, jobs.succeed)).result(timeout=10)
    assert (result.status, result.fatal) == (FAILED, False)
    assert result.error_type.startswith("WorkerDied: ")
