# ruff: noqa: E501 - tables are easier to read in long lines
"""Bad input: files that are no configs, and command lines that name nothing; held to the promise of ``bad_input.py``."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import sqlite3
from pathlib import Path

from _faults import Case, kind, shared_folder
from _faults.bad_input import CONFIG, SEARCH, dumped, outcome

WHOLE = dumped({**CONFIG, "evolution": SEARCH})


def bomb(levels: int = 12, merges: bool = False) -> str:
    """A few lines that stand for billions of values."""
    lines = ["x0: &x0 {a: 1}"]
    for i in range(1, levels):
        nine = f"[{', '.join([f'*x{i - 1}'] * 9)}]"
        lines.append(f"x{i}: &x{i} {f'{{<<: {nine}}}' if merges else nine}")
    return "\n".join(lines)


FILES: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n\t\n",
    "a comment": b"# nothing\n",
    "an empty section": b"evolution:\n",
    "latin-1": WHOLE.replace("run", "caf\u00e9").encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbf" + WHOLE.encode(),
    "UTF-16": WHOLE.encode("utf-16"),
    "UTF-16 without a mark": WHOLE.encode("utf-16-le"),
    "UTF-32": WHOLE.encode("utf-32"),
    "NULs": b"\0" * 1000,
    "a NUL at the end": WHOLE.encode() + b"\0",
    "random bytes": random.Random(0).randbytes(5000),
    "half of it": WHOLE.encode()[: len(WHOLE) // 2],
    "twice": WHOLE.encode() * 2,
    "two documents": b"---\n" + WHOLE.encode() + b"---\n" + WHOLE.encode(),
    "a document's end": WHOLE.encode() + b"...\n",
    "Windows' line ends": WHOLE.replace("\n", "\r\n").encode(),
    "old line ends": WHOLE.replace("\n", "\r").encode(),
    "tabs": WHOLE.replace("  ", "\t").encode(),
    "JSON": json.dumps({**CONFIG, "evolution": SEARCH}).encode(),
    "JSON with a key twice": b'{"evolution": {"seed": 1, "seed": 2}}',
    "JSON lines": b'{"a": 1}\n{"b": 2}\n',
    "TOML": b"[evolution]\nseed = 3\n",
    "Python": b"import os\nprint(os)\n",
    "HTML": b"<html><body>404</body></html>",
    "a list": b"- evolution\n- 1\n",
    "a number": b"7\n",
    "a word": b"word\n",
    "a section twice": WHOLE.encode() + b"evolution: {seed: 4}\n",
    "a gene line twice": WHOLE.replace("  space:\n", "  space:\n    trainer.max_epochs: Boolean\n" * 2).encode(),
    "an anchor within itself": b"evolution: &a\n  space: *a\n",
    "an anchor that isn't there": b"evolution: *a\n",
    "a bomb of aliases": bomb().encode(),
    "a bomb of merges": bomb(merges=True).encode(),
    "a bomb in the section": f"{bomb()}\nevolution: {{space: *x11}}".encode(),
    "a thousand brackets": b"a: " + b"[" * 1000 + b"]" * 1000,
    "a million brackets": b"a: " + b"[" * 1_000_000,
    "five hundred mappings": b"{a: " * 500 + b"1" + b"}" * 500,
    "a tower of lists": b"".join(b"%s-\n" % (b" " * i) for i in range(300)),
    "three megabytes": WHOLE.encode() + b"# comment\n" * 300_000,
    "one megabyte": WHOLE.encode() + b"# comment\n" * 100_000,
    "many keys": WHOLE.encode() + b"".join(b"k%d: 1\n" % i for i in range(20_000)),
    "a long key": b"x" * 100_000 + b": 1\n",
    "a long word": b"evolution: " + b"x" * 100_000,
    "a long number": b"evolution: {seed: " + b"9" * 100_000 + b"}",
    "an unknown tag": b"evolution: !include search.yaml\n",
    "a tag of Python": b"evolution: !!python/object/apply:os.system [ls]\n",
    "a tag that doesn't fit": b"evolution: {seed: !!int x}\n",
    "a set": b"evolution: !!set {a, b}\n",
    "a binary": b"evolution: {directory: !!binary aGVsbG8=}\n",
    "a key that is a number": b"7: 1\n",
    "a key that is null": b"~: 1\n",
    "a key that is a list": b"? [a]\n: 1\n",
    "a key that is empty": b"'': 1\n",
    "a key with dots": b"evolution.seed: 3\nevolution.budget.candidates: 4\n",
    "keys that are numbers": b"evolution: {7: 1, ~: 2}\n",
    "yes and no": WHOLE.encode() + b"seed_everything: yes\n",
    "a merge": b"base: &b {seed: 3}\n" + WHOLE.encode().replace(b"evolution:\n", b"evolution:\n  <<: *b\n"),
    "a path of itself": b"trainer: file\n",
    "a section that is a path": b"evolution: nowhere.yaml\n",
    "null everywhere": b"model:\ndata:\ntrainer:\nevolution:\n",
    "an empty trainer": WHOLE.encode().replace(b"max_epochs", b"max_epoks"),
}

RUNS = (
    "nowhere",
    "empty",
    "file.txt",
    "garbage",
    "newer",
    "",
    " ",
    "a\0b",
    "x" * 300,
    "x" * 5000,
    "sqlite://",
    "sqlite:///no/such",
    "mssql+pymssql://u@h/b",
    "nonsense://x",
    "://",
    "/dev/null",
    "fifo",
    "~",
    "half",
    "good/candidates",
    "caf\udce9",
)
"""What the commands that read are given in place of a search; ``half`` has an empty journal and no database."""

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("leaderboard",),
    ("leaderboard", "--errors"),
    ("report",),
    ("check",),
    ("check", "--repair"),
    ("predictor",),
    ("export", "--to", "out"),
    ("export", "--csv", "out"),
    ("export", "--json", "out.json"),
    ("export", "--optuna", "out.log"),
    ("plot", "curves", "--to", "out.png"),
    ("wandb",),
)

ARGUMENTS: tuple[tuple[str, ...], ...] = (
    *(("leaderboard", "good", "--top", top) for top in ("x", "-1", "1e3", "", "9" * 30, "0.5")),
    *(("leaderboard", "good", "--sort", key) for key in ("nope", "", "-", "a\0b", "x" * 300)),
    ("leaderboard", "good", "--format", "yaml"), ("leaderboard",), ("leaderboard", "good", "good"), ("leaderboard", "--nope"),
    *(("export", "good", "--to", to) for to in ("file.txt", "", "a\0b", "x" * 300, "file.txt/in")),
    *(("export", "good", "--to", "out", "--candidate", number) for number in ("-1", "999", "x", "9" * 30)),
    *(("export", "good", option, to) for option in ("--csv", "--json", "--optuna") for to in ("file.txt", "empty", "", "a\0b", "x" * 300, "no/such/file", "file.txt/in")),
    ("export", "good"), ("export", "good", "--onnx"), ("export", "good", "--csv", "out", "--candidate", "1"),
    *(("report", "good", "--to", to) for to in ("empty", "", "a\0b", "x" * 300, "no/such/file", "file.txt/in")),
    ("report", "good", "--run", "nope"), ("report", "good", "--port", "3"), ("report", "good", "--watch", "--to", "x"),
    *(("report", "good", "--watch", "--port", port) for port in ("-1", "99999", "x", "")),
    ("report", "good", "nowhere"),
    *(("plot", "good", kind, "--to", "out.png") for kind in ("nope", "")),
    *(("plot", "good", "progress", "--to", to) for to in ("out", "out.doc", "empty", "", "a\0b", "x" * 300 + ".png", "no/such/x.png", "file.txt/x.png")),
    *(("plot", "good", "progress", "--to", "out.png", option, value) for option in ("--width", "--height", "--dpi") for value in ("0", "-1", "nan", "inf", "x", "1e9", "")),
    *(("plot", "good", "progress", "--to", "out.png", option, value) for option in ("--metric", "--candidate", "--top", "--against") for value in ("nope", "-1", "")),
    ("plot", "good", "progress"), ("plot", "good"), ("plot",),
    *(("predictor", "good", "--at", at) for at in ("0", "-1", "x", "9" * 30)),
    *(("predictor", "good", option, value) for option in ("--predictor", "--monitor", "--repeats", "--seed", "--json", "--plot") for value in ("nope", "-1", "", "a\0b")),
    ("wandb", "good", "--nope"), ("wandb",), ("check",), ("check", "good", "x"), ("nope",), ("fitt",), ("--nope",), ("",),
    ("fit", "--config"), ("fit", "--config", ""), ("fit", "--config="), ("fit", "--config", "nowhere"), ("fit", "--config", "empty"),
    ("fit", "--config", "fifo"), ("fit", "--config", "/dev/zero"), ("fit", "--config", "/dev/null"), ("fit", "--config", "a\0b"),
    ("fit", "--config", "x" * 5000), ("fit", "--nope"), ("fit", "nope"), ("fit", "--config", "{a: 1, a: 2}"), ("fit", "--config", "[1]"),
    ("fit",), ("validate", "--config", "nowhere"),
    *(("fit", "--config", "good.yaml", f"--evolution.{setting}") for setting in (
        "budget.candidates=x", "budget.candidates=0", "budget.candidates=true", "budget.candidates=", "budget.candidates=1e3",
        "budget.candidates=null", "budget.wall_time=soon", "budget.wall_time=nan", "budget={candidates: 3, candidates: 4}",
        "budget=nowhere.yaml", "budget=[1", "budget=7", "budget=", "nope=1", "seed=1.5", "seed=x", "workers.slots=0",
        "workers.slots=1e30", "workers.nope=1", "space=7", "space=[1]", "space={a: Boolean, a: Boolean}", "space={}", "space=null",
        "algorithm=Nope", "algorithm=", "algorithm.population_size=0", "algorithm.nope=3", "algorithm=null", "objectives=[]",
        "objectives=val_acc", "objectives=[{monitor: 3}]", "final=true", "final.retrain=maybe", "callbacks=[Nope]",
        "callbacks+=Nope", "reporters=[Nope]", "directory=", "directory=a\0b", "database=x", "keep_checkpoints=-1",
        "keep_checkpoints=2.5", "fitness_epoch=first", "", "=3", "budget.candidates",
    )),
)  # fmt: skip


@functools.cache
def searches() -> Path:
    """A folder with a finished search of a function, and what only looks like one."""
    from _faults._searches import search

    folder = shared_folder("bad-input")
    search(folder / "good").close()
    for name in ("empty", "garbage", "newer", "half"):
        (folder / name).mkdir()
    (folder / "file.txt").write_text("not a search")
    (folder / "good.yaml").write_text(WHOLE)
    (folder / "garbage" / "archive.sqlite").write_bytes(random.Random(0).randbytes(20_000))
    (folder / "half" / "journal.jsonl").write_text("")
    shutil.copytree(folder / "good", folder / "newer", dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "newer" / "archive.sqlite")) as database:
        database.execute("UPDATE archive_schema SET version = 99")
        database.commit()
    os.mkfifo(folder / "fifo")
    return folder


@functools.cache
def command_lines() -> tuple[tuple[str, ...], ...]:
    """All, in an order in which any first part is a fair sample."""
    read = [(command, run, *options) for command, *options in COMMANDS for run in RUNS]
    made = [*read, *ARGUMENTS]
    random.Random(0).shuffle(made)
    return tuple(made)


@kind("bad input: a file that is no config", cases=len(FILES))
def break_file(case: Case) -> None:
    """A config file that holds something else, or YAML that isn't what it seems."""
    if case.number >= len(FILES):
        case.skip("there are no more")
    name = list(FILES)[case.number]
    (case.folder / "file").write_bytes(FILES[name])
    with contextlib.chdir(case.folder):
        fault = outcome(["fit", "--config", "file", "--trainer.limit_train_batches", "1"]).fault()
    case.check(not fault, f"{name}: {fault}")


@kind("bad input: a command line", cases=450)
def break_command_line(case: Case) -> None:
    """A command that is given something that isn't there, or isn't what it takes."""
    if case.number >= len(command_lines()):
        case.skip("there are no more")
    command = command_lines()[case.number]
    fault = fault_of(command, case.folder / "in")
    case.check(not fault, f"{' '.join(command)[:200]!r}: {fault}")


def fault_of(command: tuple[str, ...], folder: Path) -> str:
    """Why a command doesn't end as it should in a copy of :func:`searches`; empty if it does."""
    shutil.copytree(searches(), folder, copy_function=_copy)
    os.mkfifo(folder / "fifo")
    with contextlib.chdir(folder):
        ended = outcome(list(command))
    # `check` says by code 1 that something is broken.
    return "" if command[0] == "check" and ended.code == 1 and not ended.traceback else ended.fault()


def _copy(source: str, target: str) -> None:
    if Path(source).is_file():
        shutil.copy(source, target)
