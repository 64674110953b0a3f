"""W&B offline: what a search leaves in files, and what it says before it trains."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import subprocess
import sys

import pytest
import yaml
from wandb_searches import HOSTILE, KIND, X, search, without_wandb  # noqa: F401 - a fixture
from wandb_server import read_offline

from lightning_evo.algorithms import NSGA2, RandomSearch
from lightning_evo.evolution import SearchError
from lightning_evo.genome import (
    Boolean,
    Candidate,
    Categorical,
    Genome,
    Integer,
    LogUniform,
    Objective,
    Ordinal,
    Prediction,
    Result,
    SearchSpace,
    Uniform,
    read_gene,
)
from lightning_evo.reporting.wandb.reporter import WandbReporter
from lightning_evo.reporting.wandb.state import WandbState, search_token
from lightning_evo.reporting.wandb.sweep import gene_keys, run_notes, run_summary, run_tags, sweep_config

pytestmark = pytest.mark.usefixtures("without_wandb")


def offline(**options) -> WandbReporter:
    return WandbReporter(mode="offline", **options)


def test_every_candidate_is_a_run_of_one_sweep_and_the_search_one_more_run(tmp_path):
    archive = search(tmp_path / "run", reporters=[offline(tags=["mine"], entity="we", project="nets")]).run()
    runs = read_offline(tmp_path / "run" / "wandb")
    state = json.loads((tmp_path / "run" / "wandb" / "lightning-evo.json").read_text())
    rows = archive.candidates()
    assert len(runs) == 9
    assert {run.project for run in runs.values()} == {"nets"}
    assert {"failed", "completed"} == {row["status"] for row in rows}
    for row in rows:
        run = runs[f"{state['search']}-{row['id']:06d}"]
        assert (run.sweep, run.job_type, run.group) == (state["sweep"], "candidate", f"generation-{row['generation']}")
        assert run.own["x"] == row[X]
        kind = row[KIND]
        assert run.own["kind"] == (kind if isinstance(kind, str) else "torch.nn.ReLU")
        assert run.own["parents"] == list(row["parents"])
        assert (run.own["origin"], run.own["seed"], run.own["candidate"]) == (row["origin"], row["seed"], row["id"])
        assert run.summary["status"] == row["status"]
        assert {"mine", row["status"]} <= set(run.tags)
        assert run.exit_code == (row["status"] == "failed")
        if row["status"] == "completed":
            assert run.summary["y"] == row["y"]
            assert run.history[0]["y"] == row["y"]
            assert run.history[0]["_step"] == 0
        else:
            assert run.summary["error"].startswith(f"RuntimeError: {HOSTILE}")
            assert run.notes.startswith("failed:\n`````\nTraceback")  # fenced, whatever stands in it
    assert not [run for run in runs.values() if run.job_type == "candidate" and run.sweep != state["sweep"]]
    (own,) = [run for run in runs.values() if run.job_type == "search"]
    assert own.sweep == ""
    assert own.exit_code == 0
    best = min(row["y"] for row in rows if row["status"] == "completed")
    assert own.summary["best/y"] == own.summary["y"] == best
    told = [line for line in own.history if "candidates/completed" in line]
    assert [line["_step"] for line in told] == list(range(1, 9))
    assert told[-1]["candidates/completed"] + told[-1]["candidates/failed"] == 8
    assert 0 < told[-1]["diversity"] <= 1


def test_the_sweeps_config_lies_beside_the_runs(tmp_path):
    search(tmp_path / "run", reporters=[offline(name="two genes")]).run()
    config = yaml.safe_load((tmp_path / "run" / "wandb" / "sweep.yaml").read_text())
    assert config["name"] == "two genes"
    assert config["metric"] == {"name": "y", "goal": "minimize"}
    assert config["parameters"] == {
        "x": {"distribution": "uniform", "min": -1.0, "max": 1.0},
        "kind": {"values": ["a", HOSTILE, "torch.nn.ReLU"]},
    }


def test_tables_hold_the_population_the_front_and_who_descends_from_whom(tmp_path):
    chosen = NSGA2(population_size=8)
    archive = search(
        tmp_path / "run", candidates=16, objectives=("y", "x2"), algorithm=chosen, function=two, reporters=[offline()]
    ).run()
    runs = read_offline(tmp_path / "run" / "wandb")
    (own,) = [run for run in runs.values() if run.job_type == "search"]

    def tables(name):
        shown = [line[name] for line in own.history if name in line]
        return [json.loads((own.path.parent / "files" / table["path"]).read_text()) for table in shown]

    populations = tables("population")
    assert len(populations) >= 2  # one a generation
    assert populations[-1]["columns"][:5] == ["candidate", "generation", "status", "y", "x2"]
    alive = {individual.id for individual in chosen.population}
    assert {row[0] for row in populations[-1]["data"]} == alive
    front = tables("pareto_front")[-1]
    assert sorted(row[0] for row in front["data"]) == archive.pareto()
    assert own.history[-1]["pareto/size"] == len(archive.pareto())
    volumes = [line["pareto/hypervolume"] for line in own.history if "pareto/hypervolume" in line][8:]
    assert volumes
    assert volumes == sorted(volumes)
    (lineage,) = tables("lineage")
    names = lineage["columns"]
    rows = {row["id"]: row for row in archive.candidates()}
    assert len(lineage["data"]) == 16
    for row in lineage["data"]:
        told = dict(zip(names, row, strict=True))
        assert told["parents"] == ", ".join(map(str, rows[told["candidate"]]["parents"]))


def two(genome, seed, directory):
    return {"y": genome[X] ** 2, "x2": (genome[X] - 1) ** 2}


def test_metrics_that_are_no_numbers_and_infinities_are_written_as_they_are(tmp_path):
    search(tmp_path / "run", candidates=6, function=wild, reporters=[offline()]).run()
    seen = [run.history[0] for run in read_offline(tmp_path / "run" / "wandb").values() if run.job_type == "candidate"]
    assert all(math.isnan(line["nan"]) and line["inf"] == math.inf for line in seen)


def wild(genome, seed, directory):
    return {"y": genome[X] ** 2, "nan": math.nan, "inf": math.inf}


def test_a_continued_search_writes_only_what_was_not_written_and_one_file_for_each_run(tmp_path):
    directory = tmp_path / "run"
    search(directory, candidates=5, reporters=[offline()]).run()
    before = {name: run.path.stat().st_mtime_ns for name, run in read_offline(directory / "wandb").items()}
    search(directory, candidates=8, reporters=[offline()]).run()
    runs = read_offline(directory / "wandb")  # refuses a run in two files
    after = {name: run.path.stat().st_mtime_ns for name, run in runs.items()}
    assert len(runs) == 9
    assert len({run.sweep for run in runs.values() if run.job_type == "candidate"}) == 1
    unchanged = {name for name in before if after[name] == before[name]}
    assert len(unchanged) == 5
    (own,) = [run for run in runs.values() if run.job_type == "search"]
    assert [line["_step"] for line in own.history if "candidates/completed" in line] == list(range(1, 9))


def test_a_candidate_that_was_tried_again_has_its_new_result_and_is_written_once(tmp_path, monkeypatch):
    directory, settings = tmp_path / "run", {"function": _broken_for_some, "algorithm": RandomSearch()}
    monkeypatch.setenv("BUG", "there")
    assert search(directory, reporters=[offline()], **settings).run().counts()["failed"]
    monkeypatch.delenv("BUG")
    written = []
    for _ in range(2):
        search(directory, reporters=[offline()], retry_failed=True, **settings).run()
        runs = read_offline(directory / "wandb")  # refuses a run in two files
        candidates = {name: run for name, run in runs.items() if run.job_type == "candidate"}
        assert {(run.summary["status"], run.exit_code) for run in candidates.values()} == {("completed", 0)}
        written.append({name: run.path.stat().st_mtime_ns for name, run in candidates.items()})
    assert written[0] == written[1]


def _broken_for_some(genome, seed, directory):
    if "BUG" in os.environ and genome[X] > 0:
        raise RuntimeError("a bug")
    return {"y": genome[X] ** 2}


def test_without_candidates_the_search_alone_has_a_run(tmp_path):
    search(tmp_path / "run", candidates=3, reporters=[offline(candidates=False)]).run()
    assert [run.job_type for run in read_offline(tmp_path / "run" / "wandb").values()] == ["search"]


def test_a_sweep_of_the_users_own_is_written_into_the_runs(tmp_path):
    search(tmp_path / "run", candidates=3, reporters=[offline(sweep="abcd1234")]).run()
    runs = read_offline(tmp_path / "run" / "wandb").values()
    assert {run.sweep for run in runs if run.job_type == "candidate"} == {"abcd1234"}


def test_where_to_upload_is_said_at_the_end_and_nothing_else(tmp_path, capfd):
    search(tmp_path / "run", candidates=3, reporters=[offline()], progress=True).run()
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if "W&B" in line or "wandb" in line]
    assert len(lines) == 1
    assert f"`lightning-evo wandb {tmp_path / 'run'}`" in lines[0]
    assert "wandb" not in err


def test_nothing_is_written_where_it_is_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    search(tmp_path / "run", candidates=3, reporters=[WandbReporter()]).run()
    assert not (tmp_path / "run" / "wandb").exists()


def test_what_wandb_offline_has_set_holds_where_nothing_else_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    settings = tmp_path / "config" / "settings"
    for mode, count in (("offline", 4), ("disabled", 0)):
        settings.write_text(f"[default]\nmode = {mode}\n")
        search(tmp_path / mode, candidates=3, reporters=[WandbReporter()]).run()
        assert len(read_offline(tmp_path / mode / "wandb")) == count


def test_no_process_of_wandbs_is_left_and_the_variables_are_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    before = dict(os.environ)
    search(tmp_path / "run", candidates=3, reporters=[WandbReporter()]).run()
    assert dict(os.environ) == before


def test_candidates_see_nothing_of_wandbs_process_nor_of_the_run_around_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    seen: list[set[str]] = []

    def look(genome, seed, directory):
        seen.append({name for name in os.environ if name.startswith("WANDB_")})
        return {"y": 0.0}

    reporter = WandbReporter()
    reporter.check()
    try:
        look(None, 0, None)
    finally:
        reporter._service.close()
    assert seen == [{"WANDB_MODE", "WANDB_ERROR_REPORTING"}]


@pytest.mark.parametrize("mode", ["onlin", "shared"])
def test_an_unknown_mode_is_refused_with_those_there_are(tmp_path, monkeypatch, mode):
    with pytest.raises(ValueError, match=f"mode: '{mode}' is not one of online, offline, disabled"):
        WandbReporter(mode=mode)
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(SearchError, match=f"WANDB_MODE: '{mode}' is not one of online, offline, disabled"):
        search(tmp_path / "run", reporters=[WandbReporter()]).run()


def test_naming_the_reporter_imports_nothing_of_wandbs_and_uploading_needs_no_torch():
    code = (
        "import sys, lightning_evo.cli.wandb, lightning_evo.reporting.wandb.reporter, lightning_evo.reporting.backfill; "
        "assert 'wandb' not in sys.modules; "
        "import lightning_evo.reporting.wandb.search_run; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_genes_of_any_name_have_keys_that_differ_and_that_can_be_filtered():
    paths = ["m.init_args.a-b", "m.init_args.a.b", "m.a b", "d.init_args.größe", "m.2d", "seed", "m.<i>", "m._wandb"]
    keys = gene_keys(paths)
    assert list(keys) == paths
    assert len(set(keys.values())) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) for key in keys.values())
    assert keys["seed"] != "seed"


def test_every_kind_of_gene_is_a_parameter_that_a_sweep_accepts():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    space = SearchSpace(
        {
            "lr": LogUniform(1e-4, 0.1),
            "depth": Integer(1, 6),
            "step": Integer(0, 8, step=2),
            "batch": Integer(16, 256, log=True),
            "dropout": Uniform(0.0, 0.5, step=0.1),
            "width": Ordinal([16, 32]),
            "norm": Boolean(),
            "kind": Categorical([None, {"class_path": "a.B", "init_args": {"c": 1}}]),
        }
    )
    config = sweep_config("n", "d", space, [Objective("acc")], gene_keys(list(space)))
    parameters = config["parameters"]
    assert parameters["lr"] == {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}
    assert parameters["depth"] == {"distribution": "int_uniform", "min": 1, "max": 6}
    assert parameters["step"] == {"distribution": "q_uniform", "min": 0, "max": 8, "q": 2}
    assert parameters["batch"]["distribution"] == "q_log_uniform_values"
    assert parameters["width"] == {"values": [16, 32]}
    assert parameters["norm"] == {"values": [False, True]}
    assert parameters["kind"]["values"][0] is None
    assert all(repr(read_gene(parameters[name])) == repr(space[name]) for name in space if name != "kind")
    assert config["metric"]["goal"] == "maximize"
    assert create_sweep_command_args({"args": {name: {"value": 1} for name in parameters}})["args"]


def test_a_stopped_candidates_fitness_is_a_prediction_and_its_cost_is_not():
    objectives = [Objective("acc"), Objective("cost/params", "min")]
    candidate = Candidate(3, Genome({"x": 1}), prediction=Prediction((0.8, 90.0), (0.1, 5.0)))
    stopped = Result("stopped", (0.9, 100.0), metrics={"acc": 0.5}, cost={"params": 100.0})
    summary = run_summary(candidate, stopped, objectives)
    assert summary["acc"] == 0.5
    assert summary["predicted/acc"] == 0.9
    assert summary["cost/params"] == 100.0
    assert "predicted/cost/params" not in summary
    assert summary["prescreen/acc"] == 0.8
    assert run_tags(candidate, stopped, ["a", "a"]) == ("a", "stopped")


def test_a_duplicate_says_whose_result_it_has():
    candidate = Candidate(3, Genome({"x": 1}), duplicate_of=1)
    assert "candidate 1" in run_notes(candidate, Result("completed", (1.0,)))
    assert run_tags(candidate, Result("completed", (1.0,)), []) == ("completed", "duplicate")


def test_diversity_is_the_mean_distance_of_all_pairs():
    from lightning_evo.reporting.wandb.search_run import Diversity

    space = SearchSpace({"x": Uniform(0, 10), "kind": Categorical(["a", "b", "c"]), "n": Integer(0, 4)})
    rng = random.Random(0)
    genomes = [space.sample(rng) for _ in range(7)]
    diversity = Diversity(space)
    for id, genome in enumerate(genomes):
        diversity.add(Candidate(id, genome))

    def distance(first, second):
        parts = [abs(first["x"] - second["x"]) / 10, first["kind"] != second["kind"], abs(first["n"] - second["n"]) / 4]
        return sum(parts) / 3

    pairs = list(itertools.combinations(genomes, 2))
    assert diversity.of(range(7)) == pytest.approx(sum(distance(*pair) for pair in pairs) / len(pairs))
    assert diversity.of([1]) is None
    assert diversity.of([2, 2]) == 0


def test_the_state_is_small_and_passes_over_what_belongs_to_another_search(tmp_path):
    state = WandbState(tmp_path, search_token("a"), "place")
    state.uploaded |= set(range(20_000)) - {17}
    state.save()
    assert (tmp_path / "lightning-evo.json").stat().st_size < 300
    assert WandbState(tmp_path, search_token("a"), "place").uploaded == state.uploaded
    assert not WandbState(tmp_path, search_token("b"), "place").resumed
    assert not WandbState(tmp_path, search_token("a"), "elsewhere").resumed
    (tmp_path / "lightning-evo.json").write_text("{")
    assert not WandbState(tmp_path, search_token("a"), "place").resumed


def test_a_random_search_has_no_population_to_tell_of(tmp_path):
    search(tmp_path / "run", candidates=3, algorithm=RandomSearch(), reporters=[offline()]).run()
    assert len(read_offline(tmp_path / "run" / "wandb")) == 4
