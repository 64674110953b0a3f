"""Output that can't be written, and Ctrl-C before anything has begun."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from broken_outputs import run_interrupted, run_with
from commands import command, write
from forked import Forked

from lightning_evo import Archive
from lightning_evo.archive import ArchiveWriter
from lightning_evo.cli import main
from lightning_evo.genome import Candidate, Genome, Result


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """An archive with more text than a pipe holds."""
    directory = tmp_path_factory.mktemp("archive") / "run"
    with ArchiveWriter(directory) as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        for i in range(40):
            writer.record_candidate(Candidate(i, Genome({"model.lr": i / 40})), queued=0.0)
            error = f"error {i}\n" + "x" * 5000
            writer.record_result(i, Result("failed", error=error, error_type=f"ValueError: \x1b]0;{i}\x07"))
    return directory


@pytest.mark.parametrize("kind", ["closed", "terminal"])
def test_a_search_goes_on_where_nothing_can_be_written(tmp_path, kind):
    arguments = write(tmp_path, lambda config, whole: whole["evolution"].update(budget={"candidates": 3}))
    with Forked(run_with, kind, arguments) as process:
        assert process.wait() == 0
    assert Archive(tmp_path / "run").counts()["completed"] == 3
    for line in (tmp_path / "run" / "journal.jsonl").read_bytes().splitlines():
        json.loads(line)  # nothing was printed into it


def test_commands_end_quietly_when_nobody_reads_them(run_directory):
    for arguments in (
        ["leaderboard", str(run_directory), "--errors", "--top", "0"],
        ["--help"],
        ["leaderboard", "--help"],
    ):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(command(*arguments), stdout=writing, stderr=subprocess.PIPE, check=False)
        os.close(writing)
        assert done.stderr == b""
        assert done.returncode == (0 if arguments[0] == "leaderboard" and "--help" in arguments else 141)


def test_a_command_whose_output_does_not_fit_says_so(run_directory):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("leaderboard", str(run_directory)), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"lightning-evo: error: standard output can't be written (No space left on device)\n"


def test_an_interrupt_during_imports_ends_the_command_although_a_module_hides_it(tmp_path):
    def change(config, whole):
        config["model"] = {"class_path": "interrupting.Net"}

    with Forked(run_interrupted, write(tmp_path, change)) as process:
        assert process.wait() == 130
        assert process.output == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments", [["leaderboard"], ["export", "--csv", "x"], ["predictor"], ["plot", "progress", "--to", "x.svg"]]
)
def test_an_interrupt_ends_a_command_without_a_traceback(arguments, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_evo.archive.reader.Archive.__init__", interrupted)
    with pytest.raises(SystemExit) as end:
        main([arguments[0], "nowhere", *arguments[1:]])
    assert end.value.code == 130
    assert capsys.readouterr().err == ""


def test_errors_name_things_without_writing_to_the_terminal(capsys):
    with pytest.raises(SystemExit) as end:
        main(["leaderboard", "\x1b]52;c;aGk=\x07\udce9"])
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("lightning-evo: error: ")
    assert "\\x1b]52;c;aGk=\\x07\\udce9" in shown
    assert "\x1b" not in shown
