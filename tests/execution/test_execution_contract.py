"""What every executor does, whatever it runs on."""

import concurrent.futures
import contextlib
import multiprocessing
import threading

import execution_jobs as jobs
import pytest

from lightning_evo.execution import Executor, FuturesExecutor, Job, LocalExecutor, read_result
from lightning_evo.genome import COMPLETED, FAILED


def _dask(**kwargs):
    distributed = pytest.importorskip("distributed")
    return distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None, **kwargs)


def _wrapped(open_pool):
    """Have any standard executor, made in the context of a module's tests, keep the contract."""

    def make(stack):
        pool = stack.enter_context(open_pool())
        pool = pool.get_executor(pure=False) if hasattr(pool, "get_executor") else pool
        return lambda slots: FuturesExecutor(pool, slots)

    return make


def _processes():
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver"))


EXECUTORS = {
    "local": lambda stack: LocalExecutor,
    "threads": _wrapped(lambda: concurrent.futures.ThreadPoolExecutor(2)),
    "processes": _wrapped(_processes),
    "dask-threads": _wrapped(lambda: _dask(processes=False)),
    "dask-processes": _wrapped(lambda: _dask(processes=True)),
}
"""Every executor in one row: given an exit stack, a factory of executors with any number of slots up to 2."""

SLOW = {"dask-processes"}


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in EXECUTORS], scope="module"
)
def make(request):
    with contextlib.ExitStack() as stack:
        yield EXECUTORS[request.param](stack)


@pytest.fixture
def executor(make):
    with make(2) as executor:
        yield executor


@pytest.fixture
def single(make):
    with make(1) as executor:
        yield executor


@pytest.fixture
def job(tmp_path):
    def job(id, function, priority=0, **arguments):
        return Job(id, function, arguments, str(tmp_path / f"job{id}"), priority=priority)

    return job


def _blocked(executor, job, tmp_path):
    """Occupy an executor's only slot; returns what frees it."""
    future = executor.submit(job(99, jobs.wait_for, path=str(tmp_path / "go")))
    return future, (tmp_path / "go").touch


def test_keeps_the_protocol(executor):
    assert isinstance(executor, Executor)
    assert executor.slots == 2


def test_gives_the_result_with_where_and_when_it_ran(executor, job):
    result = executor.submit(job(1, jobs.succeed, value=3)).result()
    assert result.status == COMPLETED
    assert result.fitness == (3.0,)
    assert result.slot in (0, 1)
    assert result.attempts == 1
    assert result.started <= result.ended


def test_leaves_the_result_in_the_directory(executor, job):
    one = job(1, jobs.succeed, value=3)
    assert executor.submit(one).result() == read_result(one.directory)


@pytest.mark.parametrize(
    ("function", "arguments", "error_type"),
    [
        (jobs.raise_value_error, {}, "ValueError: too bad"),
        (jobs.raise_value_error, {"message": ""}, "ValueError"),
        (jobs.raise_unpicklable, {}, "Local: kept inside"),
        (jobs.raise_unprintable, {}, "Unprintable: (its message can't be shown: __str__ raises)"),
        (jobs.interrupt, {}, "KeyboardInterrupt"),
        (jobs.leave, {"code": 0}, "SystemExit: 0"),
        (jobs.run_out_of_memory, {}, "MemoryError: unable to allocate 1 PiB"),
        (
            jobs.return_nothing,
            {},
            "TypeError: execution_jobs.return_nothing returned NoneType, not a lightning_evo Result",
        ),
        (jobs.take, {"argument": jobs.Refuses()}, "ValueError: cannot be read"),
        (jobs.take, {"wrong": 1}, "TypeError: take() got an unexpected keyword argument 'wrong'"),
    ],
)
def test_whatever_a_function_raises_is_a_failed_result(executor, job, function, arguments, error_type):
    result = executor.submit(job(1, function, **arguments)).result()
    assert result.status == FAILED
    assert result.error_type == error_type
    assert not result.fatal
    assert executor.submit(job(2, jobs.succeed)).result().status == COMPLETED


def test_a_failed_result_has_the_whole_traceback(executor, job):
    error = executor.submit(job(1, jobs.raise_value_error)).result().error
    assert "Traceback" in error
    assert "in raise_value_error" in error
    assert "second line" in error


@pytest.mark.parametrize("function", [jobs.return_unpicklable, jobs.return_object])
def test_a_result_that_is_not_plain_data_is_a_failed_result(executor, job, function):
    result = executor.submit(job(1, function)).result()
    assert result.status == FAILED
    assert result.error_type.startswith("TypeError: the result is not plain data")
    assert result.slot is not None


@pytest.mark.parametrize("arguments", [{"argument": threading.Lock()}, {"argument": lambda: None}])
def test_arguments_that_cannot_be_sent_are_a_failed_result(executor, job, arguments):
    result = executor.submit(job(1, jobs.take, **arguments)).result(timeout=10)
    assert result.status == FAILED
    assert "pickle" in result.error_type


def test_a_full_disk_is_fatal_to_the_search(executor, job):
    assert executor.submit(job(1, jobs.fill_disk)).result().fatal


def test_equal_priorities_run_in_the_order_of_submission(single, job, tmp_path):
    order = tmp_path / "order"
    _, release = _blocked(single, job, tmp_path)
    futures = [single.submit(job(i, jobs.note, path=str(order), name=i)) for i in range(5)]
    release()
    concurrent.futures.wait(futures)
    assert order.read_text().split() == [str(i) for i in range(5)]


def test_smaller_priorities_run_first(single, job, tmp_path):
    order = tmp_path / "order"
    _, release = _blocked(single, job, tmp_path)
    futures = [
        single.submit(job(i, jobs.note, priority=priority, path=str(order), name=f"{priority}:{i}"))
        for i, priority in enumerate([2, 0, 1, 0, -1])
    ]
    release()
    concurrent.futures.wait(futures)
    assert order.read_text().split() == ["-1:4", "0:1", "0:3", "1:2", "2:0"]


def test_shows_what_runs_in_which_slot(single, job, tmp_path):
    future, release = _blocked(single, job, tmp_path)
    queued = single.submit(job(5, jobs.succeed))
    while not single.running:
        pass
    assert dict(single.running) == {0: 99}
    release()
    concurrent.futures.wait([future, queued])
    assert single.running == {}


def test_a_queued_job_can_be_cancelled(single, job, tmp_path):
    future, release = _blocked(single, job, tmp_path)
    cancelled, next_one = (single.submit(job(i, jobs.succeed)) for i in (1, 2))
    assert cancelled.cancel()
    assert cancelled in concurrent.futures.wait([cancelled], timeout=10).done
    release()
    assert next_one.result().status == COMPLETED
    assert future.result().status == COMPLETED
    assert not (tmp_path / "job1").exists()


def test_a_running_job_can_be_cancelled_and_its_slot_serves_again(single, job, tmp_path):
    future, release = _blocked(single, job, tmp_path)
    while not single.running:
        pass
    assert future.cancel()
    assert future in concurrent.futures.wait([future], timeout=10).done
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    release()  # for the executors that can't end a running job
    assert single.submit(job(2, jobs.succeed)).result().status == COMPLETED


def test_shutting_down_waits_for_what_was_submitted(make, job):
    executor = make(1)
    futures = [executor.submit(job(i, jobs.succeed, value=i)) for i in range(5)]
    executor.shutdown()
    assert [future.result(timeout=0).fitness for future in futures] == [(float(i),) for i in range(5)]


def test_shutting_down_may_cancel_what_was_submitted(make, job, tmp_path):
    executor = make(1)
    blocking, release = _blocked(executor, job, tmp_path)
    queued = executor.submit(job(1, jobs.succeed))
    executor.shutdown(cancel=True)
    release()
    assert blocking.cancelled()
    assert queued.cancelled()


def test_shutting_down_twice_is_allowed_and_submitting_afterwards_is_not(make, job):
    executor = make(1)
    executor.shutdown()
    executor.shutdown(cancel=True)
    with pytest.raises(RuntimeError, match="job 7: the executor was shut down"):
        executor.submit(job(7, jobs.succeed))


def test_an_error_in_the_with_block_cancels_what_is_left(make, job, tmp_path):
    def fail():
        with make(1) as executor:
            started.extend(_blocked(executor, job, tmp_path))
            raise KeyError

    started = []
    with pytest.raises(KeyError):
        fail()
    blocking, release = started
    release()
    assert blocking.cancelled()


def test_a_done_callback_may_submit_the_next_job(executor, job):
    results = []
    done = threading.Event()

    def submit_next(future):
        results.append(future.result().fitness)
        if len(results) == 5:
            done.set()
        else:
            executor.submit(job(len(results), jobs.succeed, value=len(results))).add_done_callback(submit_next)

    executor.submit(job(0, jobs.succeed)).add_done_callback(submit_next)
    assert done.wait(timeout=60)
    assert results == [(0.0,), (1.0,), (2.0,), (3.0,), (4.0,)]


def test_a_time_limit_must_be_above_zero():
    with pytest.raises(ValueError, match="job 3: time_limit: 0 is not above 0 seconds"):
        Job(3, jobs.succeed, {}, "somewhere", time_limit=0)
