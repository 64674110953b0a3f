"""Loggers of the config log every candidate by its name, and reporters are named in the search."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from commands import run, write
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lightning_evo import Archive
from lightning_evo.cli import main

LOGGERS = "lightning.pytorch.loggers"
LR, WIDTH = "model.init_args.lr", "model.init_args.width"


def logging_to(*loggers: dict, candidates: int = 6, **section):
    """A search whose candidates log."""

    def change(config, whole):
        config["trainer"]["logger"] = list(loggers) if len(loggers) > 1 else loggers[0]
        whole["evolution"]["budget"] = {"candidates": candidates}
        whole["evolution"] |= {"workers": {"slots": 1}, **section}

    return change


def logger(kind: str, **arguments) -> dict:
    return {"class_path": f"{LOGGERS}.{kind}", "init_args": arguments}


def candidates(directory: Path) -> list:
    with Archive(directory / "run") as archive:
        return [(archive.candidate(row["id"]), archive.result(row["id"])) for row in archive.candidates()]


# -- Lightning's loggers -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mlflow_has_a_run_for_every_candidate_with_its_genes_and_metrics(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    log = logger("MLFlowLogger", tracking_uri=uri, experiment_name="toys")
    # Two workers meet a store that isn't there yet.
    done = run(*write(tmp_path, logging_to(log, candidates=4, workers={"slots": 2})))
    assert done.returncode == 0, done.stdout + done.stderr
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("toys")
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [*(f"run-{id:06d}" for id in range(4)), "run-final"]
    assert "test_acc" in runs["run-final"].data.metrics
    for candidate, result in candidates(tmp_path):
        found = runs[f"run-{candidate.id:06d}"]
        assert result.status == "completed", result.error
        assert found.info.status == "FINISHED"
        assert float(found.data.params[LR]) == candidate.genome[LR]
        assert int(found.data.params[WIDTH]) == candidate.genome[WIDTH]
        logged = [each.value for each in client.get_metric_history(found.info.run_id, "val_acc")]
        assert logged == pytest.approx([point["val_acc"] for point in result.curve])


def test_files_are_below_each_candidates_name_also_where_the_config_gives_one(tmp_path):
    there = str(tmp_path / "logs")
    loggers = [
        logger("CSVLogger", save_dir=there, name="csv"),
        logger("TensorBoardLogger", save_dir=there, name="tensorboard"),
        logger("CSVLogger", save_dir=f"{tmp_path}/mine", name="csv", version="one"),
    ]
    assert main(write(tmp_path, logging_to(*loggers, candidates=3))) in (0, None)
    names = {"run-000000", "run-000001", "run-000002", "run-final"}
    for kind in ("csv", "tensorboard"):
        assert {path.name for path in Path(there, kind).iterdir()} == names
    own_name = {name.replace("run", "one") for name in names}
    assert {path.name for path in (tmp_path / "mine" / "csv").iterdir()} == own_name
    for candidate, result in candidates(tmp_path):
        own = Path(there, "csv", f"run-{candidate.id:06d}")
        logged = [float(row["val_acc"]) for row in csv.DictReader((own / "metrics.csv").open()) if row["val_acc"]]
        assert logged == pytest.approx([point["val_acc"] for point in result.curve])
        assert yaml.safe_load((own / "hparams.yaml").read_text())[LR] == candidate.genome[LR]
        reader = EventAccumulator(str(Path(there, "tensorboard", f"run-{candidate.id:06d}")))
        reader.Reload()
        assert [event.value for event in reader.Scalars("val_acc")] == pytest.approx(logged)
        said = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        assert metadata.parse_session_start_info_plugin_data(said).hparams[LR].number_value == candidate.genome[LR]


def test_what_is_logged_with_is_not_part_of_what_is_exported(tmp_path):
    there = str(tmp_path / "logs")
    final = {"retrain": True, "test": False}
    assert main(write(tmp_path, logging_to(logger("CSVLogger", save_dir=there), candidates=2, final=final))) in (
        0,
        None,
    )
    assert {path.name for path in Path(there, "lightning_logs").iterdir()} == {"run-000000", "run-000001", "run-final"}
    for config in (tmp_path / "run").glob("*/**/config.yaml"):
        assert yaml.safe_load(config.read_text())["trainer"]["logger"]["init_args"]["version"] is None


# -- reporters ---------------------------------------------------------------------------------------------------------


def test_a_reporter_is_named_in_the_search_by_its_short_name(tmp_path):
    named = {"reporters": ["TensorBoardReporter"], "workers": {"slots": 1}, "budget": {"candidates": 2}}
    assert main(write(tmp_path, lambda config, whole: whole["evolution"].update(named))) in (0, None)
    for candidate, result in candidates(tmp_path):
        [events] = (tmp_path / "run" / "tensorboard" / "candidates" / f"{candidate.id:06d}").iterdir()
        reader = EventAccumulator(str(events))
        reader.Reload()
        assert [each.value for each in reader.Scalars("val_acc")] == pytest.approx([p["val_acc"] for p in result.curve])
        assert [each.value for each in reader.Scalars("fitness/val_acc")] == pytest.approx(result.fitness)


def test_a_reporter_that_there_is_not_is_refused_with_those_there_are(tmp_path, capsys):
    arguments = write(tmp_path, lambda config, whole: whole["evolution"].update(reporters=["TensorBordReporter"]))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "evolution.reporters" in said
    assert "TensorBordReporter" in said
    assert "TensorBoardReporter" in said
    assert len(said.strip().splitlines()) == 1
    assert not json.dumps(said).count("Traceback")
