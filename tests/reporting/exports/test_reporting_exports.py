import csv
import json
import math
import os
import subprocess
import sys

import pytest
from reporting_archives import FEATURED, HOSTILE, STRANGE_GENE, empty, featured, unfinished

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Prediction, Result
from lightning_evo.reporting.exports import export_csv, export_json, read_json


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return featured(tmp_path_factory.mktemp("featured"), objectives=2)


def told_of(run):
    """Everything the archive says of its candidates, as texts: there NaN is equal to itself."""
    with Archive(run) as archive:
        asked = [candidate for candidate, result in archive.events() if result is None]
        return [(repr(vars(candidate)), record(archive.result(candidate.id))) for candidate in asked]


def record(result):
    return None if result is None else repr(result.to_dict())


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_read_back_holds_the_candidates_and_results_of_the_archive(run, tmp_path):
    back = read_json(export_json(run, tmp_path / "all.json"))
    assert [(repr(vars(candidate)), record(result)) for candidate, result in back.candidates] == told_of(run)
    with Archive(run) as archive:
        assert back.run == archive.run == HOSTILE
        assert back.objectives == archive.objectives
        assert back.meta == archive.meta
        assert [candidate.genome.rates for candidate, _ in back.candidates] == [
            archive.candidate(id).genome.rates for id in range(FEATURED)
        ]
    assert back.space[STRANGE_GENE]["class_path"] == "lightning_evo.genome.Categorical"


def test_json_is_strict_and_names_what_is_not_finite(run, tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    held = json.loads(export_json(run, tmp_path / "all.json").read_text(), parse_constant=refuse)
    assert held["candidates"][5]["result"]["fitness"][0] == "NaN"
    assert held["candidates"][6]["result"]["metrics"]["val_loss"] == "Infinity"
    assert held["candidates"][22]["result"] is None
    assert [each["told"] for each in held["candidates"][:3]] == [0, 1, 2]
    assert held["candidates"][1]["queued"] == pytest.approx(1.75e9 + 2)


def test_a_text_that_looks_like_a_number_without_end_stays_a_text_in_genes_and_errors(tmp_path):
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc"}])
        genome = Genome({"x": "NaN", "y": ["Infinity"]}, rates={"x": 0.5})
        prediction = Prediction((math.inf,), (math.nan,), proxies={"naswot": -math.inf})
        writer.record_candidate(Candidate(0, genome, prediction=prediction), queued=0.0)
        writer.record_result(0, Result("failed", error="NaN", error_type="-Infinity", metrics={"a": -math.inf}))
    [(candidate, result)] = read_json(export_json(tmp_path / "run", tmp_path / "all.json")).candidates
    assert (candidate.genome, candidate.genome.rates) == (genome, {"x": 0.5})
    assert candidate.prediction.mean == (math.inf,)
    assert math.isnan(candidate.prediction.std[0])
    assert candidate.prediction.proxies == {"naswot": -math.inf}
    assert (result.error, result.error_type, result.metrics) == ("NaN", "-Infinity", {"a": -math.inf})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ('{"candidates": []}', "not a file written by lightning-evo export --json"),
        ('{"format": "lightning-evo run", "version": 2}', "format version 2; this lightning-evo reads version 1"),
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path, content, said):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "other.json")


# -- CSV ---------------------------------------------------------------------------------------------------------------


def test_the_table_of_candidates_holds_every_column_of_every_candidate(run, tmp_path):
    rows = table(export_csv(run, tmp_path / "csv")[0])
    with Archive(run) as archive:
        assert list(rows[0]) == archive.columns()
        expected = archive.candidates()
    assert [int(row["id"]) for row in rows] == list(range(FEATURED))
    assert [row["status"] for row in rows] == [row["status"] for row in expected]
    assert [float(row["val_acc"]) for row in rows[:3]] == [row["val_acc"] for row in expected[:3]]
    assert math.isnan(float(rows[5]["val_acc"]))
    assert math.isinf(float(rows[6]["metrics/val_loss"]))
    assert rows[22]["val_acc"] == ""
    assert json.loads(rows[18]["parents"]) == expected[18]["parents"] == [14, 13]
    values = [row[STRANGE_GENE] for row in expected]
    shown = [json.loads(row[STRANGE_GENE]) if row[STRANGE_GENE].startswith("{") else row[STRANGE_GENE] for row in rows]
    assert shown == values
    assert rows[3]["error_type"] == expected[3]["error_type"]


def test_the_table_of_curves_has_a_row_per_candidate_and_epoch(run, tmp_path):
    rows = table(export_csv(run, tmp_path / "csv")[1])
    with Archive(run) as archive:
        expected = archive.curves()
    assert [(int(row["id"]), int(row["epoch"])) for row in rows] == [(row["id"], row["epoch"]) for row in expected]
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in expected]


def test_the_table_of_lineage_says_who_descends_from_whom_and_by_which_genes(run, tmp_path):
    rows = table(export_csv(run, tmp_path / "csv")[2])
    with Archive(run) as archive:
        genomes = {id: archive.candidate(id) for id in range(FEATURED)}
    parents = {}
    for row in rows:
        child, parent = genomes[int(row["child"])], genomes[int(row["parent"])]
        assert (row["inherits"] == "true") == (child.inherits == parent.id)
        if row["position"]:
            parents.setdefault(child.id, []).append(parent.id)
        again = dict(parent.genome)
        for path, (before, after) in json.loads(row["changed"]).items():
            assert parent.genome.get(path) == before != after
            again[path] = after
        assert {path: value for path, value in again.items() if value is not None} == dict(child.genome)
    assert parents == {id: list(candidate.parents) for id, candidate in genomes.items() if candidate.parents}
    # 17 continues the training of 16, which is no parent of it.
    assert [row["position"] for row in rows if (row["child"], row["parent"]) == ("17", "16")] == [""]
    assert [row["changed"] for row in rows if row["child"] == "9"] == ["{}"]


def test_what_is_known_of_the_run_stands_beside_the_tables(run, tmp_path):
    held = json.loads(export_csv(run, tmp_path / "csv")[3].read_text())
    with Archive(run) as archive:
        assert held["meta"] == archive.meta
    assert held["run"] == HOSTILE


# -- all of them -------------------------------------------------------------------------------------------------------


def to_csv(run, to, **options):
    return export_csv(run, to, **options)[0]


EXPORTS = pytest.mark.parametrize(("export", "option"), [(to_csv, "--csv"), (export_json, "--json")])


@EXPORTS
@pytest.mark.parametrize(("build", "candidates"), [(empty, 0), (unfinished, 4)])
def test_a_run_without_a_finished_candidate_is_exported_as_it_is(tmp_path, export, option, build, candidates):
    written = export(build(tmp_path / "run"), tmp_path / "out")
    count = len(table(written)) if option == "--csv" else len(read_json(written).candidates)
    assert count == candidates


@EXPORTS
def test_a_search_that_still_writes_is_exported_and_not_kept_waiting(tmp_path, export, option):
    with ArchiveWriter(tmp_path / "run") as writer:
        for id in range(3):
            writer.record_candidate(Candidate(id, Genome({"x": id})), queued=0.0)
        written = export(tmp_path / "run", tmp_path / "out")
        writer.record_result(0, Result("completed", (1.0,)))
    assert written.exists()


@EXPORTS
def test_what_is_there_already_stays_unless_told_otherwise(run, tmp_path, export, option):
    written = export(run, tmp_path / "out")
    written.write_text("mine")
    with pytest.raises(ValueError, match=f"^{option} .*the file already exists"):
        export(run, tmp_path / "out")
    assert written.read_text() == "mine"
    export(run, tmp_path / "out", overwrite=True)
    assert written.read_text() != "mine"


@EXPORTS
def test_a_place_that_cannot_be_written_is_refused_by_its_option(run, tmp_path, export, option):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"^{option} .*file"):
        export(run, tmp_path / "file" / "out")


@EXPORTS
def test_a_place_without_an_archive_is_refused_and_nothing_is_written(tmp_path, export, option):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ArchiveError, match="no archive here"):
        export(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@EXPORTS
def test_an_export_that_breaks_off_leaves_no_file(run, tmp_path, export, option, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    monkeypatch.setattr("pathlib.Path.rename", full)
    with pytest.raises(ValueError, match=f"^{option} .*the disk is full"):
        export(run, tmp_path / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_exporting_imports_no_torch():
    code = "import sys, lightning_evo.reporting.exports; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
