"""Network, images and random draws of Nytorch's tutorial, shared by all contenders of ``swarm.py``.

Uses only torch and NumPy: Nytorch's environment has nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUBSET, INTERVAL, ALPHA, LR, BATCH, TEST = 6, 16, 0.5, 0.01, 64, 1024
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Job:
    """One training of a swarm, in a separate process."""

    contender: str
    threads: int
    seed: int
    batches: int
    particles: int
    images: str

    def arguments(self) -> list[str]:
        return [str(value) for value in asdict(self).values()]

    @staticmethod
    def parse(arguments: list[str]) -> Job:
        contender, threads, seed, batches, particles, images = arguments
        return Job(contender, int(threads), int(seed), int(batches), int(particles), images)


class ConvNet(nn.Module):
    """Network of Nytorch's tutorial, which has the same on its own base class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 3)
        self.fc = nn.Linear(20 * 10 * 10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return forward(self, x)


def forward(net: Any, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(net.conv1(x)), 2, 2)
    x = F.relu(net.conv2(x)).view(x.size(0), -1)
    return F.log_softmax(net.fc(x), dim=1)


def data(job: Job) -> tuple[Batches, Batches]:
    """The training batches in their order, and the test batches."""
    with np.load(Path(job.images)) as arrays:
        split = {name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    generator = torch.Generator().manual_seed(job.seed)
    return (
        _batches(split["x_train"], split["y_train"], job.batches * BATCH, generator),
        _batches(split["x_test"], split["y_test"], TEST, generator),
    )


def _batches(images: np.ndarray, labels: np.ndarray, count: int, generator: torch.Generator) -> Batches:
    chosen = torch.randperm(len(images), generator=generator)[:count]
    x = torch.from_numpy(images)[chosen].reshape(-1, 1, 28, 28).float().div(255).sub(0.1307).div(0.3081)
    return list(zip(x.split(BATCH), torch.from_numpy(labels)[chosen].long().split(BATCH), strict=True))


def states(job: Job) -> list[dict[str, Tensor]]:
    """The particles' weights before training."""
    torch.manual_seed(job.seed)
    return [ConvNet().state_dict() for _ in range(job.particles)]


@torch.no_grad()
def accuracy(net: nn.Module, batches: Batches) -> float:
    net.eval()
    return sum(int((net(x).argmax(1) == y).sum()) for x, y in batches) / sum(len(y) for _, y in batches)


class Clock:
    """Wall-clock seconds and the process's CPU seconds since construction."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}
