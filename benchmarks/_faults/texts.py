"""Texts that nobody expects, in errors, names, genes and directories; and output that can't be written."""

from __future__ import annotations

import csv
import errno
import functools
import io
import json
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from _faults import Case, kind, shared_folder
from _faults._searches import evaluate, rows_of, search
from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.cli import main
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting.leaderboard import leaderboard, tracebacks
from lightning_evo.utils.masking import Mask

ALPHABET = (
    *"aZ09 .=+-@'\"<>&$\\{}[]()/;:%#|`~^_",
    *map(chr, (*range(0x20), *range(0x7F, 0xA0))),  # C0, DEL, C1
    *"\u00e9\u0416\u4e2d\U0001f642\u0301\u200d",
    *"\u200e\u202e\u2028\u2029\u2066\ufeff\ufffe\uffff",
    *"\ud800\udbff\udc80\udce9\udfff",
    "\x1b[31m",
    "\x1b]52;c;aGVsbG8=\x07",
    "[red]",
    "[/]",
    ":smile:",
    "</script>",
    "$\\frac{",
    "=cmd|' /C calc'!A0",
)
FORBIDDEN = [chr(code) for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028)]


def any_text(case: Case, longest: int = 60) -> str:
    return "".join(case.rng.choice(ALPHABET) for _ in range(case.rng.randint(1, longest)))


def said(directory: str) -> Any:
    return json.loads((Path(directory).parents[1].with_name("said.json")).read_text())


def raising(genome: Genome, seed: int, directory: str) -> dict[str, float]:
    """Raise the text of the case in every second candidate."""
    if int(Path(directory).name) % 2:
        told = said(directory)
        raise type(told["class"] or "E", (ValueError,), {})(told["text"])
    return evaluate(genome, seed, directory)


def naming(genome: Genome, seed: int, directory: str) -> dict[str, float]:
    """Log metrics of the case's names."""
    return {**evaluate(genome, seed, directory), **dict.fromkeys(said(directory)["names"], 1.0)}


def check_search(case: Case, function: Callable, what: dict[str, Any], name: str = "run") -> None:
    """A search and its continuation go through, and whatever is shown of them is text."""
    (case.folder / "said.json").write_text(json.dumps(what))
    run = case.folder / name
    search(run, 5, function=function).close()
    before = rows_of(run)
    search(run, 7, function=function).close()
    case.check(rows_of(run)[:5] == before, "the continuation changed what was recorded")
    with Archive(run) as archive:
        counts = archive.counts()
        case.check(sum(counts.values()) == 7 and not counts["pending"], f"{counts}")
    case.check(max(path.stat().st_size for path in run.rglob("result.json")) < 1_000_000, "a result.json of over 1 MB")
    check_shown(case, run)


def check_shown(case: Case, run: Path) -> None:
    for text in (leaderboard(run, 0), leaderboard(run, 0, format="csv"), tracebacks(run, 0)):
        text.encode()
        found = [hex(ord(sign)) for sign in FORBIDDEN if sign in text]
        case.check(not found, f"a terminal gets {', '.join(found)}")
    json.loads(leaderboard(run, 0, format="json"))


@kind("text: an error's message and class", cases=100)
def error(case: Case) -> None:
    longest = case.rng.choice([5, 60, 3000, 100_000])
    check_search(case, raising, {"text": any_text(case, longest), "class": any_text(case, 20).replace("\0", "")})


@kind("text: metrics' names and number", cases=60)
def metric(case: Case) -> None:
    count, longest = case.rng.choice([(1, 60), (5, 5), (3, 2000), (20_000, 3)])
    check_search(case, naming, {"names": [any_text(case, longest) for _ in range(count)]})


@kind("text: the name of a run's directory", cases=40)
def directory(case: Case) -> None:
    name = os.fsdecode(any_text(case, 20).encode("utf-8", "replace") + case.rng.randbytes(case.number % 3))
    check_search(case, evaluate, {}, name.replace("/", "").replace("\0", "").strip(".") or "x")


def hostile_run(case: Case) -> Path:
    """An archive whose names, genes and errors are any text, as an earlier version or a foreigner may have written it."""
    run = case.folder / "run"
    monitor, gene = any_text(case), any_text(case).replace("\0", "")
    with ArchiveWriter(run) as writer:
        writer.set_meta("objectives", [{"monitor": "value", "mode": "max"}])
        writer.set_meta("search", {"evolution": {"space": {}}, "config": {"note": any_text(case)}})
        for id in range(6):
            genome = Genome({f"x{gene}": any_text(case), "n": -case.rng.random()})
            writer.record_candidate(Candidate(id, genome, origin=any_text(case)), queued=0.0)
            if id % 3 == 2:
                result = Result("failed", error=any_text(case, 500), error_type=any_text(case))
            else:
                metrics = {"value": case.rng.random(), monitor: -1.0}
                curve = ({"epoch": 0, **metrics}, {"epoch": 1, **metrics})
                result = Result(
                    "completed", (metrics["value"],), metrics, curve, {"seconds": 1.0}, extra={"a": any_text(case)}
                )
            writer.record_result(id, result)
    return run


@kind("text: a terminal gets text alone", cases=150)
def terminal(case: Case) -> None:
    check_shown(case, hostile_run(case))


@kind("text: cells of a CSV are no formulas", cases=80)
def cells(case: Case) -> None:
    from lightning_evo.reporting.exports import export_csv

    run = hostile_run(case)
    export_csv(run, case.folder / "csv")
    for row in csv.reader(io.StringIO((case.folder / "csv" / "candidates.csv").read_bytes().decode())):
        for cell in row:
            formula = cell.lstrip()[:1] in tuple("=+-@") and cell.strip()
            case.check(not formula or is_number(cell), f"a cell {cell[:20]!r}")


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@kind("text: figures are XML", cases=40)
def figures(case: Case) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        case.skip("matplotlib is not installed")
    from lightning_evo.reporting.pictures import plot

    run = hostile_run(case)
    plot(run, case.rng.choice(["progress", "parallel", "curves", "costs", "lineage"]), case.folder / "x.svg")
    ElementTree.parse(case.folder / "x.svg")


@kind("text: the report's page", cases=40)
def page(case: Case) -> None:
    from lightning_evo.reporting.page import report

    text = report(hostile_run(case), case.folder / "x.html").read_text(encoding="utf-8")
    case.check("</html>" in text, "the page isn't whole")


class Unwritable(io.TextIOBase):
    """A stream that fails from some write on, or now and then."""

    def __init__(self, case: Case) -> None:
        rng = case.rng
        self.left, self.always = rng.randrange(12), rng.random() < 0.7
        self.error = rng.choice([OSError(code, "x") for code in (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF)])
        if rng.random() < 0.2:
            self.error = rng.choice([ValueError("I/O operation on closed file"), BrokenPipeError()])

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left == -1 or (self.left < -1 and self.always):
            raise self.error
        return len(text)

    def isatty(self) -> bool:
        return False


@kind("output: it can't be written from some line on", cases=80)
def output(case: Case) -> None:
    (case.folder / "said.json").write_text(json.dumps({"text": any_text(case), "class": ""}))
    stream = Unwritable(case)
    with redirect_stdout(stream), redirect_stderr(stream):
        search(case.folder / "run", 8, function=raising, progress=True).close()
    with Archive(case.folder / "run") as archive:
        case.check(sum(archive.counts().values()) == 8, "candidates are missing")


@functools.cache
def finished() -> Path:
    """A search that ended; the commands have imported what they need."""
    run = shared_folder("texts-finished") / "run"
    search(run, 30).close()
    for arguments in COMMANDS:
        with redirect_stdout(io.StringIO()):
            main([part.format(run=run, to=run.with_name("warm")) for part in arguments])
    return run


COMMANDS = (
    ["leaderboard", "{run}"],
    ["leaderboard", "{run}", "--format", "csv"],
    ["report", "{run}", "--to", "{to}.html"],
    ["export", "{run}", "--csv", "{to}-csv"],
    ["export", "{run}", "--json", "{to}.json"],
)


def run_in_fork(case: Case, before: Callable[[], None], arguments: list[str]) -> tuple[int, str]:
    """Run a command in a forked process; its exit code, and what it prints to standard error."""
    log = case.folder / "stderr"
    child = os.fork()
    if child == 0:
        code = 99
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with redirect_stdout(os.fdopen(1, "w", closefd=False)), redirect_stderr(os.fdopen(2, "w", closefd=False)):
                signal.signal(signal.SIGINT, signal.default_int_handler)
                before()
                try:
                    main(arguments)
                    code = 0
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 1
                except KeyboardInterrupt:
                    code = 130  # it came when the command had ended
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace") if log.exists() else ""


@kind("output: Ctrl-C at any moment of a command", cases=100)
def interrupt(case: Case) -> None:
    run = finished()
    arguments = [part.format(run=run, to=case.folder / "to") for part in case.rng.choice(COMMANDS)]

    def press() -> None:
        signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, case.rng.uniform(1e-4, 0.15))

    code, printed = run_in_fork(case, press, arguments)
    case.check(code in (0, 130), f"exit code {code}: {printed[-300:]}")
    case.check("Traceback" not in printed, printed[-3000:])
    left = [
        path.name for path in case.folder.rglob("*") if path.name.startswith("to") and not path.name.endswith(".part")
    ]
    for name in left:
        if name.endswith(".json"):
            json.loads((case.folder / name).read_text())  # whole or not at all


@kind("output: nobody reads it, or it is full", cases=40)
def unread(case: Case) -> None:
    run = finished()
    arguments = [part.format(run=run, to=case.folder / "to") for part in case.rng.choice(COMMANDS[:2])]
    closed = case.number % 2 == 0

    def break_output() -> None:
        if closed:
            reading, writing = os.pipe()
            os.close(reading)
        else:
            writing = os.open("/dev/full", os.O_WRONLY)
        os.dup2(writing, 1)

    code, printed = run_in_fork(case, break_output, arguments)
    case.check(code == (141 if closed else 2), f"exit code {code}: {printed[-300:]}")
    case.check("Traceback" not in printed and (closed is (printed == "")), printed[-300:])


NAMES = [
    "api_key",
    "apiKey",
    "OPENAI_API_KEY",
    "token",
    "hf_token",
    "access_token",
    "password",
    "db_password",
    "client_secret",
    "credentials",
    "auth",
]
"""Names of secrets."""


@kind("secrets: masked at any depth and in errors", cases=120)
def secrets(case: Case) -> None:
    rng = case.rng
    made = ["".join(rng.choices("abcdefgh0123456789-_+/", k=rng.randint(8, 40))) + "X1" for _ in range(3)]
    config: Any = {"lr": 0.1, "num_tokens": 7, "pad_token": "<pad>"}
    config[rng.choice(NAMES)] = made[0]
    config["url"] = f"{rng.choice(['postgresql', 'https', 'redis'])}://bob:{made[1].replace('/', '')}@host/x"
    config[rng.choice(["secrets", "creds", "ACCESS_KEYs"])] = [made[2]] if rng.random() < 0.5 else {"user": made[2]}
    for _ in range(rng.randrange(5)):
        config = (
            {rng.choice(["model", "init_args", "logger", "0"]): config} if rng.random() < 0.7 else {"list": [config]}
        )
    run = case.folder / "run"
    with ArchiveWriter(run) as writer:
        writer.set_meta("objectives", [{"monitor": "value", "mode": "max"}])
        writer.set_meta("search", {"evolution": {"space": {}}, "model": config, "config": config})
        writer.record_candidate(Candidate(0, Genome({"model.api_key": made[0]})), queued=0.0)
        text = f"{any_text(case)} {made[0]} {any_text(case, 5)}{made[2]} {config!r}"
        writer.record_result(0, Result.failure(ValueError(text)).storable())
    from lightning_evo.reporting.exports import export_csv, export_json
    from lightning_evo.reporting.page.payload import payload

    export_csv(run, case.folder / "csv")
    export_json(run, case.folder / "all.json")
    with Archive(run) as archive:
        shown = [json.dumps(payload([archive])), leaderboard(run), tracebacks(run), leaderboard(run, format="json")]
        config_shown = json.dumps(Mask(archive.meta).data(config))
    shown += [path.read_text() for path in [*(case.folder / "csv").iterdir(), case.folder / "all.json"]]
    for secret in (made[0], made[1].replace("/", ""), made[2]):
        case.check(not any(secret in text for text in shown), f"{secret} of {config}")
    case.check('"pad_token": "<pad>"' in config_shown and '"num_tokens": 7' in config_shown, config_shown)
