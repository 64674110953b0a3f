"""State of a worker process that a job may change, and that is put back before the next: one row for each kind.

A candidate's result must not depend on which candidates its worker trained before. So a worker remembers what it is like
while it is fresh, and puts that back after every job. What can't be put back (a thread or a child process left behind,
``nice``, a lowered limit) makes the worker be replaced.

What a module does when it is imported is no leak: Python imports it once per process, for all jobs. It counts as fresh.

To add a kind, add a row to ``KINDS`` and a case to ``tests/execution/test_execution_process_state.py``. What modules,
classes and functions hold is all one row: see ``module_state.py``.
"""

from __future__ import annotations

import decimal
import faulthandler
import functools
import gc
import importlib
import itertools
import locale
import logging
import multiprocessing
import operator
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lightning_evo.execution.children import end_children
from lightning_evo.execution.imports import ImportWatch
from lightning_evo.execution.module_state import ModuleState

resource: Any = importlib.import_module("resource") if os.name == "posix" else None

__all__ = ["KINDS", "ProcessState", "StateKind"]


@dataclass(frozen=True)
class StateKind:
    """One kind of state.

    Args:
        name: What the user is told was left changed.
        read: Returns it, as something to compare and to put back.
        put_back: Takes what ``read`` returned; ``None``: it can't be put back.
        module: The module without which there is no such state; it isn't imported for it.
        computes: Whether computed numbers depend on it.
    """

    name: str
    read: Callable[[], Any]
    put_back: Callable[[Any], object] | None = None
    module: str = "sys"
    computes: bool = False


def _torch() -> Any:
    return sys.modules["torch"]


def _numpy() -> Any:
    return sys.modules["numpy"]


# -- reading and putting back, where that takes more than a call -------------------------------------------------------


def _set_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None  # it was deleted


_TIMERS = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]


def _timers() -> list[bool]:
    # The alarm of signal.alarm is the first of them; a traceback that is due later has a timer of its own.
    faulthandler.cancel_dump_traceback_later()
    return [any(signal.getitimer(timer)) for timer in _TIMERS]


def _stop_timers(_: object) -> None:
    for timer in _TIMERS:
        signal.setitimer(timer, 0.0)


_SIGNALS = sorted(signal.valid_signals() - {getattr(signal, name, 0) for name in ("SIGKILL", "SIGSTOP")})


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(before: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, before, strict=True):
        if handler is not None and signal.getsignal(number) != handler:  # None: it wasn't set from Python
            signal.signal(number, handler)


_LIMITS = [] if resource is None else [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_LIMITS = sorted(set(_LIMITS))


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(limit) for limit in _LIMITS]


def _set_limits(before: list[tuple[int, int]]) -> None:
    for limit, value in zip(_LIMITS, before, strict=True):
        if resource.getrlimit(limit) != value:
            resource.setrlimit(limit, value)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_IDENTITY = [getattr(os, name) for name in ("getresuid", "getresgid", "getgroups") if hasattr(os, name)]
_SCHEDULING = [getattr(os, name) for name in ("sched_getaffinity", "sched_getscheduler") if hasattr(os, name)]


def _identity() -> list[Any]:
    root = os.stat("/")
    return [*(function() for function in _IDENTITY), root.st_dev, root.st_ino]


def _scheduling() -> list[Any]:
    # Of this thread. Those that torch has started meanwhile have it too, and keep it.
    return [os.getpriority(os.PRIO_PROCESS, 0), *(function(0) for function in _SCHEDULING)]


_MANY_FILES = 1000


def _files_run_out() -> bool:
    """Whether so many files were left open that later jobs may find no place for theirs, by and by."""
    if resource is None:
        return False
    try:
        next_one = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    except OSError:
        return True
    os.close(next_one)
    return next_one > min(_MANY_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] / 2)


def _streams() -> list[Any]:
    streams = (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    states: list[Any] = [
        stream is None or stream.closed or (stream.encoding, stream.errors, getattr(stream, "line_buffering", None))
        for stream in streams
    ]
    try:
        of = os.fstat(0)
        return [*states, of.st_dev, of.st_ino]
    except OSError:
        return [*states, None, None]


def _gc() -> tuple[bool, Any, int, list[Any]]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug(), list(gc.callbacks)


def _set_gc(before: tuple[bool, Any, int, list[Any]]) -> None:
    enabled, threshold, debug, gc.callbacks[:] = before
    gc.set_threshold(*threshold)
    gc.set_debug(debug)
    (gc.enable if enabled else gc.disable)()


def _interpreter() -> tuple[Any, ...]:
    digits = getattr(sys, "get_int_max_str_digits", int)()
    return (
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        digits,
        threading.stack_size(),
        sys.gettrace(),
        sys.getprofile(),
    )


def _set_interpreter(before: tuple[Any, ...]) -> None:
    recursion, switch, digits, stack, trace, profile = before
    sys.settrace(trace)
    sys.setprofile(profile)
    sys.setrecursionlimit(recursion)
    sys.setswitchinterval(switch)
    getattr(sys, "set_int_max_str_digits", id)(digits)
    threading.stack_size(stack)


_LISTS = ("path", "meta_path", "path_hooks", "argv", "warnoptions")


def _lists() -> list[list[Any]]:
    return [list(getattr(sys, name)) for name in _LISTS]


def _set_lists(before: list[list[Any]]) -> None:
    for name, value in zip(_LISTS, before, strict=True):
        getattr(sys, name)[:] = value
    importlib.invalidate_caches()


def _set_warnings(before: list[Any]) -> None:
    filters: Any = warnings.filters
    filters[:] = before
    with warnings.catch_warnings():
        pass  # entering and leaving makes Python look at the filters anew


_loggers: list[Any] = []  # how many there were when this was first looked at, and those that are looked at
_settings_of = operator.attrgetter("level", "disabled", "propagate", "handlers", "filters")
_AS_MADE: tuple[int, bool, bool, list[Any], list[Any]] = (logging.NOTSET, False, True, [], [])


def _logging() -> tuple[int, dict[str, Any]]:
    """What was set of any logger: most are as they were made."""
    manager = logging.root.manager
    if not _loggers:
        # Most of the hundreds are of single modules of torch and Lightning, and nobody sets those.
        every = manager.loggerDict.items()
        _loggers.extend(one for name, one in every if name.count(".") < 2 and isinstance(one, logging.Logger))
        _loggers.insert(0, len(manager.loggerDict))
    known, *loggers = _loggers
    loggers.append(logging.root)
    new = itertools.islice(manager.loggerDict.values(), known, None)
    loggers += [one for one in new if isinstance(one, logging.Logger)]
    changed = {
        logger.name: (
            *settings[:3],
            [(handler, handler.level, handler.formatter, list(handler.filters)) for handler in settings[3]],
            list(settings[4]),
        )
        for logger, settings in zip(loggers, map(_settings_of, loggers), strict=True)
        if settings != _AS_MADE
    }
    return manager.disable, changed


def _set_logging(before: tuple[int, dict[str, Any]]) -> None:
    disabled, loggers = before
    logging.disable(disabled)
    for name in {*loggers, *_logging()[1]}:
        logger = logging.root if name == "root" else logging.getLogger(name)
        level, off, propagate, handlers, filters = loggers.get(name, _AS_MADE)
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.filters[:] = off, propagate, filters
        logger.handlers[:] = [handler for handler, *_ in handlers]
        for handler, its_level, formatter, its_filters in handlers:
            handler.setLevel(its_level)
            handler.setFormatter(formatter)
            handler.filters[:] = its_filters


def _decimal() -> list[Any]:
    # The present context is a job's own (see ProcessState.call); this is what new ones are made of.
    context = decimal.DefaultContext
    return [context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp]


def _set_decimal(before: list[Any]) -> None:
    context = decimal.DefaultContext
    context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp = before


def _event_loop() -> None:
    """Nothing to compare: a worker between two jobs has no event loop, and each job makes its own."""
    if sys.version_info < (3, 14):
        sys.modules["asyncio"].set_event_loop_policy(None)


def _numpy_random() -> tuple[Any, ...] | None:
    state = _numpy().random.get_state()
    return (state[0], state[1].tobytes(), *state[2:]) if isinstance(state, tuple) else None  # None: another generator


def _set_numpy_random(before: tuple[Any, ...]) -> None:
    name, key, *rest = before
    _numpy().random.set_state((name, _numpy().frombuffer(key, dtype="uint32"), *rest))


def _numpy_settings() -> list[Any]:
    numpy = _numpy()
    return [numpy.geterr(), numpy.geterrcall(), numpy.get_printoptions()]


def _set_numpy(before: list[Any]) -> None:
    numpy, (errors, call, printing) = _numpy(), before
    numpy.seterr(**errors)
    numpy.seterrcall(call)
    numpy.set_printoptions(**{name: value for name, value in printing.items() if name != "override_repr"})


# -- torch's -----------------------------------------------------------------------------------------------------------


def _precision() -> list[Any]:
    from lightning_evo._compat.torch import float32_precision

    return float32_precision()


def _set_precision(before: list[Any]) -> None:
    from lightning_evo._compat.torch import set_float32_precision

    set_float32_precision(before)


def _contexts() -> tuple[Any, ...]:
    from lightning_evo._compat.torch import open_contexts

    return open_contexts()


def _recording() -> tuple[bool, ...]:
    from lightning_evo._compat.torch import interpreter_flags

    return (*interpreter_flags(), _torch().is_inference_mode_enabled())


_AUTOCAST = ("cpu", "cuda")


def _autocast() -> list[Any]:
    torch = _torch()
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    settings = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST]
    return [depth, torch.is_autocast_cache_enabled(), *settings]


def _set_autocast(before: list[Any]) -> None:
    torch, (depth, cache, *settings) = _torch(), before
    for _ in range(_autocast()[0] - depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(cache)
    for kind, (enabled, dtype) in zip(_AUTOCAST, settings, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _determinism() -> tuple[bool, ...]:
    torch = _torch()
    warns, fills = (
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    return torch.are_deterministic_algorithms_enabled(), warns, fills


def _set_determinism(before: tuple[bool, ...]) -> None:
    torch, (enabled, warns, fills) = _torch(), before
    torch.use_deterministic_algorithms(enabled, warn_only=warns)
    torch.utils.deterministic.fill_uninitialized_memory = fills


_FLAGS = (
    ("cudnn", "enabled"),
    ("cudnn", "benchmark"),
    ("cudnn", "benchmark_limit"),
    ("cudnn", "deterministic"),
    ("cuda.matmul", "allow_fp16_reduced_precision_reduction"),
    ("cuda.matmul", "allow_bf16_reduced_precision_reduction"),
    ("cuda.matmul", "allow_fp16_accumulation"),
    ("mkldnn", "enabled"),
    ("mkldnn", "deterministic"),
    ("opt_einsum", "enabled"),
    ("opt_einsum", "strategy"),
    ("quantized", "engine"),
)
"""Of ``torch.backends``."""

_SWITCHES = (
    ("cuda.flash_sdp_enabled", "cuda.enable_flash_sdp"),
    ("cuda.mem_efficient_sdp_enabled", "cuda.enable_mem_efficient_sdp"),
    ("cuda.math_sdp_enabled", "cuda.enable_math_sdp"),
    ("cuda.cudnn_sdp_enabled", "cuda.enable_cudnn_sdp"),
    ("cuda.preferred_linalg_library", "cuda.preferred_linalg_library"),
    ("mha.get_fastpath_enabled", "mha.set_fastpath_enabled"),
)
"""Of ``torch.backends``: what reads, what sets."""


@functools.cache
def _at(path: str) -> Any:
    found = _torch().backends
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _backends() -> list[Any]:
    return [*(getattr(_at(place), name, None) for place, name in _FLAGS), *(_at(read)() for read, _ in _SWITCHES)]


def _set_backends(before: list[Any]) -> None:
    for (place, name), value in zip(_FLAGS, before, strict=False):
        if getattr(_at(place), name, None) != value:
            setattr(_at(place), name, value)
    for (_, put), value in zip(_SWITCHES, before[len(_FLAGS) :], strict=True):
        _at(put)(value)


def _set_tensor_type(before: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated to set it, and there is no other way back
        _torch().set_default_tensor_type(before)


def _torch_random() -> bytes:
    return bytes(_torch().get_rng_state().numpy())


def _set_torch_random(before: bytes) -> None:
    _torch().set_rng_state(_torch().frombuffer(bytearray(before), dtype=_torch().uint8))


_tiny = sys.float_info.min


def _in_cuda(name: str, otherwise: Any) -> Any:
    """What a function of ``torch.cuda`` returns, once CUDA is in use."""
    function = getattr(_torch().cuda, name, None)
    return function() if function is not None and _torch().cuda.is_initialized() else otherwise


_CUDA_READS = ("CUDA", "CUBLAS", "CUDNN", "NCCL", "NVIDIA", "PYTORCH")
_cuda_environment: dict[str, str] | None = None


def _cuda_began_with() -> dict[str, str]:
    """The environment variables that CUDA reads when it is first used; as they first were until then."""
    global _cuda_environment
    if _cuda_environment is None or _torch().cuda.is_initialized():
        now = {name: value for name, value in os.environ.items() if name.startswith(_CUDA_READS)}
        _cuda_environment = now if _cuda_environment is None else _cuda_environment
        return now
    return _cuda_environment


def _groups() -> bool:
    distributed = _torch().distributed
    return distributed.is_available() and distributed.is_initialized()


# -- what is left running ----------------------------------------------------------------------------------------------

_HARMLESS_THREADS = ("Dummy-", "InductorSubproc")
"""Names that Python gives to threads of native code, and torch to the one that talks to its compilers."""

_PATIENCE = 0.1  # seconds that threads which are about to end may take, all together


def _threads() -> list[str]:
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if not thread.name.startswith(_HARMLESS_THREADS) and not type(thread).__module__.startswith("tqdm")
    )


def _await_threads(before: list[str]) -> None:
    end = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if thread.name not in before:
            thread.join(max(0.0, end - time.monotonic()))


_ended: list[str] = []


def _children() -> list[str]:
    """End the child processes; returns the commands of all that ever had to be ended."""
    _ended.extend(end_children())
    return list(_ended)


# -- the table ---------------------------------------------------------------------------------------------------------

KINDS = (
    StateKind("timers", _timers, _stop_timers),
    StateKind("interpreter settings and trace functions", _interpreter, _set_interpreter),
    StateKind("CUDA's environment variables", _cuda_began_with, module="torch"),
    StateKind("environment variables", lambda: dict(os.environ), _set_environment),
    StateKind(
        "time zone",
        lambda: [(time.localtime(day).tm_gmtoff, time.localtime(day).tm_zone) for day in (0, 15552000)],
        lambda _: time.tzset(),
    ),
    StateKind("working directory", _working_directory, lambda before: os.chdir(before)),
    StateKind("umask", _umask, os.umask),
    StateKind("signal handlers", _handlers, _set_handlers),
    StateKind(
        "signal mask",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
        lambda before: signal.pthread_sigmask(signal.SIG_SETMASK, before),
    ),
    StateKind("signal wake-up", lambda: signal.set_wakeup_fd(-1), lambda _: signal.set_wakeup_fd(-1)),
    StateKind("resource limits", _limits, _set_limits),
    StateKind("priority and cores", _scheduling),
    StateKind("user, groups and root directory", _identity),
    StateKind("open files", _files_run_out),
    StateKind("import path, arguments", _lists, _set_lists),
    StateKind("standard streams", _streams),
    StateKind("garbage collection", _gc, _set_gc),
    StateKind(
        "faulthandler", faulthandler.is_enabled, lambda on: (faulthandler.enable if on else faulthandler.disable)()
    ),
    StateKind(
        "locale", lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)
    ),
    StateKind("warning filters", lambda: list(warnings.filters), _set_warnings),
    StateKind("logging", _logging, _set_logging),
    StateKind("decimal's default context", _decimal, _set_decimal),
    StateKind(
        "start method",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda before: multiprocessing.set_start_method(before, force=True),
    ),
    StateKind("sockets' time limit", socket.getdefaulttimeout, socket.setdefaulttimeout),
    StateKind("event loop", _event_loop, module="asyncio"),
    StateKind("Python's random state", random.getstate, random.setstate),
    StateKind("NumPy's random state", _numpy_random, _set_numpy_random, "numpy"),
    StateKind("NumPy's settings", _numpy_settings, _set_numpy, "numpy"),
    StateKind(
        "torch's default device and modes",
        _contexts,
        lambda _: _torch().set_default_device(None),
        "torch",
        computes=True,
    ),
    StateKind(
        "torch's default tensor type", lambda: _torch().empty(0).type(), _set_tensor_type, "torch", computes=True
    ),
    StateKind("torch's random state", _torch_random, _set_torch_random, "torch"),
    StateKind(
        "grad mode",
        lambda: _torch().is_grad_enabled(),
        lambda on: _torch().set_grad_enabled(on),
        "torch",
        computes=True,
    ),
    StateKind("inference mode, profiling or tracing", _recording, module="torch", computes=True),
    StateKind("autocast", _autocast, _set_autocast, "torch", computes=True),
    StateKind(
        "anomaly mode",
        lambda: (_torch().is_anomaly_enabled(), _torch().is_anomaly_check_nan_enabled()),
        lambda before: _torch().autograd.set_detect_anomaly(*before),
        "torch",
    ),
    StateKind("deterministic algorithms", _determinism, _set_determinism, "torch", computes=True),
    StateKind("float32 precision", _precision, _set_precision, "torch", computes=True),
    StateKind("torch.backends", _backends, _set_backends, "torch", computes=True),
    StateKind(
        "torch's threads", lambda: _torch().get_num_threads(), lambda before: _torch().set_num_threads(before), "torch"
    ),
    StateKind("torch's inter-op threads", lambda: _torch().get_num_interop_threads(), module="torch"),
    StateKind(
        "denormal numbers",
        lambda: _tiny / 2 == 0.0,
        lambda before: _torch().set_flush_denormal(before),
        "torch",
        computes=True,
    ),
    StateKind(
        "torch's sharing strategy",
        lambda: _torch().multiprocessing.get_sharing_strategy(),
        lambda before: _torch().multiprocessing.set_sharing_strategy(before),
        "torch",
    ),
    StateKind(
        "torch's warnings",
        lambda: _torch().is_warn_always_enabled(),
        lambda before: _torch().set_warn_always(before),
        "torch",
    ),
    StateKind("process groups", _groups, lambda _: _torch().distributed.destroy_process_group(), "torch"),
    StateKind(
        "CUDA device", lambda: _in_cuda("current_device", 0), lambda before: _torch().cuda.set_device(before), "torch"
    ),
    StateKind(
        "CUDA memory limit",
        lambda: _in_cuda("get_per_process_memory_fraction", 1.0),
        lambda before: _torch().cuda.set_per_process_memory_fraction(before),
        "torch",
    ),
)
"""What is put back as soon as a job ends."""

RUNNING = (StateKind("threads", _threads, _await_threads), StateKind("child processes", _children))
"""What is looked at when the job's garbage is collected: until then some of it is in use."""


class ProcessState:
    """What this process is like while it is fresh, and how to get back there.

    Make one before the first job. For each job call :meth:`prepare`, :meth:`begin`, the job, :meth:`put_back` and
    :meth:`end_what_runs`.
    """

    def __init__(self) -> None:
        self._effects: dict[str, list[str]] = {}  # module -> of what numbers depend on, what importing it changed
        self._in_job = False
        self._lasting: dict[str, str] = {}
        self._watch = ImportWatch(self._before_import, self._after_import)
        self._watch.install()  # reading a state may import something
        self._modules = ModuleState()
        self._modules.add(list(sys.modules.values()))
        self._fresh = {kind.name: kind.read() for kind in _present()}
        self._running = {kind.name: kind.read() for kind in RUNNING}

    def prepare(self, modules: Iterable[str]) -> bool:
        """Import the modules that a job names; what that changes counts as fresh.

        Returns:
            Whether this process is fit for the job: it isn't where earlier jobs' modules, which this one doesn't name, have
            changed what numbers are computed.
        """
        modules = list(modules)
        if not self._effects.keys() <= set(modules):
            return False
        for name in modules:
            if name not in sys.modules:
                with suppress(BaseException):  # the job will say so itself
                    importlib.import_module(name)
                if changed := self._accept():
                    self._effects[name] = changed
        self._modules.add([sys.modules[name] for name in modules if name in sys.modules], users=modules)
        return True

    def begin(self) -> None:
        """From now on it is the job that changes what changes."""
        self._accept()  # of what unpickling the job has imported
        self._lasting = {}
        self._in_job = True

    def put_back(self) -> dict[str, str]:
        """Put back what the job has changed; returns what could not be, by kind, with what is known of it."""
        self._in_job = False
        try:
            left = self._modules.put_back()
        except Exception as error:  # a user's class may do anything when it is looked at
            left = [f"{type(error).__name__}: {error}"]
        if left:
            self._lasting["what modules hold"] = ", ".join(left)
        self._restore(_present(), self._fresh)
        return dict(self._lasting)

    def end_what_runs(self) -> dict[str, str]:
        """The same for threads and child processes, once garbage has been collected."""
        self._restore(RUNNING, self._running)
        return dict(self._lasting)

    def _restore(self, kinds: Iterable[StateKind], fresh: dict[str, Any]) -> None:
        for kind in kinds:
            try:
                if kind.name not in fresh:  # its library was imported by the job, where nobody saw it
                    fresh[kind.name] = kind.read()
                if kind.read() == fresh[kind.name]:
                    continue
                if kind.put_back is not None:
                    kind.put_back(fresh[kind.name])
                now = kind.read()
                if now != fresh[kind.name]:
                    self._lasting[kind.name] = _said(now, fresh[kind.name])
            except Exception as error:
                # Whatever the job did to the functions used here, and whatever the system refuses.
                self._lasting[kind.name] = f"{type(error).__name__}: {error}"

    def _changed(self) -> list[StateKind]:
        return [kind for kind in _present() if kind.name not in self._fresh or kind.read() != self._fresh[kind.name]]

    def _accept(self, all_but: Iterable[str] = ()) -> list[str]:
        """Take what importing has changed for fresh; returns of what numbers depend on."""
        if not self._watch.executed:
            return []
        executed, self._watch.executed = self._watch.executed, []
        changed = [kind for kind in self._changed() if kind.name not in all_but]
        self._fresh |= {kind.name: kind.read() for kind in changed}
        if not self._in_job:
            self._modules.accept()
        self._modules.add(executed)
        return [kind.name for kind in changed if kind.computes]

    def _before_import(self, name: str) -> list[str] | None:
        """What has been changed by the job itself; ``None`` where the import is not to be looked at."""
        package = name.partition(".")[0]
        if not self._in_job or package in sys.stdlib_module_names or package in _QUIET:
            return None
        return [kind.name for kind in self._changed()]

    def _after_import(self, name: str, changed: list[str] | None) -> None:
        if not self._in_job:
            return
        if changed is None:
            executed, self._watch.executed = self._watch.executed, []
            self._modules.add(executed)
            return
        for kind in self._accept(changed):
            # Others don't import it, and would compute with it.
            self._lasting[kind] = f"importing {name} changes it"


_QUIET = {__name__.partition(".")[0], "lightning", "numpy", "torch", "torchmetrics"}
"""Packages that are imported piece by piece, and change nothing of all this by it."""


def _present() -> list[StateKind]:
    return [kind for kind in KINDS if kind.module in sys.modules]


def _said(now: Any, fresh: Any) -> str:
    """What there is more than in a fresh process, of a kind that is a list of names."""
    return ", ".join(str(one) for one in now if one not in fresh) if isinstance(now, list) else ""
