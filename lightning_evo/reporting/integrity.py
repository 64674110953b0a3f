"""Whether all that a search has left in its directory is whole, and what can be rebuilt of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter, check_checkpoints
from lightning_evo.archive.database import ARCHIVE, JOURNAL, ArchiveLocation
from lightning_evo.archive.errors import translated_file
from lightning_evo.archive.integrity import Diagnosis
from lightning_evo.archive.journal import Journal
from lightning_evo.archive.meta import FINAL_CHECKPOINT
from lightning_evo.archive.recovery import set_aside
from lightning_evo.archive.seals import StoredCheckpoint
from lightning_evo.execution.results import RESULT_FILE, encode_result, find_result, write_result
from lightning_evo.genome import Result
from lightning_evo.utils.files import OutsideError, inside

__all__ = ["Finding", "inspect_run", "repair_run"]

_NAMED = 5
"""How many damaged files of a kind are named."""


@dataclass(frozen=True)
class Finding:
    """The findings about one kind of file.

    Args:
        what: The file, or the files.
        whole: Whether all is as it was written.
        text: What was found.
    """

    what: str
    whole: bool
    text: str

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"


def inspect_run(directory: Path) -> list[Finding]:
    """Look at every line, row and file of a search; nothing is changed.

    Args:
        directory: Its directory.

    Raises:
        ArchiveError: If there is no search, or a later version wrote it.
    """
    if not (directory / ARCHIVE).exists() and not (directory / JOURNAL).exists():
        raise ArchiveError(f"{directory}: no archive here; give the directory of a run")
    findings = list(_archive(directory))
    try:
        archive = Archive(directory)
    except ArchiveError as error:
        return [*findings, Finding("candidates", False, f"unknown, as the archive can't be read: {error}")]
    with archive:
        recorded = _recorded(archive)
        return [*findings, *_results(directory, recorded), *_checkpoints(archive, recorded)]


def repair_run(directory: Path) -> list[str]:
    """Rebuild what can be rebuilt; what was damaged is kept under another name.

    The database is rebuilt from the journal or the journal from the database, results from both. A checkpoint can't be:
    it is set aside, and the archive then says that there is none, so that it is made again where it is needed.

    Args:
        directory: The search's directory.

    Returns:
        What was done.

    Raises:
        ArchiveError: If another process is writing there, or neither database nor journal is whole.
    """
    with ArchiveWriter(directory) as writer, writer.archive() as archive:
        done = [writer.recovered] if writer.recovered else []
        for id, result in _recorded(archive).items():
            place = _place(directory, id)
            if (fault := _result_fault(place, result)) and result is not None:
                kept = set_aside(place / RESULT_FILE)
                own = result if result.checkpoint is None else _own(result, place, directory)
                with translated_file(place):
                    write_result(place, encode_result(own))
                done.append(f"{place / RESULT_FILE} {fault}: rewritten from the archive; kept as {kept and kept.name}")
            elif fault:
                kept = set_aside(place / RESULT_FILE)
                done.append(
                    f"{place / RESULT_FILE} {fault}: kept as {kept and kept.name}; the candidate is trained again"
                )
            stored = None if result is None else StoredCheckpoint.of(result)
            if stored is not None and (fault := stored.fault(directory)):
                kept = None
                with suppress(OutsideError):  # what lies elsewhere is left alone
                    kept = set_aside(inside(directory, stored.path))
                writer.update_checkpoint(id, None)
                aside = f"; kept as {kept.name}" if kept else ""
                done.append(f"{directory / stored.path} {fault}: recorded as deleted{aside}")
    return done


# -- each kind of file -------------------------------------------------------------------------------------------------


def _archive(directory: Path) -> Iterator[Finding]:
    location = ArchiveLocation.of(directory)
    found = Diagnosis(location, Journal(directory / JOURNAL), thorough=True)
    state = found.journal_state
    cut = " (and one that was cut off at the end)" if state.incomplete else ""
    yield Finding(
        JOURNAL,
        found.journal_fault is None,
        f"{state.lines} lines, all whole{cut}" if found.journal_fault is None else found.journal_fault,
    )
    proof = {
        True: "as its checksum says",
        False: "as the journal says",
        None: "as the journal says; it has no checksum",
    }
    yield Finding(
        ARCHIVE,
        found.complaint is None,
        f"{found.last} events, {proof[found.proven]}" if found.complaint is None else found.complaint,
    )


def _results(directory: Path, recorded: dict[int, Result | None]) -> Iterator[Finding]:
    faults = [
        f"candidate {id}'s {fault}"
        for id, result in recorded.items()
        if (fault := _result_fault(_place(directory, id), result))
    ]
    there = sum((_place(directory, id) / RESULT_FILE).exists() for id in recorded)
    yield Finding(f"candidates/*/{RESULT_FILE}", not faults, _listed(faults, there, "results"))


def _checkpoints(archive: Archive, recorded: dict[int, Result | None]) -> Iterator[Finding]:
    count = sum(result is not None and result.checkpoint is not None for result in recorded.values())
    faults, winners = [], []
    for found in check_checkpoints(archive):
        if found.path == FINAL_CHECKPOINT:
            winners.append(Finding(found.path, False, f"{found.fault}; the same `fit` makes it again"))
        else:
            faults.append(f"candidate {found.candidate}'s {found.fault}")
    yield Finding("checkpoints", not faults, _listed(faults, count, "checkpoints"))
    yield from winners


def _listed(faults: list[str], count: int, what: str) -> str:
    if not faults:
        return f"{count} {what}, all whole"
    more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return f"{len(faults)} of {count} {what} are not whole: {'; '.join(faults[:_NAMED])}{more}"


def _recorded(archive: Archive) -> dict[int, Result | None]:
    """How each candidate that was trained ended; those answered by another one's result have no files."""
    return {candidate.id: result for candidate, result in archive.events() if candidate.duplicate_of is None}


def _result_fault(place: Path, recorded: Result | None) -> str:
    result, fault = find_result(place)
    if place.is_symlink() or place.parent.is_symlink():
        return ""  # someone made it lead elsewhere: what lies there is left alone
    if fault:
        return f"is damaged ({fault})"
    if result is None or recorded is None or result.fatal:
        return ""  # gone with its directory, or not recorded yet
    if (result.status, repr(result.fitness)) != (recorded.status, repr(recorded.fitness)):
        return f"says {result.status} {result.fitness}, the archive {recorded.status} {recorded.fitness}"
    return ""


def _place(directory: Path, id: int) -> Path:
    return directory / "candidates" / f"{id:06d}"


def _own(result: Result, place: Path, directory: Path) -> Result:
    """A recorded result as its candidate's directory holds it: with the checkpoint's path relative to that."""
    with suppress(ValueError):
        assert result.checkpoint is not None
        return replace(result, checkpoint=(directory / result.checkpoint).relative_to(place).as_posix())
    return replace(result, checkpoint=None, checkpoint_bytes=None)
