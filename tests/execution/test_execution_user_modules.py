"""Modules of the user are imported once for all workers, but for those that no fork may inherit."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import warm

TESTS = Path(__file__).parents[1]

KINDS = {
    "clean": "",
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "parent": "import subprocess\nchild = subprocess.Popen(['sleep', '600'])",
    "precise": "import torch\ntorch.set_default_dtype(torch.float64)",
    "deaf": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "parallel": "import torch\ntorch.set_num_threads(2)\ntorch.ones(1 << 20).exp()",
    "failing": "raise SystemExit(3)",
}
REASONS = {
    "threaded": "starts threads",
    "parent": "starts child processes",
    "precise": "changes torch's default tensor type",
    "deaf": "changes signal handlers",
}
if Path("/proc/self/task").exists() and (os.cpu_count() or 1) > 1:
    REASONS["parallel"] = "starts threads of native code"

NOTE = "import os\nwith open(os.environ['IMPORTED'], 'a') as file:\n    file.write(__name__ + '\\n')\n"

JOBS = """
import importlib
from lightning_evo.genome import Result

def job(name):
    try:
        importlib.import_module(name)
    except SystemExit:
        return Result("completed", metrics={"failed": 1.0})
    import torch
    return Result("completed", metrics={"bits": float(torch.finfo(torch.get_default_dtype()).bits)})
"""

PROGRAM = """
import json, sys
import jobs
from lightning_evo.execution import Job, LocalExecutor

if __name__ == "__main__":
    with LocalExecutor(1, recycle_after=1, preload=["torch"], modules=sys.argv[2:]) as executor:
        made = [Job(id, jobs.job, {"name": name}, f"{sys.argv[1]}/{id}") for id, name in enumerate(sys.argv[2:] * 2)]
        print(json.dumps([executor.submit(job).result().to_dict() for job in made]))
"""


def run(folder, *names):
    """Two workers per module import it; returns how often each was imported, and the results."""
    for name in names:
        (folder / f"{name}.py").write_text(NOTE + KINDS[name])
    (folder / "jobs.py").write_text(JOBS)
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "IMPORTED": str(folder / "log")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = warm.run(
        [sys.executable, str(folder / "program.py"), str(folder), *names],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported = (folder / "log").read_text().split()
    return {name: imported.count(name) for name in names}, json.loads(done.stdout)


def test_a_module_is_imported_once_for_all_workers_and_one_that_fails_fails_in_them(tmp_path):
    counts, results = run(tmp_path, "clean", "failing")
    assert counts == {"clean": 1, "failing": 3}
    told = {"imported_by_workers": {"failing": "fails (3)"}}
    assert [result["extra"] for result in results] == [told] * 4
    assert [result["metrics"] for result in results] == [{"bits": 32.0}, {"failed": 1.0}] * 2


@pytest.mark.slow
def test_what_no_fork_may_inherit_is_imported_by_each_worker_which_says_why(tmp_path):
    counts, results = run(tmp_path, "clean", *REASONS)
    # Once in vain, and then by both workers; the other one a second time, as the server begins anew.
    assert counts == {"clean": 2} | dict.fromkeys(REASONS, 3)
    told = results[0]["extra"]["imported_by_workers"]
    assert told.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reason in told[name]
    bits = dict(zip(["clean", *REASONS], (result["metrics"]["bits"] for result in results), strict=False))
    assert bits == dict.fromkeys(bits, 32.0) | {"precise": 64.0}
