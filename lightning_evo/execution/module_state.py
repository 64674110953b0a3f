"""What modules hold, remembered and put back: their globals, the attributes of their classes, and what these refer to.

So a counter, a cache or a registry in the user's modules, a mutable default argument, a class attribute, a generator of
random numbers, and a patched function or method of torch, Lightning or the standard library are for each candidate as
they are for the first. What a module holds once it is imported is what is put back.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import sysconfig
import threading
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

__all__ = ["ModuleState"]

_CLASSES = (
    "lightning.pytorch.callbacks.callback",
    "lightning.pytorch.core",
    "lightning.pytorch.loops",
    "lightning.pytorch.trainer",
    "pytorch_lightning.callbacks.callback",
    "pytorch_lightning.core",
    "pytorch_lightning.loops",
    "pytorch_lightning.trainer",
    "torch._tensor",
    "torch.nn.modules",
    "torch.nn.parameter",
    "torch.optim",
    "torch.utils.data.dataloader",
    "torch.utils.data.dataset",
    "torch.utils.data.sampler",
)
"""Modules and packages of libraries whose classes are watched, with the containers and objects that they hold directly."""

_STANDARD_CLASSES = {"json.decoder", "json.encoder", "pathlib", "random", "subprocess", "tempfile", "threading"}
"""Modules of the standard library whose classes are watched, without what these hold."""

_GLOBALS = {
    *_STANDARD_CLASSES,
    *("builtins", "copy", "functools", "glob", "json", "logging", "math", "os", "pickle", "shutil", "sys", "time"),
    *("numpy", "numpy.linalg", "numpy.random", "torch", "torch._tensor_str", "torch.amp", "torch.autograd"),
    *("torch.cuda", "torch.cuda.amp", "torch.fft", "torch.functional", "torch.linalg", "torch.nn", "torch.nn.init"),
    *("torch.nn.functional", "torch.nn.modules.module", "torch.nn.utils", "torch.optim", "torch.optim.lr_scheduler"),
    *("torch.optim.optimizer", "torch.random", "torch.special", "torch.utils.data", "torch.utils.data.dataloader"),
    *("lightning.pytorch", "lightning.pytorch.trainer.trainer", "warnings"),
    *("pytorch_lightning", "pytorch_lightning.trainer.trainer"),
}
"""Modules of libraries whose globals are watched."""

_BLOCK = 4096
"""Attributes that are compared at once: all of them at once is slower, as is each module alone."""

_LARGE = 2000
"""Of a container with more elements the length alone is compared."""

_MOST = 20_000
"""How many things are watched at most."""

_ARRAY_BYTES = 2**16
"""Arrays and tensors up to this size are remembered; of larger tensors only whether they were written to."""

_PYTHONS_OWN = {
    "__abstractmethods__",
    "__annotations__",
    "__doc__",
    "__jit_unused_properties__",
    "__slotnames__",
    "__warningregistry__",
    "last_exc",
    "last_traceback",
    "last_type",
    "last_value",
}
"""Names that Python and torch set where they need them."""

_NOBODYS = {__name__.partition(".")[0], "lightning", "pytorch_lightning", "torch"}
"""Packages that aren't the user's, wherever they lie and whoever names them."""

_Member = tuple[Any, dict[Any, Any], object]
"""Attributes as they live and as they were, and what has them."""

_CHANGEABLE_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: of other classes no attribute can be set
_MISSING = object()


class ModuleState:
    """What modules hold, from the time that each was added."""

    def __init__(self) -> None:
        self._seen: dict[int, object] = {}  # keeps them alive, so that ids stay theirs
        self._blocks = {False: [_Block()], True: [_Block()]}  # of attributes: of libraries, of the user's modules
        self._changing: list[_Member] = []  # attributes that a job has changed: the next does as well, as a rule
        self._live: list[Any] = []  # containers
        self._before: list[Any] = []  # what they held
        self._others: list[tuple[str, Callable[[], Any], Any, Callable[[Any], object] | None]] = []
        self._imported: dict[str, ModuleType] = {}
        self._count = len(sys.modules)

    def add(self, modules: Iterable[ModuleType], users: Collection[str] = ()) -> None:
        """Watch further modules from now on, as they are now.

        Args:
            modules: The modules.
            users: Names of modules that are the user's wherever they lie.
        """
        for module in modules:
            name = getattr(module, "__name__", None)
            if not isinstance(module, ModuleType) or not isinstance(name, str):
                continue  # anything may stand in sys.modules
            if name in _GLOBALS or name.startswith(_CLASSES):
                # torch.Tensor says that it is torch's, as do a hundred classes that nobody patches.
                owns = _is_tensors if name == "torch._tensor" else _is_library
                self._walk(module, owns, deep=False)
            elif _lies_with_user(module) or (name in users and name.partition(".")[0] not in _NOBODYS):
                self._walk(module, _in_package_of(name), deep=True)

    def put_back(self) -> list[str]:
        """Put everything back; returns what could not be."""
        self._put_back_imported()
        for member in self._changing:
            _restore_attributes(*member)
        for block in itertools.chain.from_iterable(self._blocks.values()):
            self._changing += block.put_back()
        self._put_back_containers()
        lasting = []
        for name, read, before, put_back in self._others:
            try:
                if read() == before:
                    continue
                if put_back is not None:
                    put_back(before)
                if put_back is not None and read() == before:
                    continue
            except Exception:  # torch's tensors, where a mode is in force that a job has entered
                pass
            lasting.append(name)
        return lasting

    def accept(self) -> None:
        """Take everything for what it is now."""
        for block in itertools.chain.from_iterable(self._blocks.values()):
            block.accept()
        for member in self._changing:
            _accept(member)
        self._before = [_plain_copy(live) for live in self._live]

    def _put_back_containers(self) -> None:
        with suppress(Exception):  # arrays have no single truth, and a user's __eq__ may raise anything
            if self._live == self._before:
                return
        for live, before in zip(self._live, self._before, strict=True):
            with suppress(Exception):
                if live == before:
                    continue
            _restore_container(live, before)

    def _put_back_imported(self) -> None:
        """Have what is watched in ``sys.modules`` again, and no stand-ins for packages; what is imported since stays."""
        if list(map(sys.modules.get, self._imported)) != list(self._imported.values()):
            sys.modules.update(self._imported)
        new = len(sys.modules) - self._count
        if new > 0:
            for name, module in list(itertools.islice(reversed(sys.modules.items()), new)):
                if "." not in name and getattr(module, "__spec__", None) is None and name not in self._imported:
                    del sys.modules[name]
        self._count = len(sys.modules)

    # -- looking around ------------------------------------------------------------------------------------------------

    def _walk(self, module: ModuleType, owns: Callable[[str], bool], deep: bool) -> None:
        """Watch a module and what it holds.

        Args:
            module: The module.
            owns: Whether the classes and functions of the module of this name are looked into.
            deep: Look into all that is held, not only into classes and the containers that these and the module hold.
        """
        if id(module) in self._seen:
            return
        left: list[tuple[str, Any]] = []
        self._imported[module.__name__] = module
        if deep or module.__name__ in _GLOBALS:
            self._watch_mapping(module.__name__, vars(module), module, left, deep)
        else:
            self._remember(module)
            left += [(f"{module.__name__}.{name}", value) for name, value in vars(module).items()]
        while left and len(self._seen) < _MOST:
            name, value = left.pop()
            if isinstance(value, type):
                if owns(value.__module__) and value.__flags__ & _CHANGEABLE_TYPE:
                    self._watch_mapping(name, value.__dict__, value, left, deep)
                elif value.__module__ in _STANDARD_CLASSES and not deep:
                    self._watch_mapping(name, value.__dict__, value, [], deep)
            elif deep:
                self._watch(name, value, owns, left)
            elif owns(module.__name__) and isinstance(value, (dict, list, set, deque)):
                self._watch_container(name, value, [])
            elif owns(type(value).__module__) and hasattr(value, "__dict__"):
                self._watch_mapping(name, vars(value), value, [], deep)

    def _watch(self, name: str, value: Any, owns: Callable[[str], bool], left: list[tuple[str, Any]]) -> None:
        """Watch one thing that a user's module holds; what it holds in turn goes to ``left``."""
        if isinstance(value, (str, bytes, int, float, complex, type(None), ModuleType)) or id(value) in self._seen:
            return
        if isinstance(value, FunctionType):
            if owns(value.__module__ or ""):
                self._watch_mapping(name, vars(value), value, left)
                closure = value.__closure__ or ()
                left += [(name, part) for part in (value.__defaults__, value.__kwdefaults__, *closure) if part]
        elif isinstance(value, CellType):
            self._remember(value)
            self._others.append((name, lambda: _content(value), _content(value), lambda held: _fill(value, held)))
            left.append((name, _content(value)))
        elif isinstance(value, (staticmethod, classmethod)):
            left.append((name, value.__func__))
        elif isinstance(value, property):
            left += [(name, part) for part in (value.fget, value.fset) if part]
        elif isinstance(value, MethodType):
            left.append((name, value.__self__))
        elif isinstance(value, functools.partial):
            left += [(name, value.func), (name, value.args), (name, value.keywords)]
        elif isinstance(value, (tuple, frozenset)):
            left += [(name, part) for part in itertools.islice(value, _LARGE)]
        elif isinstance(value, (dict, list, set, deque, bytearray)):
            self._watch_container(name, value, left)
        elif callable(getattr(value, "cache_clear", None)) and callable(getattr(value, "cache_info", None)):
            self._watch_cache(name, value)
        elif (state := _state_of(value)) is not None:
            self._remember(value)
            read, put_back = state
            self._others.append((name, read, read(), put_back))
        elif owns(type(value).__module__) or isinstance(value, _plain_objects()):
            if hasattr(value, "__dict__"):
                self._watch_mapping(name, vars(value), value, left)
            for slot in _slots(type(value)):
                if (held := getattr(value, slot, _MISSING)) is not _MISSING:
                    left.append((f"{name}.{slot}", held))

    def _watch_mapping(
        self, name: str, live: Any, owner: object, left: list[tuple[str, Any]], deep: bool = True
    ) -> None:
        """Watch the attributes of a module, class, function or object; what they are goes to ``left``."""
        if id(owner) in self._seen:
            return
        self._remember(owner)
        before = dict(live)
        blocks = self._blocks[deep]
        if len(blocks[-1]) > _BLOCK:
            blocks.append(_Block())
        blocks[-1].add((live, before, owner))
        inner = deep and not isinstance(owner, ModuleType)
        left += [
            (f"{name}.{key}", value)
            for key, value in before.items()
            if not (isinstance(value, ModuleType) or (isinstance(key, str) and key.startswith("__") and not inner))
        ]

    def _watch_container(self, name: str, value: Any, left: list[tuple[str, Any]]) -> None:
        if id(value) in self._seen:
            return
        self._remember(value)
        if len(value) > _LARGE:
            self._others.append((name, lambda: len(value), len(value), None))
            return
        before = _plain_copy(value)
        self._live.append(value)
        self._before.append(before)
        if not isinstance(value, bytearray):
            left += [(name, part) for part in (before.values() if isinstance(before, dict) else before)]

    def _watch_cache(self, name: str, cache: Any) -> None:
        """Watch what ``functools.cache`` made: emptied where it has grown."""
        if id(cache) in self._seen:
            return
        self._remember(cache)
        misses = cache.cache_info().misses
        self._others.append((name, lambda: cache.cache_info().misses > misses, False, lambda _: cache.cache_clear()))

    def _remember(self, value: object) -> None:
        self._seen[id(value)] = value


class _Block:
    """The attributes of modules, classes, functions and objects: compared all at once, as that is done most."""

    def __init__(self) -> None:
        self._members: list[_Member] = []
        self._views: list[Iterable[Any]] = []
        self._values: list[Any] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, member: _Member) -> None:
        """Watch further attributes, which are as they were."""
        self._members.append(member)
        self._views.append(member[0].values())
        self._values += member[1].values()

    def put_back(self) -> list[_Member]:
        """Bind every name to what it was bound to; the members of which some weren't leave the block, and are returned."""
        with suppress(Exception):  # arrays have no single truth, and a user's __eq__ may raise anything
            if list(itertools.chain.from_iterable(self._views)) == self._values:
                return []
        changed = [member for member in self._members if _restore_attributes(*member)]
        gone = set(map(id, changed))
        self._members = [member for member in self._members if id(member) not in gone]
        self._complete()
        return changed

    def accept(self) -> None:
        """Take everything for what it is now."""
        for member in self._members:
            _accept(member)
        self._complete()

    def _complete(self) -> None:
        self._views = [live.values() for live, _, _ in self._members]
        self._values = list(itertools.chain.from_iterable(self._views))


def _accept(member: _Member) -> None:
    live, before, _ = member
    before.clear()
    before.update(live)


def _is_tensors(module: str) -> bool:
    return module == "torch" or _is_library(module)


def _is_library(module: str) -> bool:
    return module.startswith(_CLASSES)


def _in_package_of(module: str) -> Callable[[str], bool]:
    package = module.partition(".")[0]
    return lambda owner: owner.partition(".")[0] == package


def _lies_with_user(module: ModuleType) -> bool:
    """Whether a module's file is neither Python's, nor an installed package's, nor ours."""
    file = getattr(module, "__file__", None)
    if not file or module.__name__.partition(".")[0] in _NOBODYS:
        return False
    return not file.startswith(_standard_library()) and not any(
        f"/{folder}/" in file for folder in ("site-packages", "dist-packages")
    )


@functools.cache
def _standard_library() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


def _plain_objects() -> tuple[type, ...]:
    """Classes of libraries whose objects are what their attributes are."""
    torch = sys.modules.get("torch")
    return (Namespace, SimpleNamespace, threading.local, *([torch.nn.Module] if torch else []))


def _slots(cls: type) -> list[str]:
    return [slot for base in cls.__mro__ if isinstance(slots := vars(base).get("__slots__"), tuple) for slot in slots]


def _state_of(value: Any) -> tuple[Callable[[], Any], Callable[[Any], object] | None] | None:
    """How to read and put back what isn't in an object's attributes; ``None`` where there is nothing of the kind."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, itertools.count):
        return lambda: repr(value), None
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return _state_of(value.bit_generator)
    if numpy is not None and isinstance(value, numpy.random.BitGenerator):
        return lambda: repr(value.state), _setter(value, "state", value.state)
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        state = value.get_state()
        return lambda: repr(value.get_state(legacy=False)), lambda _: value.set_state(state)
    if (
        numpy is not None
        and isinstance(value, numpy.ndarray)
        and value.dtype != object
        and value.nbytes <= _ARRAY_BYTES
    ):
        copy = value.copy()
        return value.tobytes, lambda _: numpy.copyto(value, copy)
    if torch is not None and isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: bytes(value.get_state().numpy()), lambda _: value.set_state(state)
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor_state(value)
    return None


def _tensor_state(tensor: Any) -> tuple[Callable[[], bool], Callable[[Any], object] | None] | None:
    from lightning_evo._compat.torch import tensor_version  # only where torch is imported already

    if tensor.is_inference():
        return None  # nothing counts how often it was written to
    small = tensor.numel() * tensor.element_size() <= _ARRAY_BYTES
    copy, grad = tensor.detach().clone() if small else None, tensor.grad
    version = tensor_version(tensor)

    def changed() -> bool:
        return tensor_version(tensor) != version or tensor.grad is not grad

    def put_back(_: Any) -> None:
        nonlocal version
        if copy is not None:
            tensor.detach().copy_(copy)
            version = tensor_version(tensor)
        tensor.grad = grad

    return changed, put_back


def _setter(owner: Any, name: str, value: Any) -> Callable[[Any], object]:
    return lambda _: setattr(owner, name, value)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING  # a variable that isn't assigned yet


def _fill(cell: CellType, value: Any) -> None:
    if value is _MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = value


def _plain_copy(value: Any) -> Any:
    """A dict, list, set, deque or bytearray of the same elements, of no subclass."""
    if isinstance(value, deque):
        return deque(value, value.maxlen)
    return next(kind for kind in (dict, list, set, bytearray) if isinstance(value, kind))(value)


def _restore_attributes(live: Any, before: dict[Any, Any], owner: object) -> bool:
    """Bind the names of a module, class, function or object to what they were bound to; returns whether some weren't."""
    changed = False
    for name in [name for name in live if name not in before]:
        value = live[name]
        if name in _PYTHONS_OWN or (isinstance(owner, ModuleType) and isinstance(value, ModuleType)):
            before[name] = value  # a module that was imported since then
            continue
        changed = True
        if isinstance(owner, type):
            type.__delattr__(owner, name)
        else:
            del live[name]
    for name, value in before.items():
        if live.get(name, _MISSING) is not value:
            if name in _PYTHONS_OWN:
                before[name] = live.get(name)
                continue
            changed = True
            if isinstance(owner, type):
                type.__setattr__(owner, name, value)
            else:
                live[name] = value
    return changed


def _restore_container(live: Any, before: Any) -> None:
    """Give a container the elements it had, whatever a subclass makes of its methods."""
    if isinstance(live, dict):
        dict.clear(live)
        if hasattr(live, "move_to_end"):  # an OrderedDict keeps its order elsewhere
            live.update(before)
        else:
            dict.update(live, before)
    elif isinstance(live, set):
        set.clear(live)
        set.update(live, before)
    elif isinstance(live, deque):
        live.clear()
        live.extend(before)
    else:
        live[:] = before
