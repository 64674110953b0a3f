import json
import math
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import pytest
from reporting_archives import (
    CREATED,
    FEATURED,
    HOSTILE,
    OBJECTIVES,
    STRANGE_GENE,
    described,
    empty,
    featured,
    synthetic,
    unfinished,
)

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.genome import (
    Boolean,
    Candidate,
    Categorical,
    Genome,
    Integer,
    LogUniform,
    Ordinal,
    Result,
    SearchSpace,
    Uniform,
)

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from lightning_evo.reporting.exports import export_optuna  # noqa: E402


def load(file):
    """The study as Optuna reads it."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    [summary] = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return featured(tmp_path_factory.mktemp("featured"), objectives=1)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    return export_optuna(run, tmp_path_factory.mktemp("optuna") / "out.log")


@pytest.fixture(scope="module")
def study(file):
    return load(file)


def test_optuna_sees_the_same_best_candidate_with_the_same_genes(run, study):
    with Archive(run) as archive:
        [best] = archive.best(1)
    assert study.best_trial.number == best["id"]
    assert study.best_value == best["val_acc"]
    for name, path in study.user_attrs["genes"].items():
        if name in study.best_params:
            value = best[path]
            assert study.best_params[name] == (json.dumps(value) if isinstance(value, dict) else value)
    assert {"lr", "model.width", "data.width"} <= set(study.best_params)
    assert study.study_name == HOSTILE
    assert study.user_attrs["seed"] == 0


def test_every_trial_has_its_candidates_id_value_and_times(run, study):
    with Archive(run) as archive:
        rows = archive.candidates()
    assert [trial.number for trial in study.trials] == list(range(FEATURED))
    for trial, row in zip(study.trials, rows, strict=True):
        started = row["queued"] if row["started"] is None else row["started"]
        assert trial.datetime_start.timestamp() == pytest.approx(started, abs=1e-4)
        if row["ended"] is not None:
            assert trial.datetime_complete.timestamp() == pytest.approx(row["ended"], abs=1e-4)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            assert trial.values == [row["val_acc"]]
    assert isinstance(study.trials[0].datetime_start, datetime)


def test_the_states_say_how_candidates_ended(study):
    of = {state: [trial.number for trial in study.trials if trial.state == state] for state in TrialState}
    assert of[TrialState.PRUNED] == [7, 14]
    assert of[TrialState.FAIL] == [3, 5, 11]  # 5 is the one whose fitness is NaN
    assert of[TrialState.RUNNING] == [22, 23]
    assert len(of[TrialState.COMPLETE]) == FEATURED - 7


def test_the_curve_of_the_first_objective_is_the_intermediate_values(run, study):
    with Archive(run) as archive:
        curves = {id: archive.result(id).curve for id in range(FEATURED - 2)}
    for id, curve in curves.items():
        assert study.trials[id].intermediate_values == {point["epoch"]: point["val_acc"] for point in curve}
    assert len(study.trials[7].intermediate_values) == 3


def test_distributions_are_those_of_the_search_space(study):
    distributions = study.trials[0].distributions
    assert distributions["lr"] == FloatDistribution(1e-4, 0.1, log=True)
    assert distributions["data.width"] == IntDistribution(1, 8)
    assert distributions["model.width"] == CategoricalDistribution([16, 32, 64, 128])
    assert distributions["norm"] == CategoricalDistribution([False, True])
    strange = distributions[STRANGE_GENE.rpartition(".")[2]]
    assert strange.choices[:2] == ("relu", HOSTILE)
    assert json.loads(strange.choices[2])["class_path"] == "torch.nn.GELU"


def test_a_gene_that_is_not_active_is_missing_from_its_trial(run, study):
    with Archive(run) as archive:
        active = [archive.candidate(id).genome.get("model.init_args.momentum") for id in range(FEATURED)]
    assert [trial.params.get("momentum") for trial in study.trials] == active
    assert {value is None for value in active} == {True, False}


def test_genes_that_optuna_does_not_know_are_attributes(run, study):
    with Archive(run) as archive:
        genome = archive.candidate(12).genome
    attributes = study.trials[12].user_attrs
    assert attributes["gene/chromosome"] == genome["model.init_args.chromosome"]
    assert json.loads(attributes["gene/layers"]) == genome["model.init_args.layers"]
    assert "chromosome" not in study.trials[12].params


def test_attributes_tell_of_descent_and_costs(study):
    attributes = study.trials[18].user_attrs
    assert (attributes["parents"], attributes["origin"], attributes["generation"]) == ([14, 13], "mate+mutate", 3)
    assert attributes["cost/params"] == 4000
    assert study.trials[9].user_attrs["duplicate_of"] == 4
    assert study.trials[17].user_attrs["inherits"] == 16
    assert "RuntimeError" in study.trials[3].user_attrs["error_type"]
    assert study.trials[12].user_attrs["predicted/val_acc"] == pytest.approx(0.62)
    assert math.isinf(study.trials[6].user_attrs["metrics/val_loss"])


def test_several_objectives_become_several_values_with_their_directions_and_names(tmp_path):
    run = featured(tmp_path / "run", objectives=3)
    study = load(export_optuna(run, tmp_path / "out.log"))
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert study.metric_names == [objective.monitor for objective in OBJECTIVES]
    with Archive(run) as archive:
        front = archive.pareto()
    duplicates = {trial.number for trial in study.trials if "duplicate_of" in trial.user_attrs}
    assert {trial.number for trial in study.best_trials} - duplicates == set(front)


def test_steps_scales_and_choices_that_python_takes_for_equal_are_kept(tmp_path):
    space = SearchSpace(
        {
            "a": Integer(2, 10, step=4),
            "b": Integer(1, 100, step=2, log=True),
            "c": Categorical([1, True, 1.0, None]),
            "d": Ordinal([[1], [2]]),
            "e": Uniform(0, 1, step=0.25),
            "f": LogUniform(1, 2, step=0.5),
            "g": Boolean(),
        }
    )
    values = [1, True, 1.0, None]
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.update_meta(described(space, OBJECTIVES[:1], seed=0))
        for id, value in enumerate(values):
            genome = Genome({"a": 6, "b": 3, "c": value, "d": [2], "e": 0, "f": 1.5, "g": True})
            writer.record_candidate(Candidate(id, genome), queued=CREATED)
            writer.record_result(id, Result("completed", (0.5,), started=CREATED, ended=CREATED + 1))
    trials = load(export_optuna(tmp_path / "run", tmp_path / "out.log")).trials
    assert trials[0].distributions["a"] == IntDistribution(2, 10, step=4)
    assert trials[0].distributions["b"] == IntDistribution(1, 99, log=True)  # Optuna has no steps there
    assert trials[0].distributions["e"] == FloatDistribution(0, 1, step=0.25)
    assert trials[0].distributions["f"] == FloatDistribution(1, 2, log=True)
    assert [trial.params["c"] for trial in trials] == ["1", "true", "1.0", "null"]
    assert trials[0].params["d"] == "[2]"
    assert [trials[0].params[name] for name in "abefg"] == [6, 3, 0, 1.5, True]


def test_a_gene_of_the_users_own_is_an_attribute_even_if_it_derives_from_a_known_one(tmp_path):
    space = SearchSpace({"even": Even(0, 10), "x": Uniform(0, 1)})
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.update_meta(described(space, OBJECTIVES[:1], seed=0))
        writer.record_candidate(Candidate(0, Genome({"even": "four", "x": 0.5})), queued=CREATED)
    [trial] = load(export_optuna(tmp_path / "run", tmp_path / "out.log", trust=True)).trials
    assert trial.params == {"x": 0.5}
    assert trial.user_attrs["gene/even"] == "four"


class Even(Integer):
    """Says its numbers in words."""


@pytest.mark.parametrize(("build", "trials"), [(empty, 0), (unfinished, 4)])
def test_a_run_without_a_finished_candidate_is_a_study_without_a_best_trial(tmp_path, build, trials):
    study = load(export_optuna(build(tmp_path / "run"), tmp_path / "out.log"))
    assert len(study.trials) == trials
    with pytest.raises(ValueError, match="No trials are completed"):
        _ = study.best_trial


def test_a_file_that_is_there_stays_unless_told_otherwise(run, tmp_path):
    target = tmp_path / "out.log"
    target.write_text("mine")
    with pytest.raises(ValueError, match=r"^--optuna .*the file already exists"):
        export_optuna(run, target)
    assert target.read_text() == "mine"
    export_optuna(run, target, overwrite=True)
    assert len(load(target).trials) == FEATURED
    assert [path.name for path in tmp_path.iterdir()] == ["out.log"]


def test_an_archive_that_does_not_say_what_was_searched_is_refused(tmp_path):
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
    with pytest.raises(ArchiveError, match="doesn't contain the search space"):
        export_optuna(tmp_path / "run", tmp_path / "out.log")
    assert not (tmp_path / "out.log").exists()


def test_two_thousand_candidates_keep_their_numbers_and_values(tmp_path):
    run = synthetic(tmp_path / "run", candidates=2000)
    study = load(export_optuna(run, tmp_path / "out.log"))
    with Archive(run) as archive:
        [best] = archive.best(1)
    assert len(study.trials) == 2000
    assert (study.best_trial.number, study.best_value) == (best["id"], best["val_acc"])


def test_optuna_dashboard_serves_the_file(file, study):
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [program, str(file), "--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            [summary] = ask(server, port, "/api/studies")["study_summaries"]
            detail = ask(server, port, f"/api/studies/{summary['study_id']}")
        finally:
            server.terminate()
    assert summary["study_name"] == HOSTILE
    trials = detail["trials"]
    assert [trial["number"] for trial in trials] == list(range(FEATURED))
    assert [trial["state"] for trial in trials] == [trial.state.name.capitalize() for trial in study.trials]
    assert detail["best_trials"][0]["values"] == [study.best_value]
    assert {each["name"] for each in detail["union_search_space"]} >= {"lr", "momentum"}
    assert {each["name"] for each in detail["intersection_search_space"]} >= {"lr"}


def ask(server, port, path):
    """What the server answers, once it does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            assert server.poll() is None, server.stderr.read().decode()
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
