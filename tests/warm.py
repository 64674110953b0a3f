"""Python programs that start at once: forked from a server that has imported torch and Lightning, but nothing of ours.

:func:`run` and :class:`Popen` are to such programs what their namesakes in :mod:`subprocess` are to all. A program is a
process with its own pid, streams, environment, session and signals; it ends, and is killed, as any other. If it runs a
search, the search's forkserver is a child process of it as well, and also has the imports behind it.

Not the same as in a new interpreter: who asks for torch or Lightning finds it imported already, without reading the
environment variables that matter when it is; and hashes of strings are those of the server.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import os
import pickle
import random
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import util
from pathlib import Path
from typing import IO, Any, Self

IMPORTED = ("torch", "lightning.pytorch.cli", "lightning.pytorch.loggers", "pebble", "deap.tools", "rich.live")
"""What the server imports: other people's packages only, so that what ours import, and when, stays visible."""

_NUMBER = struct.Struct("i")


class Popen:
    """A Python program that has begun; leaving ``with`` waits for its end.

    Args:
        command: ``[sys.executable, "-c", code, ...]``, ``[sys.executable, "-m", module, ...]``,
            ``[sys.executable, path, ...]``, or a console script's path and its arguments.
        cwd: Where it runs.
        env: Its environment variables. Default: those of this process.
        stdin: As in :mod:`subprocess`: ``None``, ``PIPE``, ``DEVNULL``, a file or a descriptor.
        stdout: The same.
        stderr: The same, or ``STDOUT``.
        text: Pipes are of text.
        start_new_session: It leads a session of its own.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        start_new_session: bool = False,
    ) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        request = {
            "command": self.args,
            "directory": str(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        self._connection, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.enter_context(theirs)
            streams: list[int] = []
            for number, name, wanted in ((0, "stdin", stdin), (1, "stdout", stdout), (2, "stderr", stderr)):
                if wanted == subprocess.PIPE:
                    ends = os.pipe()
                    theirs_end, ours_end = ends if number == 0 else reversed(ends)
                    mode = ("w" if number == 0 else "r") + ("" if text else "b")
                    setattr(self, name, os.fdopen(ours_end, mode, buffering=-1 if text or number else 0))
                    stack.callback(os.close, theirs_end)
                elif wanted == subprocess.DEVNULL:
                    theirs_end = os.open(os.devnull, os.O_RDWR)
                    stack.callback(os.close, theirs_end)
                elif wanted == subprocess.STDOUT:
                    theirs_end = streams[1]
                else:
                    theirs_end = number if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno()
                streams.append(theirs_end)
            socket.send_fds(_server(), [b"!"], [theirs.fileno()])
            socket.send_fds(self._connection, [b"!"], streams)
            self._connection.sendall(pickle.dumps(request))
            self._connection.shutdown(socket.SHUT_WR)
        self.pid = self._receive(60)

    def _receive(self, timeout: float | None) -> int:
        self._connection.settimeout(timeout)
        try:
            data = self._connection.recv(_NUMBER.size)
        except (TimeoutError, BlockingIOError):
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        assert data, "the server is gone"
        return int(_NUMBER.unpack(data)[0])

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Returns:
            Its exit code, which is negative where a signal ended it.

        Raises:
            subprocess.TimeoutExpired: If it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            self.returncode = self._receive(timeout)
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read its pipes to their end and wait for its own.

        Raises:
            subprocess.TimeoutExpired: If that takes longer than ``timeout`` seconds.
        """
        if self.stdin is not None:
            self.stdin.close()
        read: dict[int, Any] = {}

        def read_all(number: int, stream: IO[Any]) -> None:
            read[number] = stream.read()

        threads = [
            threading.Thread(target=read_all, args=(number, stream), daemon=True)
            for number, stream in enumerate((self.stdout, self.stderr))
            if stream is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        return read.get(0), read.get(1)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it (SIGKILL), unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def run(
    command: Sequence[str],
    *,
    timeout: float | None = None,
    check: bool = False,
    capture_output: bool = False,
    **how: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end.

    Args:
        command: As in :class:`Popen`.
        timeout: In seconds; it is killed after them.
        check: Its exit code must be 0.
        capture_output: Return what it prints.
        **how: Further arguments of :class:`Popen`.

    Raises:
        subprocess.TimeoutExpired: If it takes longer.
        subprocess.CalledProcessError: If it fails and that is checked.
    """
    if capture_output:
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **how) as program:
        try:
            out, err = program.communicate(timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            raise
    done = subprocess.CompletedProcess(program.args, program.wait(), out, err)
    if check:
        done.check_returncode()
    return done


@functools.cache
def _server() -> socket.socket:
    """The channel to this process's server, which ends with it."""
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with theirs:
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    return ours


# -- in the server -----------------------------------------------------------------------------------------------------


def _serve(channel: socket.socket) -> socket.socket:
    """Fork a process for each connection that is sent; returns in these, with their connection."""
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno())
    running: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for each in (channel, woken):
            selector.register(each, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if channel in ready:
                data, descriptors, *_ = socket.recv_fds(channel, 1, 1)
                if not data:
                    os._exit(0)
                connection = socket.socket(fileno=descriptors[0])
                pid = os.fork()
                if pid == 0:
                    break
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(_NUMBER.pack(pid))
                running[pid] = connection
            if woken in ready:
                woken.recv(4096)
                for pid, status in _ended():
                    with contextlib.suppress(BrokenPipeError), running.pop(pid) as connection:
                        connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (channel, woken, wakes, *running.values()):
        each.close()
    return connection


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


# -- in the programs ---------------------------------------------------------------------------------------------------


def _become(connection: socket.socket, path: Sequence[str]) -> types.CodeType:
    """Make this process the one that was asked for; ``path`` is the interpreter's own :data:`sys.path`."""
    with connection:
        _, streams, *_ = socket.recv_fds(connection, 1, 3)
        request = pickle.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    if request["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # Whether a stream can be sought in, and is a terminal, is looked up when it is opened.
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    _fork_forkserver(path)
    # Two new processes draw different numbers; forks of one would draw the same.
    random.seed()
    sys.modules["numpy"].random.seed()

    command = request["command"]
    sys.argv = command[1:] if command[0] == sys.executable else command
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if sys.argv[0] == "-c":
        sys.path[:] = _path("", path)
        return compile(sys.argv.pop(1), "<string>", "exec")
    if sys.argv[0] == "-m":
        sys.path[:] = _path(os.getcwd(), path)
        main.__spec__ = find_spec(sys.argv.pop(1))
        main.__package__, sys.argv[0] = main.__spec__.parent, main.__spec__.origin
    else:
        sys.path[:] = _path(os.path.dirname(os.path.abspath(sys.argv[0])), path)
    main.__file__ = os.path.abspath(sys.argv[0])
    return compile(Path(main.__file__).read_text(), main.__file__, "exec")


def _path(first: str, path: Sequence[str]) -> list[str]:
    """What :data:`sys.path` begins as."""
    return [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *path]


def _fork_forkserver(path: Sequence[str]) -> None:
    """Fork the child process that becomes :mod:`multiprocessing`'s forkserver when this process starts one.

    It is forked before the program begins, so that the forkserver inherits no more of it than by being executed.
    """
    ours, theirs = socket.socketpair()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_forkserver(theirs, path)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    execute, left = util.spawnv_passfds, [pid]

    def spawnv_passfds(executable: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        if "multiprocessing.forkserver" not in arguments[-1] or not left:
            return int(execute(executable, arguments, descriptors))
        with ours:
            socket.send_fds(ours, [b"!"], descriptors)
            ours.sendall(pickle.dumps((arguments[-1], list(descriptors), dict(os.environ), os.getcwd())))
        return left.pop()

    util.spawnv_passfds = spawnv_passfds


def _be_forkserver(connection: socket.socket, path: Sequence[str]) -> None:
    data, descriptors, *_ = socket.recv_fds(connection, 1, 8)
    if not data:
        os._exit(0)  # the program has ended without one
    code, numbers, environment, directory = pickle.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    connection.close()
    above = max(numbers) + 1
    copies = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in descriptors]
    os.closerange(3, above)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    for each in descriptors:
        if each >= above:
            os.close(each)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[:] = _path("", path)
    sys.orig_argv = [sys.executable, "-c", code]  # it may begin anew
    with contextlib.suppress(SystemExit):
        exec(code, {})
    os._exit(0)


def _end(code: int) -> None:
    """End as an interpreter does, but for taking down what was imported, which takes it half a second."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _run(code: types.CodeType) -> int:
    try:
        exec(code, vars(sys.modules["__main__"]))
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    own_path, exit_codes = sys.path[1:], []
    atexit.register(lambda: _end(exit_codes[-1]))  # the first that is registered is the last to be called
    for package in IMPORTED:
        import_module(package)
    gc.collect()
    gc.freeze()
    exit_codes.append(_run(_become(_serve(socket.socket(fileno=int(sys.argv[1]))), own_path)))
