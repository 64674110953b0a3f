"""One measurement in a separate process, so that none warms up or disturbs another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def in_process(script: str, *arguments: Any) -> dict[str, Any]:
    """Run ``script --one ARGUMENTS``, which prints its record as JSON; the last argument is the number of threads."""
    command = [sys.executable, str(Path(script).resolve()), "--one", *map(str, arguments)]
    threads = {name: str(arguments[-1]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record
