"""Kinds of faults that are tried by the hundred: what is done to a search, and what must hold afterwards.

    python benchmarks/faults.py --kinds [NAME ...] [--cases N] [--seed 0]

Adding a kind: a function in a module of this folder (a new one, or the one of its topic; all are imported), named and
counted by the decorator::

    @kind("journal: a flipped bit", cases=200)
    def flip(case: Case) -> None:
        run = shutil.copytree(finished_run(), case.folder / "run")
        at = case.rng.randrange(...)
        ...
        case.check(rows == truth, f"bit {at}: 3 rows of 4")

- One call is one case: it does its harm in ``case.folder`` (empty, deleted afterwards) as ``case.rng`` decides (seeded by
  kind and case number), and returns where what was promised held. Any exception that gets out is a case that broke, so
  an error that is the right answer has to be caught. ``case.check(condition, what)`` raises; ``case.skip(why)`` is for what
  can't be tried on this machine.
- What every case starts from (a finished run, an interrupted one) is made once: a function under ``functools.cache`` that
  writes into ``shared_folder()``, which cases copy.
- Cases should take milliseconds: searches over a function in a thread (see ``_searches.py``), commands by calling
  ``lightning_evo.cli.main``. Import torch inside functions, and only where there is no other way.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

__all__ = ["Broke", "Case", "Kind", "Skipped", "Tried", "kind", "load_kinds", "shared_folder", "try_kinds"]


class Broke(AssertionError):
    """What was promised didn't hold."""


class Skipped(Exception):
    """A case that can't be tried on this machine."""


@dataclass(frozen=True)
class Case:
    """One try of a kind.

    Args:
        number: From 0.
        rng: Decides what is done; seeded by the kind and the number.
        folder: Where; empty at first, deleted at the end.
    """

    number: int
    rng: random.Random
    folder: Path

    def check(self, condition: object, what: str) -> None:
        """Raise :class:`Broke`, saying ``what``, unless the condition holds."""
        if not condition:
            raise Broke(what)

    def skip(self, why: str) -> NoReturn:
        """Leave this case out."""
        raise Skipped(why)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: As in the table.
        cases: How many are tried by default.
        function: Tries one.
    """

    name: str
    cases: int
    function: Callable[[Case], None]


@dataclass
class Tried:
    """What became of a kind's cases.

    Args:
        held: How many held.
        broke: For each that broke its number, why and where.
        skipped: Why some weren't tried.
        seconds: How long it took.
    """

    held: int = 0
    broke: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        return self.held + len(self.broke)


KINDS: dict[str, Kind] = {}

_shared: list[Path] = []


def kind(name: str, *, cases: int) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a function as a kind of fault."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        assert name not in KINDS, f"two kinds are named {name!r}"
        KINDS[name] = Kind(name, cases, function)
        return function

    return register


@functools.cache
def load_kinds() -> dict[str, Kind]:
    """All kinds: every module of this folder is imported."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        importlib.import_module(f"{__name__}.{module.name}")
    return KINDS


def shared_folder(name: str) -> Path:
    """A folder for what all cases start from; its name must be new. It lives until :func:`try_kinds` ends."""
    assert _shared, "only while kinds are tried"
    folder = _shared[-1] / name
    folder.mkdir()
    return folder


@contextmanager
def sharing() -> Iterator[None]:
    """Have :func:`shared_folder` work within the block."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what is found to be damaged is warned of
    with tempfile.TemporaryDirectory(prefix="faults-shared-") as folder:
        _shared.append(Path(folder))
        try:
            yield
        finally:
            _shared.pop()
            logging.disable(level)


def try_kinds(
    names: Sequence[str], cases: int | None = None, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> dict[str, Tried]:
    """Try kinds of faults.

    Args:
        names: Which.
        cases: How many of each; default: what each kind says.
        seed: Decides what is done.
        say: Called with each kind's name before it begins, and with what broke.
    """
    outcomes = {}
    with sharing():
        for name in names:
            say(name)
            one, tried, begun = load_kinds()[name], Tried(), time.monotonic()
            for number in range(one.cases if cases is None else cases):
                with tempfile.TemporaryDirectory(prefix="fault-") as folder:
                    try:
                        one.function(Case(number, random.Random(f"{seed} {name} {number}"), Path(folder)))
                    except Skipped as why:
                        tried.skipped.append(str(why))
                        if len(tried.skipped) == 3 and not tried.tried:
                            break
                    except Exception as error:
                        tried.broke.append(f"case {number}: {_described(error)}")
                        say(f"  {tried.broke[-1]}")
                    else:
                        tried.held += 1
            tried.seconds = time.monotonic() - begun
            outcomes[name] = tried
    return outcomes


def _described(error: Exception) -> str:
    if isinstance(error, Broke):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"
