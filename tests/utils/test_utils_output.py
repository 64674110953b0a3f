"""Files of output keep their ends, whoever goes on writing to them."""

from __future__ import annotations

import os
import re

import pytest

from lightning_evo.utils.output import bound_output

MOST = 1000


def left_out(text):
    return int(
        re.search(r"\n\n\[\.\.\. +([\d,]+) bytes of output left out here \.\.\.\]\n\n", text)[1].replace(",", "")
    )


@pytest.mark.parametrize("chunks", [[2, 1], [40], [10, 1, 50, 3, 0, 77]])
def test_both_ends_stay_and_what_is_missing_is_counted(chunks, tmp_path):
    path, written = tmp_path / "output.log", ""
    with path.open("ab", buffering=0) as file:  # as a child process has it, which nobody tells
        for chunk in chunks:
            more = "".join(f"line {len(written)} {i}\n" for i in range(chunk * 20))
            file.write(more.encode())
            written += more
            bound_output(path, MOST)
    text = path.read_text()
    assert len(text) <= 3 * MOST
    if len(written) <= 3 * MOST:
        assert text == written
        return
    assert text[:MOST] == written[:MOST]
    assert text[-MOST:] == written[-MOST:]
    note = len(re.search(r"\n\n\[[^\n]*\]\n\n", text)[0])
    assert left_out(text) + len(text) - note == len(written)


def test_what_is_no_ordinary_file_is_left_alone(tmp_path):
    (tmp_path / "long").write_text("x" * 9000)
    (tmp_path / "link").symlink_to(tmp_path / "long")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "absent", "."):
        bound_output(tmp_path / name, MOST)
    assert (tmp_path / "long").read_text() == "x" * 9000
