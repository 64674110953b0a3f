"""``~`` is the home directory, wherever a config or program names an archive."""

import pytest

from lightning_evo.archive import Archive, ArchiveWriter


@pytest.mark.parametrize("location", ["~/run", "~/run/archive.sqlite", "sqlite:///~/run/archive.sqlite"])
def test_an_archive_below_the_home_directory_is_found(location, tmp_path, monkeypatch):
    ArchiveWriter(tmp_path / "run").close()
    monkeypatch.setenv("HOME", str(tmp_path))
    with Archive(location) as archive:
        assert sum(archive.counts().values()) == 0


def test_a_database_below_the_home_directory_is_written_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ArchiveWriter(tmp_path / "run", "sqlite:///~/shared.sqlite").close()
    assert (tmp_path / "shared.sqlite").exists()
    assert not (tmp_path / "~").exists()
