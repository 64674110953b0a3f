"""Search other people's projects as they are: real packages, each from its own entry point with a search file added.

``python benchmarks/projects.py [NAME ...]`` installs each project's package in an environment of its own, writes a small
data set in the package's format, and runs what a user would: the project's plain training, the search (early stopping,
inheritance), the same command again (nothing may be trained again), a search with ``stack: auto``, the leaderboard, the
report, the export, and a script of the project that opens the exported checkpoint without this package. It prints one row
per project and step, and ends with exit code 1 if any step failed.

An environment has the project's packages on top of this one's (torch and Lightning aren't installed six times). Where a
package needs another version of something, the environment's own comes first, so that anomalib runs with the jsonargparse
that it asks for. Environments in ``--directory`` are used again the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import site
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
PINNED = ("torch", "torchvision", "lightning", "numpy")
"""What a project may not replace in its environment: the versions under test."""


class Missed(RuntimeError):
    """A step that didn't do what a user expects."""


@dataclass(frozen=True)
class Project:
    """One project: what it is made of, and how its owner uses it.

    Attributes:
        name: Also its folder in ``_projects``; what several use is in ``_projects/shared``.
        requirements: What pip installs.
        plain: Arguments of ``python`` for the training without a search.
        search: Arguments of ``python`` for the search.
        opens: Arguments of ``python`` that open the exported checkpoint; ``{checkpoint}`` and ``{config}`` stand for
            the files.
        stack: Arguments that a search with ``stack: auto`` adds; ``None``: the search takes none on its command line.
        pinned: Packages that its environment takes from this one.
        clone: The project itself, where it isn't a package: a Git repository.
        data: What writes its data set into a folder that is named.
    """

    name: str
    requirements: tuple[str, ...]
    plain: tuple[str, ...]
    search: tuple[str, ...]
    opens: tuple[str, ...] = ("opens.py", "{checkpoint}")
    stack: tuple[str, ...] | None = (
        "--evolution.workers.stack",
        "auto",
        "--evolution.callbacks",
        "[]",
        "--evolution.directory",
        "run_stack",
    )
    pinned: tuple[str, ...] = PINNED
    clone: str | None = None
    data: str = "data.py"


FIT = ("-m", "lightning_evo", "fit")
FILES = ("--config", "config.yaml", "--config", "search.yaml")
SMALL = ("trainer.max_epochs=5", "data.train_val_test_split=[480,120,200]")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", "plain")

PROJECTS = (
    Project(
        name="torchgeo",
        requirements=("torchgeo",),
        plain=("-m", "torchgeo", "fit", "--config", "config.yaml", *QUIET),
        search=(*FIT, "--cli", "torchgeo.main:main", *FILES),
    ),
    Project(
        name="torch_uncertainty",
        requirements=("torch-uncertainty[image,others]", "timm", "huggingface_hub"),
        plain=("main.py", "fit", "--config", "config.yaml", *QUIET),
        search=(*FIT, "--cli", "main:cli_main", *FILES),
        opens=("main.py", "test", "--config", "{config}", "--ckpt_path", "{checkpoint}", "--trainer.logger", "false"),
        pinned=("torch", "torchvision", "lightning"),
        data="mnist.py",
    ),
    Project(
        name="chemprop",
        requirements=("chemprop",),
        plain=("plain.py", "fit", "--config", "config.yaml", *QUIET),
        search=(*FIT, *FILES),
    ),
    Project(
        name="pytorch_forecasting",
        requirements=("pytorch-forecasting",),
        plain=("train.py",),
        search=("search.py",),
        stack=None,
    ),
    Project(
        name="anomalib",
        requirements=("anomalib",),
        plain=("plain.py", "fit", "--config", "config.yaml", *QUIET),
        search=(*FIT, *FILES),
    ),
    Project(
        name="hydra_template",
        requirements=("hydra-core", "hydra-colorlog", "rootutils", "rich"),
        plain=("src/train.py", "test=false", *SMALL),
        search=(
            *("-m", "lightning_evo", "hydra", "--config-path", "configs", "--config-name", "train"),
            *("--import", "src.train", "search.yaml", *SMALL),
        ),
        opens=("opens.py", "{checkpoint}", "{config}"),
        clone="https://github.com/ashleve/lightning-hydra-template",
        data="mnist.py",
    ),
)


@dataclass
class Runner:
    """Runs the steps of one project in its folder, with its environment."""

    project: Project
    folder: Path
    python: Path
    log: Path

    def run(self, arguments: tuple[str, ...], *, ours: bool = True) -> str:
        """Run ``python`` with ``arguments``; returns its standard output.

        Args:
            ours: Whether this package may be imported: it may not where a project opens what was exported.

        Raises:
            Missed: If the command fails.
        """
        path = [str(self.folder), *([str(REPOSITORY)] if ours else [])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "ignore"}
        with self.log.open("a") as log:
            print("$ python", *arguments, file=log, flush=True)
            ended = subprocess.run(
                [self.python, *arguments],
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            log.write(ended.stdout)
        if ended.returncode:
            raise Missed(f"exit code {ended.returncode} (see {self.log})")
        return ended.stdout

    def candidates(self, directory: str = "run") -> list[dict[str, object]]:
        return json.loads(self.run(("-m", "lightning_evo", "leaderboard", directory, "--format", "json", "--top", "0")))

    def data(self) -> str:
        self.run((self.project.data, "data"))
        return ""

    def plain(self) -> str:
        self.run(self.project.plain)
        return ""

    def search(self) -> str:
        self.run(self.project.search)
        return self._all_trained("run")

    def again(self) -> str:
        before = self.candidates()
        self.run(self.project.search)
        if self.candidates() != before:
            raise Missed("the same command changed what was there")
        return ""

    def stack(self) -> str:
        if self.project.stack is None:
            return "no command line"
        self.run((*self.project.search, *self.project.stack))
        return self._all_trained("run_stack")

    def report(self) -> str:
        self.run(("-m", "lightning_evo", "report", "run", "--to", "report.html"))
        return f"{(self.folder / 'report.html').stat().st_size / 1e6:.1f} MB"

    def export(self) -> str:
        self.run(("-m", "lightning_evo", "export", "run", "--to", "best"))
        return ", ".join(sorted(path.name for path in (self.folder / "best").iterdir()))

    def opens(self) -> str:
        files = {"{checkpoint}": "best/model.ckpt", "{config}": "best/config.yaml"}
        lines = self.run(tuple(files.get(part, part) for part in self.project.opens), ours=False).strip().splitlines()
        return lines[-1] if lines else ""

    def _all_trained(self, directory: str) -> str:
        rows = self.candidates(directory)
        failed = [row for row in rows if row["status"] == "failed"]
        if failed or not rows:
            raise Missed(f"{len(failed)} of {len(rows)} candidates failed (see {self.log})")
        return f"{len(rows)} candidates"


STEPS: dict[str, Callable[[Runner], str]] = {
    "data": Runner.data,
    "plain training": Runner.plain,
    "search": Runner.search,
    "search again": Runner.again,
    "stack: auto": Runner.stack,
    "report": Runner.report,
    "export": Runner.export,
    "opened by the project": Runner.opens,
}


def environment(project: Project, directory: Path) -> Path:
    """The interpreter of the project's environment, which is made the first time."""
    home = directory / "environments" / project.name
    python = home / "bin" / "python"
    done = home / "installed.json"
    if done.exists() and json.loads(done.read_text()) == list(project.requirements):
        return python
    venv.create(home, clear=True, with_pip=False)
    packages = next(home.glob("lib/python*/site-packages"))
    below = [path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()]
    (packages / "below.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in below))
    constraints = home / "constraints.txt"
    constraints.write_text("".join(f"{name}=={metadata.version(name).split('+')[0]}\n" for name in project.pinned))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "-c",
        constraints,
        *project.requirements,
    ]
    subprocess.run(command, check=True)
    done.write_text(json.dumps(list(project.requirements)))
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [project.name for project in PROJECTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--directory", type=Path, default=Path("runs/projects"), help="default: %(default)s")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"no project {unknown[0]!r}; there are {', '.join(names)}")
    directory = options.directory.resolve()
    missed = 0
    print("| project | step | seconds | |\n|---|---|---|---|")
    for project in PROJECTS:
        if options.names and project.name not in options.names:
            continue
        python = environment(project, directory)
        folder = directory / project.name
        shutil.rmtree(folder, ignore_errors=True)
        if project.clone is not None:
            subprocess.run(["git", "clone", "-q", "--depth", "1", project.clone, folder], check=True)
        shutil.copytree(HERE / "_projects" / project.name, folder, dirs_exist_ok=True)
        shutil.copytree(HERE / "_projects" / "shared", folder, dirs_exist_ok=True)
        log = directory / f"{project.name}.log"
        log.unlink(missing_ok=True)
        runner = Runner(project, folder, python, log)
        for name, step in STEPS.items():
            began = time.perf_counter()
            try:
                result = step(runner)
            except Missed as error:
                missed += 1
                result = f"**failed**: {error}"
            print(f"| {project.name} | {name} | {time.perf_counter() - began:.0f} | {result} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
