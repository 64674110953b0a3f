"""`lightning-evo plot`, as a user types it."""

import os
import subprocess
import sys

import pytest
from commands import run as command

from lightning_evo.archive import ArchiveWriter
from lightning_evo.cli import main
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting.pictures import KINDS

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    directory = tmp_path_factory.mktemp("search") / "run"
    with ArchiveWriter(directory) as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        for id in range(8):
            genome = Genome({"model.init_args.lr": 0.1 / (id + 1), "model.init_args.width": 2**id})
            writer.record_candidate(Candidate(id, genome, parents=(id - 1,) * (id > 0)), queued=1.0 + id)
            curve = [{"epoch": epoch, "val_acc": epoch / (9 - id)} for epoch in range(3)]
            times = {"started": 1.0 + id, "ended": 2.0 + id, "slot": id % 2}
            cost = {"seconds": 0.5, "epochs": 3}
            writer.record_result(id, Result("completed", (2 / (9 - id),), curve=curve, cost=cost, **times))
    return str(directory)


def refusal(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plot", *map(str, arguments)])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_picture_is_written_and_its_path_printed(search, tmp_path):
    done = command(
        "plot", search, "lineage", "--to", "x.svg", "--width", "12", "--height", "9", "--candidate", "5", "--top", "3",
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "x.svg\n"), done.stderr
    assert 'width="340.157' in (tmp_path / "x.svg").read_text()


def test_several_runs_come_before_the_kind(search, tmp_path, capsys):
    main(["plot", search, search, "progress", "--to", str(tmp_path / "x.pdf"), "--against", "seconds"])
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    assert "front: shows a single run, but 2 were given" in refusal([search, search, "front", "--to", "x.pdf"], capsys)


def test_help_lists_every_picture_and_what_its_options_mean(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plot", "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, kind in KINDS.items():
        assert f"{name} {kind.description}" in said
        for option, meaning in kind.options.items():
            assert f"--{option}" in said
            assert f"{name}: {meaning}" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pie", "--to", "x.pdf"], "kind: 'pie' is unknown; choose from progress: "),
        (["progress", "--to", "x.gif"], "to: x.gif does not end in one of .pdf, .svg, .png"),
        (["progress", "--to", "none/x.pdf"], "to: none/x.pdf: the directory"),
        (["front", "--to", "x.pdf"], "has one objective (val_acc); a Pareto front needs at least two"),
        (["importance", "--to", "x.pdf"], "only 8 of the required 20 candidates have a fitness"),
        (["predicted", "--to", "x.pdf"], "there are no predictions of val_acc"),
        (["costs", "--to", "x.pdf", "--top", "3"], "top: does not apply to costs"),
        (["curves", "--to", "x.pdf", "--candidate", "99"], "has no candidate 99"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(search, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    error = refusal([search, *arguments], capsys)
    assert error.startswith("lightning-evo: error: ")
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_search_is_refused(tmp_path, capsys):
    assert "no archive here" in refusal([tmp_path, "progress", "--to", tmp_path / "x.pdf"], capsys)


def test_without_matplotlib_the_error_says_what_to_install(search, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refusal([search, "progress", "--to", tmp_path / "x.pdf"], capsys)
    assert "pip install 'lightning-evo[plot]'" in said


def test_drawing_imports_no_torch(search, tmp_path):
    code = (
        "import sys; from lightning_evo.cli import main; "
        f"main(['plot', {search!r}, 'progress', '--to', {str(tmp_path / 'x.pdf')!r}]); "
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
