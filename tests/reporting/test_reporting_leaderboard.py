import csv
import io
import json
import math
import subprocess
import sys

import pytest

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Prediction, Result
from lightning_evo.genome.names import short_names
from lightning_evo.reporting.leaderboard import leaderboard, tracebacks

ACCURACIES = [0.5, 0.9, None, 0.7, ...]


@pytest.fixture
def run(tmp_path):
    with ArchiveWriter(tmp_path / "net") as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        for id, accuracy in enumerate(ACCURACIES):
            genome = {"model.init_args.lr": 0.1**id, "model.init_args.width": 16 * id, "data.init_args.width": 28}
            if id % 2:
                genome["model.init_args.act"] = {"class_path": "torch.nn.ReLU"}
            writer.record_candidate(Candidate(id, Genome(genome), parents=(0, 1)[:id]), queued=0.0)
            if accuracy is None:
                error = "Traceback (most recent call last):\n  ...\nRuntimeError: [bold]no[/bold]"
                writer.record_result(id, Result("failed", error=error, error_type="RuntimeError: [bold]no[/bold]"))
            elif accuracy is not ...:
                metrics = {"val_acc": accuracy, "val_loss": math.nan if id else 1.0}
                cost = {"params": 10 ** (5 + id), "seconds": 1.5}
                writer.record_result(id, Result("completed", (accuracy,), metrics=metrics, cost=cost))
    return tmp_path / "net"


def ids(run, **arguments):
    return [row["id"] for row in json.loads(leaderboard(run, format="json", **arguments))]


def table(run, monkeypatch, width, **arguments):
    monkeypatch.setenv("COLUMNS", str(width))
    return leaderboard(run, **arguments)


def test_the_best_come_first_failed_and_pending_last(run):
    assert ids(run) == [1, 3, 0, 2, 4]
    assert ids(run, top=2) == [1, 3]
    assert ids(run, top=0) == [1, 3, 0, 2, 4]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("id", [0, 1, 2, 3, 4]),
        ("-id", [4, 3, 2, 1, 0]),
        ("val_acc", [1, 3, 0, 2, 4]),
        ("-val_acc", [0, 3, 1, 2, 4]),
        ("lr", [4, 3, 2, 1, 0]),
        ("model.init_args.lr", [4, 3, 2, 1, 0]),
        ("-model.width", [4, 3, 2, 1, 0]),
        ("cost/params", [0, 1, 3, 2, 4]),
        ("-params", [3, 1, 0, 2, 4]),
        ("val_loss", [0, 1, 2, 3, 4]),
    ],
)
def test_any_column_sorts_by_its_full_name_or_an_unambiguous_end(run, key, expected):
    assert ids(run, sort=key) == expected


def test_an_unknown_or_ambiguous_column_is_refused_naming_the_columns(run):
    with pytest.raises(
        ValueError, match=r"sort: there is no column 'nope'; the columns are id, status, val_acc, model\."
    ):
        leaderboard(run, sort="nope")
    with pytest.raises(ValueError, match=r"'width' is ambiguous: model\.init_args\.width or data\.init_args\.width"):
        leaderboard(run, sort="-width")
    with pytest.raises(ValueError, match="top: -1"):
        leaderboard(run, top=-1)


def test_json_holds_every_column_and_null_for_what_it_cannot_say(run):
    rows = json.loads(leaderboard(run, format="json"))
    with Archive(run) as archive:
        assert list(rows[0]) == archive.columns()
    assert rows[0]["val_acc"] == 0.9
    assert rows[0]["parents"] == [0]
    assert rows[0]["model.init_args.act"] == {"class_path": "torch.nn.ReLU"}
    assert rows[0]["metrics/val_loss"] is None
    assert rows[2]["model.init_args.act"] is None


def test_csv_parses_back(run):
    rows = list(csv.DictReader(io.StringIO(leaderboard(run, format="csv"))))
    assert [row["id"] for row in rows] == ["1", "3", "0", "2", "4"]
    assert float(rows[0]["val_acc"]) == 0.9
    assert json.loads(rows[0]["model.init_args.act"]) == {"class_path": "torch.nn.ReLU"}
    assert json.loads(rows[1]["parents"]) == [0, 1]
    assert math.isnan(float(rows[0]["metrics/val_loss"]))
    assert rows[3]["error_type"] == "RuntimeError: [bold]no[/bold]"


@pytest.mark.parametrize("width", [250, 100, 80, 40, 10])
def test_the_table_fits_its_terminal(run, monkeypatch, width):
    text = table(run, monkeypatch, width)
    assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [250, 80])
def test_the_table_names_genes_shortly_and_says_what_failed(run, monkeypatch, width):
    text = table(run, monkeypatch, width)
    for word in ("1 pending, 3 completed, 1 failed", "val_acc", "lr", "model.width", "data.width", "0.9", "1M"):
        assert word in text
    assert "[bold]no[/bold]" in text
    assert "init_args" not in text
    lines = [line for line in text.splitlines() if "completed" in line and "│" in line]
    assert [line.split("│")[1].strip() for line in lines] == ["1", "3", "0"]


def test_a_run_with_hundreds_of_genes_or_none_asked_yet_has_a_table_too(tmp_path, monkeypatch):
    with ArchiveWriter(tmp_path) as writer:
        assert "no candidates yet" in table(tmp_path, monkeypatch, 80)
        assert json.loads(leaderboard(tmp_path, format="json")) == []
        genome = {f"model.init_args.block_{i}.init_args.width": i for i in range(300)}
        writer.record_candidate(Candidate(0, Genome(genome)), queued=0.0)
        assert "block_299.width=299" in table(tmp_path, monkeypatch, 80)


def test_a_pareto_search_shows_its_front_first(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc"}, {"monitor": "cost/params", "mode": "min"}])
        for id, fitness in enumerate([(0.5, 10), (0.9, 20), (0.6, 30)]):
            writer.record_candidate(Candidate(id, Genome({"g": id})), queued=0.0)
            writer.record_result(id, Result("completed", fitness, cost={"params": fitness[1]}))
    assert ids(tmp_path) == [1, 0, 2]
    assert ids(tmp_path, sort="params") == [0, 1, 2]


def test_short_names_avoid_other_columns():
    assert short_names(["model.id", "a.b", "b"], taken=["id"]) == {"model.id": "model.id", "a.b": "a.b", "b": "b"}
    assert short_names(["a.x", "a.init_args.x"]) == {"a.x": "a.x", "a.init_args.x": "a.init_args.x"}


def test_a_gene_and_a_cost_of_one_name_are_told_apart(tmp_path, monkeypatch):
    with ArchiveWriter(tmp_path / "net") as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        writer.record_candidate(Candidate(0, Genome({"triggers.init_args.epochs": 7})), queued=0.0)
        writer.record_result(0, Result("completed", (0.5,), cost={"epochs": 3}))
    shown = table(tmp_path / "net", monkeypatch, 120)
    assert "triggers.epochs" in shown


def test_tracebacks_show_each_error_once_with_the_candidates_it_hit(run):
    text = tracebacks(run)
    assert "RuntimeError: [bold]no[/bold]\n  candidates: 2\n\nTraceback" in text
    with ArchiveWriter(run) as writer:
        writer.record_result(4, Result("failed", error="other", error_type="RuntimeError: [bold]no[/bold]"))
    assert "candidates: 2, 4" in tracebacks(run)
    assert tracebacks(run).count("Traceback") == 1


def test_no_failure_is_said_so(tmp_path):
    with ArchiveWriter(tmp_path):
        assert tracebacks(tmp_path) == "no candidate failed"


def test_a_place_without_an_archive_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="no archive here"):
        leaderboard(tmp_path)


def test_reading_needs_neither_torch_nor_lightning(run):
    code = (
        "import sys; from lightning_evo.reporting.leaderboard import leaderboard; leaderboard(sys.argv[1]); "
        "print(sorted({'torch', 'lightning', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


LAYERS = ["Conv2d (16, 8, 8) kernel=3 stride=1", "ReLU (16, 8, 8)", "Flatten 1024", "Linear 10"]


@pytest.fixture
def layers_run(tmp_path):
    with ArchiveWriter(tmp_path / "layers") as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        genome = Genome({"model.init_args.layers": LAYERS, "model.init_args.lr": 0.1})
        writer.record_candidate(Candidate(0, genome), queued=0.0)
        writer.record_result(0, Result("completed", (0.9,), metrics={"val_acc": 0.9}))
    return tmp_path / "layers"


@pytest.mark.parametrize("width", [60, 200])
def test_layers_stand_one_below_the_other_in_columns(layers_run, monkeypatch, width):
    shown = table(layers_run, monkeypatch, width)
    # The title has a random name, which may hold a 10 as well.
    cells = [line for line in shown.splitlines() if line.startswith("│")]
    rows = [line for line in cells if "(16, 8, 8)" in line or "10" in line]
    starts = [line.index(what) for line, what in zip(rows, ["(16, 8, 8)", "(16, 8, 8)", "1024", "10"], strict=True)]
    assert len(set(starts)) == 1
    assert "lr=0.1" in shown or "0.1 " in shown


def test_layers_are_a_list_for_programs(layers_run):
    assert json.loads(leaderboard(layers_run, format="json"))[0]["model.init_args.layers"] == LAYERS
    (row,) = csv.DictReader(io.StringIO(leaderboard(layers_run, format="csv")))
    assert json.loads(row["model.init_args.layers"]) == LAYERS


@pytest.mark.parametrize("width", [60, 300])
def test_what_was_predicted_is_said_beside_the_result(tmp_path, monkeypatch, width):
    with ArchiveWriter(tmp_path / "net") as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        for id, used in enumerate([True, False, None]):
            prediction = None if used is None else Prediction((0.75,), (0.0125,), used=used, results=20)
            writer.record_candidate(Candidate(id, Genome({"lr": 0.1}), prediction=prediction), queued=0.0)
            writer.record_result(id, Result("completed", (0.8,)))
    text = " ".join(table(tmp_path / "net", monkeypatch, width).replace("│", " ").split())
    assert text.count("predicted 0.75 ± 0.013") == 2
    assert text.count("chosen, predicted") == 1


def test_a_table_has_ten_rows_and_programs_get_all_unless_told_otherwise(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        for id in range(12):
            writer.record_candidate(Candidate(id, Genome({"lr": id})), queued=0.0)
    assert len(ids(tmp_path)) == 12
    assert len(ids(tmp_path, top=3)) == 3
    assert len(list(csv.DictReader(io.StringIO(leaderboard(tmp_path, format="csv"))))) == 12
    assert leaderboard(tmp_path).count("pending │") == 10
