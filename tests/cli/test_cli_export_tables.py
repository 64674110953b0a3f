"""`lightning-evo export` of a whole search, as a user types it."""

import csv
import json
import os
import subprocess
import sys

import pytest
from commands import run as command

from lightning_evo.archive import ArchiveWriter
from lightning_evo.cli import main
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Candidate, Genome, Result, Uniform


@pytest.fixture
def search(tmp_path):
    """Three candidates of which one is pending, the archive still open for writing."""
    with ArchiveWriter(tmp_path / "run") as writer:
        space = {"model.init_args.lr": describe(Uniform(0, 1))}
        objectives = [{"monitor": "val_acc", "mode": "max"}]
        writer.update_meta({"search": {"evolution": {"space": space}}, "objectives": objectives})
        for id in range(3):
            genome = Genome({"model.init_args.lr": id / 4})
            writer.record_candidate(Candidate(id, genome, parents=(0,) * (id > 0)), queued=1.0)
        for id in range(2):
            curve = [{"epoch": 0, "val_acc": 0.25}, {"epoch": 1, "val_acc": id / 2}]
            writer.record_result(id, Result("completed", (id / 2,), curve=curve, started=1.0, ended=2.0))
        yield str(tmp_path / "run")


def refusal(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, arguments)])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_everything_is_written_at_once_and_the_paths_are_printed(search, tmp_path):
    done = command("export", search, "--csv", "tables", "--json", "all.json", "--optuna", "out.log", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tables = [f"tables/{name}" for name in ("candidates.csv", "curves.csv", "lineage.csv", "meta.json")]
    assert done.stdout.splitlines() == [*tables, "all.json", "out.log"]
    with (tmp_path / "tables/candidates.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed", "completed", "pending"]
    assert len(json.loads((tmp_path / "all.json").read_text())["candidates"]) == 3
    assert len((tmp_path / "out.log").read_text().splitlines()) == 3 + 3  # the study, its names and genes; its trials


def test_nothing_to_write_is_an_error_that_names_what_there_is(search, capsys):
    said = refusal([search], capsys)
    assert "nothing to write: give --to DIR, --csv DIR, --json FILE or --optuna FILE" in said


@pytest.mark.parametrize("option", [["--onnx"], ["--torch-export"], ["--candidate", "1"], ["--candidate", "0"]])
def test_an_option_of_a_candidate_needs_a_place_for_it(search, tmp_path, capsys, option):
    assert f"{option[0]}: applies to a candidate" in refusal([search, "--json", tmp_path / "all.json", *option], capsys)
    assert not (tmp_path / "all.json").exists()


@pytest.mark.parametrize("option", ["--csv", "--json", "--optuna"])
def test_files_that_are_there_are_kept_and_replaced_when_asked(search, tmp_path, capsys, option):
    target = str(tmp_path / "out")
    main(["export", search, option, target])
    capsys.readouterr()
    said = refusal([search, option, target], capsys)
    assert said.startswith(f"lightning-evo: error: {option} {target}")
    assert "--overwrite" in said
    main(["export", search, option, target, "--overwrite"])


@pytest.mark.parametrize("option", ["--csv", "--json", "--optuna"])
def test_a_directory_without_a_search_is_refused_in_one_line(tmp_path, capsys, option):
    said = refusal([tmp_path / "nowhere", option, tmp_path / "out"], capsys)
    assert said == (
        f"lightning-evo: error: {tmp_path / 'nowhere'}: no archive here; give the directory of a run, its archive file "
        "or a URL\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--json", "--optuna"])
def test_a_file_in_a_folder_that_is_not_there_is_refused(search, tmp_path, capsys, option):
    said = refusal([search, option, tmp_path / "none" / "out"], capsys)
    assert f"{option} {tmp_path}/none/out: the directory {tmp_path}/none does not exist" in said


def test_without_optuna_the_error_says_what_to_install(search, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning_evo.reporting.exports.optuna_journal", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = refusal([search, "--optuna", tmp_path / "out.log"], capsys)
    assert "pip install 'lightning-evo[optuna]'" in said


def test_tables_are_written_without_importing_torch(search, tmp_path):
    code = (
        "import sys; from lightning_evo.cli import main; "
        f"main(['export', {search!r}, '--csv', {str(tmp_path / 'c')!r}, '--json', {str(tmp_path / 'j')!r}]); "
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
