#!/usr/bin/env python3
"""Everything from a fresh clone with one command; needs only Python 3.11+ and git.

    python3 tasks.py evolve [ARGS]   set up, then run the main job: evolve a CNN on handwritten digits
    python3 tasks.py test [ARGS]     set up, then run linters, type checks and tests (ARGS go to pytest)
    python3 tasks.py setup           set up only: a virtual environment in .venv

Variants of ``test``, which can be combined:

    test --fast                      without the tests that take long: what most changes need, in under three minutes
    test ROOM ...                    the tests of these rooms alone, such as ``genome`` or ``swarms``, without linters
    test --lowest                    the fast tests on Python 3.11 with the lowest supported versions, in .venv-lowest
    test --python 3.13               the fast tests on another Python, in .venv-3.13; skipped where it isn't installed

A second call finds the environment as the first one left it and installs nothing.

Tests of the report page need a browser. Where ``test`` finds no Chromium or Chrome, it installs Debian's ``chromium`` in a
container (as root, with apt-get), and elsewhere says how to get one. It tries once; without a browser those tests skip.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LOWEST_PYTHON = "3.11"
TOOLS = {"hatchling", "mypy", "ruff"}
"""What checks the sources and isn't part of what they run on: not held to its lowest version."""


class Environment:
    """A virtual environment in the clone.

    Args:
        name: Its folder.
        python: The interpreter it is made with.
        lowest: Install the lowest supported release series of each requirement, instead of the newest releases.
    """

    def __init__(self, name: str = ".venv", python: str = sys.executable, lowest: bool = False) -> None:
        self.folder, self.base, self.lowest = ROOT / name, python, lowest
        self.bin = self.folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")

    def setup(self, extras: str = "") -> None:
        """Make it and install the package with ``extras``, unless that was done for this pyproject."""
        version = subprocess.run([self.base, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
        if tuple(map(int, version.split(".")[:2])) < (3, 11):
            sys.exit(f"Python 3.11 or later is needed; this is {version}")
        wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + f"{version}{extras}".encode()).hexdigest()
        marker = self.folder / f"installed{extras.replace('[', '-').replace(']', '')}"
        if marker.exists() and marker.read_text() == wanted:
            return
        print(f"setting up {self.folder} (a few minutes, once)", flush=True)
        if not self.python.exists():
            run([self.base, "-m", "venv", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if self.lowest:
            constraints = self.folder / "lowest.txt"
            constraints.write_text("\n".join(lowest_series()) + "\n")
            pip += ["--constraint", str(constraints)]
        # First and together, so that the registry's newest pair that fits is taken.
        run([*pip, "torch>=2.6", "torchvision>=0.21"])
        run([*pip, "--editable", f"{ROOT}{extras}"])
        marker.write_text(wanted)


def lowest_series() -> list[str]:
    """The lowest supported release series of each requirement, for example ``numpy==1.26.*`` for ``numpy>=1.26``."""
    import tomllib  # from Python 3.11 on

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    series = {}
    for requirement in listed:
        if (found := re.match(r"([\w.-]+)(?:\[[\w,]*\])?>=([\d.]+)", requirement)) and found[1] not in TOOLS:
            series[found[1]] = found[2] if "." in found[2] else f"{found[2]}.0"
    series["lightning"] += ".0"  # the first release of its series: patch releases have changed what we build on
    return [f"{name}=={version}.*" for name, version in sorted(series.items())]


def find_python(version: str) -> str | None:
    """The interpreter of a version such as ``3.13``: this one, one in the PATH, or one that pyenv has installed."""
    installed = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    for command in (sys.executable, f"python{version}", *map(str, reversed(installed))):
        if path := shutil.which(command):
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.startswith(f"Python {version}."):
                return path
    return None


def provide_browser(environment: Environment) -> None:
    """See that page tests have a browser: install Debian's where that can be done, once; else say that they will skip."""
    tried = environment.folder / "browser-tried"
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


def rooms() -> list[str]:
    """The rooms that have tests."""
    return sorted(path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py")))


def test(arguments: list[str]) -> None:
    """Run linters, type checks and tests, or a part of them."""
    parser = argparse.ArgumentParser(prog="tasks.py test", allow_abbrev=False)
    parser.add_argument("--fast", action="store_true", help="leave out the tests that take long")
    parser.add_argument("--lowest", action="store_true", help="on the lowest supported versions; implies --fast")
    parser.add_argument("--python", metavar="3.X", help="on another Python; implies --fast")
    asked, rest = parser.parse_known_args(arguments)
    chosen = [room for room in rest if room in rooms()]
    rest = [f"tests/{each}" if each in chosen else each for each in rest]
    version = LOWEST_PYTHON if asked.lowest and not asked.python else asked.python
    environment = Environment()
    if version:
        python = find_python(version)
        if python is None:
            print(f"skipped: Python {version} isn't installed here")
            return
        name = "-".join([".venv", *(["lowest"] if asked.lowest else []), *([asked.python] if asked.python else [])])
        environment = Environment(name, python, asked.lowest)
    environment.setup("[test]")
    provide_browser(environment)
    python = str(environment.python)
    if not version and not chosen:
        run([python, "-m", "ruff", "check", "."])
        run([python, "-m", "ruff", "format", "--check", "."])
        run([python, "-m", "mypy"])
    if version or asked.fast:
        rest = ["--fast", *rest]
    # Four tests at a time on two cores: searches and killed processes are waited for, which leaves cores idle. Who is
    # done takes over half of another's tests, as a few long ones would else be left to one at the end.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of some hundred processes would compile the package anew
    run([python, "-m", "pytest", "-n", "4", "--dist", "worksteal", *rest])


def main(arguments: list[str]) -> None:
    """Run one task."""
    task, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    environment = Environment()
    if task == "setup":
        environment.setup()
    elif task == "evolve":
        environment.setup()
        run([str(environment.bin / "lightning-evo"), "fit", "--config", "configs/digits.yaml", *rest])
        run([str(environment.bin / "lightning-evo"), "leaderboard", "runs/digits"])
    elif task == "test":
        test(rest)
    else:
        print(__doc__)
        sys.exit(0 if task in ("-h", "--help") else 2)


if __name__ == "__main__":
    main(sys.argv[1:])
