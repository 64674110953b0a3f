"""Checkpoints that were damaged, replaced or made by somebody else, and paths that lead out, in a search that goes on."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from searching import Recorded, threads

from lightning_evo import Archive, Budget, Evolution, Final, Objective, Workers
from lightning_evo.algorithms import PopulationBasedTraining, RegularizedEvolution
from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.meta import FinalOutcome, read_meta
from lightning_evo.callbacks import WeightInheritance
from lightning_evo.evolution import SearchError
from lightning_evo.genome import LogUniform
from lightning_evo.utils.files import digest_of
from toys import ToyNet

EPOCHS = 2


class Keeper(ToyNet):
    """Its checkpoints hold an object that only unpickling brings back."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["where"] = Path("here")


class Tested(ToyNet):
    """Says each time it is tested."""

    times = 0

    def on_test_start(self):
        type(self).times += 1


def search(directory, candidates, kind="pbt", model="toys.ToyNet", **changes):
    inheriting = kind == "inherit"
    algorithm = RegularizedEvolution(population_size=2) if inheriting else PopulationBasedTraining(2, epochs=EPOCHS)
    progress = Recorded()
    with threads(1) as pool:
        settings = {
            "space": {"model.init_args.lr": LogUniform(1e-3, 1.0)},
            "algorithm": algorithm,
            "objectives": [Objective("val_loss", "min")],
            "budget": Budget(candidates=candidates),
            "workers": Workers(slots=1),
            "callbacks": [WeightInheritance()] if inheriting else None,
            "keep_checkpoints": 9,
            "final": None,
            "config": {
                "model": {"class_path": model, "init_args": {"width": 4}},
                "data": {"class_path": "toys.ToyData"},
                "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu"},
            },
            "directory": directory,
            "seed": 2,
            "executor": pool,
            "progress": progress,
        } | changes
        Evolution(**settings).run()
    return progress.messages


def told(directory):
    with Archive(directory) as archive:
        return [(c.id, r.status, r.fitness, r.checkpoint, r.extra) for c, r in archive.events() if r is not None]


def checkpoints(directory):
    return sorted(directory.glob("candidates/*/checkpoint.ckpt"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Searches that have trained their first candidates, whose children are next; tests copy them."""
    directory = tmp_path_factory.mktemp("begun")
    name = f"{__name__}.Keeper"
    for kind in ("pbt", "inherit"):
        search(directory / kind, 2, kind)
        search(directory / f"{kind}-objects", 2, kind, name)
    return directory


@pytest.fixture
def run(begun, tmp_path):
    def copy(kind):
        return shutil.copytree(begun / kind, tmp_path / "moved" / kind)

    return copy


def zeroed(paths):
    for path in paths:
        path.write_bytes(bytes(path.stat().st_size))


def flipped(paths):
    for path in paths:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def exchanged(paths):
    one, two = (path.read_bytes() for path in paths)
    paths[0].write_bytes(two)
    paths[1].write_bytes(one)


def rewritten(directory, change):
    """Make an archive anew from what it says, after ``change`` of each result's ``extra``, and of nobody's run."""
    with Archive(directory) as archive:
        events = [(archive.candidate(c.id), r) for c, r in archive.events() if r is not None]
        meta = {key: value for key, value in archive.meta.items() if key != "owners"}
    for name in os.listdir(directory):
        if name.startswith(("archive", "journal", "lock", "reserve")):
            (directory / name).unlink()
    with ArchiveWriter(directory) as writer:
        writer.update_meta(meta)
        for candidate, result in events:
            change(result.extra)
            writer.record_candidate(candidate, queued=0.0)
            writer.record_result(candidate.id, result)


@pytest.mark.parametrize(
    ("kind", "damage"), [("pbt", zeroed), ("pbt", exchanged), ("pbt", flipped), ("inherit", flipped)]
)
def test_children_of_damaged_checkpoints_begin_elsewhere_and_that_is_said(run, kind, damage):
    directory = run(kind)
    paths = checkpoints(directory)
    assert len(paths) == 2
    damage(paths)
    messages = search(directory, 4, kind)
    assert any("is damaged" in message and "from scratch" in message for message in messages)
    records = told(directory)
    assert [status for _, status, *_ in records] == ["completed"] * 4
    name = "continuation" if kind == "pbt" else "inheritance"
    assert not {0, 1} & {extra[name]["from"] for *_, extra in records[2:]}
    assert "is damaged" in records[2][-1][name]["why"]
    assert not any("is damaged" in message for message in search(directory, 4, kind))  # the same command trains nothing


class Late(ThreadPoolExecutor):
    """Damages checkpoints when the first job comes, which the search has looked at by then."""

    def __init__(self, damage, directory):
        super().__init__(1)
        self.damages = [lambda: damage(checkpoints(directory))]

    def submit(self, function, /, *arguments, **named):
        if self.damages:
            self.damages.pop()()
        return super().submit(function, *arguments, **named)


@pytest.mark.parametrize(("kind", "damage"), [("pbt", exchanged), ("pbt", zeroed), ("inherit", flipped)])
def test_damage_between_the_searchs_look_and_the_workers_is_found_by_the_worker(run, kind, damage):
    directory = run(kind)
    with Late(damage, directory) as pool:
        messages = search(directory, 3, kind, executor=pool)
    assert any("is damaged" in message and "from scratch" in message for message in messages)
    record = told(directory)[2]
    assert record[1] == "completed"
    name = "continuation" if kind == "pbt" else "inheritance"
    assert record[-1][name]["from"] is None
    assert "is damaged" in record[-1][name]["why"]


@pytest.mark.parametrize("kind", ["pbt", "inherit"])
def test_where_checkpoints_are_whole_children_begin_with_them(run, kind):
    directory = run(kind)
    assert not any("checkpoint of" in message for message in search(directory, 4, kind))
    name = "continuation" if kind == "pbt" else "inheritance"
    assert all(extra[name]["from"] is not None and not extra[name]["why"] for *_, extra in told(directory)[2:])


@pytest.mark.parametrize("damage", [zeroed, flipped], ids=lambda damage: damage.__name__)
def test_damage_is_found_in_runs_of_earlier_versions_too(run, damage):
    directory = run("pbt")
    rewritten(directory, lambda extra: extra.pop("seal"))
    damage(checkpoints(directory))
    messages = search(directory, 4)
    assert any("is damaged" in message for message in messages)
    assert {status for _, status, *_ in told(directory)} == {"completed"}


def test_a_run_of_an_earlier_version_continues_by_the_same_command(run):
    directory = run("pbt")
    rewritten(directory, lambda extra: extra.pop("seal"))
    search(directory, 4)
    assert all(extra["continuation"]["from"] is not None for *_, extra in told(directory)[2:])


@pytest.mark.parametrize("kind", ["pbt", "inherit"])
def test_somebody_elses_checkpoints_of_tensors_alone_need_no_trust(run, kind, tmp_path, monkeypatch):
    directory = run(kind)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    search(directory, 4, kind)
    assert {status for _, status, *_ in told(directory)} == {"completed"}


@pytest.mark.parametrize("kind", ["pbt", "inherit"])
def test_somebody_elses_checkpoints_that_run_code_are_refused_without_trust(run, kind, tmp_path, monkeypatch):
    directory, model = run(f"{kind}-objects"), f"{__name__}.Keeper"
    ours = shutil.copytree(directory, tmp_path / "ours")
    search(ours, 4, kind, model)  # one's own, wherever it was moved
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    monkeypatch.setattr(torch, "load", never_unpickling(torch.load))
    with pytest.raises(SearchError, match="--trust") as refused:
        search(directory, 4, kind, model)
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    search(directory, 4, kind, model, trust=True)
    name = "continuation" if kind == "pbt" else "inheritance"
    assert all(extra[name]["from"] is not None for *_, extra in told(directory)[2:])


def never_unpickling(load):
    def loading(*arguments, **options):
        assert options.get("weights_only"), "it would run code"
        return load(*arguments, **options)

    return loading


def test_a_replaced_checkpoint_gains_no_trust_though_its_hash_was_written_into_the_archive(run):
    directory = run("inherit-objects")
    for path in checkpoints(directory):
        held = torch.load(path, weights_only=False)
        torch.save(held | {"more": Path("there")}, path)
    digests = iter([digest_of(path) for path in checkpoints(directory)])
    rewritten(directory, lambda extra: extra["seal"].update(digest=next(digests)))
    with ArchiveWriter(directory) as writer:
        for id, path in enumerate(checkpoints(directory)):
            writer.update_checkpoint(id, f"candidates/{id:06d}/checkpoint.ckpt", path.stat().st_size)
    with pytest.raises(SearchError, match="--trust"):
        search(directory, 4, "inherit", f"{__name__}.Keeper")


@pytest.mark.parametrize(
    "path", ["journal.jsonl", "candidates/000001/result.json", "candidates/000000/checkpoint.ckpt"]
)
def test_a_path_that_is_not_a_candidates_own_is_neither_read_nor_deleted(run, tmp_path, path):
    directory = run("pbt")
    theirs = tmp_path / "precious.ckpt"
    theirs.write_text("precious")
    with ArchiveWriter(directory) as writer:
        writer.update_checkpoint(0, "../../precious.ckpt", 8)
        writer.update_checkpoint(1, path, 8)
    messages = search(directory, 6, keep_checkpoints=0)
    assert sum("is left alone" in message for message in messages) == 2
    assert (directory / "candidates/000001/result.json").exists()
    assert theirs.read_text() == "precious"
    assert (directory / "journal.jsonl").exists()
    assert {status for _, status, *_ in told(directory)} == {"completed"}


@pytest.mark.parametrize("path", ["../../../precious.ckpt", "/etc/passwd", "link.ckpt"])
def test_a_result_that_was_found_names_no_checkpoint_elsewhere(begun, tmp_path, path):
    directory = shutil.copytree(begun / "inherit", tmp_path / "run")
    (tmp_path / "precious.ckpt").write_text("precious")
    with ArchiveWriter(directory) as writer, writer.archive() as archive:
        child = archive.candidate(0)
        writer.record_candidate(type(child)(2, child.genome, seed=1), queued=0.0)
        place = directory / "candidates" / "000002"
        place.mkdir()
        (place / "link.ckpt").symlink_to(tmp_path / "precious.ckpt")
        record = archive.result(0).to_dict() | {"checkpoint": path, "checkpoint_bytes": 8}
        (place / "result.json").write_text(json.dumps(record))
    messages = search(directory, 3, "inherit")
    assert any("candidate 2" in message for message in messages)
    assert (tmp_path / "precious.ckpt").read_text() == "precious"
    assert told(directory)[2][3] in (None, "candidates/000002/checkpoint.ckpt")


def test_a_checkpoint_that_was_found_is_ones_own_only_if_its_worker_said_so(begun, tmp_path):
    directory = shutil.copytree(begun / "inherit", tmp_path / "run")
    with ArchiveWriter(directory) as writer, writer.archive() as archive:
        child, known = archive.candidate(0), archive.result(0)
        for id, extra in ((2, known.extra), (3, {})):
            writer.record_candidate(type(child)(id, child.genome, seed=1), queued=0.0)
            place = shutil.copytree(directory / "candidates" / "000000", directory / "candidates" / f"{id:06d}")
            record = known.to_dict() | {"checkpoint": "checkpoint.ckpt", "extra": dict(extra)}
            (place / "result.json").write_text(json.dumps(record))
    search(directory, 4, "inherit")
    with Archive(directory) as archive:
        assert archive.result(2).extra["seal"] == known.extra["seal"]
        assert "seal" not in archive.result(3).extra


def test_a_winner_that_was_damaged_is_made_again_and_not_tested_again(begun, tmp_path):
    directory = tmp_path / "run"
    model = f"{__name__}.Tested"
    Tested.times = 0
    search(directory, 2, "inherit", model, final=Final())
    path = directory / "final" / "model.ckpt"
    whole = path.read_bytes()
    with Archive(directory) as archive:
        before = read_meta(archive.meta, FinalOutcome)
    assert before.tested
    for damage in (zeroed, flipped, lambda paths: paths[0].unlink()):
        damage([path])
        messages = search(directory, 2, "inherit", model, final=Final())
        assert any("it is made again" in message for message in messages)
        assert path.read_bytes() == whole
    path.unlink()
    with Late(flipped, directory) as pool:
        messages = search(directory, 2, "inherit", model, final=Final(), executor=pool)
    assert any("is damaged: it is trained again" in message for message in messages)
    assert Tested.times == 1
    with Archive(directory) as archive:
        after = read_meta(archive.meta, FinalOutcome)
    assert (after.tested, after.metrics["test_acc"]) == (True, before.metrics["test_acc"])
