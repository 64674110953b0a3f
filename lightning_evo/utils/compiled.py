"""Modules that run through ``torch.compile``: which they are, what is inside, names without the wrapper's part, and a way
around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from lightning_evo._compat.torch import COMPILED_MODULE, compiled_call

__all__ = ["eagerly", "is_compiled", "original_module", "plain_name"]

_LOCK = threading.Lock()
_stance: list[AbstractContextManager[None]] = []
"""What the first of those who are within :func:`eagerly` has set."""
_inside: list[None] = []


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled code eagerly for the block, as if nothing had been compiled.

    There is one stance per process, and blocks may overlap without one holding the other: candidates in threads, a callback
    that begins before a batch and ends after another has begun. So the last to leave restores what the first found.
    """
    with _LOCK:
        if not _inside:
            _stance[:] = [torch.compiler.set_stance("force_eager")]
        _inside.append(None)
    try:
        yield
    finally:
        with _LOCK:
            _inside.pop()
            if not _inside:
                _stance.pop().__exit__(None, None, None)


def plain_name(name: str) -> str:
    """The name of a module or tensor without the parts that ``torch.compile`` puts into it.

    >>> plain_name("_orig_mod.layers._orig_mod.0.weight"), plain_name("layers._orig_mod"), plain_name("_orig_mod")
    ('layers.0.weight', 'layers', '')
    """
    return ".".join(part for part in name.split(".") if part != COMPILED_MODULE)


def original_module(module: nn.Module) -> nn.Module | None:
    """The module that a wrapper of ``torch.compile`` holds; ``None`` if ``module`` is no such wrapper."""
    return dict(module.named_children()).get(COMPILED_MODULE)


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of this module itself run through ``torch.compile``; those inside it aren't looked at."""
    return original_module(module) is not None or compiled_call(module) is not None
