"""No process outlives the one it works for."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from execution_processes import gone, read_pids, wait_until

from lightning_evo.execution import LocalExecutor
from lightning_evo.execution.children import MARK, mark

HERE = Path(__file__).parent
GUARD = HERE.parents[1] / "lightning_evo" / "utils" / "process.py"


def start_controller(directory, ends):
    popen = subprocess.Popen if ends == "killed" else warm.Popen  # one of them in a new interpreter
    return popen(
        [sys.executable, str(HERE / "execution_controller.py"), str(directory), ends],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # The forkserver finds its modules by the environment.
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])},
    )


@pytest.mark.parametrize("ends", ["killed", pytest.param("portably", marks=pytest.mark.slow)])
def test_a_killed_controller_leaves_no_worker_nor_their_children(tmp_path, ends):
    controller = start_controller(tmp_path, ends)
    pids = read_pids(tmp_path / "pids")
    assert not any(gone(pid) for pid in pids)
    controller.kill()
    controller.communicate()
    wait_until(lambda: all(gone(pid) for pid in pids), seconds=20)
    assert len(pids) >= 3


def test_what_outlives_controller_workers_and_forkserver_is_ended_by_the_next_executor(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    namespace = os.readlink("/proc/self/ns/pid")
    marks = {
        "dead": f"{dead.pid}:1:{namespace}",
        "reused": f"{os.getpid()}:1:{namespace}",
        "alive": mark(),
        "elsewhere": f"{dead.pid}:1:pid:[1]",
    }
    left = {
        name: subprocess.Popen(["sleep", "600"], env={"A": "1", MARK: value}, start_new_session=True)
        for name, value in marks.items()
    }
    try:
        LocalExecutor(1).shutdown()
        assert left["dead"].wait(timeout=20) == left["reused"].wait(timeout=20) == -signal.SIGKILL
        assert left["alive"].poll() is left["elsewhere"].poll() is None
    finally:
        for process in left.values():
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_controller_that_ends_without_shutting_down_ends_in_silence_and_leaves_no_process(tmp_path):
    controller = start_controller(tmp_path, "by itself")
    _, errors = controller.communicate(timeout=120)
    assert controller.returncode == 0
    assert errors == b""
    pids = read_pids(tmp_path / "pids")
    wait_until(lambda: all(gone(pid) for pid in pids), seconds=20)


@pytest.mark.slow
def test_a_main_module_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import execution_jobs as jobs\n"
        "from lightning_evo.execution import Job, LocalExecutor\n"
        "executor = LocalExecutor(1)\n"
        f"print('fatal', executor.submit(Job(1, jobs.succeed, {{}}, {str(tmp_path)!r})).result().fatal)\n"
    )
    ended = warm.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])},
        check=True,
    )
    assert "if __name__ == '__main__':" in ended.stderr
    assert ended.stdout == "fatal True\n"


CHILD = f"""
import runpy, sys, time
die_with_parent = runpy.run_path({str(GUARD)!r})["die_with_parent"]
die_with_parent(*map(int, sys.argv[2:]))
open(sys.argv[1] + ".part", "w").write(str(__import__("os").getpid()))
__import__("os").rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""

PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2], *([str(os.getpid())] if sys.argv[3] == "named" else [])])
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["named", "unnamed"])
def test_a_child_that_asks_for_it_dies_with_its_parent(tmp_path, how):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path / "pid"), how])
    (child,) = read_pids(tmp_path / "pid")
    assert not gone(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(child), seconds=20)


def test_a_child_whose_parent_died_before_it_could_ask_dies_at_once(tmp_path):
    somebody_else = str(os.getppid())
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "pid"), somebody_else], timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "pid").exists()
