"""Gain from averaging a swarm: members, soups and ensembles, trained alone and with each method, at equal steps.

    python benchmarks/averaging.py [--seeds 10] [--particles 5] [--epochs 24] [--only TASK ...] [--data DIR] [--json PATH]

Each task is a small network on a small part of a data set of ``../shared/data/images``, in images of 14 x 14:

- mnist: a multilayer perceptron on 1,000 images;
- fashion: a convolutional network on 1,000 images of Fashion-MNIST, which may be mirrored;
- signs: a multilayer perceptron on 800 images of sign-language digits, in grayscale;
- signs-norm: the same images with a convolutional network with batch normalization.

For each seed the particles train with SGD (momentum 0.9, cosine learning rate schedule to 0), each with its own data order,
its own random shifts by up to 2 pixels and its own label smoothing (0, 0.05, 0.1 in turn), because averaging depends on such
differences. Equal seeds give equal weights, orders and random draws to all methods.

- alone: independent trainings, each from its own initial weights;
- common: the same from the first one's initial weights, as in all following methods (``SwarmAveraging(common_start=True)``);
- APSO: as in Nytorch's tutorial, half of the swarm, alpha 0.5, every 16 steps;
- PAPA: every 10 steps, alpha 0.5 times the learning rate over its maximum (the paper's 0.01 is for many times more steps);
- PAPA-all, PAPA-pairs: after every epoch except the last.

The methods are those of ``lightning_evo.functional.mixing``. Batch statistics are averaged under pulls, and estimated again
after full averages and for soups. Learning rates and intervals were chosen on seeds 100 and 101.

Measured on test images: the members' mean accuracy, the uniform soup, the greedy soup (by 500 validation images, which are
not used for training), and the ensemble (mean of probabilities). Points are percent of test images.

Goals: a member of the best averaging method is at least 0.8 points better than one trained alone, on average over the tasks;
the soup of that method is at most 0.3 points below the ensemble of those trained alone. Exit code 1 if one is missed.
One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad
from torch.optim.swa_utils import update_bn

from lightning_evo.functional.mixing import apso, combine, papa, papa_all, papa_pairs, ranked
from lightning_evo.swarms.stack.parameter_views import bind_tensors, memory_of, stack_tensors

BETTER, WITHIN = 0.8, 0.3
VALIDATION, TEST, BATCH, SHIFT = 500, 2000, 50, 2
SMOOTHING = (0.0, 0.05, 0.1)


# -- tasks -------------------------------------------------------------------------------------------------------------


class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )


class ConvNet(nn.Sequential):
    def __init__(self, normalised: bool = False) -> None:
        def block(inputs: int, outputs: int) -> list[nn.Module]:
            norm = [nn.BatchNorm2d(outputs)] if normalised else []
            return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

        super().__init__(*block(1, 12), *block(12, 24), nn.Flatten(), nn.Linear(24 * 9, 10))


@dataclass(frozen=True)
class Task:
    """A data set: file, number of training images, network, learning rate, and whether images are mirrored."""

    file: str
    size: int
    build: Callable[[], nn.Module]
    lr: float
    mirror: bool = False


TASKS = {
    "mnist": Task("mnist.npz", 1000, MLP, 0.1),
    "fashion": Task("fashion_mnist.npz", 1000, ConvNet, 0.1, mirror=True),
    "signs": Task("sign_digits_32px.npz", 800, MLP, 0.1),
    "signs-norm": Task("sign_digits_32px.npz", 800, lambda: ConvNet(normalised=True), 0.05),
}


@dataclass(frozen=True)
class Data:
    """Training images with a margin of SHIFT and their labels, then (images, labels) for validation and test."""

    images: Tensor
    labels: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(task: Task, directory: Path, seed: int) -> Data:
    with np.load(directory / task.file) as file:
        if "x_train" in file:
            x, y = file["x_train"], file["y_train"]
            x_test, y_test = file["x_test"][:TEST], file["y_test"][:TEST]
        else:  # one set: a fixed part of it is the test's, whatever the seed
            order = np.random.default_rng(0).permutation(len(file["y"]))
            held, rest = order[:700], order[700:]
            x, y, x_test, y_test = file["x"][rest], file["y"][rest], file["x"][held], file["y"][held]
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).numpy()
    train, validation = chosen[: task.size], chosen[task.size : task.size + VALIDATION]
    images = prepared(x[train])
    mean, spread = images.mean(), images.std()

    def split(pictures: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        return (prepared(pictures) - mean) / spread, torch.tensor(labels, dtype=torch.long)

    images, labels = split(x[train], y[train])
    return Data(
        pad(images, (SHIFT,) * 4, mode="replicate"), labels, split(x[validation], y[validation]), split(x_test, y_test)
    )


def prepared(pictures: np.ndarray) -> Tensor:
    """Grayscale images (N, 1, 14, 14) from 0 to 1; images of 32 x 32 are cropped to the central 28 x 28."""
    images = torch.tensor(pictures, dtype=torch.float32) / 255
    images = images.mean(-1) if images.ndim == 4 else images
    margin = (images.shape[-1] - 28) // 2
    return avg_pool2d(images[:, None, margin : margin + 28, margin : margin + 28], 2)


def augmented(data: Data, chosen: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    """The selected images, each shifted by up to SHIFT pixels and optionally mirrored."""
    side = data.images.shape[-1] - 2 * SHIFT
    steps = torch.arange(side)
    down, right = (torch.randint(2 * SHIFT + 1, (len(chosen), 1), generator=generator) + steps for _ in range(2))
    if mirror:
        flipped = torch.rand(len(chosen), 1, generator=generator) < 0.5
        right = torch.where(flipped, right.flip(1), right)
    return data.images[chosen[:, None, None], 0, down[:, :, None], right[:, None, :]][:, None]


# -- methods -----------------------------------------------------------------------------------------------------------


Rule = Callable[[Tensor, float, torch.Generator], Tensor]
"""Losses (N,), the learning rate over its largest, a generator -> coefficients (N, N)."""


@dataclass(frozen=True)
class Method:
    """Initial weights of the particles, and the averaging with its interval in steps or epochs."""

    common: bool = True
    rule: Rule | None = None
    steps: int = 0
    epochs: int = 0


def everybody(losses: Tensor) -> range:
    return range(len(losses))


METHODS = {
    "alone": Method(common=False),
    "common": Method(),
    "APSO": Method(rule=lambda losses, lr, generator: apso(losses, half(losses, generator), 0.5), steps=16),
    "PAPA": Method(rule=lambda losses, lr, generator: papa(len(losses), everybody(losses), 0.5 * lr), steps=10),
    "PAPA-all": Method(rule=lambda losses, lr, generator: papa_all(len(losses), everybody(losses)), epochs=1),
    "PAPA-pairs": Method(
        rule=lambda losses, lr, generator: papa_pairs(len(losses), everybody(losses), generator), epochs=1
    ),
}


def half(losses: Tensor, generator: torch.Generator) -> list[int]:
    """Half of the swarm, rounded up, as in Nytorch's tutorial."""
    return torch.randperm(len(losses), generator=generator)[: (len(losses) + 1) // 2].tolist()


class Population:
    """Networks with stacked tensors, so that averaging is a sum along the first axis."""

    def __init__(self, build: Callable[[], nn.Module], size: int, seed: int, common: bool) -> None:
        torch.manual_seed(seed)
        self.nets = [build() for _ in range(size)]
        for net in self.nets[1:] if common else ():
            net.load_state_dict(self.nets[0].state_dict())
        self.memory = memory_of(stack_tensors(self.nets))
        bind_tensors(self.memory, self.nets)

    @torch.no_grad()
    def average(self, coefficients: Tensor) -> None:
        for name, tensor in combine(self.memory, coefficients).items():
            self.memory[name].data.copy_(tensor)

    def soup(self, ingredients: Sequence[int], build: Callable[[], nn.Module], data: Data) -> nn.Module:
        weights = torch.zeros(1, len(self.nets))
        weights[0, list(ingredients)] = 1 / len(ingredients)
        net = build()
        net.load_state_dict({name: tensor[0] for name, tensor in combine(self.memory, weights).items()})
        estimate(net, data)
        return net


def estimate(net: nn.Module, data: Data) -> None:
    """Estimate batch statistics again, on training images without augmentation."""
    middle = data.images[:, :, SHIFT:-SHIFT, SHIFT:-SHIFT]
    update_bn(middle.split(BATCH), net)


def train(task: Task, data: Data, method: Method, particles: int, epochs: int, seed: int) -> Population:
    population = Population(task.build, particles, seed, method.common)
    optimizers = [torch.optim.SGD(net.parameters(), task.lr, momentum=0.9, foreach=True) for net in population.nets]
    batches = len(data.labels) // BATCH
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one, epochs * batches) for one in optimizers]
    draws = [torch.Generator().manual_seed(1000 * seed + one) for one in range(particles)]
    drawing = torch.Generator().manual_seed(seed)
    step = 0
    for epoch in range(1, epochs + 1):
        orders = [torch.randperm(len(data.labels), generator=draw).split(BATCH) for draw in draws]
        for batch in range(batches):
            losses = []
            for one, net in enumerate(population.nets):
                chosen = orders[one][batch]
                scores = net(augmented(data, chosen, task.mirror, draws[one]))
                loss = cross_entropy(scores, data.labels[chosen], label_smoothing=SMOOTHING[one % len(SMOOTHING)])
                optimizers[one].zero_grad()
                loss.backward()
                optimizers[one].step()
                schedules[one].step()
                losses.append(loss.detach())
            step += 1
            if method.rule is not None and method.steps and step % method.steps == 0:
                share = optimizers[0].param_groups[0]["lr"] / task.lr
                population.average(method.rule(torch.stack(losses), share, drawing))
        if method.rule is not None and method.epochs and epoch % method.epochs == 0 and epoch < epochs:
            population.average(method.rule(torch.stack(losses), 1.0, drawing))
            for net in population.nets:
                estimate(net, data)
    return population


# -- measuring ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def probabilities(net: nn.Module, images: Tensor) -> Tensor:
    net.eval()
    return net(images).softmax(1)


def percent(scores: Tensor, labels: Tensor) -> float:
    return 100 * (scores.argmax(1) == labels).float().mean().item()


def greedy(population: Population, task: Task, data: Data) -> list[int]:
    """The ingredients of the greedy soup (Wortsman et al. 2022), by validation accuracy."""

    def validated(net: nn.Module) -> float:
        return percent(probabilities(net, data.validation[0]), data.validation[1])

    scores = torch.tensor([-validated(net) for net in population.nets])
    order = ranked(scores)
    ingredients, reached = order[:1], -float(scores[order[0]])
    for one in order[1:]:
        value = validated(population.soup([*ingredients, one], task.build, data))
        if value >= reached:
            ingredients, reached = [*ingredients, one], value
    return ingredients


def judge(population: Population, task: Task, data: Data) -> dict[str, float]:
    images, labels = data.test
    scores = [probabilities(net, images) for net in population.nets]
    chosen = greedy(population, task, data)
    uniform = population.soup(range(len(population.nets)), task.build, data)
    # A soup of one is that network, with the statistics it was trained with.
    mixed = population.soup(chosen, task.build, data) if len(chosen) > 1 else population.nets[chosen[0]]
    return {
        "member": statistics.mean(percent(score, labels) for score in scores),
        "soup": percent(probabilities(uniform, images), labels),
        "greedy soup": percent(probabilities(mixed, images), labels),
        "ensemble": percent(torch.stack(scores).mean(0), labels),
    }


Report = dict[str, dict[str, list[dict[str, float]]]]


def measure(names: Sequence[str], directory: Path, seeds: int, particles: int, epochs: int) -> Report:
    """Task -> method -> a record per seed."""
    report: Report = {name: {method: [] for method in METHODS} for name in names}
    for name in names:
        task = TASKS[name]
        for seed in range(seeds):
            data = load(task, directory, seed)
            for label, method in METHODS.items():
                started = time.perf_counter()
                population = train(task, data, method, particles, epochs, seed)
                seconds = time.perf_counter() - started
                report[name][label].append({**judge(population, task, data), "seconds": seconds})
    return report


def mean_of(records: Sequence[dict[str, float]], key: str) -> float:
    return statistics.mean(record[key] for record in records)


def error_of(records: Sequence[dict[str, float]], others: Sequence[dict[str, float]], key: str) -> float:
    """The standard error of the mean difference, over seeds."""
    differences = [one[key] - other[key] for one, other in zip(records, others, strict=True)]
    return statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="runs of each task and method (default: %(default)s)")
    parser.add_argument("--particles", type=int, default=5, help="networks of a swarm (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=24, help="epochs of every training (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "images")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if options.seeds < 1 or options.particles < 2 or options.epochs < 1:
        parser.error("at least one seed, two particles and one epoch are needed")
    torch.set_num_threads(1)
    started = time.perf_counter()
    report = measure(options.only, options.data, options.seeds, options.particles, options.epochs)

    table = Table(title=f"Percent of test images; means of {options.seeds} seeds, {options.particles} particles")
    for column in ("task", "method", "member", "over alone", "soup", "greedy soup", "ensemble", "s"):
        table.add_column(column, justify="left" if column in ("task", "method") else "right", no_wrap=True)
    gains: dict[str, list[float]] = {label: [] for label in METHODS}
    missing: dict[str, list[float]] = {label: [] for label in METHODS}
    for name, methods in report.items():
        alone = methods["alone"]
        for label, records in methods.items():
            gain = mean_of(records, "member") - mean_of(alone, "member")
            gains[label].append(gain)
            missing[label].append(mean_of(alone, "ensemble") - mean_of(records, "soup"))
            numbers = [f"{mean_of(records, key):.2f}" for key in ("soup", "greedy soup", "ensemble")]
            spread = f"{gain:+.2f} ± {error_of(records, alone, 'member'):.2f}" if label != "alone" else ""
            seconds = f"{mean_of(records, 'seconds'):.1f}"
            table.add_row(name, label, f"{mean_of(records, 'member'):.2f}", spread, *numbers, seconds)
        table.add_section()
    Console(width=max(120, Console().width)).print(table)
    means = {label: statistics.mean(gains[label]) for label, method in METHODS.items() if method.rule is not None}
    best = max(means, key=means.__getitem__)
    for label, gain in means.items():
        hurt = [name for name, value in zip(report, gains[label], strict=True) if value <= 0]
        below = statistics.mean(missing[label])
        print(f"{label}: a member gains {gain:+.2f} points on average; no gain on: {', '.join(hurt) or 'none'}")
        print(f"    its soup is {below:.2f} points below the ensemble of independent networks")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    met = means[best] >= BETTER and statistics.mean(missing[best]) <= WITHIN
    print(f"{time.perf_counter() - started:.0f} s on one thread")
    print(
        f"Goals, +{BETTER} for a member and at most {WITHIN} missing for the soup, by {best}: {'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
