"""The slots of a machine: how many candidates run at once, and the devices of each."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_cores", "plan_slots"]

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

MOST = 4096
"""Processes on one machine: more are a slip."""

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def plan_slots(
    accelerator: str = "auto", slots: int | None = None, devices_per_candidate: int = 1
) -> list[tuple[str, ...]]:
    """The devices of each slot, without initializing CUDA in this process.

    On CUDA a device belongs to one slot; default: as many slots as the visible devices (``CUDA_VISIBLE_DEVICES`` is
    respected, UUIDs included) give groups of ``devices_per_candidate``. On CPU and MPS there is nothing to pin and
    ``slots`` may be any number; default on CPU: one per core this process may use, divided by ``devices_per_candidate``
    (there: processes); on MPS: one.

    Args:
        accelerator: As the Trainer takes it: ``auto`` (CUDA where there is a device, else MPS, else CPU), ``cpu``, ``gpu``
            (CUDA or MPS), ``cuda`` or ``mps``.
        slots: How many candidates run at once.
        devices_per_candidate: Devices that train one candidate together.

    Returns:
        One group per slot, as ``CUDA_VISIBLE_DEVICES`` names devices; empty groups on CPU and MPS.

    Raises:
        ValueError: If more devices are asked than exist, or an argument is out of range.

    >>> plan_slots("cpu", slots=2)
    [(), ()]
    """
    if slots is not None and slots < 1:
        raise ValueError(f"slots: {slots!r} is not at least 1")
    if devices_per_candidate < 1:
        raise ValueError(f"devices_per_candidate: {devices_per_candidate!r} is not at least 1")
    if (slots or 1) * devices_per_candidate > MOST:
        raise ValueError(
            f"slots: {slots or 1} of {devices_per_candidate} process(es) each are more than the {MOST} that one machine "
            "may be asked for"
        )
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator: {accelerator!r} is not one of {', '.join(ACCELERATORS)}")
    if accelerator != "cpu":
        if (cuda := _cuda_devices()) and accelerator != "mps":
            return _cuda_groups(cuda, slots, devices_per_candidate)
        if _has_mps() and accelerator != "cuda":
            if devices_per_candidate > 1:
                raise ValueError(
                    f"devices_per_candidate: {devices_per_candidate} requested, but MPS is a single device"
                )
            return [()] * (slots or 1)
        if accelerator != "auto":
            raise ValueError(f"accelerator: {accelerator!r} requested, but this machine has no such device")
    return [()] * (slots or max(1, available_cores() // devices_per_candidate))


def available_cores() -> int:
    """CPU cores this process may use: its affinity, cut by a container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _CPU_QUOTA.is_file():
        quota, period = _CPU_QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def _cuda_groups(visible: list[str], slots: int | None, size: int) -> list[tuple[str, ...]]:
    wanted = size * (slots or 1)
    if wanted > len(visible):
        raise ValueError(
            f"{slots or 1} slot(s) of {size} device(s) each need {wanted} devices, but this process sees {len(visible)} "
            f"({', '.join(visible)}); lower slots or devices_per_candidate"
        )
    count = slots or len(visible) // size
    return [tuple(visible[i * size : (i + 1) * size]) for i in range(count)]


def _cuda_devices() -> list[str]:
    """Names of the CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES takes them."""
    import torch  # seconds; a search on CPU whose caller has no torch loaded never pays them

    count = torch.cuda.device_count()  # asks NVML and leaves CUDA alone
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in named.split(",")][:count]


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()
