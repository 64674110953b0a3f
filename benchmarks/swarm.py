"""Training time of the swarm of Nytorch's tutorial: Nytorch, a plain loop, our loop, our stack, and ``auto``.

    python benchmarks/swarm.py --nytorch ENVIRONMENT        once: creates the folder, a venv with Nytorch, by pip
    python benchmarks/swarm.py [--nytorch ENVIRONMENT] [--images ../shared/data/images/mnist.npz] [--rounds 5]
                               [--threads 1 2] [--batches 256] [--only NAME ...] [--json PATH]

Twelve particles of one convolutional network (conv 1->10 k5, ReLU, pool, conv 10->20 k3, ReLU, linear 2000->10), SGD at
0.01, take 256 steps on the same batches of 64 (16,384 of MNIST's training images); every 16 steps six are drawn and move
half way to the best of them. Afterwards all are tested on 1,024 test images. Contenders, each in a separate process, with
the same images, batches and initial weights for a seed:

- nytorch: Nytorch 1.1.0 (https://github.com/jimmyzzzz/nytorch) as in its tutorial, in a separate venv that shares this
  environment's torch;
- plain: a loop in plain PyTorch over modules and optimizers, the same averaging by hand;
- loop, stack, auto: ``ParticleStack`` of an ordinary LightningModule with ``SwarmAveraging`` in a Trainer.

Measured is the training alone, from the first batch to the last (for ours: everything between Lightning's
``on_train_start`` and ``on_train_end``, including the choices of ``auto`` and the stack), as CPU time of the process and as
wall-clock time; medians over the rounds, which alternate between all contenders, each round with its own seed. Accuracies:
mean and minimum of the particles, over all rounds. Goals: on one thread, by CPU time, the stack at least 1.8 times as fast
as Nytorch, ``auto`` at least 0.95 times as fast as the plain loop. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import venv
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _swarm_workload import (
    ALPHA,
    INTERVAL,
    LR,
    SUBSET,
    Batches,
    Clock,
    ConvNet,
    Job,
    accuracy,
    data,
    states,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
OURS = ("loop", "stack", "auto")
CONTENDERS = ("nytorch", "plain", *OURS)
GOALS = {"stack": ("nytorch", 1.8), "auto": ("plain", 0.95)}
Record = dict[str, Any]


def plain(job: Job, train: Batches, clocked: Callable[[], None]) -> list[nn.Module]:
    """A straightforward loop in plain PyTorch."""
    nets: list[nn.Module] = [ConvNet() for _ in range(job.particles)]
    for net, state in zip(nets, states(job), strict=True):
        net.load_state_dict(state)
    optimizers = [torch.optim.SGD(net.parameters(), lr=LR) for net in nets]
    draws = random.Random(job.seed)
    clocked()
    for number, (x, y) in enumerate(train, start=1):
        losses = []
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.nll_loss(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if number % INTERVAL == 0:
            drawn = draws.sample(range(len(nets)), SUBSET)
            best = min(drawn, key=losses.__getitem__)
            with torch.no_grad():
                for index in drawn:
                    if index != best:
                        for p, q in zip(nets[index].parameters(), nets[best].parameters(), strict=True):
                            p.lerp_(q, ALPHA)
    return nets


class Repeated:
    """Data loader over batches made beforehand."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def ours(job: Job, train: Batches) -> tuple[Sequence[nn.Module], Record]:
    """``ParticleStack`` and ``SwarmAveraging`` in an ordinary Trainer."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    from lightning_evo import ParticleStack
    from lightning_evo.callbacks import SwarmAveraging

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = ConvNet()

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.nll_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    class Timed(Callback):
        def on_train_start(self, *_: Any) -> None:
            self.clock = Clock()

        def on_train_end(self, *_: Any) -> None:
            self.times = self.clock.read()

    particles = [Net() for _ in range(job.particles)]
    for particle, state in zip(particles, states(job), strict=True):
        particle.net.load_state_dict(state)
    stack = ParticleStack(particles, lowering=job.contender)
    timed = Timed()
    averaging = SwarmAveraging("apso", subset=SUBSET, alpha=ALPHA, every_n_steps=INTERVAL, seed=job.seed)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[averaging, timed],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stack, Repeated(train))
    how = {"lowering": stack.lowering, "reason": stack.reason}
    return [stack.particle(index) for index in range(len(stack))], {**timed.times, **how}


def run_one(job: Job) -> Record:
    """Train in this process."""
    torch.set_num_threads(job.threads)
    train, test = data(job)
    if job.contender == "plain":
        clocks: list[Clock] = []
        nets: Sequence[nn.Module] = plain(job, train, lambda: clocks.append(Clock()))
        record: Record = clocks[0].read()
    else:
        warnings.simplefilter("ignore")
        modules, record = ours(job, train)
        nets = [module.net for module in modules]  # type: ignore[misc]
    return {**record, "accuracies": [accuracy(net, test) for net in nets]}


def measure(job: Job, environment: Path | None) -> Record:
    """Train in a separate process."""
    python, script = Path(sys.executable), HERE / "swarm.py"
    if job.contender == "nytorch":
        assert environment is not None
        python, script = environment / "bin" / "python", HERE / "_swarm_nytorch.py"
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    first = [] if job.contender == "nytorch" else ["--one"]
    done = subprocess.run(
        [str(python), str(script), *first, *job.arguments()], env=os.environ | threads, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{job.contender} on {job.threads} threads failed:\n{done.stderr}")
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


def prepare(environment: Path) -> None:
    """Create a virtual environment with Nytorch that shares this environment's torch, so that both use the same kernels."""
    if not (environment / "bin" / "python").exists():
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "nytorch==1.1.0"], check=True)
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
        (Path(packages) / "torch.pth").write_text(str(Path(torch.__file__).parent.parent) + "\n")


def summary(records: list[Record]) -> Record:
    accuracies = [value for record in records for value in record["accuracies"]]
    return {
        "cpu": statistics.median(record["cpu"] for record in records),
        "wall": statistics.median(record["wall"] for record in records),
        "mean accuracy": statistics.mean(accuracies),
        "least accuracy": min(accuracies),
        "lowering": records[-1].get("lowering", ""),
    }


def main(args: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["--one"]:
        print(json.dumps(run_one(Job.parse(arguments[1:]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--nytorch",
        type=Path,
        help="Nytorch's environment, created if missing; without this option Nytorch is left out",
    )
    parser.add_argument("--images", type=Path, default=HERE.parents[1] / "shared/data/images/mnist.npz")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--batches", type=int, default=256, help="to train on (default: %(default)s)")
    parser.add_argument("--particles", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="contenders to measure")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(arguments)
    if not options.images.is_file():
        parser.error(f"--images {options.images} is no file; it takes an npz with x_train, y_train, x_test, y_test")
    contenders = [name for name in options.only if name != "nytorch" or options.nytorch]
    if options.nytorch:
        prepare(options.nytorch)

    report: dict[str, dict[str, Record]] = {}
    for threads in options.threads:
        records: dict[str, list[Record]] = {name: [] for name in contenders}
        for seed in range(options.rounds):
            for name in contenders:
                job = Job(name, threads, seed, options.batches, options.particles, str(options.images))
                records[name].append(measure(job, options.nytorch))
        report[str(threads)] = {name: {**summary(rows), "rounds": rows} for name, rows in records.items()}
    show(report, options.batches, options.particles, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 0 if goals_met(report[str(options.threads[0])]) else 1


def show(report: dict[str, dict[str, Record]], batches: int, particles: int, rounds: int) -> None:
    table = Table(
        title=f"{batches} batches of {particles} particles; medians of {rounds}; load {os.getloadavg()[0]:.1f}"
    )
    for column in ("threads", "contender", "CPU s", "wall s", "x nytorch", "x plain", "accuracy", "least", "how"):
        table.add_column(column, justify="left" if column in ("contender", "how") else "right", no_wrap=True)
    for threads, rows in report.items():
        for name, row in rows.items():
            ratios = [
                f"{rows[other]['cpu'] / row['cpu']:.2f}" if other in rows else "" for other in ("nytorch", "plain")
            ]
            numbers = (f"{row['cpu']:.2f}", f"{row['wall']:.2f}", *ratios)
            found = (f"{row['mean accuracy']:.3f}", f"{row['least accuracy']:.3f}", row["lowering"])
            table.add_row(threads, name, *numbers, *found)
        table.add_section()
    Console(width=max(120, Console().width)).print(table)
    print("x: times as fast, by CPU time. Accuracies of all particles of all rounds on 1,024 test images.")


def goals_met(rows: dict[str, Record]) -> bool:
    met = True
    for name, (other, goal) in GOALS.items():
        if name in rows and other in rows:
            ratio = rows[other]["cpu"] / rows[name]["cpu"]
            met = met and ratio >= goal
            print(
                f"Goal, {name} at least {goal} times as fast as {other}: {ratio:.2f}, {'met' if ratio >= goal else 'missed'}"
            )
    return met


if __name__ == "__main__":
    raise SystemExit(main())
