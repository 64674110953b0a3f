"""Job functions for the tests of the execution room; importable by name in worker processes."""

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lightning_evo.genome import COMPLETED, Result
from lightning_evo.utils.waiting import held


def succeed(value=0.0):
    return Result(COMPLETED, fitness=(float(value),), extra={"pid": os.getpid()})


def note(path, name, seconds=0.0):
    """Append a line, to see in which order jobs ran."""
    with open(path, "a") as file:
        file.write(f"{name}\n")
    time.sleep(seconds)
    return Result(COMPLETED, fitness=(0.0,), extra={"pid": os.getpid()})


def wait_for(path):
    """Run until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.01)
    return Result(COMPLETED, fitness=(0.0,), extra={"pid": os.getpid()})


def hold_in_turn(lock, seconds):
    """Holds what another job waits for."""
    with held(Path(lock), "another job"):
        time.sleep(seconds)
    return succeed()


def sleep(pid_file=None, seconds=600.0):
    if pid_file:
        publish(pid_file)
    time.sleep(seconds)
    return Result(COMPLETED, fitness=(0.0,), extra={"pid": os.getpid()})


def sleep_in_native_code(pid_file):
    """Hang with the interpreter's lock held: no Python thread or signal handler of this process runs any more."""
    publish(pid_file)
    ctypes.PyDLL(None).sleep(600)


def sleep_with_child(pid_file):
    """Leave a child process that knows nothing of its parent."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    publish(pid_file, os.getpid(), child.pid)
    time.sleep(600)


def start_daemons():
    """Leave processes in sessions of their own: one with an empty environment, one that no longer has a parent."""
    executed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if (grandchild := os.fork()) == 0:
            time.sleep(600)
        os.write(write, str(grandchild).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return executed.pid, int(os.read(read, 20))


def sleep_with_daemons(pid_file):
    publish(pid_file, os.getpid(), *start_daemons())
    time.sleep(600)


def die_with_daemons(pid_file):
    publish(pid_file, os.getpid(), *start_daemons())
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def ignore_sigterm(pid_file):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    publish(pid_file)
    time.sleep(600)


def publish(path, *pids):
    part = Path(f"{path}.part")
    part.write_text(" ".join(str(pid) for pid in pids or (os.getpid(),)))
    part.replace(path)


def raise_value_error(message="too bad\nsecond line"):
    raise ValueError(message)


def raise_unpicklable():
    class Local(Exception):
        def __init__(self, one, two):
            super().__init__("kept inside")
            self.lock = threading.Lock()

    raise Local(1, 2)


def raise_unprintable():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    raise Unprintable


def interrupt():
    raise KeyboardInterrupt


def leave(code):
    sys.exit(code)


def leave_at_once(code):
    os._exit(code)


def fill_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_out_of_memory():
    raise MemoryError("unable to allocate 1 PiB")


def allocate_beyond_a_limit():
    """Lower the limit of this process's memory, and ask for more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, hard))
    return [bytearray(2**24) for _ in range(100)]


def describe_limit():
    return Result(COMPLETED, fitness=(0.0,), extra={"limit": resource.getrlimit(resource.RLIMIT_AS)[0]})


class Stuck:
    """A dataset whose loading process waits for itself, and ends for no polite request."""

    def __init__(self, pid_file):
        self.pid_file = pid_file

    def __len__(self):
        return 2

    def __getitem__(self, at):
        publish(self.pid_file, os.getppid(), os.getpid())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


def wait_for_a_loader(pid_file):
    from torch.utils.data import DataLoader

    return next(iter(DataLoader(Stuck(pid_file), num_workers=1)))


def return_nothing():
    return None


def return_unpicklable():
    return Result(COMPLETED, extra={"lock": threading.Lock()})


def return_object():
    return Result(COMPLETED, extra={"path": Path("x")})


def die_until(directory, attempts, number=signal.SIGKILL):
    """Kill the worker at each start before the ``attempts``-th; leave a file behind each time."""
    counter = Path(f"{directory}.count")
    count = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(count))
    print(f"attempt {count}", flush=True)
    found = sorted(path.name for path in Path(directory).iterdir())
    Path(directory, f"left_by_{count}").mkdir()
    Path(directory, f"left_by_{count}", "file").touch()
    Path(directory, f"left_by_{count}.txt").touch()
    if count < attempts:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return Result(COMPLETED, fitness=(float(count),), extra={"found": found})


def print_everywhere(text):
    print(f"python {text}")
    print(f"error {text}", file=sys.stderr)
    os.system(f"echo child {text}")
    return Result(COMPLETED, fitness=(0.0,))


def print_without_end(ends):
    """Print five megabytes oneself and by a child process; then die if it is to."""
    print("first")
    for _ in range(5):
        print("x" * 2**20, flush=True)
        subprocess.run("head -c 1048576 /dev/zero | tr '\\0' y; echo", shell=True, check=True)
    print("last", flush=True)
    if not ends:
        os.kill(os.getpid(), signal.SIGKILL)
    return Result(COMPLETED, fitness=(0.0,))


def describe_process():
    torch = sys.modules.get("torch")
    return Result(
        COMPLETED,
        extra={
            "pid": os.getpid(),
            "torch_threads": torch.get_num_threads() if torch else None,
            "group": os.getpgrp(),
            **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")},
        },
    )


class Refuses:
    """Can be pickled, not unpickled."""

    def __reduce__(self):
        return raise_value_error, ("cannot be read",)


def take(argument):
    return Result(COMPLETED)


class DiesWhenCollected:
    """Part of a cycle whose collection, after the job, kills the process."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def die_after_work(counter):
    with open(counter, "a") as file:
        file.write("started\n")
    DiesWhenCollected()
    return Result(COMPLETED, fitness=(1.0,))


def spoil_result_file(where):
    """Make it impossible to write result.json."""
    Path(where, "result.json").mkdir()
    return Result(COMPLETED, fitness=(1.0,))
