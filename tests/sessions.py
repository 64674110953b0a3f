"""The commands that a page shows, run in a folder as a reader would run them, on small budgets."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import warm
import yaml

from lightning_evo.cli import main

CANDIDATES, MORE, EPOCHS = 4, 6, 2
"""What searches are cut to: their budget, that of a command which raises it, and epochs of each training."""

SHELL = frozenset("|;&<>$")
"""A command with one of these needs a shell."""


def shell_lines(page: Path) -> list[str]:
    """The commands in a page's bash blocks, in order, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in shell_lines_of(block)]


def shell_lines_of(block: str) -> list[str]:
    """The commands in one bash block, without comments; a line that ends in a backslash goes on."""
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


def shortened(line: str, folder: Path, epochs: int = EPOCHS, candidates: int = CANDIDATES) -> str:
    """``lightning-evo fit`` on a small budget, any other command as it is.

    Args:
        line: The command.
        folder: Where its configs are.
        epochs: Epochs of each training.
        candidates: Candidates of a search.
    """
    if not line.startswith("lightning-evo fit"):
        return line
    configs = [yaml.safe_load((folder / name).read_text()) for name in re.findall(r"--config[ =](\S+)", line)]
    small = f" --trainer.max_epochs={epochs}"
    if any("evolution" in config for config in configs):
        budget = candidates
        if "--evolution.budget.candidates" in line:
            budget += MORE - CANDIDATES
        small += f" --evolution.budget.candidates={budget} --evolution.workers.slots=2"
        if any((config.get("evolution") or {}).get("final", {}).get("retrain") for config in configs):
            small += " --evolution.final.overrides='{}'"
    return line + small


def run_here(line: str, folder: Path) -> str:
    """Run one command as :func:`run_line` does, but ``lightning-evo`` in this process, which has imported Lightning already.

    The user's modules that the command imports from the folder are forgotten afterwards.

    Args:
        line: The command.
        folder: Where.

    Returns:
        What it printed.

    Raises:
        AssertionError: If it fails; the message holds what it printed.
    """
    words = shlex.split(line)
    if words[0] != "lightning-evo" or set(line) & SHELL:
        return run_line(line, folder)
    modules, path, before = set(sys.modules), list(sys.path), Path.cwd()
    out, err, code = io.StringIO(), io.StringIO(), 0
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words[1:])
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
    return _succeeded(line, code, out.getvalue(), err.getvalue())


def _succeeded(line: str, code: int, out: str, err: str) -> str:
    assert code == 0, f"{line}: exit code {code}\n{out[-2000:]}\n{err[-4000:]}"
    assert "Traceback (most recent call last)" not in err, f"{line}\n{err[-4000:]}"
    return out


def run_line(line: str, folder: Path, timeout: float = 240) -> str:
    """Run one command in a shell; ``lightning-evo``, where it needs none, in a process that starts at once.

    Args:
        line: The command.
        folder: Where.
        timeout: In seconds.

    Returns:
        What it printed.

    Raises:
        AssertionError: If it fails; the message holds what it printed.
    """
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    environment |= {"COLUMNS": "200", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": timeout}
    words = shlex.split(line)
    if words[0] == "lightning-evo" and not set(line) & SHELL:
        words[0] = str(Path(sys.executable).with_name(words[0]))
        done = warm.run(words, stdin=subprocess.DEVNULL, **how)
    else:
        done = subprocess.run(["/bin/bash", "-c", line], check=False, stdin=subprocess.DEVNULL, **how)
    return _succeeded(line, done.returncode, done.stdout, done.stderr)
