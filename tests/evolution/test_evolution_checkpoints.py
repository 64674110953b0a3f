"""Which checkpoints stay on disk: the best few, and those that somebody may still inherit from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.seals import sealed
from lightning_evo.evolution.checkpoints import Checkpoints
from lightning_evo.genome import Candidate, Genome, Objective, Result

ACCURACY = [Objective("val_acc")]
SPOILS = {
    "gone": Path.unlink,
    "cut": lambda path: path.write_bytes(b"wei"),
    "zeroed": lambda path: path.write_bytes(bytes(7)),
    "flipped": lambda path: path.write_bytes(b"weights"[:-1] + b"r"),
}
"""What may happen to a checkpoint of seven bytes."""


class Run:
    """An archive whose candidates' checkpoints are small files."""

    def __init__(self, directory, count, objectives=ACCURACY):
        self.directory = Path(directory)
        self.writer = ArchiveWriter(directory)
        self.archive = self.writer.archive()
        self.checkpoints = Checkpoints(self.directory, count, objectives)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.archive.close()
        self.writer.close()

    def end(self, id, fitness, needed=(), status="completed", parents=()):
        candidate = Candidate(id, Genome({"x": id}), parents=parents)
        path = f"candidates/{id:06d}/checkpoint.ckpt"
        (self.directory / path).parent.mkdir(parents=True)
        (self.directory / path).write_bytes(b"weights")
        result = Result(status, fitness=tuple(fitness), checkpoint=path, checkpoint_bytes=7)
        result = sealed(result, self.directory / path)
        self.writer.record_candidate(candidate, queued=0.0)
        self.writer.record_result(id, result)
        self.checkpoints.add(candidate, result)
        self.checkpoints.drop(needed, self.writer)

    def parent_of(self, id, inherits):
        return self.checkpoints.parent_of(Candidate(id, Genome({"x": id}), inherits=inherits), self.archive.candidate)

    @property
    def on_disk(self):
        return {int(path.parent.name) for path in self.directory.glob("candidates/*/checkpoint.ckpt")}

    @property
    def in_archive(self):
        return {row["id"] for row in self.archive.candidates() if row["checkpoint"]}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.integers(0, 4), st.sets(st.integers(0, 7)))
def test_the_best_few_and_the_needed_stay_and_the_archive_knows_which(values, count, needed):
    with tempfile.TemporaryDirectory() as directory, Run(directory, count) as run:
        for id, value in enumerate(values):
            run.end(id, [value], needed)
        best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
        expected = set(best) | (needed & set(range(len(values))))
        assert run.on_disk == run.in_archive == expected
        assert run.checkpoints.usage.kept == len(expected)
        assert run.checkpoints.bytes == 7 * len(expected) <= run.checkpoints.peak_bytes


def test_with_several_objectives_the_front_is_kept(tmp_path):
    with Run(tmp_path, 2, [Objective("val_acc"), Objective("cost/params", "min")]) as run:
        for id, fitness in enumerate([(0.5, 50), (0.9, 100), (0.4, 60), (0.8, 10)]):
            run.end(id, fitness)
        assert run.on_disk == {1, 3}


def test_a_stopped_candidate_takes_no_place_among_the_best_but_may_be_inherited_from(tmp_path):
    with Run(tmp_path, 1) as run:
        run.end(0, [0.5])
        run.end(1, [0.9], needed={1}, status="stopped")
        assert run.on_disk == {0, 1}
        run.end(2, [0.4])
        assert run.on_disk == {0}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_where_a_parents_checkpoint_is_lost_the_nearest_ancestors_is_taken(spoil, tmp_path):
    with Run(tmp_path, 9) as run:
        run.end(0, [0.5])
        run.end(1, [0.6], parents=(0,))
        run.end(2, [0.7], parents=(1,))
        assert (run.parent_of(3, 2).candidate, run.parent_of(3, 2).why) == (2, "")
        spoil(tmp_path / "candidates/000002/checkpoint.ckpt")
        found = run.parent_of(3, 2)
        assert (found.candidate, found.asked) == (1, 2)
        assert "candidate 2" in found.why
        for id in (0, 1):
            spoil(tmp_path / f"candidates/{id:06d}/checkpoint.ckpt")
        assert run.parent_of(3, 2).checkpoint == ""


def test_nothing_is_inherited_where_nothing_was_asked(tmp_path):
    with Run(tmp_path, 9) as run:
        run.end(0, [0.5])
        assert run.parent_of(1, None) is None
