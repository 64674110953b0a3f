"""Modules that run through ``torch.compile``: which they are, what is inside, and names without the wrapper's part."""

from __future__ import annotations

from torch import nn

from lightning_evo._compat.torch import COMPILED_MODULE, compiled_call

__all__ = ["is_compiled", "original_module", "plain_name"]


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
