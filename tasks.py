#!/usr/bin/env python3
"""Everything from a fresh clone with one command; needs only Python 3.11+ and git.

    python3 tasks.py evolve [ARGS]   set up, then run the main job: evolve a CNN on handwritten digits
    python3 tasks.py test [ARGS]     set up, then run linters, type checks and tests (ARGS go to pytest)
    python3 tasks.py setup           set up only: a virtual environment in .venv

A second call finds the environment as the first one left it and installs nothing.

Tests of the report page need a browser. Where ``test`` finds no Chromium or Chrome, it installs Debian's ``chromium`` in a
container (as root, with apt-get), and elsewhere says how to get one. It tries once; without a browser those tests skip.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


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


def provide_browser() -> None:
    """See that page tests have a browser: install Debian's where that can be done, once; else say that they will skip."""
    tried = ENVIRONMENT / "browser-tried"
    if any(map(shutil.which, BROWSERS)):
        return
    if tried.exists():
        why = f"installing one was tried; delete {tried} to try again"
    elif not shutil.which("apt-get") or os.geteuid() != 0:
        why = "only root can install one by itself, where there is apt-get"
    else:
        print("installing chromium, in which page tests run (a minute or two, once)", flush=True)
        why = install_chromium()
        tried.write_text(why)
        if any(map(shutil.which, BROWSERS)):
            return
    print(f"no Chromium or Chrome is in the PATH: page tests will be skipped; install one ({why})", flush=True)


def install_chromium() -> str:
    """Install Debian's ``chromium``, in silence; how that ended: the last line of what failed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            errors = [line for line in done.stdout.splitlines() if line.startswith("E:")]
            return f"apt-get {arguments[0]} failed: {errors[0] if errors else 'it gave no error'}"
    return "apt-get installed its chromium"


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
        provide_browser()
        run([str(PYTHON), "-m", "ruff", "check", "."])
        run([str(PYTHON), "-m", "ruff", "format", "--check", "."])
        run([str(PYTHON), "-m", "mypy"])
        # Three tests at a time on two cores: searches and killed processes are waited for, which leaves cores idle. Who is
        # done takes over half of another's tests, as a few long ones would else be left to one at the end.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        run([str(PYTHON), "-m", "pytest", "-n", "3", "--dist", "worksteal", *rest])
    else:
        print(__doc__)
        sys.exit(0 if task in ("-h", "--help") else 2)


if __name__ == "__main__":
    main(sys.argv[1:])
