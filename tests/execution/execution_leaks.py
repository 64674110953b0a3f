"""State that a job can leave changed: for each kind how to change it, and what a later job sees of it.

Importing this module sets a warning filter, a level and a default: what importing does is no leak.
"""

import asyncio
import collections
import decimal
import faulthandler
import functools
import gc
import io
import itertools
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from typing import ClassVar

import numpy
import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_evo.genome import COMPLETED, Result

if multiprocessing.parent_process() is not None:  # in a worker, not where the tests are
    logging.getLogger("imported").setLevel(logging.ERROR)
    torch.set_printoptions(precision=3)

count = 0
cache = {}
seen = []
names = {"first"}
queue = collections.deque([1])
nested = {"a": {"b": [1, 2]}}
options = types.SimpleNamespace(rate=0.1)
generator = numpy.random.default_rng(1)
old_generator = numpy.random.RandomState(1)
python_generator = random.Random(1)
torch_generator = torch.Generator().manual_seed(1)
weights = torch.zeros(3)
array = numpy.zeros(3)
ids = itertools.count()
local = threading.local()
teacher = torch.nn.Linear(2, 1)


class Net(LightningModule):
    """A user's module, with an attribute of the class."""

    scale = 1.0
    registry: ClassVar[list] = []

    def forward(self, value):
        return value * self.scale


class Mode(torch.overrides.TorchFunctionMode):
    """Changes nothing."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        return function(*arguments, **(named or {}))


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("held",)

    def __init__(self):
        self.held = []


slotted = Slotted()


@functools.cache
def drawn():
    return random.random()


def remember(value, into=[]):  # noqa: B006 - what is tested
    into.append(value)
    return len(into)


def counter():
    total = 0

    def add():
        nonlocal total
        total += 1
        return total

    return add


add = counter()


def observe_size(function, *arguments):
    """What a function returns that changes something by being called; it is called by leaks and observed alike."""
    return lambda: function(*arguments)


def set_global(name, value):
    return lambda: globals().__setitem__(name, value)


def in_child(command):
    return lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL).pid and time.sleep(0.05)


def fork_a_daemon():
    """Leave a process without a parent, in a session of its own, that was never executed anew."""
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.waitpid(child, 0)


def descendants():
    """How many processes descend from this one, adopted ones included."""
    return len(subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, check=False).stdout.split()) - 1


def start_thread(daemon):
    return lambda: threading.Thread(target=time.sleep, args=(600,), daemon=daemon).start()


def enter(make):
    """Enter a context for good."""
    return lambda: entered.append(make().__enter__())


entered = []


def lower_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))


def change_directory():
    os.chdir(tempfile.gettempdir())


def leave_files_open():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(min(soft * 3 // 4, 1100)))


kept = []


def hook(*arguments):
    return None


def precision():
    newer = getattr(torch.backends, "fp32_precision", None)
    return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, newer


def set_precision_by_both():
    torch.set_float32_matmul_precision("medium")
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = "ieee"


def add_handler():
    logging.getLogger().addHandler(logging.StreamHandler())


def patch_module():
    sys.modules["json"] = None


def replace_stream():
    sys.stdout = io.StringIO()


def set_zone():
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def autocast_for_good():
    torch.autocast("cpu", torch.bfloat16).__enter__()


def run_event_loop():
    async def nothing():
        return None

    asyncio.run(nothing())


def has_event_loop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            asyncio.get_event_loop().close()
        except RuntimeError as error:
            return str(error)
    return "made"


def set_numpy():
    numpy.seterr(all="raise")
    numpy.set_printoptions(precision=2)


def tiny():
    return float(torch.tensor([1e-310], dtype=torch.float64) * 1.0) != 0.0


KINDS = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), lambda: str(torch.empty(0).dtype)),
    "default device": (lambda: torch.set_default_device("meta"), lambda: str(torch.empty(0).device)),
    "default device of a context": (enter(lambda: torch.device("meta")), lambda: str(torch.empty(0).device)),
    "default tensor type": (lambda: torch.set_default_tensor_type("torch.DoubleTensor"), lambda: torch.empty(0).type()),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
    ),
    "fill memory": (
        lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
        lambda: torch.utils.deterministic.fill_uninitialized_memory,
    ),
    "cudnn": (
        lambda: [setattr(torch.backends.cudnn, name, True) for name in ("benchmark", "deterministic")],
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    ),
    "cudnn off": (lambda: setattr(torch.backends.cudnn, "enabled", False), lambda: torch.backends.cudnn.enabled),
    "attention kernels": (
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        torch.backends.cuda.flash_sdp_enabled,
    ),
    "matmul precision": (lambda: torch.set_float32_matmul_precision("high"), precision),
    "tf32": (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), precision),
    "tf32 of convolutions": (
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
        lambda: torch.backends.cudnn.allow_tf32,
    ),
    "precision by the newer interface": (
        lambda: hasattr(torch.backends, "fp32_precision") and setattr(torch.backends, "fp32_precision", "tf32"),
        precision,
    ),
    "precision by both interfaces": (set_precision_by_both, precision),
    "grad mode": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "grad mode of a context": (enter(torch.no_grad), torch.is_grad_enabled),
    "inference mode": (enter(torch.inference_mode), torch.is_inference_mode_enabled),
    "autocast": (autocast_for_good, lambda: (torch.is_autocast_enabled("cpu"), str(torch.get_autocast_dtype("cpu")))),
    "anomaly mode": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "saved tensors": (
        enter(lambda: torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor * 0, lambda tensor: tensor)),
        lambda: float(
            torch.autograd.grad((one := torch.ones(1, dtype=torch.float32, requires_grad=True)) ** 2, one)[0]
        ),
    ),
    "threads": (lambda: torch.set_num_threads(3), torch.get_num_threads),
    "denormal numbers": (lambda: torch.set_flush_denormal(True), tiny),
    "sharing strategy": (
        lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
        torch.multiprocessing.get_sharing_strategy,
    ),
    "hooks of all modules": (
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda module, given, output: output * 0),
        lambda: float(torch.nn.Identity()(torch.ones(1))),
    ),
    "hooks of all optimizers": (
        lambda: sys.modules["torch.optim.optimizer"].register_optimizer_step_pre_hook(hook),
        lambda: [
            len(found)
            for name, found in vars(sys.modules["torch.optim.optimizer"]).items()
            if name.startswith("_global_opt")
        ],
    ),
    "torch's printing": (
        lambda: torch.set_printoptions(precision=1, sci_mode=True),
        lambda: repr(torch.tensor([0.123456], dtype=torch.float32)),
    ),
    "warnings of torch": (lambda: torch.set_warn_always(True), torch.is_warn_always_enabled),
    "environment": (lambda: os.environ.update(LEFT="1", CUDA_VISIBLE_DEVICES="7"), lambda: sorted(os.environ.items())),
    "environment, removed": (lambda: os.environ.clear(), lambda: sorted(os.environ.items())),
    "environment, another": (lambda: setattr(os, "environ", {"A": "1"}), lambda: sorted(os.environ.items())),
    "working directory": (change_directory, os.getcwd),
    "signal handlers": (lambda: signal.signal(signal.SIGUSR1, hook), lambda: str(signal.getsignal(signal.SIGUSR1))),
    "ignored signals": (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: str(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN),
    ),
    "blocked signals": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}),
        lambda: len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    ),
    "alarms": (lambda: signal.alarm(600), lambda: signal.getitimer(signal.ITIMER_REAL)),
    "timers": (lambda: signal.setitimer(signal.ITIMER_PROF, 600), lambda: signal.getitimer(signal.ITIMER_PROF)),
    "logging levels": (
        lambda: [logging.getLogger(name).setLevel(50) for name in ("new", "imported", None)],
        lambda: [logging.getLogger(name).level for name in ("new", "imported", None)],
    ),
    "logging handlers": (add_handler, lambda: len(logging.getLogger().handlers)),
    "logging off": (lambda: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable),
    "warning filters": (lambda: warnings.simplefilter("error"), lambda: [str(one) for one in warnings.filters]),
    "garbage collection": (lambda: (gc.disable(), gc.set_threshold(7)), lambda: (gc.isenabled(), gc.get_threshold())),
    "recursion limit": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    "switch interval": (lambda: sys.setswitchinterval(0.5), sys.getswitchinterval),
    "umask": (lambda: os.umask(0o777), lambda: (before := os.umask(0o022), os.umask(before))),
    "limits": (lower_files, lambda: resource.getrlimit(resource.RLIMIT_NOFILE)),
    "limits of memory": (
        lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        lambda: resource.getrlimit(resource.RLIMIT_CORE),
    ),
    "time zone": (set_zone, lambda: (time.localtime(0).tm_zone, time.tzname)),
    "start method": (
        lambda: multiprocessing.set_start_method("spawn", force=True),
        lambda: multiprocessing.get_start_method(),
    ),
    "import path": (lambda: sys.path.insert(0, "/left"), lambda: list(sys.path)),
    "import path, another": (lambda: setattr(sys, "path", []), lambda: list(sys.path)),
    "arguments": (lambda: sys.argv.append("left"), lambda: list(sys.argv)),
    "imported modules": (patch_module, lambda: str(sys.modules["json"])),
    "forgotten modules": (lambda: sys.modules.pop("torch.nn"), lambda: "torch.nn" in sys.modules),
    "stand-ins": (lambda: sys.modules.update(wandb_left=types.ModuleType("w")), lambda: "wandb_left" in sys.modules),
    "output": (replace_stream, lambda: sys.stdout is sys.__stdout__),
    "closed output": (lambda: sys.stderr.close(), lambda: sys.stderr.closed),
    "hook for exceptions": (lambda: setattr(sys, "excepthook", hook), lambda: str(sys.excepthook)),
    "hook for threads": (lambda: setattr(threading, "excepthook", hook), lambda: str(threading.excepthook)),
    "trace function": (lambda: sys.settrace(hook), lambda: str(sys.gettrace())),
    "profile function": (lambda: sys.setprofile(hook), lambda: str(sys.getprofile())),
    "locale": (
        lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8" if "UTF-8" not in locale.setlocale(locale.LC_ALL) else "C"),
        lambda: locale.setlocale(locale.LC_ALL),
    ),
    "decimal": (lambda: setattr(decimal.getcontext(), "prec", 3), lambda: decimal.getcontext().prec),
    "decimal's default": (lambda: setattr(decimal.DefaultContext, "prec", 3), lambda: decimal.DefaultContext.prec),
    "numpy's settings": (set_numpy, lambda: (numpy.geterr(), numpy.get_printoptions()["precision"])),
    "faulthandler": (
        lambda: (faulthandler.disable if faulthandler.is_enabled() else faulthandler.enable)(),
        faulthandler.is_enabled,
    ),
    "time limit of sockets": (lambda: socket.setdefaulttimeout(1.0), socket.getdefaulttimeout),
    "event loop": (run_event_loop, has_event_loop),
    "random state of Python": (lambda: random.seed(7), random.random),
    "random state of NumPy": (lambda: numpy.random.seed(7), lambda: float(numpy.random.rand())),
    "random state of torch": (lambda: torch.manual_seed(7), lambda: float(torch.rand(1))),
    "patched torch": (lambda: setattr(torch.nn.Linear, "forward", hook), lambda: str(torch.nn.Linear.forward)),
    "patched function": (
        lambda: setattr(torch.nn.functional, "relu", torch.nn.functional.gelu),
        lambda: float(torch.nn.functional.relu(torch.tensor(-1.0))),
    ),
    "patched tensor": (lambda: setattr(torch.Tensor, "mean", torch.Tensor.sum), lambda: float(torch.ones(2).mean())),
    "patched optimizer": (lambda: setattr(torch.optim.SGD, "__init__", hook), lambda: torch.optim.SGD.__init__ == hook),
    "patched Trainer": (lambda: setattr(Trainer, "fit", hook), lambda: Trainer.fit == hook),
    "patched LightningModule": (lambda: setattr(LightningModule, "log", hook), lambda: LightningModule.log == hook),
    "attribute of a library's class": (
        lambda: setattr(torch.nn.Module, "left", True),
        lambda: hasattr(torch.nn.Module, "left"),
    ),
    "patched standard library": (lambda: setattr(time, "sleep", hook), lambda: str(time.sleep)),
    "patched builtin": (lambda: setattr(sys.modules["builtins"], "open", hook), lambda: str(open)),
    "patched class of the standard library": (
        lambda: setattr(sys.modules["json"].JSONEncoder, "default", lambda self, value: str(value)),
        lambda: sys.modules["json"].JSONEncoder.default.__qualname__,
    ),
    "a new name in NumPy": (lambda: setattr(numpy, "left", int), lambda: hasattr(numpy, "left")),
    "patched twice": (
        lambda: [setattr(kind, "step", hook) for kind in (torch.optim.SGD, torch.optim.Adam)],
        lambda: [kind.step == hook for kind in (torch.optim.SGD, torch.optim.Adam)],
    ),
    "a global": (set_global("count", 1), lambda: count),
    "a new global": (set_global("left", 1), lambda: "left" in globals()),
    "a cache": (lambda: cache.update(a=1), lambda: dict(cache)),
    "a list": (lambda: seen.append(1), lambda: list(seen)),
    "a set": (lambda: names.add("second"), lambda: sorted(names)),
    "a deque": (lambda: queue.append(2), lambda: list(queue)),
    "a nested list": (lambda: nested["a"]["b"].append(3), lambda: nested["a"]["b"]),
    "a namespace": (lambda: setattr(options, "rate", 0.5), lambda: options.rate),
    "a generator of NumPy": (lambda: generator.random(), lambda: generator.random()),
    "an older generator of NumPy": (lambda: old_generator.rand(), lambda: old_generator.rand()),
    "a generator of Python": (python_generator.random, python_generator.random),
    "a generator of torch": (
        lambda: torch.rand(1, generator=torch_generator),
        lambda: float(torch.rand(1, generator=torch_generator)),
    ),
    "a tensor": (lambda: weights.add_(1), weights.tolist),
    "an array": (lambda: array.fill(1), array.tolist),
    "a module": (lambda: torch.nn.init.zeros_(teacher.weight), lambda: teacher.weight.tolist()),
    "a counter of ids": (lambda: next(ids), lambda: repr(ids)),
    "a thread's own": (lambda: setattr(local, "left", 1), lambda: hasattr(local, "left")),
    "a slot": (lambda: slotted.held.append(1), lambda: slotted.held),
    "an attribute of a class": (lambda: setattr(Net, "scale", 3.0), lambda: Net.scale),
    "a list of a class": (lambda: Net.registry.append(1), lambda: list(Net.registry)),
    "a patched method": (lambda: setattr(Net, "forward", hook), lambda: Net.forward == hook),
    "a cached function": (lambda: drawn(), lambda: drawn()),
    "a default argument": (lambda: remember(1), lambda: remember(1)),
    "a closure": (lambda: add(), lambda: add()),
    "an attribute of a function": (lambda: setattr(remember, "left", 1), lambda: hasattr(remember, "left")),
}
"""Name -> what changes it, what a later job sees of it."""

REPLACED = {
    "thread": (start_thread(False), threading.active_count, "threads"),
    "daemon thread": (start_thread(True), threading.active_count, "threads"),
    "child": (in_child(["sleep", "600"]), descendants, "child processes"),
    "child in a session of its own": (in_child(["setsid", "sleep", "600"]), descendants, "child processes"),
    "child without a parent": (fork_a_daemon, descendants, "child processes"),
    "nice": (lambda: os.nice(1), lambda: os.nice(0), "priority and cores"),
    "cores": (
        lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        lambda: sorted(os.sched_getaffinity(0)),
        "priority and cores",
    ),
    "open files": (leave_files_open, lambda: len(os.listdir("/proc/self/fd")) > 500, "open files"),
    "a stack of modes": (
        enter(Mode),
        lambda: str(torch.empty(0).device),
        "torch's default device and modes",
    ),
}
"""The same for what can't be put back, with the kind that is said."""


def change(name):
    (KINDS | REPLACED)[name][0]()
    return Result(COMPLETED, fitness=(0.0,), extra={"pid": os.getpid()})


def look(name):
    return Result(COMPLETED, fitness=(0.0,), extra={"seen": repr((KINDS | REPLACED)[name][1]()), "pid": os.getpid()})
