"""Every private name of Lightning that is used exists, and behaves as it is used."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest
import torch
from compat_rows import Row, private_names
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, instantiate_module
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn

from lightning_evo._compat import lightning as compat
from toys import ToyData, ToyNet


def trained(*callbacks: Callback, epochs: int = 1, model: LightningModule | None = None) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(model or ToyNet(), datamodule=ToyData())
    return trainer


def checkpoints() -> None:
    trainer = trained()
    whole, weights = compat.dump_checkpoint(trainer), compat.dump_checkpoint(trainer, weights_only=True)
    assert {"state_dict", "optimizer_states", "loops"} <= set(whole)
    assert "state_dict" in weights
    assert "optimizer_states" not in weights


def resuming() -> None:
    trainer = trained()
    trainer.fit_loop.load_state_dict(trainer.fit_loop.state_dict())
    assert trainer.fit_loop._resuming_from_checkpoint is True
    compat.forget_resuming(trainer)
    assert trainer.fit_loop._resuming_from_checkpoint is False


def sources() -> None:
    seen = []

    class Asks(Callback):
        def on_train_start(self, trainer, pl_module):
            for source in compat.data_sources(trainer):
                seen.append(type(source.dataloader()).__name__)

    trained(Asks())
    assert seen == ["DataLoader", "DataLoader"]


def reloading() -> None:
    before, after = [], []

    class Reloads(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            before.append(id(trainer.train_dataloader))
            compat.reload_data(trainer)
            after.append(id(trainer.train_dataloader))

    trained(Reloads())
    assert before != after


def optimizers() -> None:
    class Net(ToyNet):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}

    module = Net()
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    ((optimizer,), (config,)) = compat.init_optimizers(module)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert config.scheduler.optimizer is optimizer


def names_of_hyperparameters() -> None:
    class Together(LightningModule):
        def __init__(self, settings):
            super().__init__()
            self.save_hyperparameters(settings)

    class Apart(LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()

    assert compat.hparams_name(Together({"width": 3})) == "settings"
    assert compat.hparams_name(Apart(3)) == "kwargs"
    assert compat.hparams_name(LightningModule()) == ""


def compiled() -> None:
    seen = []

    class Looks(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(compat.is_compiled_by_lightning(pl_module))

    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Looks()])
    trainer.fit(torch.compile(ToyNet(), backend="eager"), datamodule=ToyData())
    assert seen == [True]
    assert not compat.is_compiled_by_lightning(ToyNet())


def synchronised() -> None:
    strategy, module = DDPStrategy(), nn.Sequential(nn.BatchNorm1d(2))
    assert compat.synchronize_layers(strategy, module) is module
    assert isinstance(module[0], nn.BatchNorm1d)
    strategy._layer_sync = TorchSyncBatchNorm()
    assert isinstance(compat.synchronize_layers(strategy, module)[0], nn.SyncBatchNorm)


def wrapping() -> None:
    strategy = DDPStrategy()
    strategy.configure_ddp = lambda: None
    assert strategy._pl_static_graph_delay_done is False
    strategy._pl_static_graph_delay_done = True
    compat.wrap_again(strategy)
    assert strategy._pl_static_graph_delay_done is False
    assert "_pl_static_graph_delay_done" in inspect.getsource(inspect.getmodule(DDPStrategy))


def parsed(cli: type[LightningCLI]) -> LightningCLI:
    return cli(args={}, run=False, save_config_callback=None, trainer_defaults={"logger": False})


class Recording(compat.CLIWithHooks):
    """Notes which hooks ran."""

    def __init__(self, *args, **kwargs):
        self.ran = []
        super().__init__(ToyNet, ToyData, *args, **kwargs)

    def apply_seed(self):
        self.ran.append("apply_seed")

    def add_instantiators(self):
        self.ran.append("add_instantiators")
        super().add_instantiators()

    def run_subcommand(self, subcommand):
        self.ran.append(subcommand)
        super().run_subcommand(subcommand)

    def subcommand_kwargs(self, subcommand):
        return {**super().subcommand_kwargs(subcommand), "ckpt_path": "given"}

    def make_trainer(self, config, callbacks):
        self.ran.append("make_trainer")
        return super().make_trainer({**config, "logger": False}, callbacks)

    def fit(self, model, datamodule, ckpt_path, **_):
        self.ran.append(ckpt_path)


def hooks() -> None:
    assert set(parsed(Recording).ran) == {"apply_seed", "add_instantiators", "make_trainer"}


def steps() -> None:
    ran = Recording(args=["fit", "--trainer.accelerator", "cpu"], save_config_callback=None).ran
    assert ran[-3:] == ["make_trainer", "fit", "given"]


def instantiators() -> None:
    module = parsed(Recording).model
    assert module.hparams[compat.INSTANTIATOR_KEY] == f"{instantiate_module.__module__}.{instantiate_module.__name__}"
    assert compat.CLASS_PATH_KEY in inspect.getsource(instantiate_module)


def subcommands() -> None:
    class Stops(LightningCLI):
        def fit(self, *args, **kwargs): ...

    seen = {}

    class Reads(Stops):
        def before_fit(self):
            seen["width"] = compat.subcommand_parser(self, "fit").get_defaults()["model.width"]
            seen["arguments"] = list(compat.subcommand_arguments(self, "fit"))

    Reads(
        ToyNet,
        ToyData,
        args=["fit", "--trainer.logger", "false", "--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu"],
    )
    assert seen["width"] == inspect.signature(ToyNet).parameters["width"].default
    assert "ckpt_path" in seen["arguments"]


def trainers() -> None:
    module = ToyNet()
    assert compat.trainer_of(module) is None
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=7)
    module.trainer = trainer
    assert compat.trainer_of(module) is trainer
    assert compat.log_every_n_steps(trainer) == 7


def loops() -> None:
    trainer = trained()
    assert compat.loops_state(trainer) == compat.dump_checkpoint(trainer)["loops"]


def parsed_optimizers() -> None:
    optimizer = torch.optim.SGD(ToyNet().parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for given in ([optimizer], [scheduler]), {"optimizer": optimizer, "lr_scheduler": scheduler}:
        optimizers, (config,) = compat.parse_optimizers(given)
        assert optimizers == [optimizer]
        assert config.scheduler is scheduler
    assert compat.parse_optimizers(optimizer) == ([optimizer], [])


class Holder(LightningModule):
    """Builds a module of its own, within LightningCLI."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.save_hyperparameters()
        self.theirs = ToyNet(width=5)
        with compat.no_given_hyperparameters():
            self.own = ToyNet(width=5)


def given_hyperparameters() -> None:
    holder = LightningCLI(Holder, ToyData, args={}, run=False, save_config_callback=None).model
    assert "width" not in holder.theirs.hparams
    assert holder.own.hparams["width"] == 5


def hyperparameters() -> None:
    module = ToyNet(width=5)
    now, first, _ = (vars(module)[name] for name in compat.HPARAMS)
    assert now is module.hparams
    assert first == module.hparams_initial


def devices() -> None:
    one, other = ToyNet(), ToyNet().double()
    compat.set_device(one, other)
    assert (one.dtype, one.device) == (torch.float64, other.device)
    one.to("meta")
    compat.set_device(other, one)
    assert other.device == torch.device("meta")


def given_batch_sizes() -> None:
    seen = []

    class Logs(ToyNet):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 0:
                self.log("loss", loss, batch_size=3)
            return loss

    class Asks(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            compat.forget_given_batch_size(trainer)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(compat.given_batch_size(trainer))

    trained(Asks(), model=Logs())
    assert seen == [3, None]


def process_strategies() -> None:
    class Started(compat.ProcessStrategy):
        def make_launcher(self):
            return "the launcher"

    strategy = Started()
    strategy._configure_launcher()
    assert strategy.launcher == "the launcher"
    assert "_configure_launcher()" in inspect.getsource(inspect.getmodule(Strategy)) or "_configure_launcher" in (
        inspect.getsource(sys.modules["lightning.pytorch.trainer.connectors.accelerator_connector"])
        + inspect.getsource(Trainer)
    )
    module = ToyNet()
    assert strategy._setup_model(module) is module
    assert "_setup_model(self.model)" in inspect.getsource(DDPStrategy) + inspect.getsource(Strategy)
    assert not strategy.synchronizes_layers
    strategy._layer_sync = TorchSyncBatchNorm()
    assert strategy.synchronizes_layers


def launchers() -> None:
    started = []

    class Launcher(compat.ScriptLauncher):
        def _call_children_scripts(self):
            started.append("others")

    launcher = Launcher(LightningEnvironment(), 2, 1)
    launcher.start_others()
    assert started == ["others"]
    assert "self.procs" in inspect.getsource(compat.ScriptLauncher.__base__._call_children_scripts)
    before = torch.get_num_threads()
    os.environ.pop("OMP_NUM_THREADS", None)
    try:
        launcher.set_threads()
        assert int(os.environ["OMP_NUM_THREADS"]) >= 1
    finally:
        torch.set_num_threads(before)


def redirected() -> None:
    callback = ModelCheckpoint(dirpath="memory://elsewhere")
    assert type(callback._fs).__name__ == "MemoryFileSystem"
    compat.redirect_checkpoints(callback, Path("here"))
    assert (callback.dirpath, type(callback._fs).__name__) == ("here", "LocalFileSystem")


TABLE = [
    Row("_fs", "checkpoints whose dirpath is a URL aren't written into the candidate's directory", redirected),
    Row("_trainer", "module.trainer raises outside a training", trainers),
    Row("_get_loops_state_dict", "a particle's checkpoint can't be resumed", loops),
    Row("_configure_optimizers", "the optimizers of a stack's particles can't be put together", parsed_optimizers),
    Row(
        "_configure_schedulers_automatic_opt",
        "the schedulers of a stack's particles can't be put together",
        parsed_optimizers,
    ),
    Row("_given_hyperparameters", "a stack's particles save the hyperparameters of the stack", given_hyperparameters),
    Row("_hparams", "hyperparameters that differ between particles aren't found", hyperparameters),
    Row("_hparams_initial", "a particle of a config keeps the stack's hyperparameters", hyperparameters),
    Row("_device", "a particle reports the device that it was built on", devices),
    Row("_dtype", "a particle reports the data type that it was built with", devices),
    Row("_configure_launcher", "ranks are started without failure detection", process_strategies),
    Row("_launcher", "ranks are started without failure detection", process_strategies),
    Row("_setup_model", "gradients of different particles are averaged", process_strategies),
    Row("_SubprocessScriptLauncher", "a swarm's ranks can't be started", launchers),
    Row("_call_children_scripts", "a swarm's ranks can't be started", launchers),
    Row("_set_num_threads_if_needed", "each rank of a swarm computes with all threads", launchers),
    Row("_checkpoint_connector", "neither one particle nor an average can be saved as a model", checkpoints),
    Row(
        "_resuming_from_checkpoint",
        "a continued training draws other samples than one uninterrupted",
        resuming,
        "lightning 2.5.3",
    ),
    Row("_data_source", "FastTraining can't give faster loaders", sources),
    Row("_combined_loader", "a scheduled value of the data module has no effect", reloading),
    Row(
        "_init_optimizers_and_lr_schedulers",
        "optimizers can't be compared or made anew outside trainer.fit",
        optimizers,
    ),
    Row("_results", "batches whose size only the module knows are counted by their first tensor", given_batch_sizes),
    Row("_hparams_name", "a module that takes its hyperparameters together can't be rebuilt", names_of_hyperparameters),
    Row("_compiler_ctx", "growth doesn't know that compiled code has to be dropped", compiled),
    Row("_layer_sync", "batch normalisations that growth has added aren't synchronised", synchronised),
    Row("_pl_static_graph_delay_done", "DDP isn't told again that the graph is static", wrapping, "lightning 2.6"),
    Row("_set_seed", "a search seeds the controller, and candidates are seeded twice", hooks),
    Row("_add_instantiators", "Lightning 2.5 dumps a config before there is one", hooks),
    Row("_run_subcommand", "a search calls before_fit in the controller, and no candidate does", steps),
    Row("_prepare_subcommand_kwargs", "a candidate's own fit is called without the state to continue", steps),
    Row("_instantiate_trainer", "an override of instantiate_trainer decides where candidates write", steps),
    Row("_instantiator", "a module that LightningCLI built is rebuilt by its class alone", instantiators),
    Row("_class_path", "load_grown asks for the class of a module that LightningCLI built", instantiators),
    Row("_parser", "a search's config can't be dumped, nor its defaults be known", subcommands),
    Row("_subcommand_method_arguments", "arguments of Trainer.fit are part of a candidate's config", subcommands),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_it_exists_and_behaves_as_it_is_used(row):
    row.run()


def test_every_private_name_has_its_row():
    assert {row.name for row in TABLE} == private_names("lightning")


def test_what_the_trainer_has_undeclared():
    callback = Callback()
    trainer = trained(callback)
    assert callback in compat.callbacks_of(trainer)
    assert isinstance(compat.datamodule_of(trainer), ToyData)
    compat.set_datamodule(trainer, None)
    assert compat.datamodule_of(trainer) is None
