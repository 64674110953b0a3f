#!/usr/bin/env python3
"""Everything from a fresh clone with one command; needs only Python 3.11+ and git.

    python3 tasks.py evolve [ARGS]   set up, then run the main job: evolve a CNN on handwritten digits
    python3 tasks.py test [ARGS]     set up, then run linters, type checks and tests (ARGS go to pytest)
    python3 tasks.py setup           set up only: a virtual environment in .venv

A second call finds the environment as the first one left it and installs nothing.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")


def setup(extras: str = "") -> None:
    """Make the virtual environment and install the package with ``extras``, unless that was done for this pyproject."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode() + extras.encode()).hexdigest()
    marker = ENVIRONMENT / f"installed{extras.replace('[', '-').replace(']', '')}"
    if marker.exists() and marker.read_text() == wanted:
        return
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs before anything has checked
        sys.exit(f"Python 3.11 or later is needed; this is {sys.version.split()[0]}")
    print(f"setting up {ENVIRONMENT} (a few minutes, once)", flush=True)
    if not PYTHON.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # First and together, so that the registry's newest pair that fits is taken.
    run([*pip, "torch>=2.6", "torchvision>=0.21"])
    run([*pip, "--editable", f"{ROOT}{extras}"])
    marker.write_text(wanted)


def run(command: list[str]) -> None:
    """Run a command in the project's root; leave with its exit code if it fails."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def main(arguments: list[str]) -> None:
    """Run one task."""
    task, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if task == "setup":
        setup()
    elif task == "evolve":
        setup()
        run([str(BIN / "lightning-evo"), "fit", "--config", "configs/digits.yaml", *rest])
        run([str(BIN / "lightning-evo"), "leaderboard", "runs/digits"])
    elif task == "test":
        setup("[test]")
        run([str(PYTHON), "-m", "ruff", "check", "."])
        run([str(PYTHON), "-m", "ruff", "format", "--check", "."])
        run([str(PYTHON), "-m", "mypy"])
        # Two cores are shared by the tests, two files at a time, and by their own worker processes.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        run([str(PYTHON), "-m", "pytest", "-n", "2", "--dist", "loadfile", *rest])
    else:
        print(__doc__)
        sys.exit(0 if task in ("-h", "--help") else 2)


if __name__ == "__main__":
    main(sys.argv[1:])
