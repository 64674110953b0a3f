"""Epochs saved by inheritance: wider and deeper children of trained networks start from their parent's weights.

    python benchmarks/inheritance.py [--seeds 20] [--epochs 16] [--lr 3e-3] [--constant] [--only NAME ...] [--json PATH]

For each seed a parent trains on sklearn's digits (8 x 8; 896 for training, shifted by up to a pixel, 901 for evaluation),
and then a wider and a deeper child, each with the same full schedule (Adam, 3e-3 falling to 0 along a cosine), from scratch
and from its parent's weights. Measured are the epochs until a child first reaches the accuracy that it has from scratch at
the end of its schedule; 0 if it has it untrained, all epochs plus one if it never reaches it. The ratio is that number over
the same for the child from scratch, which may reach it before the end.
Networks: an MLP, a convolutional network and a residual network, all with batch normalization. Contenders, all on the
same seeds in the same run:

- inherited: ``lightning_evo.functional.inherit``, from the parent's state dict alone;
- and moments: also Adam's moments of the parent (``inherit_optimizer``);
- net2wider: without moments, with ``new_units="net2wider"``;
- slices: overlapping slices of parameters of equal names, without buffers, the common shortcut.

Goal: the median ratio of ``inherited``, over all networks, changes and seeds, is at most 25 %; each network's is in the
table. Exit code 1 if it is missed. One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_evo.functional import inherit, inherit_optimizer

GOAL = 0.25
TRAIN = 896
Build = Callable[[int, int], nn.Module]
Data = tuple[Tensor, Tensor, Tensor, Tensor]


class MLP(nn.Sequential):
    """``depth`` hidden layers of ``width``."""

    def __init__(self, width: int, depth: int) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for at in range(depth):
            layers += [nn.Linear(64 if at == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(width, 10))


class ConvNet(nn.Sequential):
    """``depth`` convolutions, pooled after the first and before the classifier."""

    def __init__(self, width: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for at in range(depth):
            layers += [nn.Conv2d(1 if at == 0 else width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if at == 0 else [])]
        super().__init__(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(values)).relu()))
        return (values + inner).relu()


class ResNet(nn.Sequential):
    """A strided stem and ``depth`` residual blocks."""

    def __init__(self, width: int, depth: int) -> None:
        stem = [nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        blocks = [ResidualBlock(width) for _ in range(depth)]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


# Name -> how it is built, its parent's width and depth, its wider and deeper children's.
NETWORKS: dict[str, tuple[Build, tuple[int, int], dict[str, tuple[int, int]]]] = {
    "MLP": (MLP, (64, 2), {"wider": (96, 2), "deeper": (64, 3)}),
    "convolutional": (ConvNet, (16, 3), {"wider": (24, 3), "deeper": (16, 4)}),
    "residual": (ResNet, (16, 2), {"wider": (24, 2), "deeper": (16, 3)}),
}


@dataclass(frozen=True)
class Training:
    epochs: int
    lr: float
    cosine: bool


def digits(seed: int) -> Data:
    """Training images in all shifts with their labels, and evaluation images, split again for each seed."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None] - 0.3
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, judge = order[:TRAIN], order[TRAIN:]
    return shifted(images[train]), labels[train], images[judge], labels[judge]


def fit(net: nn.Module, optimizer: torch.optim.Optimizer, data: Data, training: Training, seed: int) -> list[float]:
    """The accuracy before training and after each epoch."""
    images, labels, others, truth = data
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, training.epochs * batches, eta_min=0.0 if training.cosine else optimizer.param_groups[0]["lr"]
    )
    curve = [accuracy(net, others, truth)]
    for _ in range(training.epochs):
        net.train()
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            inputs = images[torch.randint(9, batch.shape, generator=generator), batch]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels[batch]).backward()
            optimizer.step()
            schedule.step()
        curve.append(accuracy(net, others, truth))
    return curve


def shifted(images: Tensor) -> Tensor:
    """All shifts of images by up to a pixel, (9, N, 1, 8, 8)."""
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=-0.3)
    return torch.stack([padded[..., down : down + 8, right : right + 8] for down in range(3) for right in range(3)])


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    return (net(images).argmax(1) == labels).float().mean().item()


def adam(net: nn.Module, training: Training) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=training.lr)


@dataclass(frozen=True)
class Parent:
    net: nn.Module
    optimizer: torch.optim.Optimizer


def from_scratch(child: nn.Module, optimizer: torch.optim.Optimizer, parent: Parent) -> None:
    pass


def inherited(child: nn.Module, optimizer: torch.optim.Optimizer, parent: Parent) -> None:
    inherit(child, parent.net.state_dict())


def with_moments(child: nn.Module, optimizer: torch.optim.Optimizer, parent: Parent) -> None:
    state = parent.net.state_dict()
    inherit_optimizer(optimizer, child, inherit(child, state), parent.optimizer.state_dict(), state)


def net2wider(child: nn.Module, optimizer: torch.optim.Optimizer, parent: Parent) -> None:
    inherit(child, parent.net.state_dict(), new_units="net2wider")


@torch.no_grad()
def slices_without_buffers(child: nn.Module, optimizer: torch.optim.Optimizer, parent: Parent) -> None:
    """The common shortcut: overlapping slices of parameters of equal names."""
    theirs = dict(parent.net.named_parameters())
    for name, tensor in child.named_parameters():
        if name in theirs and theirs[name].ndim == tensor.ndim:
            overlap = tuple(slice(0, min(sizes)) for sizes in zip(tensor.shape, theirs[name].shape, strict=True))
            tensor[overlap] = theirs[name][overlap]


CONTENDERS = {
    "scratch": from_scratch,
    "inherited": inherited,
    "and moments": with_moments,
    "net2wider": net2wider,
    "slices": slices_without_buffers,
}


def reached(curve: Sequence[float], goal: float) -> int:
    """First epoch with the accuracy; the number of epochs plus one if none has it."""
    return next((epoch for epoch, value in enumerate(curve) if value >= goal), len(curve))


def measure(name: str, seeds: int, training: Training) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Records per seed for each change and contender."""
    build, (width, depth), children = NETWORKS[name]
    records: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        data = digits(seed)
        torch.manual_seed(seed)
        net = build(width, depth)
        parent = Parent(net, adam(net, training))
        fit(net, parent.optimizer, data, training, seed)
        for change, sizes in children.items():
            curves = {}
            for contender, start in CONTENDERS.items():
                if contender == "net2wider" and sizes[0] == width:
                    continue  # nothing is wider
                torch.manual_seed(1000 + seed)  # all begin with the same fresh weights
                child = build(*sizes)
                optimizer = adam(child, training)
                start(child, optimizer, parent)
                curves[contender] = fit(child, optimizer, data, training, 1000 + seed)
            goal = curves["scratch"][-1]
            scratch = reached(curves["scratch"], goal)
            for contender, curve in curves.items():
                took = reached(curve, goal)
                records[change][contender].append(
                    {"epochs": took, "ratio": took / scratch, "untrained": curve[0], "final": curve[-1]}
                )
    return records


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="parents of each network (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=16, help="of every training (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="Adam's learning rate (default: %(default)s)")
    parser.add_argument(
        "--constant", action="store_true", help="keep the learning rate constant instead of decaying it"
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to train")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if options.seeds < 1 or options.epochs < 1:
        parser.error(f"--seeds {options.seeds} --epochs {options.epochs}: both must be at least 1")
    torch.set_num_threads(1)
    training = Training(options.epochs, options.lr, not options.constant)
    started = time.perf_counter()

    report = {name: measure(name, options.seeds, training) for name in options.only}
    table = Table(
        title=f"Until the accuracy from scratch after {options.epochs} epochs; {options.seeds} seeds, medians"
    )
    for column in ("network", "child", "start", "epochs", "ratio", "never", "untrained", "final accuracy"):
        table.add_column(column, justify="left" if column in ("network", "child", "start") else "right", no_wrap=True)
    pooled: dict[str, list[float]] = defaultdict(list)
    for name, changes in report.items():
        for change, contenders in changes.items():
            for contender, records in contenders.items():
                median = {key: statistics.median(r[key] for r in records) for key in records[0]}
                never = sum(r["epochs"] > options.epochs for r in records) / len(records)
                numbers = (f"{median['epochs']:.1f}", f"{median['ratio']:.0%}", f"{never:.0%}")
                mean = statistics.mean(r["final"] for r in records)
                table.add_row(name, change, contender, *numbers, f"{median['untrained']:.1%}", f"{mean:.2%}")
                pooled[contender] += [r["ratio"] for r in records]
            table.add_section()
    Console(width=max(120, Console().width)).print(table)
    print("Median ratio over all: " + ", ".join(f"{key} {statistics.median(r):.0%}" for key, r in pooled.items()))
    print(f"{time.perf_counter() - started:.0f} s on one thread; final accuracies are means")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    met = statistics.median(pooled["inherited"]) <= GOAL
    print(f"Goal, a median of at most {GOAL:.0%} for inherited: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
