"""A candidate's lineage as a schedule: what held from which epoch, as it was really trained."""

from __future__ import annotations

import pytest

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.evolution.schedule import schedule_of
from lightning_evo.genome import Candidate, Genome, Result, Segment


def recorded(directory, candidates, extras=None):
    """An archive of completed candidates: (genome, inherits, segment) each."""
    with ArchiveWriter(directory) as writer:
        for id, (values, inherits, segment) in enumerate(candidates):
            parents = () if inherits is None else (inherits,)
            candidate = Candidate(id, Genome(values), parents, inherits=inherits, segment=segment)
            writer.record_candidate(candidate, queued=0.0)
            went = (extras or {}).get(id)
            extra = {} if went is None else {"continuation": went}
            writer.record_result(id, Result("completed", fitness=(0.5,), extra=extra))
    return Archive(directory)


LINEAGE = [
    ({"lr": 0.1, "p": 0.5}, None, Segment(0, 2)),
    ({"lr": 0.9, "p": 0.9}, None, Segment(0, 2)),
    ({"lr": 0.1, "p": 0.5}, 0, Segment(2, 4)),
    ({"lr": 0.08, "p": 0.5}, 2, Segment(4, 6)),
    ({"lr": 0.08, "p": 0.4}, 3, Segment(6, 8)),
]


def test_every_gene_holds_from_epoch_0_and_later_what_changed(tmp_path):
    with recorded(tmp_path, LINEAGE) as archive:
        assert schedule_of(archive, 4) == {0: {"lr": 0.1, "p": 0.5}, 4: {"lr": 0.08}, 6: {"p": 0.4}}
        assert schedule_of(archive, 2) == {0: {"lr": 0.1, "p": 0.5}}
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("search", {"evolution": {"links": [{"from": "p", "to": "q"}]}})
    with Archive(tmp_path) as archive:
        assert schedule_of(archive, 4)[6] == {"p": 0.4, "q": 0.4}


@pytest.mark.parametrize(
    ("went", "schedule"),
    [
        ({"from": 2, "start": 4}, {0: {"lr": 0.1, "p": 0.5}, 4: {"lr": 0.08, "p": 0.4}}),
        ({"from": None, "start": 0}, {0: {"lr": 0.08, "p": 0.4}}),
    ],
    ids=["an ancestor", "nobody"],
)
def test_where_a_checkpoint_had_vanished_the_schedule_is_of_what_was_trained(went, schedule, tmp_path):
    with recorded(tmp_path, LINEAGE, {4: went}) as archive:
        assert schedule_of(archive, 4) == schedule


def test_a_whole_training_has_no_schedule(tmp_path):
    with recorded(tmp_path, [({"lr": 0.1}, None, None)]) as archive:
        with pytest.raises(ValueError, match="candidate 0 is a whole training, not a segment of one"):
            schedule_of(archive, 0)
        with pytest.raises(ArchiveError, match="no candidate 7"):
            schedule_of(archive, 7)
