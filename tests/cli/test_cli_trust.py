"""Commands on runs that somebody else made, and what outputs may replace."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from commands import write

from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.description import claimed
from lightning_evo.archive.meta import FinalOutcome, FinalRequest
from lightning_evo.archive.seals import SealRecord, sealed
from lightning_evo.cli import main
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Candidate, Genome, Result, SearchSpace, Uniform
from lightning_evo.reporting.exports.csv_tables import FILES

EVIL = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"


class Boom:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def make(run, held=None, own=True, gene="lightning_evo.genome.Uniform", count=40, seal=True):
    """A run with one checkpoint, made by this user or, as far as it says, by nobody."""
    space = describe(SearchSpace({"a": Uniform(0, 50)}))
    space["a"]["class_path"] = gene
    algorithm = {"class_path": "lightning_evo.algorithms.RandomSearch", "init_args": {}}
    meta = {
        "search": {"evolution": {"algorithm": algorithm, "space": space}},
        "objectives": [{"monitor": "v", "mode": "max"}],
        "seed": 1,
    }
    with ArchiveWriter(run) as writer:
        writer.update_meta({**meta, **(claimed(meta) if own else {})})
        for id in range(count):
            writer.record_candidate(Candidate(id, Genome({"a": float(id)})), queued=0.0)
            result = Result("completed", (float(id),), {"v": float(id)})
            if id == count - 1 and held is not None:
                path = run / "candidates" / f"{id:06d}" / "checkpoint.ckpt"
                path.parent.mkdir(parents=True)
                torch.save(held, path)
                (path.parent / "config.yaml").write_text(f"model: {{class_path: evil.Net}}\n# {run.name}\n")
                name = path.relative_to(run).as_posix()
                result = Result("completed", (float(id),), checkpoint=name, checkpoint_bytes=path.stat().st_size)
                if own:
                    result = sealed(result, path)
                elif seal:
                    foreign = SealRecord.of(path).to_dict() | {"mark": "0" * 64}
                    result.extra.update({SealRecord.key: foreign})
            writer.record_result(id, result)
    return run


def plain(number=0.0):
    return {"state_dict": {"weight": torch.full((3,), number)}, "hyper_parameters": {"width": 3}}


def refused(capsys, *arguments):
    """The one line by which a command refuses."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    return said.err


# -- what somebody else made -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", [True, False])
def test_a_checkpoint_that_runs_code_is_not_exported_without_trust(tmp_path, capsys, seal):
    sign = tmp_path / "ran"
    run = make(tmp_path / "run", {"state_dict": {}, "hyper_parameters": Boom(sign)}, own=False, count=1, seal=seal)
    said = refused(capsys, "export", run, "--to", tmp_path / "best")
    assert "--trust" in said
    assert "candidates/000000/checkpoint.ckpt" in said
    assert not sign.exists()
    assert not (tmp_path / "best").exists()
    main(["export", str(run), "--to", str(tmp_path / "best"), "--trust"])
    assert sign.exists()
    assert sorted(os.listdir(tmp_path / "best")) == ["config.yaml", "model.ckpt"]


def test_ones_own_is_exported_without_a_word_wherever_it_lies(tmp_path):
    run = make(tmp_path / "run", {"state_dict": {}, "hyper_parameters": Boom(tmp_path / "ran")}, count=1)
    main(["export", str(run.rename(tmp_path / "moved")), "--to", str(tmp_path / "best")])
    assert (tmp_path / "ran").exists()


def test_a_checkpoint_put_in_the_place_of_ones_own_is_not_read(tmp_path, capsys):
    run = make(tmp_path / "run", plain(), count=1)
    path = run / "candidates/000000/checkpoint.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Boom(tmp_path / "ran")}, path)
    assert "is damaged" in refused(capsys, "export", run, "--to", tmp_path / "best")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_tensors_needs_no_trust(tmp_path):
    run = make(tmp_path / "run", plain(), own=False, count=1)
    main(["export", str(run), "--to", str(tmp_path / "best")])
    assert torch.load(tmp_path / "best" / "model.ckpt", weights_only=True)["state_dict"]["weight"].shape == (3,)


@pytest.mark.parametrize("option", ["--onnx", "--torch-export"])
def test_a_model_that_somebody_elses_config_names_is_not_built_without_trust(tmp_path, capsys, monkeypatch, option):
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    run = make(tmp_path / "run", plain(), own=False, count=1)
    assert "--trust" in refused(capsys, "export", run, "--to", tmp_path / "best", option)
    own = make(tmp_path / "own", plain(), count=1)
    (own / "candidates/000000/config.yaml").write_text("model: {class_path: evil.Other}\n")
    assert "is not the config" in refused(capsys, "export", own, "--to", tmp_path / "best", option)
    assert not (tmp_path / "evil.ran").exists()


def test_no_command_imports_what_somebody_elses_archive_names_or_its_directory_holds(tmp_path, capsys, monkeypatch):
    run = make(tmp_path / "run", plain(), own=False, gene="evil.Gene")
    for name in ("evil", "wandb_evil", "numba", "tensorboard"):
        (run / f"{name}.py").write_text(EVIL)
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(run))])
    for arguments in (["leaderboard", "."], ["report", ".", "--to", "r.html"], ["export", ".", "--csv", "csv"]):
        main(arguments)
    main(["export", ".", "--to", "best"])
    main(["export", ".", "--json", "run.json"])
    capsys.readouterr()
    commands = [["export", ".", "--optuna", "o.log"], ["predictor", "."], ["wandb", "."]]
    pytest.importorskip("optuna")
    for arguments in commands:
        assert "evil.Gene" in refused(capsys, *arguments)
    assert list(run.glob("*.ran")) == []
    assert str(run) not in sys.path


def test_ones_own_archive_may_name_modules_of_the_working_directory(tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna")
    (tmp_path / "mine_of_trust.py").write_text("from lightning_evo.genome import Uniform as Gene\n" + EVIL)
    run = make(tmp_path / "run", gene="mine_of_trust.Gene")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    main(["export", "run", "--optuna", "o.log"])
    assert (tmp_path / "mine_of_trust.ran").exists()
    capsys.readouterr()
    theirs = make(tmp_path / "theirs", own=False, gene="mine_of_trust.Gene")
    assert "--trust" in refused(capsys, "export", theirs, "--optuna", "p.log")
    main(["export", str(theirs), "--optuna", "p.log", "--trust"])
    assert run.exists()


@pytest.mark.parametrize("path", ["../precious.ckpt", "/etc/hostname", "candidates/link/x.ckpt"])
def test_a_path_out_of_the_directory_is_not_exported(tmp_path, capsys, path):
    run = make(tmp_path / "run", plain(), own=False, count=1)
    for name in ("precious.ckpt", "x.ckpt"):
        torch.save(plain(), tmp_path / name)
    with ArchiveWriter(run) as writer:
        writer.update_checkpoint(0, path, (tmp_path / "x.ckpt").stat().st_size)
    (run / "candidates" / "link").symlink_to(tmp_path)
    assert "is left alone" in refused(capsys, "export", run, "--to", tmp_path / "best")


def test_a_damaged_winner_is_not_exported(tmp_path, capsys):
    run = make(tmp_path / "run", plain(), count=1)
    (run / "final").mkdir()
    torch.save(plain(), run / "final" / "model.ckpt")
    (run / "final" / "config.yaml").write_text("model: x\n")
    with ArchiveWriter(run) as writer:
        outcome = FinalOutcome(FinalRequest(0), seal=SealRecord.of(run / "final" / "model.ckpt"))
        writer.set_meta(outcome.key, outcome.to_dict())
    main(["export", str(run), "--to", str(tmp_path / "best")])
    capsys.readouterr()
    torch.save(plain(1.0), run / "final" / "model.ckpt")
    assert "final/model.ckpt, is damaged" in refused(capsys, "export", run, "--to", tmp_path / "best")


@pytest.mark.parametrize("given", [["--trust"], ["--retry-failed"], []])
def test_a_search_is_told_by_the_command_line_whom_to_trust_and_what_to_try_again(tmp_path, monkeypatch, given):
    told = []
    monkeypatch.setattr(
        "lightning_evo.evolution.Evolution.run", lambda search: told.append((search.trust, search.retry_failed))
    )
    main([*write(tmp_path), *given])
    assert told == [("--trust" in given, "--retry-failed" in given)]


# -- what outputs may replace ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("outputs") / "run", plain())


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("archive.sqlite-shm", "archive.sqlite-wal")
    }


OWN = [
    "archive.sqlite",
    "journal.jsonl",
    "lock",
    "candidates/000039/config.yaml",
    "candidates/new.html",
    "final/r.html",
]


@pytest.mark.parametrize("path", OWN)
@pytest.mark.parametrize("option", ["report", "plot", "json", "csv", "optuna", "export", "predictor"])
def test_no_output_replaces_what_belongs_to_a_run(run, capsys, path, option):
    before, to = contents(run), run / path
    commands = {
        "report": ["report", run, "--to", to],
        "plot": ["plot", run, "progress", "--to", to],
        "json": ["export", run, "--json", to, "--overwrite"],
        "csv": ["export", run, "--csv", to.parent / "tables" if to.parent != run else to, "--overwrite"],
        "optuna": ["export", run, "--optuna", to, "--overwrite"],
        "export": ["export", run, "--to", to.parent if to.parent != run else to],
        "predictor": ["predictor", run, "--json", to],
    }
    assert str(to.parent if to.parent != run else to) in refused(capsys, *commands[option])
    assert contents(run) == before


def test_an_export_replaces_an_earlier_one_and_nothing_else(run, tmp_path, capsys):
    to = tmp_path / "best"
    to.mkdir()
    main(["export", str(run), "--to", str(to)])
    (to / "schedule.yaml").write_text("of another candidate")
    main(["export", str(run), "--to", str(to)])
    assert sorted(os.listdir(to)) == ["config.yaml", "model.ckpt"]
    capsys.readouterr()
    (to / "mine.txt").write_text("mine")
    assert "holds other files (mine.txt)" in refused(capsys, "export", run, "--to", to)
    project = tmp_path / "project"
    project.mkdir()
    (project / "config.yaml").write_text("mine")
    assert "holds other files (config.yaml)" in refused(capsys, "export", run, "--to", project)
    assert (project / "config.yaml").read_text() == "mine"
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"--to {file}: is a file; give a directory" in refused(capsys, "export", run, "--to", file)
    assert "cannot write" in refused(capsys, "export", run, "--to", file / "best")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["thesis.pdf", "notes", "page.html", "data.json"])
def test_a_report_replaces_only_a_report(run, tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text("<!doctype html><title>mine</title>")
    assert name in refused(capsys, "report", run, "--to", path)
    assert "mine" in path.read_text()


@pytest.mark.parametrize("name", ["mine.svg", "mine.pdf", "mine.png"])
def test_a_picture_replaces_only_a_picture(run, tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text("mine")
    assert "already exists" in refused(capsys, "plot", run, "progress", "--to", path)
    path.write_text("")
    main(["plot", str(run), "progress", "--to", str(path)])
    main(["plot", str(run), "progress", "--to", str(path)])
    assert path.stat().st_size > 1000


# -- kills -------------------------------------------------------------------------------------------------------------

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}


def killed_at(step, function):
    """Run ``function`` in a child process that is killed before its ``step``-th change of a file; whether it was."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    left = step

    def hook(event, arguments):
        nonlocal left
        if event not in CHANGES or (event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(hook)
        function()
        code = 0
    finally:
        os._exit(code)


def held(to):
    """What is at an output's place: the content of a file, of a directory's files, or nothing."""
    if to.is_dir():
        return {path.name: path.read_bytes() for path in to.iterdir()}
    return to.read_bytes() if to.exists() else None


def is_whole(output, content):
    if output in ("export", "csv"):
        names = {"config.yaml", "model.ckpt"} if output == "export" else {*FILES}
        return set(content) == names and all(content.values())
    if output == "json":
        return bool(json.loads(content))
    if output == "optuna":
        return all(json.loads(line) for line in content.splitlines())
    return content.rstrip().endswith({"report": b"</html>", "svg": b"</svg>"}[output])


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("output", ["export", "csv", "json", "report", "svg", "optuna"])
def test_a_kill_at_any_point_leaves_all_of_an_output_or_nothing_of_it(run, tmp_path, output, there):
    if output == "optuna":
        pytest.importorskip("optuna")
    place = tmp_path / "place"
    to = place / {"export": "best", "csv": "tables", "report": "r.html", "svg": "p.svg"}.get(output, "out")
    command = {
        "export": ["export", run, "--to", to],
        "report": ["report", run, "--to", to],
        "svg": ["plot", run, "progress", "--to", to],
    }.get(output, ["export", run, f"--{output}", to, "--overwrite"])

    def output_again():
        main([str(argument) for argument in command])

    place.mkdir()
    output_again()
    assert is_whole(output, held(to))
    for step in itertools.count():
        if not there:
            shutil.rmtree(place)
            place.mkdir()
        before = held(to)
        if not killed_at(step, output_again):
            break
        assert held(to) == before or is_whole(output, held(to))
    assert step > 1
    assert os.listdir(place) == [to.name]  # what the kills left was cleared away
