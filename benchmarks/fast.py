"""Speedup of FastTraining over a plain PyTorch loop, on data of CIFAR-10's size, with batches of 512.

    python benchmarks/fast.py [--device cpu|cuda] [--batches 40] [--batch-size 512] [--width 32] [--rounds 3] [--threads 1]
                              [--json PATH]

Methods, each in a separate process, training the same convolutional network by SGD with momentum on random images:

- plain: a plain loop: a DataLoader over tensors without workers, single precision, ``loss.item()`` in every step;
- trainer: Lightning's Trainer on the same loader, nothing else;
- fast: the same with ``callbacks: [FastTraining]`` (no compiling on a CPU, where the run is too short for it);
- bf16: the same with ``precision: bf16-mixed``, which is the default on a GPU that supports it.

Measured after the first five batches: samples per second (on a CPU per second of CPU time, as the machine may be shared),
and the device's utilization and the share of time waiting for data from ``SpeedMeter``; medians over the rounds, which
alternate between all methods. Goals with a GPU: utilization of at least 85 %, at least 5 times the plain loop's samples
per second; exit code 1 if one is missed. On a CPU the ratios are printed, with a smaller default (8 batches of 128).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _one import in_process
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

WAYS = ("plain", "trainer", "fast", "bf16")
WARM_UP = 5
IMAGES = 50_000
UTILISATION, TIMES = 0.85, 5.0
Record = dict[str, Any]


def network(width: int) -> nn.Module:
    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    layers = [*block(3, width), *block(width, width), nn.MaxPool2d(2)]
    layers += [*block(width, 2 * width), *block(2 * width, 2 * width), nn.MaxPool2d(2)]
    layers += [*block(2 * width, 4 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*layers)


def loader(batch_size: int, batches: int) -> DataLoader:
    count = max(IMAGES if torch.cuda.is_available() else 0, batch_size * min(batches + WARM_UP, 16))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size, shuffle=True, drop_last=True)


class Measure:
    """Time from the end of the warm-up to the last batch: wall-clock time on a GPU, CPU time of the process on a CPU."""

    def __init__(self, batches: int, batch_size: int, device: str) -> None:
        self.batches, self.batch_size, self.device, self.step = batches, batch_size, device, -WARM_UP

    def tick(self) -> bool:
        """Record the end of a batch; return whether it was the last one."""
        self.step += 1
        if self.step == 0:
            self.began = self._now()
        if self.step == self.batches:
            self.seconds = self._now() - self.began
        return self.step >= self.batches

    def record(self) -> Record:
        return {"samples_per_second": self.batches * self.batch_size / self.seconds}

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def plain(width: int, data: DataLoader, measure: Measure) -> Record:
    from lightning_evo.callbacks.speed import _busy_meter

    device = torch.device(measure.device, 0) if measure.device == "cuda" else torch.device("cpu")
    net = network(width).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    busy = _busy_meter(device)
    looks = []
    if busy is not None:
        busy.begin()
    waited, began = 0.0, time.perf_counter()
    done = False
    while not done:
        mark = time.perf_counter()
        for images, labels in data:
            x, y = images.to(device), labels.to(device)
            waited += time.perf_counter() - mark
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
            if busy is not None:
                looks.append(busy.look())
            done = measure.tick()
            mark = time.perf_counter()
            if done:
                break
    record = measure.record() | {"waiting": waited / (time.perf_counter() - began)}
    if sum(observed for _, observed in looks):
        record["utilisation"] = min(1.0, sum(b for b, _ in looks) / sum(o for _, o in looks))
    return record


def trainer(width: int, data: DataLoader, measure: Measure, way: str) -> Record:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from lightning_evo.callbacks import FastTraining, SpeedMeter

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(width)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if measure.tick():
                trainer.should_stop = True

    meter, callbacks = SpeedMeter(), [Watch()]
    fast = FastTraining(precision="bf16-mixed" if way == "bf16" else "auto", compile="auto")
    training = Trainer(
        accelerator="gpu" if measure.device == "cuda" else "cpu",
        devices=1,
        max_steps=measure.batches + WARM_UP,
        callbacks=[*callbacks, meter, *([fast] if way != "trainer" else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training.fit(Net(), data)
    speed = {name: value for name, value in meter.cost.items() if name != "samples_per_second"}
    return measure.record() | speed | {"choices": {name: vars(choice) for name, choice in fast.choices.items()}}


def run_one(way: str, device: str, batches: int, batch_size: int, width: int, threads: int) -> Record:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    measure, data = Measure(batches, batch_size, device), loader(batch_size, batches)
    return plain(width, data, measure) if way == "plain" else trainer(width, data, measure, way)


def main(args: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["--one"]:
        way, device, *numbers = arguments[1:]
        print(json.dumps(run_one(way, device, *map(int, numbers))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    available = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=available, help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, help="timed batches (default: 600, on a CPU 8)")
    parser.add_argument("--batch-size", type=int, help="(default: 512, on a CPU 128)")
    parser.add_argument("--width", type=int, help="channels of the first layer (default: 64, on a CPU 32)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here")
    on_gpu = options.device == "cuda"
    sizes = (
        options.batches or (600 if on_gpu else 8),
        options.batch_size or (512 if on_gpu else 128),
        options.width or (64 if on_gpu else 32),
    )
    rounds: dict[str, list[Record]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            rounds[way].append(in_process(__file__, way, options.device, *sizes, options.threads))
    medians = {way: summary(records) for way, records in rounds.items()}
    show(medians, options.device, sizes)
    if options.json:
        options.json.write_text(json.dumps({"medians": medians, "rounds": rounds}, indent=2))
    return 0 if not on_gpu or goals_met(medians) else 1


def summary(records: list[Record]) -> Record:
    names = [name for name in ("samples_per_second", "waiting", "utilisation") if name in records[0]]
    return {name: statistics.median(record[name] for record in records) for name in names}


def show(medians: dict[str, Record], device: str, sizes: tuple[int, int, int]) -> None:
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    title = f"{sizes[0]} batches of {sizes[1]}, width {sizes[2]} ({where}); load {os.getloadavg()[0]:.1f}"
    table = Table(title=title)
    for column in ("way", "samples/s", "x plain", "waiting for data", "utilisation"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, row in medians.items():
        busy = f"{row['utilisation']:.0%}" if "utilisation" in row else ""
        times = row["samples_per_second"] / medians["plain"]["samples_per_second"]
        table.add_row(way, f"{row['samples_per_second']:,.0f}", f"{times:.2f}", f"{row['waiting']:.1%}", busy)
    Console(width=max(100, Console().width)).print(table)


def goals_met(medians: dict[str, Record]) -> bool:
    times = medians["fast"]["samples_per_second"] / medians["plain"]["samples_per_second"]
    busy = medians["fast"].get("utilisation", 0.0)
    for what, value, goal in (("times as fast", times, TIMES), ("utilisation", busy, UTILISATION)):
        if value < goal:
            print(f"Goal missed: {what} {value:.2f} < {goal}")
    return times >= TIMES and busy >= UTILISATION


if __name__ == "__main__":
    raise SystemExit(main())
