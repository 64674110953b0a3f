"""What each rule and each optional part of a stacked computation is worth: the time of a step without it.

In a process, the settings alternate step by step, in random order, so that a change of the machine's load affects all of
them. The allocator's settings can't be undone: they are compared between two processes.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_evo.functional.stacking import PARTS, fusion, keep_freed_memory, stacked_call
from lightning_evo.functional.stacking.autotuning import Autotuner
from lightning_evo.functional.stacking.rules import RULE_GROUPS, RULES

Record = dict[str, Any]
Nets = dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]]

EVERYTHING = "everything"
ALLOCATOR = "allocator"
LOOP = "loop"
# A setting -> the one that it is compared with. Fused convolutions don't go through the convolutions' rules.
SETTINGS = {
    "fusion": EVERYTHING,
    "fusion: pooling": EVERYTHING,
    "fusion: ReLU": EVERYTHING,
    "autotuning": EVERYTHING,
    "autotuning on the CPU": EVERYTHING,
    **{f"rules: {group}": "fusion" if group == "convolution" else EVERYTHING for group in RULE_GROUPS},
    "all rules and fusion": EVERYTHING,
    LOOP: EVERYTHING,
}


class Step:
    """One training step of all particles, computed in any of the settings."""

    def __init__(self, build: Callable[[], nn.Module], sizes: tuple[int, ...], particles: int, device: str, batch: int):
        self.nets = [build().to(device) for _ in range(particles)]
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in self.nets[0].state_dict(keep_vars=True).items():
            stack = torch.stack([net.state_dict()[name] for net in self.nets])
            self.tensors[name] = stack.requires_grad_(tensor.requires_grad)
        self.x = torch.randn(batch, *sizes, device=device)
        self.y = torch.randint(10, (batch,), device=device)
        self.device = torch.device(device)
        self.tuner = Autotuner(cpu=True)

    def seconds(self, setting: str) -> float:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        with self._prepared(setting) as rules:
            self._wait()
            start = clock()
            if setting == LOOP:
                self._loop()
            else:
                self._stack(rules)
            self._wait()
            return clock() - start

    @contextmanager
    def _prepared(self, setting: str) -> Iterator[bool]:
        """Turn off what the setting is without; whether there are any rules."""
        kind, _, name = setting.partition(": ")
        with ExitStack() as stack:
            if kind in ("fusion", "autotuning") and not name:
                stack.enter_context(PARTS.disabled(kind))
            elif setting == "fusion: pooling":
                stack.enter_context(_replaced(fusion, "_CONVOLUTION_ELEMENTS", sys.maxsize))
            elif setting == "fusion: ReLU":
                stack.enter_context(_replaced(fusion, "_RELU_ELEMENTS", sys.maxsize))
            elif setting == "autotuning on the CPU":
                stack.enter_context(_replaced(PARTS, "autotuning", self.tuner))
            elif kind == "rules":
                stack.enter_context(_without_rules(name))
                if name == "convolution":
                    stack.enter_context(PARTS.disabled("fusion"))
            yield setting != "all rules and fusion"

    def _stack(self, rules: bool) -> None:
        for tensor in self.tensors.values():
            tensor.grad = None
        template, y = self.nets[0], self.y
        losses = stacked_call(template, lambda x: F.cross_entropy(template(x), y), self.tensors, (self.x,), rules=rules)
        losses.sum().backward()

    def _loop(self) -> None:
        for net in self.nets:
            net.zero_grad()
            F.cross_entropy(net(self.x), self.y).backward()

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _without_rules(group: str) -> Iterator[None]:
    removed = {function: RULES.pop(function) for function in RULE_GROUPS[group]}
    try:
        yield
    finally:
        RULES.update(removed)


def run_one(
    nets: Nets, net: str, particles: int, device: str, allocator: bool, seconds: float, threads: int, batch: int
) -> Record:
    """The median milliseconds of each setting; ``None`` for one in which the network can't be computed."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    if allocator and not keep_freed_memory():
        raise SystemExit("this process's allocator can't be set: another C library, or settings in the environment")
    step = Step(*nets[net][:2], particles, device, batch)
    times: dict[str, list[float] | None] = {EVERYTHING: []}
    for setting in (EVERYTHING, *(SETTINGS if allocator else ())):
        try:
            for _ in range(2):  # warm-up
                step.seconds(setting)
            times[setting] = []
        except RuntimeError:
            times[setting] = None
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times[EVERYTHING] or ()) < 3:
        # In random order: a step takes longer after one that leaves the caches to others.
        for setting in random.sample(list(times), len(times)):
            if (measured := times[setting]) is not None:
                measured.append(step.seconds(setting))
    return {name: 1000 * statistics.median(found) if found else None for name, found in times.items()}


def ratios(rounds: list[tuple[Record, Record]]) -> Record:
    """Time without each part as a multiple of the time with it, medians over the rounds.

    Args:
        rounds: Of each round the record with the allocator's settings and the one without.
    """
    found: Record = {ALLOCATOR: statistics.median(without[EVERYTHING] / whole[EVERYTHING] for whole, without in rounds)}
    for setting, base in SETTINGS.items():
        values = [whole[setting] / whole[base] for whole, _ in rounds if whole[setting] is not None]
        found[setting] = statistics.median(values) if values else None
    return found


def show(cells: list[Record], where: str) -> None:
    table = Table(title=f"Time of a step without a part, as a multiple of the time with everything ({where})")
    table.add_column("without")
    for cell in cells:
        table.add_column(f"{cell['net']}, {cell['particles']}", justify="right")
    for setting in (ALLOCATOR, *SETTINGS):
        if setting == LOOP:
            continue
        name = "(with autotuning on the CPU)" if setting == "autotuning on the CPU" else setting
        values = [cell["ratios"][setting] for cell in cells]
        table.add_row(name, *("can't be computed" if value is None else f"{value:.2f}" for value in values))
    table.add_row("(a loop over the particles)", *(f"{cell['ratios'][LOOP]:.2f}" for cell in cells))
    table.add_row("milliseconds with everything", *(f"{cell['milliseconds']:.1f}" for cell in cells))
    Console(width=max(120, Console().width)).print(table)
