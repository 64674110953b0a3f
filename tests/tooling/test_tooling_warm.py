"""A program of ``warm`` is a process like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

pytestmark = pytest.mark.slow  # the server takes seconds to start


def python(code: str, *arguments: str, **how) -> subprocess.CompletedProcess[str]:
    return warm.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, **how)


def test_it_has_imported_torch_and_lightning_and_nothing_of_ours():
    code = "import sys; print(*(name in sys.modules for name in ('torch', 'lightning.pytorch.cli', 'lightning_evo')))"
    assert python(code).stdout == "True True False\n"


def test_it_finds_itself_in_the_place_that_was_asked_for(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, sys\nprint(sys.argv, __name__, __file__, os.getcwd(), sorted(os.environ), sys.path[:2])\n"
    )
    script = str(tmp_path / "script.py")
    done = warm.run([sys.executable, script, "a"], env={"PYTHONPATH": "/b"}, cwd="/", capture_output=True, text=True)
    assert done.stdout == f"{[script, 'a']} __main__ {script} / ['PYTHONPATH'] {[str(tmp_path), '/b']}\n"


def test_a_module_is_run_as_one(tmp_path):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "module.py"
    file.write_text("import sys\nprint(sys.argv, __name__, __spec__.name, __package__, __file__, sys.path[0])\n")
    done = warm.run([sys.executable, "-m", "folder.module", "a"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{[str(file), 'a']} __main__ folder.module folder {file} {tmp_path}\n"


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why"),
        ("raise ValueError('why')", 1, "ValueError: why"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("import atexit, sys; atexit.register(print, 'last', file=sys.stderr)", 0, "last"),
    ],
)
def test_it_ends_as_an_interpreter_does(code, expected, said):
    done = python(code)
    assert done.returncode == expected
    assert done.stderr.strip().endswith(said)


def test_two_draw_different_random_numbers():
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    one, other = (python(code).stdout.split() for _ in range(2))
    assert not set(one) & set(other)


def test_it_reads_writes_and_gets_signals_in_a_session_of_its_own():
    code = "import sys, time; print(input(), flush=True); time.sleep(60)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with warm.Popen([sys.executable, "-c", code], text=True, start_new_session=True, **pipes) as program:
        program.stdin.write("hello\n")
        program.stdin.flush()
        assert program.stdout.readline() == "hello\n"
        assert program.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.01)
        assert os.getsid(program.pid) == program.pid
        os.killpg(program.pid, signal.SIGINT)
        assert "KeyboardInterrupt" in program.communicate(timeout=30)[0]
        assert program.wait() == -signal.SIGINT


FORKSERVER = """
import multiprocessing, os, sys

def work():
    print(os.getpid(), os.getppid(), sys.modules["preloaded"].__file__, flush=True)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    for _ in range(2):
        process = context.Process(target=work)
        process.start()
        process.join()
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_its_forkserver_is_its_child_and_ends_with_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FORKSERVER)
    (tmp_path / "elsewhere").mkdir()
    preloaded = tmp_path / "elsewhere" / "preloaded.py"
    preloaded.touch()
    how = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "env": os.environ | {"PYTHONPATH": str(preloaded.parent)},
    }
    with warm.Popen([sys.executable, str(script)], text=True, **how) as program:
        (first, server, found), (second, same, _), (own,) = (program.stdout.readline().split() for _ in range(3))
        assert found == str(preloaded)
        assert first != second
        assert server == same
        assert own == str(program.pid)
        status = Path(f"/proc/{server}/stat")
        assert status.read_text().rpartition(")")[2].split()[1] == own
        program.kill()
    end = time.monotonic() + 20
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "the forkserver outlives it"
        time.sleep(0.05)
