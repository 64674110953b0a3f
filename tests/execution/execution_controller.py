"""A program that runs jobs in a LocalExecutor, for tests that kill it or let it end."""

import sys
from pathlib import Path

import execution_jobs as jobs
from execution_processes import read_pids

from lightning_evo.execution import Job, LocalExecutor
from lightning_evo.execution.local import DEFAULT_PRELOAD


def main(directory, ends):
    executor = LocalExecutor(
        4, preload=(*DEFAULT_PRELOAD, "execution_no_fasync") if ends == "portably" else DEFAULT_PRELOAD
    )
    functions = [jobs.sleep_with_child, jobs.sleep_with_daemons, jobs.ignore_sigterm, jobs.sleep_in_native_code]
    if ends == "portably":
        functions.pop()  # its watching thread could not run
    for number, function in enumerate(functions):
        pid_file = f"{directory}/{number}.pid"
        executor.submit(Job(number, function, {"pid_file": pid_file}, f"{directory}/{number}"))
    pids = [pid for number in range(len(functions)) for pid in read_pids(f"{directory}/{number}.pid")]
    Path(directory, "part").write_text(" ".join(map(str, pids)))
    Path(directory, "part").rename(Path(directory, "pids"))
    if ends != "by itself":
        sys.stdin.read()  # until the test kills this process


if __name__ == "__main__":
    main(*sys.argv[1:])
