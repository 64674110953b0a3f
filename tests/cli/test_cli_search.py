"""The commands, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import warm
import yaml
from commands import command, run, write

from lightning_evo import Archive
from lightning_evo.archive import ArchiveError
from lightning_evo.cli import main


def rows_of(directory: Path) -> list[tuple]:
    columns = ("id", "status", "val_acc", "model.init_args.lr", "model.init_args.width", "parents", "seed")
    with Archive(directory) as archive:
        return [tuple(row.get(column) for column in columns) for row in archive.candidates()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search, run once as a user runs it, by a new interpreter; tests only read it."""
    directory = tmp_path_factory.mktemp("finished")
    done = subprocess.run(command(*write(directory)), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


def test_fit_with_an_evolution_section_searches(finished):
    directory, said = finished
    assert len(rows_of(directory / "run")) == 6
    assert "[6/6] candidate" in said
    assert "finished (budget.candidates): 6 candidates (6 completed)" in said
    assert "winner: candidate" in said
    assert "test_acc" in said


def test_fit_without_the_section_is_an_ordinary_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([*write(tmp_path)[:3], "--trainer.default_root_dir=here", "--trainer.enable_progress_bar=false"])
    assert list((tmp_path / "here").rglob("*.ckpt"))
    assert not (tmp_path / "runs").exists()


def test_the_winner_was_tested_once_and_only_the_winner(finished):
    directory, _ = finished
    with Archive(directory / "run") as archive:
        assert "test_acc" in archive.meta["final"]["metrics"]
        assert not [name for name in archive.columns() if "test" in name]


def test_the_same_command_again_trains_nothing(finished, capsys):
    directory, _ = finished
    before = rows_of(directory / "run")
    main(["fit", "--config", str(directory / "config.yaml"), "--config", str(directory / "search.yaml")])
    assert "To extend the search, raise evolution.budget" in capsys.readouterr().out
    assert rows_of(directory / "run") == before


def test_one_merged_file_works_as_well(tmp_path, capsys):
    def change(config, whole):
        whole["evolution"]["budget"].update(candidates=2)
        whole["evolution"]["space"] = {"model.init_args.width, data.init_args.size": [8, 16]}
        whole["evolution"]["links"] = [{"from": "data.init_args.size", "to": "data.init_args.batch_size"}]

    write(tmp_path, change)
    merged = yaml.safe_load((tmp_path / "config.yaml").read_text()) | yaml.safe_load(
        (tmp_path / "search.yaml").read_text()
    )
    (tmp_path / "merged.yaml").write_text(yaml.safe_dump(merged))
    main(["fit", "--config", str(tmp_path / "merged.yaml")])
    with Archive(tmp_path / "run") as archive:
        genomes = [archive.candidate(id).genome for id in range(2)]
    for id, genome in enumerate(genomes):
        config = yaml.safe_load((tmp_path / f"run/candidates/{id:06d}/config.yaml").read_text())
        data, width = config["data"]["init_args"], genome["model.init_args.width"]
        assert (config["model"]["init_args"]["width"], data["size"], data["batch_size"]) == (width,) * 3


def test_the_leaderboard_lists_candidates_best_first(finished, capsys):
    directory, _ = finished
    main(["leaderboard", str(directory / "run"), "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    values = [row["val_acc"] for row in rows]
    assert values == sorted(values, reverse=True)
    main(["leaderboard", str(directory / "run"), "--format", "csv", "--top", "2", "--sort", "cost/params"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(table) == 2
    main(["leaderboard", str(directory / "run")])
    assert "val_acc" in capsys.readouterr().out


STOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lightning_evo":
            raise ImportError("this package must not be needed")

sys.meta_path.insert(0, Refuse())
sys.argv = ["stock", "test", "--config", "config.yaml", "--ckpt_path", "model.ckpt"]
from lightning.pytorch.cli import LightningCLI
LightningCLI(trainer_defaults={"logger": False, "accelerator": "cpu"})
from toys import ToyNet
print("width", ToyNet.load_from_checkpoint("model.ckpt").hparams.width)
"""


def test_the_exported_winner_opens_with_stock_lightning_without_this_package(finished, tmp_path):
    directory, _ = finished
    done = run("export", str(directory / "run"), "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    stock = warm.run([sys.executable, "-c", textwrap.dedent(STOCK)], cwd=tmp_path, capture_output=True, text=True)
    assert stock.returncode == 0, stock.stderr
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert f"width {config['model']['init_args']['width']}" in stock.stdout
    with Archive(directory / "run") as archive:
        tested = archive.meta["final"]["metrics"]["test_acc"]
    assert f"{tested:.4f}"[:5] in stock.stdout


def test_any_kept_candidate_is_exported_by_its_id(finished, tmp_path, capsys):
    directory, _ = finished
    with Archive(directory / "run") as archive:
        second = archive.best(2)[1]["id"]
    main(["export", str(directory / "run"), "--to", str(tmp_path), "--candidate", str(second)])
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    with Archive(directory / "run") as archive:
        assert config["model"]["init_args"]["lr"] == archive.candidate(second).genome["model.init_args.lr"]


def test_only_the_best_checkpoints_are_kept_and_others_say_so(finished, tmp_path, capsys):
    directory, _ = finished
    assert len(list((directory / "run" / "candidates").rglob("*.ckpt"))) == 3
    with Archive(directory / "run") as archive:
        worst = archive.ranked(sort="val_acc")[-1]["id"]
    with pytest.raises(SystemExit) as stop:
        main(["export", str(directory / "run"), "--to", str(tmp_path), "--candidate", str(worst)])
    assert stop.value.code == 2
    assert "was not kept (evolution.keep_checkpoints)" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_the_winner_made_again_by_the_same_command(tmp_path, capsys):
    arguments = write(tmp_path, lambda config, whole: whole["evolution"].update(final=None))
    main(arguments)
    with Archive(tmp_path / "run") as archive:
        best = archive.best(1)[0]
    checkpoint = tmp_path / "run" / best["checkpoint"]
    whole = torch.load(checkpoint, weights_only=True)["state_dict"]
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "best")])
    assert "is damaged" in capsys.readouterr().err
    search = yaml.safe_load((tmp_path / "search.yaml").read_text())
    search["evolution"]["final"] = {"test": True}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    main(arguments)
    again = torch.load(tmp_path / "run" / "final" / "model.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_winner_is_retrained_with_overrides_where_asked(tmp_path, capsys):
    final = {"retrain": True, "overrides": {"trainer.max_epochs": 4}}
    main(write(tmp_path, lambda config, whole: whole["evolution"].update(final=final, budget={"candidates": 2})))
    with Archive(tmp_path / "run") as archive:
        assert archive.meta["final"]["retrained"]
    assert yaml.safe_load((tmp_path / "run" / "final" / "config.yaml").read_text())["trainer"]["max_epochs"] == 4


def test_a_model_without_a_test_says_so(tmp_path, capsys):
    def change(config, whole):
        config["model"] = {"class_path": "toys.NoTestNet"}
        whole["evolution"]["space"].pop("model.init_args.width")
        whole["evolution"] |= {"objectives": [{"monitor": "val_loss", "mode": "min"}], "budget": {"candidates": 2}}

    main(write(tmp_path, change))
    assert "not tested: NoTestNet has no test_step" in capsys.readouterr().out


@pytest.mark.slow
def test_onnx_and_torch_export_compute_what_the_model_computes(finished, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from toys import ToyNet

    directory, _ = finished
    main(["export", str(directory / "run"), "--to", str(tmp_path), "--onnx", "--torch-export"])
    points = torch.randn(32, 2)
    expected = ToyNet.load_from_checkpoint(tmp_path / "model.ckpt").eval()(points)
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(points), expected)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (computed,) = session.run(None, {session.get_inputs()[0].name: points.numpy()})
    torch.testing.assert_close(torch.from_numpy(computed), expected, rtol=1e-4, atol=1e-5)


def slow_search(config, whole):
    config["model"]["init_args"]["misbehave"] = "slow"
    config["trainer"]["max_epochs"] = 1
    whole["evolution"]["budget"] = {"candidates": 8}


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def counted(directory, status):
    try:
        return Archive(directory).counts()[status]
    except ArchiveError:
        return 0  # still being made


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()[1:]]
    direct = [child for child, parent in pairs if parent == pid]
    return direct + [far for child in direct for far in children_of(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    main(write(directory, slow_search))
    return rows_of(directory / "run")


@pytest.mark.slow
def test_ctrl_c_once_finishes_and_records_what_runs_and_the_search_continues(tmp_path, undisturbed):
    arguments = write(tmp_path, slow_search)
    with warm.Popen(command(*arguments), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: counted(tmp_path / "run", "completed") >= 2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping: running candidates are finished and recorded first" in said
    counts = Archive(tmp_path / "run").counts()
    assert counts["pending"] == 0
    assert counts["failed"] == 0
    main(arguments)
    assert rows_of(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once_and_loses_nothing_finished(tmp_path, undisturbed):
    arguments = write(tmp_path, slow_search)
    with warm.Popen(command(*arguments), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: counted(tmp_path / "run", "completed") >= 2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert Archive(tmp_path / "run").counts()["failed"] == 0
    main(arguments)
    assert rows_of(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_a_killed_controller_leaves_no_orphans_and_the_same_command_ends_as_if_nothing_had_happened(
    tmp_path, undisturbed
):
    arguments = write(tmp_path, slow_search)
    finished_before = []
    for target, popen in ((1, subprocess.Popen), (4, warm.Popen)):
        with popen(command(*arguments), stdout=subprocess.DEVNULL, start_new_session=True) as process:
            wait_for(lambda target=target: counted(tmp_path / "run", "completed") >= target)
            workers = children_of(process.pid)
            process.kill()
        assert workers
        wait_for(lambda workers=workers: not any(alive(pid) for pid in workers), seconds=20)
        finished_before.append({row[0]: row for row in rows_of(tmp_path / "run") if row[1] == "completed"})
    main(arguments)
    rows = rows_of(tmp_path / "run")
    assert rows == undisturbed
    for earlier in finished_before:
        assert all(rows[number] == row for number, row in earlier.items())


@pytest.mark.slow
def test_workers_killed_in_the_middle_cost_nothing_but_time(tmp_path, undisturbed):
    arguments = write(tmp_path, slow_search)
    with warm.Popen(command(*arguments), stdout=subprocess.DEVNULL, start_new_session=True) as process:
        for target in (1, 3):
            wait_for(lambda target=target: counted(tmp_path / "run", "completed") >= target)
            # The forkserver's children are the workers.
            workers = [pid for child in children_of(process.pid) for pid in children_of(child)]
            if workers:
                os.kill(workers[0], signal.SIGKILL)
        assert process.wait(timeout=120) == 0
    assert rows_of(tmp_path / "run") == undisturbed
    with Archive(tmp_path / "run") as archive:
        assert max(row["attempts"] for row in archive.candidates()) > 1


def test_a_default_that_no_config_can_hold_is_left_to_its_class(tmp_path):
    def change(config, whole):
        config["trainer"]["callbacks"] = [{"class_path": "Timer"}]  # whose interval is an Enum by default
        whole["evolution"]["budget"] = {"candidates": 1}
        whole["evolution"]["final"] = None

    main(write(tmp_path, change))
    with Archive(tmp_path / "run") as archive:
        assert archive.counts()["completed"] == 1
