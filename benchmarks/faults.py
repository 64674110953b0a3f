"""Losses of a search whose workers and controllers are killed and whose files are truncated (goal: none).

    python benchmarks/faults.py [--quick] [--candidates 40] [--kills 5] [--only NAME ...] [--seed 0] [--json PATH]
    python benchmarks/faults.py --kinds [NAME ...] [--cases N] [--seed 0] [--json PATH]

The same seeded search (generational evolution of a small network on scikit-learn's digits, 2 slots) runs through the
console script

- undisturbed;
- while a worker process is killed with SIGKILL every few seconds;
- while the controller is killed with SIGKILL five times at random moments, each time followed by the same command;
- after a SIGKILL halfway and the truncation to half of the archive, its write-ahead log, both, the journal, or the
  newest checkpoint; followed by the same command.

Counted are candidates *lost* (their result was on disk before a fault, and at the end it is missing or different),
*repeated* (trained again although their result was on disk), *orphaned* (processes alive 5 s after their controller's
death, and candidates left pending at the end), and whether the archive (ids, genomes, fitness, parents, generations,
seeds) and the winner's test result equal those of the undisturbed search. Interrupted candidates are trained again from
the start; `fits` is the number of trainings started. The exit code is 1 if a goal is missed. Needs Linux.

With `--kinds`, many small cases of other faults are tried instead, most of them in this process: each kind is a function in
`benchmarks/_faults` (whose docstring says how to add one), and the table counts how many were tried, held and broke.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from _command import SCRIPT, Command
from _faults import Tried, load_kinds, try_kinds
from _processes import Process
from rich.console import Console
from rich.table import Table

from lightning_evo.archive import Archive, ArchiveError

CONFIG: dict[str, Any] = {
    "model": {"class_path": "_models.DigitsNet"},
    "data": {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": 64}},
    "trainer": {"max_epochs": 20, "accelerator": "cpu"},
}
SPACE: dict[str, Any] = {
    "model.init_args.lr": {"class_path": "LogUniform", "init_args": {"low": 1e-4, "high": 1e-1}},
    "model.init_args.dropout": {"class_path": "Uniform", "init_args": {"low": 0.0, "high": 0.5}},
    "model.init_args.width": {"class_path": "Ordinal", "init_args": {"choices": [16, 32, 64, 128]}},
}
COMPARED = ("id", "status", "val_acc", *SPACE, "parents", "generation", "seed", "origin", "inherits", "duplicate_of")

Row = tuple[Any, ...]


@dataclass
class Outcome:
    """Outcome of one search.

    Args:
        faults: How many there were.
        lost: Ids of candidates whose result was on the disk before a fault, and in the end is gone or another.
        repeated: Ids of candidates trained again although their result was on the disk.
        orphaned: Processes alive 5 s after their controller's end, plus candidates pending at the end.
        equal: Whether archive and winner are the undisturbed search's.
        fits: Trainings started.
        seconds: From the first command to the last one's end.
        remark: What else is to be said.
    """

    faults: int = 0
    lost: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    orphaned: int = 0
    equal: bool = True
    fits: int = 0
    seconds: float = 0.0
    remark: str = ""

    @property
    def good(self) -> bool:
        return not self.lost and not self.repeated and not self.orphaned and self.equal


class Search:
    """A search in its own folder, run by as many commands as necessary.

    Args:
        folder: Where configs, the log of trainings, output and the run's directory are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.orphans: list[Process] = []
        self.known: dict[int, tuple[float, Row]] = {}
        """Candidates whose result was seen on the disk before a fault: when, and the result."""

    @classmethod
    def new(cls, folder: Path, candidates: int, population: int) -> Search:
        folder.mkdir(parents=True)
        evolution = {
            "space": SPACE,
            "algorithm": {"class_path": "GenerationalEvolution", "init_args": {"population_size": population}},
            "objectives": [{"monitor": "val_acc", "mode": "max"}],
            "budget": {"candidates": candidates},
            # By default three deaths are taken for the candidate's own fault; here they never are.
            "workers": {"slots": 2, "threads": 1, "max_retries": 100},
            "directory": "run",  # relative, so that a copy of the folder continues the search
            "seed": 3,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        (folder / "search.yaml").write_text(yaml.safe_dump({"evolution": evolution}))
        return cls(folder)

    @contextmanager
    def command(self) -> Iterator[Command]:
        """The running command, killed at the end of the context if it hasn't ended by itself."""
        with (self.folder / "output").open("ab") as output:
            command = Command(self.folder, output)
        try:
            yield command
        finally:
            self.orphans += command.end()

    def finish(self) -> None:
        """Run the command to its end.

        Raises:
            RuntimeError: If it fails.
        """
        with self.command() as command:
            command.wait()
        self.check(command)

    def check(self, command: Command) -> None:
        """Raise :class:`RuntimeError` if the command failed."""
        if command.code != 0:
            said = (self.folder / "output").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.folder.name}: the command ended with code {command.code}:\n{said}")

    def results(self) -> list[Path]:
        """The results on disk."""
        return list(self.run.glob("candidates/*/result.json"))

    def remember(self) -> None:
        """Record the results that are now on disk; also those of the archive if nothing is running."""
        now = time.time()
        for path in self.results():
            try:
                result = json.loads(path.read_text())
            except FileNotFoundError:
                continue  # a worker that begins anew has just removed it
            if result["status"] == "completed":
                self.known.setdefault(int(path.parent.name), (now, (result["fitness"][0],)))

    def remember_archive(self) -> None:
        """Record the content of the archive; only while no process of the search is running."""
        now = time.time()
        if not (self.run / "archive.sqlite").exists():
            return
        with tempfile.TemporaryDirectory() as copies:
            # Read from a copy: reading must not mend what the next command is to find.
            for path in self.run.glob("*"):
                if path.name.startswith("archive.sqlite") or path.name == "journal.jsonl":
                    shutil.copy(path, copies)
            try:
                rows = rows_of(Path(copies))
            except ArchiveError:
                if self.known:
                    raise
                return  # killed before there was anything to record
        for row in rows:
            if row[COMPARED.index("status")] != "pending":
                at = self.known.get(row[0], (now, ()))[0]
                self.known[row[0]] = (at, row)

    def started(self) -> list[tuple[int, float]]:
        """All trainings that started: candidate and time, without the winner's last one."""
        path = self.folder / "fits.log"
        events = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(name), float(at)) for event, name, _, at in events if event == "start" and name.isdigit()]

    def judge(self, reference: Search | None) -> Outcome:
        """Compare the final state with the one before the faults, and with the undisturbed search."""
        rows = {row[0]: row for row in rows_of(self.run)}
        fitness, status = COMPARED.index("val_acc"), COMPARED.index("status")
        lost = []
        for number, (_, before) in self.known.items():
            now = rows.get(number)
            if now is None or before not in (now, (now[fitness],)):
                lost.append(number)
        repeated = {number for number, at in self.started() if number in self.known and at > self.known[number][0]}
        pending = sum(row[status] == "pending" for row in rows.values())
        outcome = Outcome(
            lost=sorted(lost),
            repeated=sorted(repeated),
            orphaned=len(self.orphans) + pending,
            fits=len(self.started()),
        )
        if reference is not None:
            outcome.equal = list(rows.values()) == rows_of(reference.run) and self.winner() == reference.winner()
        return outcome

    def winner(self) -> tuple[int, dict[str, float]]:
        """The winner's id and test result, after checking its checkpoint."""
        torch.load(self.run / "final" / "model.ckpt", weights_only=True)
        with Archive(self.run) as archive:
            final = archive.meta["final"]
        return final["request"]["candidate"], final["metrics"]


def rows_of(directory: Path) -> list[Row]:
    with Archive(directory) as archive:
        return [
            tuple(tuple(v) if isinstance(v := row.get(name), list) else v for name in COMPARED)
            for row in archive.candidates()
        ]


# -- the faults --------------------------------------------------------------------------------------------------------


def kill_workers(search: Search, rng: random.Random, options: argparse.Namespace) -> int:
    """Kill a random worker every two or three seconds."""
    kills = 0
    with search.command() as command:
        command.wait(lambda: bool(search.results()))
        while command.running:
            pause = time.monotonic() + rng.uniform(1.5, 3.5)
            command.wait(lambda pause=pause: time.monotonic() >= pause)  # type: ignore[misc]
            if (search.run / "final").exists():
                continue  # there the winner is tested; what is counted here are candidates
            search.remember()
            if victims := command.workers:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(victims).pid, signal.SIGKILL)
                    kills += 1
    search.check(command)
    return kills


def kill_controllers(search: Search, rng: random.Random, options: argparse.Namespace) -> int:
    """Kill the controller at random moments, while it starts as well as while candidates train."""
    most = options.candidates // (options.kills + 1)
    for _ in range(options.kills):
        with search.command() as command:
            wanted = len(search.results()) + rng.randint(0, most)
            command.wait(lambda wanted=wanted: len(search.results()) >= wanted)  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 1.0))
            if not command.running:
                raise RuntimeError(f"the search ended before all of {options.kills} kills; give more --candidates")
        search.remember()
        search.remember_archive()
    search.finish()
    return options.kills


def stop_half_way(search: Search, options: argparse.Namespace) -> None:
    with search.command() as command:
        command.wait(lambda: len(search.results()) >= options.candidates // 2)
    search.remember()
    search.remember_archive()


def truncate(search: Search, stopped: Search, patterns: Sequence[str]) -> str:
    """Continue a copy of the stopped search after truncating the newest file of each pattern to half; return their names."""
    shutil.copytree(stopped.folder, search.folder)
    search.orphans = list(stopped.orphans)
    search.known = {number: (time.time(), result) for number, (_, result) in stopped.known.items()}
    remarks = []
    for pattern in patterns:
        paths = sorted(search.run.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
        if not paths:
            raise FileNotFoundError(f"no {pattern} after the kill")
        size = paths[-1].stat().st_size
        os.truncate(paths[-1], size // 2)
        remarks.append(f"{paths[-1].name}: {size:,} bytes to {size // 2:,}")
    search.finish()
    return "; ".join(remarks)


TRUNCATED = {
    "archive truncated": ("archive.sqlite",),
    "write-ahead log truncated": ("archive.sqlite-wal",),
    "both truncated": ("archive.sqlite", "archive.sqlite-wal"),
    "journal truncated": ("journal.jsonl",),
    "checkpoint truncated": ("candidates/*/checkpoint.ckpt",),
}
KILLED: dict[str, Callable[[Search, random.Random, argparse.Namespace], int]] = {
    "workers killed": kill_workers,
    "controller killed": kill_controllers,
}
NAMES = [*KILLED, *TRUNCATED]


def run(options: argparse.Namespace, root: Path) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    population = max(4, options.candidates // 5)

    def say(name: str) -> float:
        print(name, file=sys.stderr, flush=True)
        return time.monotonic()

    begun = say("undisturbed")
    reference = Search.new(root / "undisturbed", options.candidates, population)
    reference.finish()
    outcomes["undisturbed"] = reference.judge(None)
    outcomes["undisturbed"].seconds = time.monotonic() - begun
    for at, (name, disturb) in enumerate(KILLED.items()):
        if name not in options.only:
            continue
        begun = say(name)
        search = Search.new(root / name.replace(" ", "-"), options.candidates, population)
        faults = disturb(search, random.Random(options.seed * 100 + at), options)
        outcomes[name] = search.judge(reference)
        outcomes[name].faults, outcomes[name].seconds = faults, time.monotonic() - begun
    asked = [name for name in TRUNCATED if name in options.only]
    if asked:
        say("stopped half-way")
        stopped = Search.new(root / "stopped", options.candidates, population)
        stop_half_way(stopped, options)
    for name in asked:
        begun = say(name)
        search = Search(root / name.replace(" ", "-"))
        remark = truncate(search, stopped, TRUNCATED[name])
        outcomes[name] = search.judge(reference)
        outcomes[name].faults, outcomes[name].seconds, outcomes[name].remark = 2, time.monotonic() - begun, remark
    return outcomes


def show(outcomes: dict[str, Outcome], candidates: int) -> None:
    table = Table(title=f"{candidates} candidates, 2 slots", title_justify="left")
    table.add_column("", no_wrap=True)
    for title in ("faults", "lost", "repeated", "orphaned", "equal", "fits", "seconds"):
        table.add_column(title, justify="right")
    table.add_column("remark")
    for name, one in outcomes.items():
        counts = (one.faults, len(one.lost), len(one.repeated), one.orphaned)
        equal = "" if name == "undisturbed" else "yes" if one.equal else "NO"
        table.add_row(name, *map(str, counts), equal, str(one.fits), f"{one.seconds:.0f}", one.remark)
    Console(width=max(120, Console().width)).print(table)


def show_kinds(outcomes: dict[str, Tried]) -> None:
    table = Table(title="Kinds of faults", title_justify="left", show_footer=True)
    table.add_column("", "all", no_wrap=True)
    columns = {
        "tried": [one.tried for one in outcomes.values()],
        "held": [one.held for one in outcomes.values()],
        "broke": [len(one.broke) for one in outcomes.values()],
        "skipped": [len(one.skipped) for one in outcomes.values()],
        "seconds": [round(one.seconds) for one in outcomes.values()],
    }
    for title, numbers in columns.items():
        table.add_column(title, str(sum(numbers)), justify="right")
    for name, *numbers in zip(outcomes, *columns.values(), strict=True):
        table.add_row(name, *map(str, numbers))
    Console(width=max(100, Console().width)).print(table)
    for name, one in outcomes.items():
        for line in [*one.broke[:5], *(f"skipped: {why}" for why in one.skipped[:1])]:
            print(f"{name}: {line}")


def main_kinds(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    names = list(load_kinds())
    if unknown := [name for name in options.kinds if name not in names]:
        parser.error(f"--kinds {unknown[0]!r}: no such kind; there are: {'; '.join(names)}")
    outcomes = try_kinds(
        options.kinds or names, options.cases, options.seed, lambda text: print(text, file=sys.stderr, flush=True)
    )
    show_kinds(outcomes)
    if options.json:
        options.json.write_text(json.dumps({name: asdict(one) for name, one in outcomes.items()}, indent=1))
    if any(one.broke for one in outcomes.values()):
        raise SystemExit(1)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="Names: " + "; ".join(NAMES))
    parser.add_argument(
        "--kinds", nargs="*", metavar="NAME", help="try these kinds of small cases instead (default: all)"
    )
    parser.add_argument("--cases", type=int, help="how many of each kind (default: what the kind says)")
    parser.add_argument("--quick", action="store_true", help="16 candidates, 2 kills of the controller")
    parser.add_argument("--candidates", type=int, help="candidates of each search (default: 40)")
    parser.add_argument("--kills", type=int, help="kills of the controller (default: 5)")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="faults to try")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the faults (default: %(default)s)")
    parser.add_argument("--directory", type=Path, help="keep the searches here (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if options.kinds is not None:
        main_kinds(options, parser)
        return
    options.candidates = options.candidates or (16 if options.quick else 40)
    options.kills = options.kills or (2 if options.quick else 5)
    if options.candidates < 8 or not 0 < options.kills < options.candidates // 2:
        parser.error("needs 8 candidates or more, and less than half as many kills")
    if not SCRIPT.exists():
        parser.error(f"{SCRIPT}: no such file; install lightning-evo in this Python environment")
    if options.directory is not None and options.directory.exists() and any(options.directory.iterdir()):
        parser.error(f"--directory {options.directory} is not empty")
    root = options.directory or Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        outcomes = run(options, root.resolve())
    finally:
        if options.directory is None:
            shutil.rmtree(root)
    show(outcomes, options.candidates)
    if options.json:
        figures = {name: asdict(outcome) for name, outcome in outcomes.items()}
        options.json.write_text(json.dumps({"candidates": options.candidates, "searches": figures}, indent=1))
    bad = [name for name, outcome in outcomes.items() if not outcome.good]
    print("Goal: 0 lost, 0 repeated, 0 orphaned, equal. " + (f"Missed: {', '.join(bad)}." if bad else "Met."))
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
