"""Names, genes and errors that no terminal, XML parser or spreadsheet may take for its own, wherever they are shown."""

from __future__ import annotations

import csv
import io
import random
from xml.etree import ElementTree

import pytest

from lightning_evo import Archive, Objective
from lightning_evo.algorithms import RandomSearch
from lightning_evo.archive import ArchiveWriter
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Candidate, Categorical, Genome, Result, SearchSpace, Uniform
from lightning_evo.reporting.backfill import backfill
from lightning_evo.reporting.exports import export_csv, export_optuna
from lightning_evo.reporting.leaderboard import leaderboard
from lightning_evo.reporting.page import report
from lightning_evo.reporting.pictures import plot
from lightning_evo.reporting.pictures.kinds import KINDS
from lightning_evo.reporting.predictors import as_text, predictor_report
from lightning_evo.reporting.predictors import plot as predictor_plot

TEXTS = (
    "caf\udce9.png",
    "\x1b]52;c;aGk=\x07\x1b[31m",
    "\x9b2J\x85\x00\x0b\x0c",
    "$\\frac{1}{$ and $x$ \\$",
    "[red]x[/red] [link=http://x]y[/] :smile:",
    "</svg><script>alert(1)</script>&amp;]]>",
    "=cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "'quoted",
    "\u202etxt\u2066\ufffe\uffff",
    "one\r\ntwo\u2028three",
)
GENE, METRIC = "model.\x1b[31m$_{$</text>=", "loss\x07 $^$ [red] & \x9d"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile") / "\x1b[31m$x$ [red]& <run>"
    space = SearchSpace({GENE: Categorical(list(TEXTS)), "=lr": Uniform(0, 1)})
    objectives = (Objective("val_acc", "max"), Objective(METRIC, "min"))
    rng = random.Random(0)
    with ArchiveWriter(directory) as writer:
        described = {"space": space, "objectives": list(objectives), "algorithm": RandomSearch()}
        described = {"evolution": {name: describe(each) for name, each in described.items()}, "config": {}}
        writer.update_meta({"objectives": describe(list(objectives)), "search": described, "seed": 1})
        for i in range(40):
            genome = Genome({GENE: TEXTS[i % len(TEXTS)], "=lr": rng.random()})
            parents = (rng.randrange(i),) if i else ()
            writer.record_candidate(Candidate(i, genome, parents, origin=TEXTS[i % len(TEXTS)]), queued=float(i))
            text = TEXTS[i % len(TEXTS)]
            metrics = {"val_acc": rng.random(), METRIC: rng.random(), text: 1.0}
            known = {"started": i + 0.1, "ended": i + 0.9, "slot": 0, "cost": {"seconds": 0.8, "epochs": 2}}
            if i % 5 == 4:
                result = Result.failure(ValueError(text), **known)
            else:
                curve = tuple({"epoch": epoch, **metrics} for epoch in range(2))
                result = Result("completed", (metrics["val_acc"], metrics[METRIC]), metrics, curve, **known)
            writer.record_result(i, result.storable())
    return directory


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("predicted",)])
@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_pictures_of_any_names_are_whole(run, tmp_path, kind, ending):
    path = tmp_path / f"picture.{ending}"
    plot(run, kind, path)
    if ending == "svg":
        ElementTree.parse(path)
        assert "<script>" not in path.read_text()


def test_cells_of_a_table_are_no_formulas_and_can_be_read_back(run, tmp_path):
    export_csv(run, tmp_path / "tables")
    text = (tmp_path / "tables" / "candidates.csv").read_bytes().decode()
    assert not any(sign in text for sign in "\x1b\x07\x9b\x9d\x00\u202e\r")
    rows = list(csv.DictReader(io.StringIO(text)))
    gene = next(name for name in rows[0] if "</text>=" in name)
    assert "'=lr" in rows[0]
    for row in rows:
        for name, cell in row.items():
            assert not cell.lstrip().startswith(("=", "+", "@", "\t")), name
            assert not cell.startswith("-") or float(cell) < 0
    plain = [text for text in TEXTS if text.isprintable()]
    assert set(plain) <= {row[gene].removeprefix("'") for row in rows}
    assert rows[0]["val_acc"] == repr(Archive(run).candidates()[0]["val_acc"])


def test_a_table_on_a_terminal_is_text_alone(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for format in ("table", "csv", "json"):
        text = leaderboard(run, 0, format=format)
        assert not any(sign in text for sign in "\x1b\x07\x9b\x9d\x00\u202e\r")
    assert "[red]x[/red] [link=http://x]y[/] :smile:" in " ".join(leaderboard(run, 0, format="csv").split())


def test_the_page_optuna_and_tensorboard_take_any_text(run, tmp_path):
    pytest.importorskip("tensorboard")
    optuna = pytest.importorskip("optuna")
    from lightning_evo.reporting.tensorboard import TensorBoardReporter

    report(run, tmp_path / "report.html")
    export_optuna(run, tmp_path / "study.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    (study,) = optuna.get_all_study_summaries(storage)
    assert study.n_trials == 40
    backfill(run, TensorBoardReporter(), lambda line: pytest.fail(line))


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_predictor_plots_of_any_names_are_whole(run, tmp_path, ending):
    made = predictor_report([run], ["forest"], at=[12], monitor=METRIC, repeats=1)
    assert "\x1b" not in as_text(made)
    predictor_plot(made, tmp_path / f"plot.{ending}")
    text = (tmp_path / f"plot.{ending}").read_text()
    if ending == "svg":
        ElementTree.fromstring(text)
    assert "loss\x07" not in text
