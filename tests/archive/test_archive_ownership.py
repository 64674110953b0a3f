"""What an archive names is imported where this user ran the search; from others, this package's own genes alone."""

from __future__ import annotations

import json
import shutil

import pytest

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter, read_space
from lightning_evo.archive.description import claimed, is_own_search
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Bitstring, SearchSpace, Uniform
from lightning_evo.models import canonical_chromosome

OURS = {"a": Uniform(0, 1), "b": Bitstring(50, canonical=canonical_chromosome)}
THEIRS = {"class_path": "evil_module.Gene", "init_args": {}}
AROUND = [
    {"class_path": "lightning_evo.archive.ArchiveWriter", "init_args": {"directory": "made"}},
    {"class_path": "lightning_evo.genome.genes.random.Random", "init_args": {}},
    describe(Bitstring(4)) | {"init_args": {"length": 4, "canonical": "lightning_evo.utils.imports.import_by_name"}},
    describe(Bitstring(4)) | {"init_args": {"length": 4, "canonical": "lightning_evo.genome.genes.math.sqrt"}},
    describe(Bitstring(4)) | {"init_args": {"length": 4, "canonical": "os.system"}},
]


def written(place, own=False, **genes):
    description = {"search": {"evolution": {"space": describe(SearchSpace(OURS)) | genes}}}
    with ArchiveWriter(place) as writer:
        writer.update_meta({**description, **(claimed(description) if own else {})})
    return place


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that says when it is imported."""
    text = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"
    text += "from lightning_evo.genome import Boolean as Gene\n"
    (tmp_path / "evil_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "evil_module.ran"


def test_genes_of_this_package_need_no_trust(tmp_path):
    with Archive(written(tmp_path / "run")) as archive:
        assert not is_own_search(archive.meta)
        assert list(read_space(archive)) == ["a", "b"]


def test_a_gene_of_somebody_elses_run_is_not_imported_without_trust(tmp_path, evil):
    with Archive(written(tmp_path / "run", c=THEIRS)) as archive:
        with pytest.raises(ArchiveError, match=r"the gene at c is evil_module\.Gene") as refused:
            read_space(archive)
        assert "--trust" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not evil.exists()
        assert "c" in read_space(archive, trust=True)


@pytest.mark.parametrize("description", AROUND)
def test_no_way_around_leads_through_this_package(tmp_path, description, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Archive(written(tmp_path / "run", c=description)) as archive, pytest.raises(ArchiveError, match="--trust"):
        read_space(archive)
    assert not (tmp_path / "made").exists()


def test_ones_own_run_stays_ones_own_wherever_it_is_moved_and_not_once_it_says_something_else(tmp_path, evil):
    run = written(tmp_path / "run", own=True, c=THEIRS)
    for place in (shutil.copytree(run, tmp_path / "copy"), shutil.move(run, tmp_path / "moved")):
        with Archive(place) as archive:
            assert "c" in read_space(archive)
    with ArchiveWriter(tmp_path / "moved") as writer, writer.archive() as archive:
        changed = json.loads(json.dumps(archive.meta["search"]).replace("evil_module", "other_module"))
        writer.set_meta("search", changed)
        with pytest.raises(ArchiveError, match=r"the gene at c is other_module\.Gene"):
            read_space(archive)


def test_another_users_run_is_not_ones_own_until_one_runs_it_and_then_it_is_of_both(tmp_path, monkeypatch):
    run = written(tmp_path / "run", own=True)
    mine = tmp_path / "mine"
    with ArchiveWriter(run) as writer, writer.archive() as archive, monkeypatch.context() as somebody:
        somebody.setenv("XDG_STATE_HOME", str(mine))
        assert not is_own_search(archive.meta)
        writer.update_meta(claimed(archive.meta))
        assert is_own_search(archive.meta)
        somebody.undo()
        assert is_own_search(archive.meta)


@pytest.mark.parametrize("owners", [None, "x", [], {"x": 1}, {"": None}])
def test_owners_that_were_tampered_with_are_nobody(tmp_path, owners):
    assert not is_own_search({"search": {}, "owners": owners})
