"""W&B and the command line: what an agent starts, what a kill leaves, and what Ctrl-C ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
import yaml
from commands import command, write
from sessions import run_line, shell_lines, shortened

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))
from reporting_archives import featured
from wandb_server import wandb_server

from lightning_evo import Archive
from lightning_evo.archive.lock import DirectoryLock
from lightning_evo.cli import main
from lightning_evo.reporting.reporter import Reporter, ReporterError

EPOCHS, CANDIDATES = 10, 3
"""So many of a second each, for a search that is stopped in its middle."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "wandb_sweep"


@pytest.fixture
def server():
    with wandb_server() as server:
        yield server
        assert not server.unhandled


def environment(server, home: Path) -> dict[str, str]:
    """That of a user who knows of this server alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, **server.environment, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}


def until(condition, seconds=100.0):
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    assert value
    return value


def with_reporter(**options):
    def change(config, whole):
        whole["evolution"]["reporters"] = [{"class_path": "WandbReporter", "init_args": options}]
        whole["evolution"]["final"] = None

    return change


WORK = (
    {
        "evolution.algorithm": "RegularizedEvolution",
        "evolution.algorithm.population_size": 2,
        "evolution.algorithm.prescreen": "null",
        "evolution.seed": 1,
    },
    {
        "evolution.algorithm": "GenerationalEvolution",
        "evolution.algorithm.population_size": 3,
        "evolution.algorithm.prescreen": "{predictor: ForestPredictor}",
        "evolution.seed": 2,
    },
)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it waits most of the time, for the agent and for W&B's own processes
def test_an_agent_drives_searches_whose_runs_are_its_own(tmp_path, server):
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__", "runs")))
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert set(WORK[0]) == set(sweep["parameters"])
    short = "--trainer.max_epochs=1 --evolution.budget.candidates=3 --evolution.workers.slots=1"
    sweep["command"] = [part.replace('"$@"', f'"$@" {short}') for part in sweep["command"]]
    server.sweeps["outer"] = {"config": yaml.safe_dump(sweep), "project": "lightning-evo"}
    server.work = list(WORK)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "agent", "tester/lightning-evo/outer"],
        cwd=folder,
        env={**environment(server, tmp_path), "PATH": path},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(server.runs) == ["outer0", "outer1"]  # nothing of the candidates falls into the outer sweep
    for name, work in zip(("outer0", "outer1"), WORK, strict=True):
        run = server.runs[name]
        archive = Archive(folder / "runs" / name)
        assert archive.counts()["completed"] == 3
        algorithm = archive.meta["search"]["evolution"]["algorithm"]
        assert algorithm["class_path"].endswith(work["evolution.algorithm"])
        assert algorithm["init_args"]["population_size"] == work["evolution.algorithm.population_size"]
        assert archive.meta["seed"] == work["evolution.seed"]
        assert (run.sweep, run.job_type, run.exit_code) == ("outer", "search", 0)
        assert run.own["evolution.seed"] == work["evolution.seed"]
        assert run.summary["val_acc"] == archive.best(1)[0]["val_acc"]
        assert "test_acc" in run.summary


@pytest.mark.parametrize("refuses", [True, False])
def test_an_upload_releases_everything_however_it_ends(tmp_path, monkeypatch, capsys, refuses):
    released = []

    class Watched(Reporter):
        def __init__(self, *arguments, **options):
            pass

        def start(self, search):
            if refuses:
                raise ReporterError("no such sweep")

        def release(self):
            released.append(True)

    monkeypatch.setattr("lightning_evo.reporting.wandb.reporter.WandbReporter", Watched)
    directory = featured(tmp_path / "run")
    if refuses:
        with pytest.raises(SystemExit, match="2"):
            main(["wandb", str(directory)])
        assert capsys.readouterr().err == "lightning-evo: error: no such sweep\n"
    else:
        main(["wandb", str(directory)])
    assert released == [True]
    DirectoryLock(directory).release()  # the lock is free


@pytest.mark.slow
def test_the_search_of_the_example_runs_by_hand_as_its_page_says(tmp_path):
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__", "runs")))
    (line,) = shell_lines(folder / "README.md")
    run_line(shortened(line, folder, epochs=1, candidates=3), folder)
    assert Archive(folder / "runs" / "wandb_sweep").counts()["completed"] == 3
    assert not (folder / "runs" / "wandb_sweep" / "wandb").exists()


def slowly(config, whole):
    with_reporter()(config, whole)
    config["trainer"]["max_epochs"] = EPOCHS
    config["model"]["init_args"]["misbehave"] = "slow"
    whole["evolution"]["budget"] = {"candidates": CANDIDATES}


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_in_the_same_sweep_and_runs(tmp_path, server):
    arguments = write(tmp_path, slowly)
    first = warm.Popen(
        command(*arguments), env=environment(server, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: any(run.exit_code == 0 for run in server.candidates()) and len(server.candidates()) == CANDIDATES)
    finally:
        first.kill()
        first.wait()
    before = {run.name: (run.exit_code, run.starts) for run in server.candidates()}
    begun = [name for name, (code, _) in before.items() if code is None]
    assert begun, "nothing was in training when the search was killed"
    done = warm.run(command(*arguments), env=environment(server, tmp_path), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    archive = Archive(tmp_path / "run")
    assert len(server.sweeps) == 1
    assert len(server.searches()) == 1
    runs = server.candidates()
    assert len(runs) == sum(archive.counts().values()) == CANDIDATES
    for row, run in zip(archive.candidates(), runs, strict=True):
        assert run.exit_code == 0
        assert [line["_step"] for line in run.history] == list(range(EPOCHS))
        assert run.summary["val_acc"] == row["val_acc"]
    state = json.loads((tmp_path / "run" / "wandb" / "lightning-evo.json").read_text())
    assert state["uploaded"] == [[0, CANDIDATES - 1]]
    assert not list((tmp_path / "run" / "wandb").glob("*run-*"))
    (own,) = server.searches()
    told = [line["_step"] for line in own.history if "candidates/completed" in line]
    assert told == sorted(set(told))
    assert told[-1] == CANDIDATES


@pytest.mark.slow
def test_ctrl_c_twice_ends_a_search_whose_server_does_not_answer(tmp_path, server):
    arguments = write(tmp_path, slowly)
    search = warm.Popen(
        command(*arguments),
        env=environment(server, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until(server.candidates)
        server.down = True
        os.killpg(search.pid, signal.SIGINT)  # as a terminal does: everybody in the foreground gets it
        time.sleep(1.0)
        os.killpg(search.pid, signal.SIGINT)
        pressed = time.monotonic()
        out, _ = search.communicate(timeout=60)
    finally:
        search.kill()
    assert search.returncode == 130, out
    assert time.monotonic() - pressed < 25
    assert "Traceback" not in out
    assert Archive(tmp_path / "run").counts()["failed"] == 0
