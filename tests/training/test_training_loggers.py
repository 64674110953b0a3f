"""A config's loggers know which candidate they log."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
import types

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_evo.training.loggers import SilentLogger, ended_runs, log_genes, name_loggers


class OwnCSVLogger(CSVLogger):
    """A user's own, with an argument more."""

    def __init__(self, save_dir: str, version: str | None = None, colour: str = "red") -> None:
        super().__init__(save_dir, version=version)


class Unversioned(CSVLogger):
    """Has no argument that could name a run."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, version="always")


def named(logger, directory: str = "runs/net/candidates/000012"):
    config = {"model": {"class_path": "net.Net"}, "trainer": {"max_epochs": 2, "logger": logger}}
    before = copy.deepcopy(config)
    changed = name_loggers(config, directory)
    assert config == before
    assert {**changed["trainer"], "logger": logger} == config["trainer"]
    return changed["trainer"]["logger"]


def said(class_path: str, **arguments):
    return {"class_path": class_path, "init_args": arguments}


@pytest.mark.parametrize(
    ("class_path", "argument"),
    [
        ("lightning.pytorch.loggers.CSVLogger", "version"),
        ("lightning.pytorch.loggers.csv_logs.CSVLogger", "version"),
        ("CSVLogger", "version"),
        ("lightning.pytorch.loggers.TensorBoardLogger", "version"),
        ("lightning.pytorch.loggers.WandbLogger", "name"),
        (f"{__name__}.OwnCSVLogger", "version"),
    ],
)
def test_it_is_named_by_the_candidate_and_by_what_the_config_says(class_path, argument):
    sys.modules.setdefault(__name__, sys.modules[OwnCSVLogger.__module__])
    given = said(class_path, save_dir="logs")
    expected = said(class_path, save_dir="logs", **{argument: "net-000012"})
    assert named(given) == expected
    assert named(said(class_path, save_dir="logs", **{argument: None})) == expected
    assert named([given, given]) == [expected, expected]
    own = said(class_path, save_dir="logs", **{argument: "mine"})
    assert named(own) == said(class_path, save_dir="logs", **{argument: "mine-000012"})


@pytest.mark.parametrize(
    ("kind", "argument", "own"),
    [
        ("WandbLogger", "id", "mine-000012"),
        ("WandbLogger", "version", "mine-000012"),
        ("CometLogger", "experiment_key", None),
    ],
)
def test_candidates_do_not_share_a_run_that_the_config_continues(kind, argument, own):
    assert named(said(kind, **{argument: "mine"}))["init_args"][argument] == own


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("runs/net/candidates/000012", "net-000012"),
        ("runs/net/stacks/000012", "net-stack-000012"),
        ("runs/net/final", "net-final"),
    ],
)
def test_the_name_is_the_runs_and_the_candidates(directory, name):
    assert named(said("CSVLogger"), directory)["init_args"] == {"version": name}


@pytest.mark.parametrize(
    "logger",
    [
        None,
        True,
        False,
        said(f"{__name__}.Unversioned", save_dir="logs"),
        said("no.such.Logger", version=None),
        said("NoSuchLogger"),
        {"class_path": "no_module_at_all"},
    ],
)
def test_what_cannot_be_named_stays(logger):
    assert named(logger) == logger


def test_a_config_without_a_trainer_stays():
    assert name_loggers({"model": 1}, "a/b") == {"model": 1}
    assert name_loggers({"trainer": None}, "a/b") == {"trainer": None}


def test_two_searches_make_mlflows_store_once(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = said("MLFlowLogger", tracking_uri=uri, experiment_name="toys")
    expected = said("MLFlowLogger", tracking_uri=uri, experiment_name="toys", run_name="net-000012")
    assert named(logger) == named(copy.deepcopy(logger)) == expected
    client = mlflow.MlflowClient(uri)
    assert [each.name for each in client.search_experiments() if each.name != "Default"] == ["toys"]
    assert client.search_runs([client.get_experiment_by_name("toys").experiment_id]) == []


class Notebook(Logger):
    """Keeps what it is told."""

    name = version = "notebook"

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict] = []

    def log_hyperparams(self, params, *args, **kwargs):
        self.told.append(params)

    def log_metrics(self, metrics, step=None):
        """Not of interest."""


def test_genes_are_logged_to_every_logger_where_there_are_any():
    first, second = Notebook(), Notebook()
    log_genes([first, second], {"model.init_args.lr": 0.1})
    log_genes([first], {})
    assert first.told == second.told == [{"model.init_args.lr": 0.1}]


# -- the silent logger -------------------------------------------------------------------------------------------------


def test_the_silent_logger_takes_what_others_take_and_has_real_paths(tmp_path):
    logger = SilentLogger(tmp_path / "net" / "candidates" / "000012")
    there = str(tmp_path / "net" / "candidates" / "000012")
    assert (logger.name, logger.version) == ("net", "000012")
    assert logger.log_dir == logger.save_dir == logger.root_dir == there
    run = logger.experiment
    run.add_figure("confusion", object(), global_step=1)
    run.config.update({"width": 3}, allow_val_change=True)
    run["metrics/val"].append(0.5)
    run["metrics"] = 1
    with run.start_run() as inner:
        inner.log_artifact("file")
    assert list(run.get_runs()) == []
    assert run.log_dir == run.get_logdir() == run.dir == there
    logger.log_image("picture", images=[])
    logger.watch(object(), log="all")
    logger.log_graph(None)
    logger.save()
    logger.finalize("success")
    copied = pickle.loads(pickle.dumps(copy.deepcopy(logger)))
    assert copied.log_dir == there


# -- the end of runs ---------------------------------------------------------------------------------------------------


class OwnRun:
    def __init__(self):
        self.ended = []

    def finish(self, exit_code=0):
        self.ended.append(exit_code)
        sys.modules["wandb"].run = None

    def end(self):
        self.ended.append(0)


class CometLogger(Notebook):
    """Stands for Lightning's, which needs a package that isn't here."""

    def __init__(self, run) -> None:
        super().__init__()
        self.experiment, self.final = run, []

    def finalize(self, status):
        self.final.append(status)


@pytest.mark.parametrize("failed", [False, True])
def test_runs_end_with_the_candidate_also_those_that_no_logger_began(monkeypatch, failed):
    library, earlier, own = types.ModuleType("wandb"), OwnRun(), OwnRun()
    library.run = None
    monkeypatch.setitem(sys.modules, "wandb", library)
    logger = CometLogger(OwnRun())
    with contextlib.suppress(ZeroDivisionError), ended_runs() as loggers:
        loggers.append(logger)
        library.run = own
        1 / (0 if failed else 1)
    assert (own.ended, library.run) == ([int(failed)], None)
    assert (logger.experiment.ended, logger.final) == ([0], ["failed"] if failed else [])
    library.run = earlier
    with ended_runs():
        pass
    assert earlier.ended == []  # the process's own, as of a search that reports itself


def test_a_run_that_cannot_be_ended_is_said_and_fails_nothing(capsys):
    with ended_runs() as loggers:
        loggers.append(CometLogger(object()))
    assert "could not be ended: AttributeError" in capsys.readouterr().out
