"""Overhead of a search beyond the trainings themselves, and the utilization of its slots.

    python benchmarks/overhead.py [--candidates 200] [--rounds 3] [--only NAME ...] [--json PATH]

First part: candidates that train one batch, on 2 slots. `CPU` is that of the controller, its workers and every other
process they started, from the end of the tenth candidate (after warm-up) to the end of the last, per candidate, minus the
CPU of a bare `Trainer.fit` of the same model, data and Trainer flags: the median of many in two warm processes at once (in
one, if a contender has no slots), measured before, between and after the rounds. Goal: at most 50 ms beyond the bare fit.
Ray Tune (reused actors), DeepHyper (process workers) and Optuna run the same bare fit as their objective, with random
sampling, if they are installed. They neither build from a config nor measure costs nor keep curves and checkpoints; the
line `a function` is this package doing no more than they do.

Second part: candidates that sleep for 2 s in the training step, 2 slots. Goal: slots busy at least 95 %.

Third part: what of the first is spent on putting a worker's state back after each candidate, so that nothing of one reaches
the next: CPU after a bare fit, the median of many in one process. Goal: at most 1 ms. And what the hash of a checkpoint
costs, where it is computed (as a training ends, as the search looks at it) and where it is compared (by whoever reads it).

Every contender runs in a separate process with one thread per candidate, all of them in every round; shown are medians
over the rounds. Wall-clock times mean little on a busy machine: the load average is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _processes import family

HERE = Path(__file__).resolve().parent
GOAL_MS, GOAL_BUSY, GOAL_STATE_MS = 50.0, 0.95, 1.0
BARE = {"bare": "bare fit in 2 processes", "bare, alone": "bare fit in one process"}
INLINE = "Optuna, in process"
MODULES = {"Ray Tune": "ray", "DeepHyper": "deephyper", "Optuna, 2 processes": "optuna", INLINE: "optuna"}
NAMES = ["lightning-evo", "lightning-evo, no checkpoints", "lightning-evo, a function", *MODULES]
SLEEPERS = "lightning-evo, 2 s each"
STATE = "state put back"
HASHES = "checkpoints hashed"
HIDDEN = "--contender"


def run_contender(name: str, count: int, timeout: float) -> dict[str, Any]:
    """Run one contender in a separate process.

    Raises:
        RuntimeError: If it fails; the message is what it said last.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment |= {"PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        output = Path(folder, "output")
        command = [sys.executable, str(HERE / "overhead.py"), HIDDEN, name, folder, str(count)]
        with output.open("wb") as file:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"did not end within {timeout:g} s") from None
        finally:
            for one in family(process.pid):  # it and all it started, where it hasn't ended
                os.kill(one.pid, signal.SIGKILL)
            process.wait()
        figures = Path(folder, "figures.json")
        if process.returncode != 0 or not figures.exists():
            said = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
            raise RuntimeError(said[-1] if said else f"ended with code {process.returncode} and no output")
        return json.loads(figures.read_text())


def be_contender(name: str, folder: str, count: str) -> None:
    from _contenders import CONTENDERS

    figures = CONTENDERS[name](Path(folder), int(count))
    Path(folder, "figures.json").write_text(json.dumps(figures))


def measure(
    names: Sequence[str], candidates: int, rounds: int, timeout: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Results per contender, as a list of rounds, and the reasons why contenders were left out."""
    rows: dict[str, Any] = {name: [] for name in BARE}
    skipped: dict[str, str] = {}

    def measure_bare() -> None:
        for name in BARE:
            fits = run_contender(name, max(10, candidates // 4), timeout)
            rows[name].append({figure: statistics.median(values) for figure, values in fits.items()})

    for at in range(rounds):
        print(f"round {at + 1} of {rounds}: bare fits", file=sys.stderr, flush=True)
        measure_bare()
        for name in names:
            if name in skipped:
                continue
            if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
                skipped[name] = f"{MODULES[name]} is not installed"
                continue
            print(f"round {at + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            try:
                rows.setdefault(name, []).append(run_contender(name, candidates, timeout))
            except RuntimeError as error:
                if name not in MODULES:
                    raise
                skipped[name] = str(error)
    measure_bare()
    for name in set(rows) - set(BARE):
        yardstick = median(rows["bare, alone" if name == INLINE else "bare"], "cpu")
        for figures in rows[name]:
            figures["overhead"] = figures["cpu"] - yardstick
    return {name: row for name, row in rows.items() if name not in skipped}, skipped


def median(rows: Sequence[dict[str, float]], figure: str) -> float:
    return statistics.median(row[figure] for row in rows)


def show(rows: dict[str, Any], skipped: dict[str, str], candidates: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{candidates} candidates of one batch, 2 slots: milliseconds per candidate", title_justify="left"
    )
    table.add_column("", no_wrap=True)
    for title in ("CPU", "beyond bare", "(range)", "of ours", "wall", "slots busy", "first done, s"):
        table.add_column(title, justify="right")
    ours = next((median(row, "overhead") for name, row in rows.items() if name == "lightning-evo"), None)
    for name, row in rows.items():
        if name in BARE:
            table.add_row(BARE[name], f"{median(row, 'cpu'):.1f}", "", "", "", f"{median(row, 'wall'):.1f}", "", "")
            continue
        beyond = [one["overhead"] for one in row]
        table.add_row(
            name,
            f"{median(row, 'cpu'):.1f}",
            f"{statistics.median(beyond):.1f}",
            f"{min(beyond):.1f} to {max(beyond):.1f}",
            f"{statistics.median(beyond) / ours:.2f} x" if ours else "",
            f"{median(row, 'wall'):.1f}",
            f"{median(row, 'busy'):.1%}",
            f"{median(row, 'start'):.1f}",
        )
    Console(width=max(120, Console().width)).print(table)
    for name, reason in skipped.items():
        print(f"{name}: left out: {reason}")


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="Names: " + "; ".join([*NAMES, SLEEPERS, STATE, HASHES])
    )
    parser.add_argument("--candidates", type=int, default=200, help="candidates of one batch (default: %(default)s)")
    parser.add_argument("--sleepers", type=int, default=40, help="candidates of 2 s (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*NAMES, SLEEPERS, STATE, HASHES],
        default=[*NAMES, SLEEPERS, STATE, HASHES],
        metavar="NAME",
        help="contenders",
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one contender (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args(args)
    if min(options.candidates, options.sleepers) < 2 or options.rounds < 1:
        parser.error("needs two candidates and one round, or more")

    load = [os.getloadavg()]
    report: dict[str, Any] = {"candidates": options.candidates, "cores": os.cpu_count()}
    missed: list[str] = []
    names = [name for name in options.only if name not in (SLEEPERS, STATE, HASHES)]
    if names:
        rows, skipped = measure(names, options.candidates, options.rounds, options.timeout)
        show(rows, skipped, options.candidates)
        report |= {"contenders": rows, "skipped": skipped}
        if "lightning-evo" in rows:
            beyond = median(rows["lightning-evo"], "overhead")
            print(f"Goal: at most {GOAL_MS:g} ms of CPU beyond the bare fit; lightning-evo: {beyond:.1f} ms.")
            if beyond > GOAL_MS:
                missed.append(f"{beyond:.1f} ms of CPU per candidate is above {GOAL_MS:g}")
    if SLEEPERS in options.only:
        print(f"{options.sleepers} candidates of 2 s", file=sys.stderr, flush=True)
        sleepers = run_contender(SLEEPERS, options.sleepers, options.timeout)
        report["sleepers"] = {"candidates": options.sleepers} | sleepers
        print(
            f"{options.sleepers} candidates of 2 s on 2 slots: busy {sleepers['busy']:.1%} of the time "
            f"(goal {GOAL_BUSY:.0%}), {sleepers['wall'] / 1000:.3f} s each of wall-clock time."
        )
        if sleepers["busy"] < GOAL_BUSY:
            missed.append(f"slots busy {sleepers['busy']:.1%} of the time is below {GOAL_BUSY:.0%}")
    if STATE in options.only:
        print("putting state back", file=sys.stderr, flush=True)
        report["state"] = run_contender(STATE, options.candidates, options.timeout)
        spent = report["state"]["cpu"]
        print(f"Putting a worker's state back: {spent:.2f} ms of CPU per candidate (goal: at most {GOAL_STATE_MS:g}).")
        if spent > GOAL_STATE_MS:
            missed.append(f"{spent:.2f} ms for putting state back is above {GOAL_STATE_MS:g}")
    if HASHES in options.only:
        print("hashing checkpoints", file=sys.stderr, flush=True)
        report["hashes"] = run_contender(HASHES, options.candidates, options.timeout)
        for size, spent_on in report["hashes"].items():
            costs = ", ".join(f"{name} {cost:.2f}" for name, cost in spent_on.items())
            print(f"A checkpoint of {size}, ms of CPU: {costs}.")
    load.append(os.getloadavg())
    print(
        f"Load average over the last minute: {load[0][0]:.1f} before, {load[1][0]:.1f} after, on {os.cpu_count()} cores "
        "(the contenders themselves make it about 2)."
    )
    if options.json:
        report |= {"load_before": load[0], "load_after": load[1], "missed": missed}
        options.json.write_text(json.dumps(report, indent=1))
    if missed:
        raise SystemExit("goal missed: " + "; ".join(missed))


if __name__ == "__main__":
    if sys.argv[1:2] == [HIDDEN]:
        be_contender(*sys.argv[2:])
    else:
        main()
