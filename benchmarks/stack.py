"""Speed of a stack compared with a loop: steps of N particles of an MLP, Nytorch's network and a CNN for 32 x 32 images.

    python benchmarks/stack.py [--nets mlp small large] [--particles 4 16 64] [--threads 1] [--device cpu|cuda]
                               [--rounds 3] [--seconds 4] [--ablate] [--json PATH]

Random images, batches of 64, SGD with momentum; no averaging. Methods, each in a separate process:

- plain: a loop in plain PyTorch, one module and optimizer per particle;
- loop, stack, auto: ``ParticleStack`` in a Trainer, with that ``lowering``.

Measured are milliseconds per step of all particles, after the first five steps (in which ``auto`` and the stack make their
choices), until ``--seconds`` have passed: CPU time of the process on the CPU, wall-clock time on a GPU; medians over the
rounds, which alternate between all methods. On a GPU also the utilization from ``nvidia-smi``. Goals: ``auto`` at least 0.95
times as fast as the plain loop everywhere; with a GPU, the stack 8 times as fast at 12 particles and 10 times at 64 (small
networks; ``--particles 12 64``). Exit code 1 if one is missed.

With ``--ablate``, the time of a step without each rule and each optional part of ``lightning_evo/functional/stacking``, as a
multiple of the time with everything: what the part is worth. All settings alternate step by step in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import _stack_ablation
import torch
import torch.nn.functional as F
from _one import in_process
from _swarm_workload import BATCH, Clock, ConvNet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

WAYS = ("plain", "loop", "stack", "auto")
WARM_UP = 5
Record = dict[str, Any]


def block(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def large() -> nn.Module:
    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 64), nn.Flatten(), nn.Linear(1024, 10))


# Name -> how it is built, the form of its images, the GPU's goals apply.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "mlp": (mlp, (1, 28, 28), True),
    "small": (ConvNet, (1, 28, 28), True),
    "large": (large, (3, 32, 32), False),
}


class Random:
    """Data loader that repeats one random batch."""

    def __init__(self, sizes: tuple[int, ...], device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(BATCH, *sizes, generator=generator)
        self.batch = images.to(device), torch.randint(10, (BATCH,), generator=generator).to(device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield self.batch


class Measure:
    """Counts steps and time after the warm-up; :meth:`step` returns whether the measurement is complete."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.device, self.steps = seconds, device, -WARM_UP
        self.watch: subprocess.Popen[str] | None = None

    def step(self) -> bool:
        self.steps += 1
        if self.steps == 0:
            self._wait()
            self.watch = _watch() if self.device == "cuda" else None
            self.clock = Clock()
        return self.steps > 2 and self.clock.read()["wall"] > self.seconds

    def record(self) -> Record:
        self._wait()
        times = self.clock.read()
        record: Record = {name: 1000 * value / self.steps for name, value in times.items()} | {"steps": self.steps}
        if self.watch is not None:
            self.watch.terminate()
            busy = [float(line) for line in self.watch.communicate()[0].split() if line.isdigit()]
            record["utilisation"] = statistics.mean(busy) if busy else None
        return record

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _watch() -> subprocess.Popen[str] | None:
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200", "-i", "0"]
    try:
        return subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        return None


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)


def plain(name: str, particles: int, device: str, measure: Measure) -> Record:
    build, sizes, _ = NETS[name]
    nets = [build().to(device) for _ in range(particles)]
    optimizers = [sgd(net) for net in nets]
    for x, y in Random(sizes, device):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        if measure.step():
            break
    return measure.record()


def ours(name: str, particles: int, device: str, way: Any, measure: Measure) -> Record:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from lightning_evo import ParticleStack

    build, sizes, _ = NETS[name]

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if measure.step():
                trainer.should_stop = True

    stack = ParticleStack([Net() for _ in range(particles)], lowering=way)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=-1,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stack, Random(sizes, device))
    return measure.record() | {"lowering": stack.lowering, "reason": stack.reason}


def run_one(name: str, particles: int, device: str, way: str, seconds: float, threads: int) -> Record:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    measure = Measure(seconds, device)
    if way == "plain":
        return plain(name, particles, device, measure)
    return ours(name, particles, device, way, measure)


def main(args: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:2] == ["--one", "ablation"]:
        name, particles, device, allocator, seconds, threads = arguments[2:]
        settings = (int(particles), device, allocator == "True", float(seconds), int(threads))
        print(json.dumps(_stack_ablation.run_one(NETS, name, *settings, BATCH)))
        return 0
    if arguments[:1] == ["--one"]:
        name, particles, device, way, seconds, threads = arguments[1:]
        print(json.dumps(run_one(name, int(particles), device, way, float(seconds), int(threads))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="(default: all)")
    parser.add_argument("--particles", type=int, nargs="+", default=[4, 16, 64], help="(default: 4 16 64)")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--ablate", action="store_true", help="measure what each rule and optional part is worth")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here")

    if options.ablate:
        return ablate(options)
    cells: list[Record] = []
    for name in options.nets:
        for particles in options.particles:
            records: dict[str, list[Record]] = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for way in WAYS:
                    setting = (name, particles, options.device, way, options.seconds, options.threads)
                    records[way].append(in_process(__file__, *setting))
            clock = "cpu" if options.device == "cpu" else "wall"
            medians = {way: statistics.median(record[clock] for record in rows) for way, rows in records.items()}
            cells.append({"net": name, "particles": particles, "milliseconds": medians, "rounds": records})
    show(cells, options.device, options.threads)
    if options.json:
        options.json.write_text(json.dumps(cells, indent=2))
    return 0 if goals_met(cells, options.device) else 1


def ablate(options: argparse.Namespace) -> int:
    cells: list[Record] = []
    for name in options.nets:
        for particles in options.particles:
            rounds = []
            for _ in range(options.rounds):
                setting = ("ablation", name, particles, options.device)
                whole, without = (
                    in_process(__file__, *setting, allocator, options.seconds, options.threads)
                    for allocator in (True, False)
                )
                rounds.append((whole, without))
            milliseconds = statistics.median(whole[_stack_ablation.EVERYTHING] for whole, _ in rounds)
            ratios = _stack_ablation.ratios(rounds)
            cells.append({"net": name, "particles": particles, "milliseconds": milliseconds, "ratios": ratios})
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, threads: {options.threads}"
    _stack_ablation.show(cells, where)
    if options.json:
        options.json.write_text(json.dumps(cells, indent=2))
    return 0


def show(cells: list[Record], device: str, threads: int) -> None:
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, threads: {threads}"
    table = Table(title=f"Milliseconds per step of all particles ({where}); load {os.getloadavg()[0]:.1f}")
    for column in ("net", "particles", *WAYS, "x stack", "x auto", "auto took", "GPU busy (plain, stack)"):
        table.add_column(column, justify="left" if column in ("net", "auto took") else "right", no_wrap=True)
    for cell in cells:
        medians, rounds = cell["milliseconds"], cell["rounds"]
        took = "/".join(dict.fromkeys(record["lowering"] for record in rounds["auto"]))
        busy = [rounds[way][-1].get("utilisation") for way in ("plain", "stack")]
        table.add_row(
            cell["net"],
            str(cell["particles"]),
            *(f"{medians[way]:.1f}" for way in WAYS),
            *(f"{medians['plain'] / medians[way]:.2f}" for way in ("stack", "auto")),
            took,
            ", ".join("" if value is None else f"{value:.0f} %" for value in busy) if any(busy) else "",
        )
    Console(width=max(120, Console().width)).print(table)
    print("x: times as fast as the plain loop")


def goals_met(cells: list[Record], device: str) -> bool:
    met = True
    for cell in cells:
        medians = cell["milliseconds"]
        goals = {"auto": 0.95}
        if device == "cuda" and NETS[cell["net"]][2]:
            goals |= {12: {"stack": 8.0}, 64: {"stack": 10.0}}.get(cell["particles"], {})
        for way, goal in goals.items():
            ratio = medians["plain"] / medians[way]
            if ratio < goal:
                met = False
                print(f"Goal missed: {cell['net']}, {cell['particles']} particles: {way} {ratio:.2f} < {goal}")
    return met


if __name__ == "__main__":
    raise SystemExit(main())
