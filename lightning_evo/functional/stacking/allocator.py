"""Settings of the CPU's memory allocator, an optional part of the stacked computation: freed memory serves the next step."""

from __future__ import annotations

import ctypes
import os
import platform

from lightning_evo.functional.stacking.optional import PARTS

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 2**31 - 1
"""Bytes: the most that mallopt takes."""


def keep_freed_memory() -> bool:
    """Make this process reuse the memory of large tensors instead of returning it to the system when they are freed.

    glibc maps large blocks anew each time and unmaps them when they are freed; the system then zeroes every page again at
    its first use. For the activations of stacked particles, tens of megabytes in each step, that can take longer than
    computing them (a first layer's ReLU: 4.4 ms, of which the ReLU itself takes 0.6). Afterwards freed memory up to 2 GiB
    stays with the process. The setting holds for the process's whole life and for everything that it computes.

    Returns:
        Whether it is set: ``False`` where another C library is in use, or where the environment already sets malloc's
        thresholds (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``), which are not changed.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc" or _set_by_user():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


PARTS.allocator = keep_freed_memory


def _set_by_user() -> bool:
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
    )
