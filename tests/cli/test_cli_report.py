"""`lightning-evo report` writes the page, or serves it until Ctrl-C."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import webbrowser

import pytest
from commands import command

from lightning_evo.archive import ArchiveWriter
from lightning_evo.cli.main import main
from lightning_evo.genome import Candidate, Genome, Result


@pytest.fixture
def run(tmp_path):
    return written(tmp_path / "run")


def written(directory):
    with ArchiveWriter(directory) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        for id in range(3):
            writer.record_candidate(Candidate(id, Genome({"model.lr": 0.1 * (id + 1)})), queued=float(id))
            writer.record_result(id, Result("completed", (id / 10,)))
    return directory


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["report", *map(str, arguments)])
    said = capsys.readouterr()
    assert exit.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("lightning-evo: error: ")
    return said.err


def test_the_page_is_written_into_the_runs_directory_and_its_path_printed(run, capsys):
    main(["report", str(run)])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_the_page_goes_where_it_is_asked_to(run, tmp_path, capsys):
    main(["report", str(run), "--to", str(tmp_path / "page.html")])
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert not (run / "report.html").exists()


def test_of_several_runs_there_is_one_page_in_the_current_folder(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["report", str(run), str(written(tmp_path / "other"))])
    assert capsys.readouterr().out == "report.html\n"
    assert (tmp_path / "report.html").is_file()


def test_the_browser_opens_the_page_where_asked(run, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    main(["report", str(run)])
    assert opened == []
    main(["report", str(run), "--open"])
    assert opened == [(run / "report.html").as_uri()]


def test_bad_input_is_one_line_that_names_it(run, tmp_path, capsys):
    assert f"{tmp_path}: no archive here" in refused([tmp_path], capsys)
    assert f"{run}: given more than once" in refused([run, run], capsys)
    assert f"--to {tmp_path}: is a directory" in refused([run, "--to", tmp_path], capsys)
    assert "does not exist" in refused([run, "--to", tmp_path / "gone" / "page.html"], capsys)
    assert "--port 80: only applies with --watch" in refused([run, "--port", 80], capsys)
    assert "--port -1: is not between 0" in refused([run, "--watch", "--port", -1], capsys)
    assert "--watch serves the page and writes no file" in refused([run, "--watch", "--to", "x.html"], capsys)
    assert "no run nope" in refused([run, "--run", "nope"], capsys)


def test_a_target_that_cannot_be_written_is_refused_and_nothing_is_left(run, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    # Root may write anywhere; so it is the size of files that is limited, to less than the page's.
    line = (
        f"trap '' XFSZ; ulimit -f 2000; exec {' '.join(command('report', str(run), '--to', str(closed / 'page.html')))}"
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"lightning-evo: error: --to .*page\.html: cannot write the file \(.*\)\n", done.stderr)
    assert list(closed.iterdir()) == []


def test_reporting_needs_neither_torch_nor_lightning(run):
    code = f"""
import sys
from lightning_evo.cli.main import main
main(["report", {str(run)!r}])
assert not {{"torch", "lightning"}} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)


@pytest.mark.parametrize(
    ("disposition", "ended_by", "hint"),
    [("SIG_DFL", signal.SIGINT, "press Ctrl-C"), ("SIG_IGN", signal.SIGTERM, r"kill \d+")],
    ids=["in a terminal", "under nohup"],
)
def test_watching_serves_the_page_until_it_is_stopped_and_ends_without_a_word(run, disposition, ended_by, hint):
    arguments = command("report", str(run), "--watch")
    start = f"signal.signal(signal.SIGINT, signal.{disposition}); os.execv({arguments[0]!r}, {arguments!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, signal; {start}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(rf"(http://127\.0\.0\.1:\d+/) \({hint} to stop\)\n", line)
        assert found, process.stderr.read() if process.poll() is not None else line
        with urllib.request.urlopen(f"{found[1]}data", timeout=60) as answer:
            data = json.loads(gzip.decompress(answer.read()))
        assert data["runs"][0]["candidates"]["id"] == [0, 1, 2]
        process.send_signal(ended_by)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "", "")
    assert not (run / "report.html").exists()


def test_the_command_is_among_those_that_are_listed(capsys):
    main(["--help"])
    assert "lightning-evo report DIR" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        main(["report", "--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--to", "--watch", "--port", "--open", "--run"))
    assert os.linesep in said
