"""What others put into a run: damaged checkpoints, links, paths and names that lead elsewhere; and what outputs replace."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from _faults import Case, kind, shared_folder
from _faults._searches import rows_of, search
from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter, check_checkpoints
from lightning_evo.archive.description import claimed
from lightning_evo.archive.entries import DIRECTORIES, FILES
from lightning_evo.archive.seals import StoredCheckpoint, sealed
from lightning_evo.cli import main
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Candidate, Genome, Result, SearchSpace, Uniform

CHECKPOINT = "candidates/{:06d}/checkpoint.ckpt"
COUNT = 6


@contextlib.contextmanager
def key_in(folder: Path):
    """A user whose key lies there."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("XDG_STATE_HOME")
        if before is not None:
            os.environ["XDG_STATE_HOME"] = before


@functools.cache
def finished() -> Path:
    """A run with a checkpoint for each candidate, whose candidates took no training."""
    import torch

    run = shared_folder("trust") / "run"
    space = describe(SearchSpace({"a": Uniform(0, 50)}))
    algorithm = {"class_path": "lightning_evo.algorithms.RandomSearch", "init_args": {}}
    meta = {"search": {"evolution": {"algorithm": algorithm, "space": space}}}
    with key_in(run.with_name("state")), ArchiveWriter(run) as writer:
        objectives = [{"monitor": "v", "mode": "max"}]
        writer.update_meta({**meta, **claimed(meta), "objectives": objectives, "seed": 1})
        for id in range(COUNT):
            path = run / CHECKPOINT.format(id)
            path.parent.mkdir(parents=True)
            (path.parent / "config.yaml").write_text(f"model: {{class_path: net.Net}}\nseed_everything: {id}\n")
            torch.save({"state_dict": {"w": torch.full((300,), float(id))}, "hyper_parameters": {}}, path)
            result = Result("completed", (float(id),), {"v": float(id)}, checkpoint=CHECKPOINT.format(id))
            writer.record_candidate(Candidate(id, Genome({"a": float(id)})), queued=0.0)
            writer.record_result(id, sealed(result, path))
    return run


@functools.cache
def searched() -> Path:
    """A search that ended."""
    run = shared_folder("trust-search") / "run"
    with key_in(run.with_name("state")):
        search(run).close()
    return run


def copied(case: Case, run: Path) -> Path:
    return shutil.copytree(run, case.folder / "run")


def refused(*arguments: object) -> str:
    """The one line by which a command refuses; raises if it doesn't, or ends otherwise."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        if stop.code == 2 and len(said.getvalue().splitlines()) == 1:
            return said.getvalue()
        raise AssertionError(f"exit code {stop.code}: {said.getvalue()[:200]}") from None
    raise AssertionError("it was not refused")


def quietly(*arguments: object) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        raise AssertionError(f"exit code {stop.code}: {said.getvalue()[:200]}") from None


@kind("checkpoint: damage that keeps its size", cases=200)
def damage(case: Case) -> None:
    run = copied(case, finished())
    id = case.rng.randrange(COUNT)
    path = run / CHECKPOINT.format(id)
    content = bytearray(path.read_bytes())
    how = case.rng.choice(["flip", "zero", "swap", "exchange"])
    at = case.rng.randrange(len(content))
    if how == "flip":
        content[at] ^= 1 << case.rng.randrange(8)
    elif how == "zero":
        content[at:] = bytes(len(content) - at)
    elif how == "swap":
        other = case.rng.randrange(len(content))
        content[at], content[other] = content[other], content[at]
    else:
        content = bytearray((run / CHECKPOINT.format((id + 1) % COUNT)).read_bytes())
    if bytes(content) == path.read_bytes():
        case.skip("nothing changed")
    path.write_bytes(content)
    with Archive(run) as archive:
        found = [fault.candidate for fault in check_checkpoints(archive)]
        stored = StoredCheckpoint.of(archive.result(id))
    case.check(found == [id], f"{how} at {at} of candidate {id}: found {found}")
    case.check(stored is not None and stored.fault(run), f"{how} at {at} goes unnoticed")
    if how != "swap":
        with key_in(case.folder / "state"):
            case.check("damaged" in refused("export", run, "--candidate", id, "--to", case.folder / "best"), how)


@kind("a run's directory: symbolic links within it", cases=150)
def links(case: Case) -> None:
    run, theirs = copied(case, searched()), case.folder / "theirs"
    before = rows_of(run)
    name = case.rng.choice([*FILES, *DIRECTORIES, "candidates/000012", "candidates/000003", "stacks/000001"])
    kept = case.rng.choice(["file", "directory", "nothing"])
    if kept == "file":
        theirs.write_text("precious")
    elif kept == "directory":
        theirs.mkdir()
        (theirs / "result.json").write_text("precious")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(theirs)
    try:
        search(run, candidates=14).close()
    except ArchiveError as error:
        case.check("symbolic link" in str(error), str(error))
    else:
        case.check(condition=False, what=f"{name} is followed")
    after = {"file": theirs.is_file() and theirs.read_text(), "nothing": theirs.exists()}
    held = after.get(kept) if kept != "directory" else [entry.name for entry in theirs.iterdir()]
    case.check(held in ("precious", False, ["result.json"]), f"{name} -> a {kept}: there is {held!r}")
    path.unlink()
    with contextlib.suppress(ArchiveError):
        search(run, candidates=12).close()
        case.check(rows_of(run) == before, f"{name}: without the link the search is another one")


def evil_path(case: Case) -> str:
    ups = "../" * case.rng.randint(1, 6)
    name = case.rng.choice(["theirs/precious", "etc/hostname", "precious\0", "~/x", "\udc80", ""])
    return case.rng.choice(
        [f"{ups}{name}", f"/{name}", f"candidates/{ups}{name}", f"candidates/000001/link/{name}", name]
    )


@kind("an archive: paths that lead out of the directory", cases=150)
def paths(case: Case) -> None:
    run, theirs = copied(case, searched()), case.folder / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_text("precious")
    (run / "candidates" / "000001" / "link").symlink_to(case.folder)
    own = ["journal.jsonl", "archive.sqlite", "candidates/000002/result.json", "lock", "candidates", "."]
    with ArchiveWriter(run) as writer:
        for id in range(6):
            path = evil_path(case) if case.rng.random() < 0.8 else case.rng.choice(own)
            try:
                writer.update_checkpoint(id, path, case.rng.choice([8, None]))
            except ArchiveError:  # a text that can't be stored
                writer.update_checkpoint(id, "../x", 8)
    search(run, candidates=14, keep_checkpoints=0).close()
    case.check((theirs / "precious").read_text() == "precious", "something else was written")
    case.check(os.listdir(theirs) == ["precious"], f"there is {os.listdir(theirs)}")
    case.check((run / "candidates" / "000002" / "result.json").is_file(), "a file of the run's own was deleted")
    case.check(len(rows_of(run)) == 14, "the search didn't go on")


@kind("somebody else's run: names of code", cases=60)
def names(case: Case) -> None:
    run = copied(case, finished())
    name = case.rng.choice(["evil.Gene", "torch.evil.Gene", "lightning_evo.utils.files.os.system", "evil", "os.system"])
    place = case.rng.choice(["gene", "canonical"])
    gene = {"class_path": name, "init_args": {}}
    if place == "canonical":
        gene = {"class_path": "lightning_evo.genome.Bitstring", "init_args": {"length": 4, "canonical": name}}
    with ArchiveWriter(run) as writer, writer.archive() as archive:
        described = archive.meta["search"]
        described["evolution"]["space"]["b"] = gene
        writer.set_meta("search", described)
    for module in ("evil", "numba", "sqlalchemy_evil"):
        (run / f"{module}.py").write_text("import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n")
    here, known = os.getcwd(), list(sys.path)
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(run))]
    os.chdir(run)
    try:
        command = case.rng.choice([["predictor", "."], ["wandb", "."], ["export", ".", "--csv", "tables"]])
        with key_in(case.folder / "state"):
            if command[0] == "export":
                quietly(*command)
            else:
                case.check("--trust" in refused(*command), f"{command}, {name}")
        case.check(not list(run.rglob("*.ran")), f"{command} ran {name}")
        case.check(str(run) not in sys.path, "the working directory is importable")
    finally:
        os.chdir(here)
        sys.path[:] = known


OUTPUTS: dict[str, Callable[[Path, Path], list[object]]] = {
    "report": lambda run, to: ["report", run, "--to", to],
    "json": lambda run, to: ["export", run, "--json", to, "--overwrite"],
    "csv": lambda run, to: ["export", run, "--csv", to, "--overwrite"],
    "export": lambda run, to: ["export", run, "--to", to],
}


@kind("outputs: in the place of a run's own files", cases=100)
def outputs(case: Case) -> None:
    run = copied(case, finished())
    held = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    to = case.rng.choice(
        [*held, *(path.parent for path in held if path.parent != run), run / "final", run / "stacks" / "x"]
    )
    if case.rng.random() < 0.3:
        (case.folder / "link").symlink_to(run)
        to = case.folder / "link" / to.relative_to(run)
    command = case.rng.choice(sorted(OUTPUTS))
    refused(*OUTPUTS[command](run, to))
    now = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    case.check({path: now.get(path) for path in held} == held, f"{command} to {to} changed a file")


CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


@kind("outputs: a kill at any change of a file", cases=120)
def kills(case: Case) -> None:
    run, name = finished(), case.rng.choice(sorted(OUTPUTS))
    to = case.folder / "place" / ("out.html" if name == "report" else "out")
    to.parent.mkdir()
    command = OUTPUTS[name](run, to)
    with key_in(run.with_name("state")):
        if case.rng.random() < 0.5:
            quietly(*command)
        before, step = held_at(to), case.rng.randrange(12)
        child = os.fork()
        if not child:
            die_at(step)
            with contextlib.suppress(BaseException):
                quietly(*command)
            os._exit(0)
        os.waitpid(child, 0)
        after = held_at(to)
        whole = {"csv": 4, "export": 2}.get(name)
        fine = after == before or (len(after) == whole if whole else to.stat().st_size > 1000)
        case.check(fine, f"{name}, killed at change {step}: {sorted(map(str, after))[:5] if after else after}")
        quietly(*command)
    case.check(os.listdir(to.parent) == [to.name], f"{name}: left {os.listdir(to.parent)}")


def held_at(to: Path) -> dict[str, bytes]:
    if to.is_dir():
        return {path.name: path.read_bytes() for path in to.iterdir()}
    return {"": to.read_bytes()} if to.exists() else {}


def die_at(step: int) -> None:
    """Have this process killed at its so-manieth change of a file."""
    left = step

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event not in CHANGES or (event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
