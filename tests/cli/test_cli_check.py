"""``lightning-evo check``: what is whole, what isn't, and what a repair makes of it."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.seals import sealed
from lightning_evo.cli import main
from lightning_evo.genome import COMPLETED, Result, Uniform


def evaluate(genome, seed, directory):
    return {"value": genome["x"]}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    directory = tmp_path_factory.mktemp("check") / "run"
    with ThreadPoolExecutor(1) as pool:
        Evolution(
            function=evaluate,
            space={"x": Uniform(0, 1)},
            algorithm=RandomSearch(),
            objectives=[Objective("value")],
            budget=Budget(candidates=4),
            workers=Workers(slots=1),
            directory=directory,
            seed=1,
            executor=pool,
            progress=False,
        ).run().close()
    with ArchiveWriter(directory) as writer:
        candidate = writer.archive().candidate(3)
        writer.record_candidate(candidate.__class__(4, candidate.genome), queued=0.0)
        place = directory / "candidates" / "000004"
        place.mkdir()
        (place / "checkpoint.ckpt").write_bytes(b"weights")
        stored = "candidates/000004/checkpoint.ckpt"
        ended = Result(COMPLETED, (0.1,), checkpoint=stored, checkpoint_bytes=7)
        writer.record_result(4, sealed(ended, place / "checkpoint.ckpt"))
    return directory


@pytest.fixture
def run(ended, tmp_path):
    return Path(shutil.copytree(ended, tmp_path / "run"))


def check(capsys, *arguments):
    try:
        main(["check", *map(str, arguments)])
        code = 0
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr()


def change(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_a_search_whose_files_are_whole_is_said_to_be(run, capsys):
    code, said = check(capsys, run)
    assert code == 0
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["whole", "journal.jsonl:"],
        ["whole", "archive.sqlite:"],
        ["whole", "candidates/*/result.json:"],
        ["whole", "checkpoints:"],
    ]
    assert "4 results, all whole" in said.out


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("journal.jsonl", b'"kind":"ask"', b'"kind":"asd"', r"BROKEN  journal.jsonl: the line at byte"),
        ("archive.sqlite", b'"value": 0.', b'"value": 9.', "BROKEN  archive.sqlite: not what the journal says"),
        ("candidates/000002/result.json", b"0.", b"1.", "candidate 2's is damaged (it is not as it was written"),
        ("candidates/000004/checkpoint.ckpt", b"weights", b"heights", "candidate 4's is damaged"),
    ],
)
def test_damage_is_named_and_mended(run, capsys, name, old, new, line):
    with Archive(run) as archive:
        rows = archive.candidates([0, 1, 2, 3])
    change(run / name, old, new)
    code, said = check(capsys, run)
    assert code == 1
    assert line in said.out
    assert said.out.count("BROKEN") == 1
    code, said = check(capsys, run, "--repair")
    assert code == 0, said.out
    assert "mended  " in said.out
    assert list((run / name).parent.glob(f"{Path(name).name}.damaged-1"))
    assert check(capsys, run)[0] == 0
    with Archive(run) as archive:
        assert archive.candidates([0, 1, 2, 3]) == rows
        assert archive.recovered is None


def test_what_cannot_be_repaired_is_refused_and_left_alone(run, capsys):
    change(run / "journal.jsonl", b'"kind":"ask"', b'"kind":"asd"')
    change(run / "archive.sqlite", b'"value": 0.', b'"value": 9.')
    before = (run / "journal.jsonl").read_bytes(), (run / "archive.sqlite").read_bytes()
    code, said = check(capsys, run)
    assert code == 1
    assert said.out.count("BROKEN") == 3
    code, said = check(capsys, run, "--repair")
    assert code == 2
    assert "Put back a copy of one of the two files" in said.err
    assert ((run / "journal.jsonl").read_bytes(), (run / "archive.sqlite").read_bytes()) == before


def test_a_repair_while_the_search_runs_is_refused(run, capsys):
    change(run / "candidates/000002/result.json", b"0.", b"1.")
    with ArchiveWriter(run):
        code, said = check(capsys, run, "--repair")
    assert code == 2
    assert "another search is writing here" in said.err


def test_a_directory_without_a_search_is_refused(tmp_path, capsys):
    code, said = check(capsys, tmp_path)
    assert code == 2
    assert "no archive here" in said.err
