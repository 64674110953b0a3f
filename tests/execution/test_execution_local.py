"""Worker processes of this machine: limits, deaths, isolation."""

import concurrent.futures
import contextlib
import errno
import os
import resource
import signal
import threading
from pathlib import Path

import execution_jobs as jobs
import pytest
from execution_processes import gone, read_pids, wait_until

from lightning_evo.execution import Job, LocalExecutor
from lightning_evo.genome import COMPLETED, FAILED


@pytest.fixture(scope="module")
def shared():
    with LocalExecutor(2, threads=3) as executor:
        yield executor


@pytest.fixture
def job(tmp_path):
    def job(id, function, time_limit=None, **arguments):
        return Job(id, function, arguments, str(tmp_path / f"job{id}"), time_limit)

    return job


# -- time limits and cancelling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [jobs.ignore_sigterm, jobs.sleep_in_native_code])
def test_a_job_beyond_its_time_limit_is_killed_and_fails(shared, job, tmp_path, function):
    result = shared.submit(job(1, function, time_limit=0.3, pid_file=str(tmp_path / "pid"))).result()
    assert (result.status, result.error_type) == (FAILED, "TimeLimit")
    assert result.error == "ran longer than its time limit of 0.3 s and was killed"
    assert result.ended - result.started >= 0.3
    assert result.slot is not None
    assert result.attempts == 1
    assert all(gone(pid) for pid in read_pids(tmp_path / "pid"))


def test_a_data_loader_whose_process_never_answers_ends_with_its_job_at_the_time_limit(shared, job, tmp_path):
    future = shared.submit(job(1, jobs.wait_for_a_loader, time_limit=2.5, pid_file=str(tmp_path / "pid")))
    pids = read_pids(tmp_path / "pid")
    assert future.result().error_type == "TimeLimit"
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_time_in_the_queue_does_not_count_towards_the_time_limit(job, tmp_path):
    with LocalExecutor(1) as executor:
        blocking = executor.submit(job(1, jobs.sleep, seconds=1.5))
        limited = executor.submit(job(2, jobs.succeed, time_limit=1.0))
        assert blocking.result().status == COMPLETED
        assert limited.result().status == COMPLETED


def test_waiting_for_another_job_does_not_count_towards_the_time_limit(shared, job, tmp_path):
    lock = str(tmp_path / "lock")
    results = [shared.submit(job(id, jobs.hold_in_turn, 1.0, lock=lock, seconds=0.6)) for id in range(2)]
    assert [result.result().error for result in results] == [None, None]


def test_cancelling_a_running_job_kills_its_worker_and_children(shared, job, tmp_path):
    future = shared.submit(job(1, jobs.sleep_with_child, pid_file=str(tmp_path / "pid")))
    pids = read_pids(tmp_path / "pid")
    future.cancel()
    wait_until(lambda: all(gone(pid) for pid in pids))
    assert len(pids) == 2


@pytest.mark.parametrize("ends", ["at its time limit", "cancelled", "by itself"])
def test_processes_in_sessions_of_their_own_end_with_the_worker(shared, job, tmp_path, ends):
    function = jobs.die_with_daemons if ends == "by itself" else jobs.sleep_with_daemons
    limit = 3.0 if ends == "at its time limit" else None
    other = shared.submit(job(2, jobs.wait_for, path=str(tmp_path / "go")))
    future = shared.submit(job(1, function, time_limit=limit, pid_file=str(tmp_path / "pid")))
    pids = read_pids(tmp_path / "pid")
    if ends == "cancelled":
        future.cancel()
    wait_until(lambda: all(gone(pid) for pid in pids))
    assert len(pids) == 3
    assert not other.done()
    (tmp_path / "go").touch()
    assert other.result().attempts == 1


def test_shutting_down_with_cancel_leaves_no_process(job, tmp_path):
    executor = LocalExecutor(2)
    for number in range(2):
        executor.submit(job(number, jobs.sleep_with_child, pid_file=str(tmp_path / f"pid{number}")))
    pids = [pid for number in range(2) for pid in read_pids(tmp_path / f"pid{number}")]
    executor.shutdown(cancel=True)
    wait_until(lambda: all(gone(pid) for pid in pids))


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_a_job_whose_worker_dies_is_run_again(shared, job, tmp_path):
    result = shared.submit(job(1, jobs.die_until, directory=str(tmp_path / "job1"), attempts=3)).result()
    assert result.status == COMPLETED
    assert result.attempts == 3


def test_a_retry_finds_nothing_of_the_previous_attempt_but_its_output(shared, job, tmp_path):
    result = shared.submit(job(1, jobs.die_until, directory=str(tmp_path / "job1"), attempts=2)).result()
    assert result.extra["found"] == ["output.log"]
    assert (tmp_path / "job1" / "output.log").read_text().split("\n")[:2] == ["attempt 1", "attempt 2"]


def test_a_job_that_always_kills_its_worker_fails_with_the_signal_named(job, tmp_path):
    with LocalExecutor(1, max_retries=1) as executor:
        result = executor.submit(job(1, jobs.die_until, directory=str(tmp_path / "job1"), attempts=9)).result()
        assert (result.status, result.error_type, result.attempts) == (FAILED, "WorkerDied", 2)
        assert "killed by signal 9 (SIGKILL): often the kernel's out-of-memory killer" in result.error
        assert "died 2 times" in result.error
        assert str(tmp_path / "job1" / "output.log") in result.error
        assert not result.fatal
        assert executor.submit(job(2, jobs.succeed)).result().status == COMPLETED


@pytest.mark.parametrize(
    ("function", "arguments", "cause"),
    [
        (jobs.leave_at_once, {"code": 3}, "exited with code 3"),
        (jobs.leave_at_once, {"code": 0}, "exited without a result"),
        (jobs.die_until, {"attempts": 9, "number": signal.SIGTERM}, "killed by signal 15 (SIGTERM)"),
        (jobs.die_until, {"attempts": 9, "number": signal.SIGSEGV}, "killed by signal 11 (SIGSEGV)"),
    ],
)
def test_every_end_of_a_worker_is_noticed(job, tmp_path, function, arguments, cause):
    if function is jobs.die_until:
        arguments = {**arguments, "directory": str(tmp_path / "job1")}
    with LocalExecutor(1, max_retries=0) as executor:
        result = executor.submit(job(1, function, **arguments)).result(timeout=60)
        assert result.error_type == "WorkerDied"
        assert cause in result.error
        assert result.attempts == 1


def test_a_limit_of_memory_fails_its_job_alone(shared, job):
    result = shared.submit(job(1, jobs.allocate_beyond_a_limit)).result()
    assert (result.status, result.fatal) == (FAILED, False)
    assert result.error_type.startswith("MemoryError")
    after = [shared.submit(job(number, jobs.describe_limit)).result().extra["limit"] for number in (2, 3)]
    assert after == [resource.getrlimit(resource.RLIMIT_AS)[0]] * 2


def test_a_job_run_again_goes_before_queued_ones(job, tmp_path):
    with LocalExecutor(1) as executor:
        dying = executor.submit(job(1, jobs.die_until, directory=str(tmp_path / "job1"), attempts=2))
        queued = executor.submit(job(2, jobs.succeed))
        assert dying.result().ended <= queued.result().started


def test_a_death_leaves_the_other_slot_undisturbed(shared, job, tmp_path):
    other = shared.submit(job(1, jobs.wait_for, path=str(tmp_path / "go")))
    assert shared.submit(job(2, jobs.die_until, directory=str(tmp_path / "job2"), attempts=3)).result().attempts == 3
    assert not other.done()
    (tmp_path / "go").touch()
    assert other.result().attempts == 1


@pytest.mark.parametrize("noticed", [True, False])
def test_the_death_of_an_idle_worker_costs_no_job(job, noticed):
    with LocalExecutor(1, max_retries=0) as executor:
        pid = executor.submit(job(1, jobs.succeed)).result().extra["pid"]
        os.kill(pid, signal.SIGKILL)
        if noticed:
            threading.Event().wait(0.5)
        result = executor.submit(job(2, jobs.succeed)).result(timeout=60)
        assert (result.status, result.attempts) == (COMPLETED, 1)
        assert result.extra["pid"] != pid


def test_many_deaths_lose_no_job(job, tmp_path):
    with LocalExecutor(2, max_retries=50) as executor:
        futures = [
            executor.submit(job(i, jobs.note, path=str(tmp_path / "order"), name=i, seconds=0.05)) for i in range(20)
        ]
        victims = set()
        for future in concurrent.futures.as_completed(futures):
            # Whatever that worker does by now: nothing, the next job, or starting.
            if (pid := future.result().extra["pid"]) not in victims:
                victims.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert [future.result().status for future in futures] == [COMPLETED] * 20
        assert len(victims) > 2


def test_a_worker_that_dies_after_its_work_was_done_has_done_it(job, tmp_path):
    with LocalExecutor(1) as executor:
        result = executor.submit(job(1, jobs.die_after_work, counter=str(tmp_path / "count"))).result()
        assert (result.status, result.fitness, result.attempts) == (COMPLETED, (1.0,), 1)
        assert (tmp_path / "count").read_text() == "started\n"
        assert executor.submit(job(2, jobs.succeed)).result().status == COMPLETED


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device"), "df -h /dev/shm"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory"),
        (EOFError("unexpected EOF"), "out-of-memory killer"),
    ],
)
def test_a_machine_that_cannot_run_workers_is_fatal_and_its_reason_is_kept(job, monkeypatch, error, remedy):
    def refuse(**_):
        raise error

    monkeypatch.setattr("lightning_evo.execution.warm.ProcessPool", refuse)
    with LocalExecutor(1) as executor:
        result = executor.submit(job(1, jobs.succeed)).result(timeout=60)
        assert (result.status, result.fatal) == (FAILED, True)
        assert result.error_type.startswith(
            f"WorkerDied: the worker process could not be started: {error!r} (5 times): "
        )
        assert remedy in result.error_type
        monkeypatch.undo()
        assert executor.submit(job(2, jobs.succeed)).result(timeout=60).status == COMPLETED


# -- isolation ---------------------------------------------------------------------------------------------------------


def test_a_worker_serves_many_jobs(job):
    with LocalExecutor(1) as executor:
        pids = {executor.submit(job(i, jobs.succeed)).result().extra["pid"] for i in range(3)}
    assert len(pids) == 1


def test_a_worker_is_replaced_after_a_number_of_jobs(job):
    with LocalExecutor(1, recycle_after=2) as executor:
        pids = [executor.submit(job(i, jobs.succeed)).result().extra["pid"] for i in range(5)]
    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert len(set(pids)) == 3


def test_threads_are_set_for_torch_and_other_libraries(shared, job):
    seen = shared.submit(job(1, jobs.describe_process)).result().extra
    assert seen["torch_threads"] == 3
    assert seen["OMP_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == "3"


def test_threads_default_to_the_environment_or_an_even_share_of_the_cores(monkeypatch):
    monkeypatch.setattr("lightning_evo.execution.local.available_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for slots, threads in ((1, 7), (2, 3), (9, 1)):
        with LocalExecutor(slots) as executor:
            assert executor.threads == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with LocalExecutor(1) as executor:
        assert executor.threads == 2


def test_each_slot_sees_its_own_devices(job):
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with LocalExecutor([("0", "1"), ("GPU-9f6e",)]) as executor:
        futures = [executor.submit(job(i, jobs.describe_process)) for i in range(8)]
        seen = {(result := future.result()).slot: result.extra["CUDA_VISIBLE_DEVICES"] for future in futures}
    assert executor.slots == 2
    assert set(seen.items()) <= {(0, "0,1"), (1, "GPU-9f6e")}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_the_controllers_environment_stays_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with LocalExecutor(1, threads=5):
        assert "OMP_NUM_THREADS" not in os.environ


def test_workers_are_out_of_the_terminals_reach(shared, job):
    seen = shared.submit(job(1, jobs.describe_process)).result().extra
    assert seen["group"] == seen["pid"]


def test_what_a_job_prints_goes_to_its_directory(shared, job, tmp_path, capfd):
    for text in ("one", "two"):
        shared.submit(job(1, jobs.print_everywhere, text=text)).result()
    printed = (tmp_path / "job1" / "output.log").read_text().splitlines()
    for text in ("one", "two"):
        assert {f"python {text}", f"error {text}", f"child {text}"} <= set(printed)


def test_what_a_job_and_its_children_print_without_end_is_cut_in_the_middle_however_it_ends(shared, job, tmp_path):
    path = tmp_path / "job1" / "output.log"
    assert shared.submit(job(1, jobs.print_without_end, ends=True)).result().status == COMPLETED
    text = path.read_text()
    assert (text.startswith("first\n"), text.endswith("last\n")) == (True, True)
    assert "bytes of output left out here" in text
    assert len(text) < 3 * 2**20
    with LocalExecutor(1, max_retries=0) as executor:
        assert executor.submit(job(1, jobs.print_without_end, ends=False)).result().error_type == "WorkerDied"
    assert path.read_text().endswith("last\n")
    assert path.stat().st_size < 3 * 2**20


def test_output_can_be_left_alone(job, tmp_path):
    with LocalExecutor(1, redirect_output=False) as executor:
        executor.submit(job(1, jobs.succeed)).result()
    assert not (tmp_path / "job1" / "output.log").exists()


def test_a_slow_callback_does_not_delay_the_next_job(job, tmp_path):
    release = threading.Event()
    with LocalExecutor(1) as executor:
        executor.submit(job(1, jobs.succeed)).add_done_callback(lambda _: release.wait(60))
        executor.submit(job(2, jobs.note, path=str(tmp_path / "ran"), name="2"))
        wait_until((tmp_path / "ran").exists)
        release.set()


def test_an_unusable_directory_is_fatal(shared, tmp_path):
    (tmp_path / "file").touch()
    result = shared.submit(Job(1, jobs.succeed, {}, str(tmp_path / "file" / "job"))).result()
    assert result.fatal
    assert result.error_type.startswith("NotADirectoryError")


# -- the executor itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, "slots: 0 is not"),
        ({"slots": []}, r"slots: \[\] is not"),
        ({"threads": 0}, "threads: 0 is not at least 1"),
        ({"max_retries": -1}, "max_retries: -1 is not at least 0"),
        ({"recycle_after": 0}, "recycle_after: 0 is not at least 1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalExecutor(**arguments)


def test_a_callback_may_shut_the_executor_down(job):
    executor = LocalExecutor(1)
    done = threading.Event()

    def shut_down(_):
        executor.shutdown()
        done.set()

    executor.submit(job(1, jobs.succeed)).add_done_callback(shut_down)
    assert done.wait(timeout=60)


@pytest.mark.slow
def test_the_death_of_the_forkserver_costs_no_job(job, tmp_path):
    with LocalExecutor(2) as executor:
        futures = [executor.submit(job(i, jobs.wait_for, path=str(tmp_path / "go"))) for i in range(2)]
        wait_until(lambda: all((tmp_path / f"job{i}").exists() for i in range(2)))
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in children:
            if "forkserver" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(int(pid), signal.SIGKILL)
        (tmp_path / "go").touch()
        concurrent.futures.wait(futures)
        assert [future.result().status for future in futures] == [COMPLETED] * 2
