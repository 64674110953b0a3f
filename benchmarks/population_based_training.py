"""Population-based training on a problem where schedules matter, and its cost compared with Ray Tune's.

    python benchmarks/population_based_training.py [--seeds 10] [--directory DIR] [--json PATH] [--plot PATH]

The problem is one where a schedule matters: a small network learns scikit-learn's digits with heavy noise on the images,
by SGD with momentum. Measured beforehand, with 3 seeds (test loss): the best constant rate 0.41, the best cosine 0.34. All
contenders train the same LightningModule, vary the learning rate over the same range, and have the same number of epochs,
population x epochs:

- population-based training, synchronous and asynchronous, from constant rates;
- random search over constant rates; over the peak rates of a cosine; over the initial rates of a step decay (to a tenth at
  half and at three quarters of the training): one training's epochs for each;
- Ray Tune's population-based training with the same settings, if it is installed (``pip install "ray[tune]"``). Its
  trials train the module as Lightning resumes it, and set the restored optimizer's rate to the trial's themselves.

The winner of each search is the checkpoint with the lowest validation loss; it is scored on a test split that no search has
seen. Each search is a separate process with two slots; its time counts from the start of the process to its end. The
schedule found by population-based training is then replayed on another seed (of weights, order and noise) in one ordinary
fit ("replayed"), and compared with the best constant rate and the best cosine retrained in the same way.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _models import append
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

HERE = Path(__file__).resolve().parent
MODULE = Path(__file__).stem
SLOTS = 2
RATES = (1e-3, 1.0)
LR = "model.init_args.lr"
POPULATION, EPOCHS, INTERVAL = 8, 20, 2
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}

# -- the problem -------------------------------------------------------------------------------------------------------


class NoisyDigits(LightningDataModule):
    """Scikit-learn's digits: 900 for training, 400 for validation, 497 for test, split by ``split_seed``."""

    def __init__(self, split_seed: int = 0, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train, self.val, self.test = split(split_seed)

    def train_dataloader(self) -> DataLoader[Any]:
        # Whole batches by index: collating single pictures would take longer than training on them.
        batches = BatchSampler(RandomSampler(self.train), self.batch_size, drop_last=True)
        return DataLoader(self.train, sampler=batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=len(self.val))


def split(seed: int) -> list[TensorDataset]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return [TensorDataset(images[part], labels[part]) for part in order.split([900, 400, len(labels) - 1300])]


class Net(LightningModule):
    """A perceptron trained on noisy images.

    Args:
        lr: Learning rate, at its highest.
        schedule: ``constant``, ``cosine`` or ``step``.
    """

    def __init__(self, lr: float = 0.01, schedule: str = "constant") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images + 0.6 * torch.randn_like(images)), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams["lr"], momentum=0.9)
        if self.hparams["schedule"] == "constant":
            return optimizer
        factor = {"cosine": cosine, "step": step}[self.hparams["schedule"]]
        total = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, lambda at: factor(at / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def step(done: float) -> float:
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def tested(weights: dict[str, Tensor], split_seed: int) -> dict[str, float]:
    """Loss and accuracy (%) on the test split."""
    model = Net()
    model.load_state_dict(weights)
    images, labels = split(split_seed)[2].tensors
    with torch.no_grad():
        scores = model.eval().net(images)
    return {
        "test_loss": nn.functional.cross_entropy(scores, labels).item(),
        "test_acc": 100 * (scores.argmax(1) == labels).float().mean().item(),
    }


# -- the contenders, each in a process of its own ----------------------------------------------------------------------


def config(split_seed: int, schedule: str) -> dict[str, Any]:
    return {
        "model": {"class_path": f"{MODULE}.Net", "init_args": {"schedule": schedule}},
        "data": {"class_path": f"{MODULE}.NoisyDigits", "init_args": {"split_seed": split_seed}},
        "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu", "num_sanity_val_steps": 0},
    }


def ours(seed: int, folder: Path, algorithm: Any, candidates: int, schedule: str = "constant") -> dict[str, Any]:
    from lightning_evo import Archive, Budget, Evolution, Objective, Workers
    from lightning_evo.evolution.schedule import schedule_of
    from lightning_evo.genome import LogUniform
    from lightning_evo.reporting.progress import PlainProgress

    Evolution(
        {LR: LogUniform(*RATES)},
        [Objective("val_loss", "min")],
        Budget(candidates=candidates),
        algorithm,
        Workers(slots=SLOTS, threads=1),
        folder / "run",
        seed=seed,
        keep_checkpoints=1,
        final=None,
        config=config(seed, schedule),
        progress=PlainProgress(),
    ).run()
    with Archive(folder / "run") as archive:
        best = archive.best(1)[0]
        result = archive.result(best["id"])
        assert result is not None
        assert result.checkpoint is not None
        rows = archive.candidates()
        segmented = archive.candidate(best["id"]).segment is not None
        found = schedule_of(archive, best["id"]) if segmented else {0: {LR: best[LR]}}
    weights = torch.load(folder / "run" / result.checkpoint, weights_only=True)["state_dict"]
    return {
        "val_loss": best["val_loss"],
        "epochs": sum(row.get("cost/epochs") or 0 for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
        "schedule": {epoch: values[LR] for epoch, values in found.items()},
        **tested(weights, seed),
    }


def pbt(seed: int, folder: Path, synchronous: bool = True) -> dict[str, Any]:
    from lightning_evo.algorithms import PopulationBasedTraining

    algorithm = PopulationBasedTraining(POPULATION, INTERVAL, EPOCHS, synchronous=synchronous)
    return ours(seed, folder, algorithm, POPULATION * math.ceil(EPOCHS / INTERVAL))


def pbt_asynchronous(seed: int, folder: Path) -> dict[str, Any]:
    return pbt(seed, folder, synchronous=False)


def random_search(seed: int, folder: Path, schedule: str = "constant") -> dict[str, Any]:
    from lightning_evo.algorithms import RandomSearch

    return ours(seed, folder, RandomSearch(POPULATION), POPULATION, schedule)


def random_cosine(seed: int, folder: Path) -> dict[str, Any]:
    return random_search(seed, folder, "cosine")


def random_step(seed: int, folder: Path) -> dict[str, Any]:
    return random_search(seed, folder, "step")


class SetRate(Callback):
    """Ray user code that sets the trial's rate instead of the checkpoint's, and counts epochs in a file."""

    def __init__(self, lr: float, epochs: Path) -> None:
        self.lr, self.epochs = lr, epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        append(str(self.epochs), f"{os.getpid()} {trainer.current_epoch} {self.lr}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.lr


def ray_pbt(seed: int, folder: Path) -> dict[str, Any]:
    """Ray Tune's PBT with reused actors on two CPUs; each step of a trial is a fit of ``INTERVAL`` epochs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import logging
    import random
    import shutil

    import numpy
    import ray
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining

    epochs = folder / "epochs"

    class Fit(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            for name in ("lightning.pytorch", "lightning.fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
            torch.set_num_threads(1)
            self.data = NoisyDigits(seed)
            self.begin(config)

        def begin(self, config: dict[str, Any]) -> None:
            self.lr, self.seed = config["lr"], config["seed"]
            self.path = tempfile.mktemp(suffix=".ckpt")
            self.trained = False

        def step(self) -> dict[str, Any]:
            end = INTERVAL * (self.iteration + 1)
            # An actor serves many trials in turn: seeded once a trial, it would draw the same noise in every step.
            seed_everything(self.seed + self.iteration, verbose=False)
            trainer = Trainer(max_epochs=end, callbacks=[SetRate(self.lr, epochs)], enable_checkpointing=False, **QUIET)
            trainer.fit(Net(self.lr), self.data, ckpt_path=self.path if self.trained else None)
            trainer.save_checkpoint(self.path)
            self.trained = True
            return {"val_loss": float(trainer.callback_metrics["val_loss"]), "done": end >= EPOCHS}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            shutil.copyfile(self.path, Path(checkpoint_dir) / "state.ckpt")

        def load_checkpoint(self, checkpoint_dir: Any) -> None:
            shutil.copyfile(Path(checkpoint_dir) / "state.ckpt", self.path)
            self.trained = True

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.begin(new_config)
            return True

    random.seed(seed)
    numpy.random.seed(seed)
    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    rates = tune.loguniform(*RATES)
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"lr": rates},
        quantile_fraction=0.25,
        resample_probability=0.25,
        synch=True,
    )
    try:
        results = tune.Tuner(
            tune.with_resources(Fit, {"cpu": 1}),
            param_space={"lr": rates, "seed": tune.randint(0, 2**31)},
            tune_config=tune.TuneConfig(
                num_samples=POPULATION, reuse_actors=True, metric="val_loss", mode="min", scheduler=scheduler
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                verbose=0,
                # All kept: a donor's may be asked for after better ones have come.
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=1,
                    checkpoint_score_attribute="val_loss",
                    checkpoint_score_order="min",
                ),
            ),
        ).fit()
        kept = [pair for result in results for pair in result.best_checkpoints]
        checkpoint, metrics = min(kept, key=lambda pair: pair[1]["val_loss"])
        weights = torch.load(Path(checkpoint.path) / "state.ckpt", weights_only=True)["state_dict"]
    finally:
        ray.shutdown()
    return {
        "val_loss": metrics["val_loss"],
        "epochs": len(epochs.read_text().splitlines()),
        "failed": results.num_errors,
        "schedule": {},
        **tested(weights, seed),
    }


CONTENDERS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "PBT": pbt,
    "PBT, asynchronous": pbt_asynchronous,
    "random constant rates": random_search,
    "random cosines": random_cosine,
    "random step decays": random_step,
    "Ray Tune PBT": ray_pbt,
}
REPLAYED = {"PBT": "constant", "random constant rates": "constant", "random cosines": "cosine"}


def replay(schedule: dict[int, float], kind: str, split_seed: int, seed: int) -> dict[str, float]:
    """One ordinary fit with a schedule; the last epoch's weights are scored."""
    from lightning_evo.callbacks.hyperparameter_schedule import HyperparameterSchedule

    seed_everything(seed, verbose=False)
    torch.set_num_threads(1)
    model = Net(schedule[0], kind)
    following = HyperparameterSchedule({epoch: {LR: rate} for epoch, rate in schedule.items()})
    trainer = Trainer(max_epochs=EPOCHS, callbacks=[following], enable_checkpointing=False, **QUIET)
    trainer.fit(model, NoisyDigits(split_seed))
    return tested(model.state_dict(), split_seed)


# -- the report --------------------------------------------------------------------------------------------------------


def measure(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run one search in a fresh process; its result, and the seconds from start to end."""
    folder.mkdir(parents=True, exist_ok=True)
    answer = folder / "answer.json"
    if not answer.is_file():
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--run", name, str(seed), str(folder)]
        with (folder / "output.log").open("wb") as log:
            started = time.perf_counter()
            code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
            seconds = time.perf_counter() - started
        if code:
            tail = (folder / "output.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{name}, seed {seed}: {' '.join(tail)}; see {folder / 'output.log'}")
        result = json.loads((folder / "result.json").read_text())
        answer.write_text(json.dumps(result | {"seconds": seconds}))
    return dict(json.loads(answer.read_text()))


def mean(values: Sequence[float], digits: int) -> str:
    """Mean and half the width of its 95 % interval (Student's t)."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


def table(results: dict[str, list[dict[str, Any]]], base: str) -> Table:
    made = Table(
        title=f"{POPULATION} members or trainings of {EPOCHS} epochs, {len(results[base])} seeds, 95 % interval"
    )
    made.add_column("search", no_wrap=True)
    for column in ("validation loss", "test loss", f"minus {base}", "test accuracy %", "epochs", "seconds"):
        made.add_column(column, justify="right", no_wrap=True)
    for name, rows in results.items():
        paired = [row["test_loss"] - other["test_loss"] for row, other in zip(rows, results[base], strict=True)]
        made.add_row(
            name,
            mean([row["val_loss"] for row in rows], 3) if "val_loss" in rows[0] else "",
            mean([row["test_loss"] for row in rows], 3),
            mean(paired, 3) if name != base else "",
            mean([row["test_acc"] for row in rows], 2),
            f"{statistics.mean(row['epochs'] for row in rows):.0f}" if "epochs" in rows[0] else "",
            mean([row["seconds"] for row in rows], 1) if "seconds" in rows[0] else "",
        )
    return made


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot the learning rates of the winners over the epochs; requires matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    for row in results["PBT"]:
        rates = {int(epoch): rate for epoch, rate in row["schedule"].items()}
        axes.step([*rates, EPOCHS], [*rates.values(), list(rates.values())[-1]], where="post", alpha=0.6)
    axes.set(xlabel="epoch", ylabel="learning rate", yscale="log", title="Schedules found, one line per seed")
    figure.savefig(path)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="searches of each kind (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="which searches to run")
    parser.add_argument("--directory", type=Path, help="keep the searches here; run again, finished ones are read")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--plot", type=Path, help="draw the schedules found here (needs matplotlib)")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "SEED", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.run:
        name, seed, folder = options.run
        Path(folder, "result.json").write_text(json.dumps(CONTENDERS[name](int(seed), Path(folder))))
        return
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: needs two or more")
    with tempfile.TemporaryDirectory() as temporary:
        report(options, options.directory or Path(temporary))


def report(options: argparse.Namespace, directory: Path) -> None:
    console = Console(width=max(140, Console().width))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name in list(results):
            try:
                results[name].append(measure(name, seed, (directory / name / str(seed)).absolute()))
            except RuntimeError as error:
                console.print(f"left out: {error}")
                del results[name]
        console.print(
            f"seed {seed}: " + "; ".join(f"{name} {rows[-1]['test_loss']:.3f}" for name, rows in results.items())
        )
    base = "random constant rates" if "random constant rates" in results else next(iter(results))
    console.print(table(results, base))
    replayed: dict[str, list[dict[str, Any]]] = {}
    for name, kind in REPLAYED.items():
        for seed, row in enumerate(results.get(name, [])):
            schedule = {int(epoch): rate for epoch, rate in row["schedule"].items()}
            replayed.setdefault(f"{name}, replayed", []).append(replay(schedule, kind, seed, 1000 + seed))
    if replayed:
        first = f"{base}, replayed"
        console.print(table(replayed, first if first in replayed else next(iter(replayed))))
    if options.json:
        options.json.write_text(json.dumps(results | replayed, indent=2))
    if options.plot and "PBT" in results:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
