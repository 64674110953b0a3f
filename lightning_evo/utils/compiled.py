"""Modules that run through ``torch.compile``: which they are, what is inside, and names without the wrapper's part."""

from __future__ import annotations

from torch import nn

__all__ = ["is_compiled", "original_module", "plain_name"]

_ORIGINAL = "_orig_mod"
"""Under this name ``torch.compile(module)`` holds the module, so state dicts and graphs have it in their names."""


def plain_name(name: str) -> str:
    """The name of a module or tensor without the parts that ``torch.compile`` puts into it.

    >>> plain_name("_orig_mod.layers._orig_mod.0.weight"), plain_name("layers._orig_mod"), plain_name("_orig_mod")
    ('layers.0.weight', 'layers', '')
    """
    return ".".join(part for part in name.split(".") if part != _ORIGINAL)


def original_module(module: nn.Module) -> nn.Module | None:
    """The module that a wrapper of ``torch.compile`` holds; ``None`` if ``module`` is no such wrapper."""
    return dict(module.named_children()).get(_ORIGINAL)


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of this module itself run through ``torch.compile``; those inside it aren't looked at."""
    return original_module(module) is not None or module._compiled_call_impl is not None
