"""W&B online, against a server on loopback: what arrives there, and what happens where it doesn't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from wandb_searches import X, search, without_wandb  # noqa: F401 - a fixture
from wandb_server import KEY, read_offline, wandb_server

from lightning_evo.cli import main
from lightning_evo.evolution import SearchError
from lightning_evo.reporting.wandb import service as wandb_service
from lightning_evo.reporting.wandb.reporter import WandbReporter

pytestmark = pytest.mark.usefixtures("without_wandb")


@pytest.fixture
def server(monkeypatch):
    with wandb_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        assert not server.unhandled


@pytest.fixture
def hasty(monkeypatch):
    """Seconds become tenths, so that a server that is away is noticed within a test."""
    timeouts = {
        "UPLOAD_TIMEOUT": 2.0,
        "INIT_TIMEOUT": 2.0,
        "PING_TIMEOUT": 1.0,
        "PING_INTERVAL": 0.0,
        "RETRY_INTERVAL": 0.3,
    }
    for name, value in timeouts.items():
        monkeypatch.setattr(wandb_service, name, value)


def state_of(directory: Path) -> dict:
    return json.loads((directory / "wandb" / "lightning-evo.json").read_text())


def gentle(genome, seed, directory):
    return {"y": genome[X] ** 2}


def test_a_sweep_is_made_and_every_candidate_is_a_run_of_it(tmp_path, server, capfd):
    archive = search(tmp_path / "run", reporters=[WandbReporter(project="nets", name="my search")], progress=True).run()
    ((sweep, made),) = server.sweeps.items()
    assert made["project"] == "nets"
    assert "name: my search" in made["config"]
    rows = archive.candidates()
    runs = server.candidates()
    assert len(runs) == len(rows) == 8
    for row, run in zip(rows, runs, strict=True):
        assert (run.sweep, run.group, run.project) == (sweep, f"generation-{row['generation']}", "nets")
        assert run.own["x"] == row[X]
        assert run.summary["status"] == row["status"]
        assert run.exit_code == (row["status"] == "failed")
        assert row["status"] in run.tags
        if row["status"] == "completed":
            assert run.summary["y"] == row["y"] == run.history[0]["y"]
        else:
            assert "Traceback" in run.notes
    (own,) = server.searches()
    assert own.sweep is None
    assert own.display_name == "my search"
    assert own.exit_code == 0
    assert own.summary["best/y"] == min(row["y"] for row in rows if row["status"] == "completed")
    assert any(name.startswith("media/table/population") for name in own.files)
    assert sorted(path.name for path in (tmp_path / "run" / "wandb").iterdir()) == ["lightning-evo.json", "sweep.yaml"]
    out, err = capfd.readouterr()
    said = [line for line in out.splitlines() if "W&B" in line or "wandb" in line]
    assert said == [f"W&B: {server.url}/tester/nets/sweeps/{sweep}"]
    assert "wandb" not in err


def test_a_continued_search_continues_its_sweep_and_uploads_only_what_is_new(tmp_path, server):
    search(tmp_path / "run", candidates=5, reporters=[WandbReporter()]).run()
    starts = {run.name: run.starts for run in server.candidates()}
    search(tmp_path / "run", candidates=8, reporters=[WandbReporter()]).run()
    assert len(server.sweeps) == 1
    assert len(server.candidates()) == 8
    assert {name: server.runs[name].starts for name in starts} == starts
    (own,) = server.searches()
    assert [line["_step"] for line in own.history if "candidates/completed" in line] == list(range(1, 9))
    assert own.summary["candidates"] == 8


def test_without_its_state_a_search_is_uploaded_once_more_into_the_same_runs(tmp_path, server):
    search(tmp_path / "run", reporters=[WandbReporter()]).run()
    (tmp_path / "run" / "wandb" / "lightning-evo.json").unlink()
    search(tmp_path / "run", reporters=[WandbReporter()]).run()
    assert len(server.candidates()) == 8
    assert all(len(run.history) <= 1 for run in server.candidates())


def test_a_curve_is_shown_while_the_candidate_trains(tmp_path, server, monkeypatch):
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
    from lightning_evo.genome import Candidate, Genome, Objective, Result
    from lightning_evo.reporting.progress import SearchState
    from lightning_evo.reporting.reporter import ActiveTraining, SearchInfo

    archive = search(tmp_path / "run", candidates=2).run()
    reporter = WandbReporter()
    reporter.check()
    objectives = tuple(archive.objectives)
    info = SearchInfo(
        name=archive.run,
        location=tmp_path / "run",
        directory=tmp_path / "run",
        space=search(tmp_path / "run").space,
        objectives=objectives,
        algorithm="RegularizedEvolution",
        description={},
        seed=3,
        limits={},
        slots=2,
        config=None,
        resumed=False,
    )
    state = SearchState([Objective("y", "min")], {})
    candidate = Candidate(7, Genome({X: 0.5}), generation=2)
    curve = [{"epoch": 0.0, "y": 3.0}, {"epoch": 1.0, "y": 2.0}]
    reporter.start(info)
    reporter.asked(candidate)
    reporter.running([ActiveTraining(candidate, 0, curve)], state)
    (run,) = waited(server.candidates)
    assert run.tags == ("running",)
    waited(lambda: len(run.history) >= 1)
    result = Result("stopped", (1.5,), curve=(*curve, {"epoch": 2.0, "y": 1.7}), metrics={"y": 1.7})
    reporter.told(candidate, result, state)
    reporter.finish(state, "interrupted")
    assert [line["y"] for line in run.history] == [3.0, 2.0, 1.7]
    assert [line["_step"] for line in run.history] == [0, 1, 2]
    assert run.tags == ("stopped",)
    assert run.summary["predicted/y"] == 1.5
    assert run.summary["y"] == 1.7
    assert server.searches()[0].exit_code == 255


def waited(condition, seconds=15.0):
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    assert value
    return value


def test_within_an_agents_run_the_search_is_that_run_and_candidates_have_a_sweep_of_their_own(
    tmp_path, server, monkeypatch
):
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\n\nevolution.seed:\n  value: 5\n")
    outer = {"SWEEP_ID": "outer", "RUN_ID": "mine", "SWEEP_PARAM_PATH": str(parameters), "PROJECT": "theirs"}
    for name, value in outer.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    server.sweeps["outer"] = {"config": "", "project": "theirs"}
    archive = search(tmp_path / "run", candidates=3, reporters=[WandbReporter(project="another")]).run()
    run = server.runs["mine"]
    assert (run.sweep, run.job_type, run.project, run.exit_code) == ("outer", "search", "theirs", 0)
    assert run.own["evolution.seed"] == 5
    assert run.summary["y"] == archive.best(1)[0]["y"]
    (inner,) = set(server.sweeps) - {"outer"}
    assert [(each.sweep, each.project) for each in server.candidates()] == [(inner, "theirs")] * 3
    assert os.environ["WANDB_SWEEP_ID"] == "outer"


# -- login -------------------------------------------------------------------------------------------------------------


def test_without_a_login_nothing_is_trained_and_it_is_said_how_to_go_offline(tmp_path, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(SearchError, match=rf"no login for {server.url}: .*`wandb login`.* WANDB_MODE=offline"):
        search(tmp_path / "run", reporters=[WandbReporter()]).run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["short", KEY])
def test_a_login_that_is_refused_is_said_before_anything_is_trained(tmp_path, server, monkeypatch, key):
    server.login = False
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(SearchError, match=rf"{server.url} refused the login.* WANDB_MODE=offline"):
        search(tmp_path / "run", reporters=[WandbReporter()]).run()
    assert not (tmp_path / "run").exists()


# -- a server that is away ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_away_from_the_beginning_gets_it_all_from_the_same_command_later(tmp_path, server, capfd):
    server.down = True
    archive = search(tmp_path / "run", reporters=[WandbReporter()], progress=True).run()
    assert archive.counts()["completed"] + archive.counts()["failed"] == 8
    assert len(read_offline(tmp_path / "run" / "wandb")) == 9
    out, _ = capfd.readouterr()
    assert f"W&B: {server.url} does not answer" in out
    assert f"`lightning-evo wandb {tmp_path / 'run'}`" in out
    server.down = False
    search(tmp_path / "run", reporters=[WandbReporter()]).run()
    assert {run.sweep for run in server.candidates()} == set(server.sweeps)
    assert len(server.candidates()) == 8
    assert all(len(run.history) <= 1 for run in server.candidates())
    assert not read_offline(tmp_path / "run" / "wandb")


@pytest.mark.usefixtures("hasty")
def test_a_server_that_goes_away_costs_the_search_nothing_and_wandb_sync_uploads_the_rest(tmp_path, server, capfd):
    class GoesAway(WandbReporter):
        def told(self, candidate, result, state):
            super().told(candidate, result, state)
            if state.told == 3:
                self._service.wait_for_uploads()
                server.down = True

    archive = search(tmp_path / "run", candidates=6, function=gentle, reporters=[GoesAway()], progress=True).run()
    assert archive.counts()["completed"] == 6
    out, _ = capfd.readouterr()
    directory = tmp_path / "run" / "wandb"
    assert "does not answer" in out
    assert f"upload them with `wandb sync --include-online {directory}`" in out
    assert len(server.candidates()) == 3
    server.down = False
    wandb("sync", "--include-online", str(directory), cwd=tmp_path)
    assert len(server.candidates()) == 6
    assert {run.sweep for run in server.candidates()} == set(server.sweeps)
    assert all(run.exit_code == 0 and len(run.history) == 1 for run in server.candidates())
    (own,) = server.searches()
    assert [line["_step"] for line in own.history if "candidates/completed" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("hasty")
def test_what_was_missed_is_uploaded_when_the_server_is_back(tmp_path, server):
    class ComesBack(WandbReporter):
        def told(self, candidate, result, state):
            server.down = 2 <= state.told <= 4
            super().told(candidate, result, state)
            self._service.wait_for_uploads()

        def finish(self, state, outcome):
            server.down = False
            super().finish(state, outcome)

    search(tmp_path / "run", candidates=7, function=gentle, reporters=[ComesBack()]).run()
    assert len(server.candidates()) + len(state_of(tmp_path / "run")["kept"]) >= 7
    reporters = [WandbReporter()]  # whoever could not be begun had spent its id, until the process ends
    import wandb

    wandb.teardown()
    search(tmp_path / "run", candidates=7, function=gentle, reporters=reporters).run()
    assert [run.name[-6:] for run in server.candidates()] == [f"{id:06d}" for id in range(7)]
    assert state_of(tmp_path / "run")["kept"] == []
    assert not list((tmp_path / "run" / "wandb").glob("*run-*"))


@pytest.mark.usefixtures("hasty")
def test_leaving_while_a_server_does_not_answer_takes_no_time(tmp_path, server):
    class Hangs(WandbReporter):
        patience = 1.0

        def finish(self, state, outcome):
            server.down = True
            super().finish(state, outcome)

    begun = time.monotonic()
    search(tmp_path / "run", candidates=3, function=gentle, reporters=[Hangs()]).run()
    waited(lambda: not [thread for thread in threading.enumerate() if thread.name == "Hangs"], 30)
    assert time.monotonic() - begun < 60


# -- offline, and then -------------------------------------------------------------------------------------------------


def wandb(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=dict(os.environ),
        cwd=cwd,  # it leaves a folder there
        stdin=subprocess.DEVNULL,
    )


def test_wandb_sync_uploads_offline_runs_into_their_sweep_where_the_server_takes_it(tmp_path, server):
    search(tmp_path / "run", reporters=[WandbReporter(mode="offline")]).run()
    said = wandb("sync", str(tmp_path / "run" / "wandb"), cwd=tmp_path)
    assert not server.candidates()  # a server that knows no such sweep refuses its runs, as W&B's own does
    assert "not found" in said.stdout + said.stderr
    server.unknown_sweeps = True
    for marker in (tmp_path / "run" / "wandb").glob("*/*.synced"):
        marker.unlink()
    wandb("sync", str(tmp_path / "run" / "wandb"), cwd=tmp_path)
    assert len(server.candidates()) == 8
    assert {run.sweep for run in server.candidates()} == {state_of(tmp_path / "run")["sweep"]}
    assert all(len(run.history) <= 1 and run.exit_code is not None for run in server.candidates())
    assert len(server.searches()) == 1


def test_the_command_makes_the_sweep_and_uploads_from_the_archive_what_is_not_there_yet(tmp_path, server, capsys):
    search(tmp_path / "run", reporters=[WandbReporter(mode="offline")]).run()
    main(["wandb", str(tmp_path / "run"), "--tags", "late"])
    ((sweep, _),) = server.sweeps.items()
    assert f"/sweeps/{sweep}" in capsys.readouterr().out
    assert len(server.candidates()) == 8
    assert all(run.sweep == sweep and "late" in run.tags for run in server.candidates())
    (own,) = server.searches()
    assert [line["_step"] for line in own.history if "candidates/completed" in line] == list(range(1, 9))
    starts = {run.name: run.starts for run in server.candidates()}
    main(["wandb", str(tmp_path / "run")])
    assert len(server.sweeps) == 1
    assert {run.name: run.starts for run in server.candidates()} == starts


def test_the_command_refuses_what_is_no_search(tmp_path, server, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["wandb", str(tmp_path)])
    assert stop.value.code == 2
    assert f"{tmp_path}: no archive here" in capsys.readouterr().err
