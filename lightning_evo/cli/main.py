"""Which command is it? Those that read an archive start at once; the rest is LightningCLI's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lightning_evo import __version__
from lightning_evo.cli.console import see_users_modules

__all__ = ["main"]

USAGE = f"""lightning-evo {__version__}: evolve any LightningModule from the config file it already has

  lightning-evo fit --config CONFIG [--config SEARCH]   search (with an `evolution:` section) or just fit
  lightning-evo validate | test | predict ...           as the LightningCLI does
  lightning-evo leaderboard DIR                         the candidates of a search, best first
  lightning-evo report DIR [DIR ...]                    one page about it that opens anywhere; --watch: while it runs
  lightning-evo predictor DIR [DIR ...]                 how well predictors learn from what searches found
  lightning-evo export DIR --to best/                   the winner as a config and a checkpoint of plain Lightning
  lightning-evo export DIR --csv DIR                    all of a search as tables; --json, --optuna: as other files
  lightning-evo plot DIR KIND --to x.pdf                pictures for papers
  lightning-evo wandb DIR                               a search to Weights & Biases, from its archive

`lightning-evo COMMAND --help` says more about each.
"""


READING = ("export", "leaderboard", "plot", "predictor", "report", "wandb")
"""The commands that only read what a search has left: each a module of this package."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line ``args`` (default: the process's own).

    Raises:
        SystemExit: With 2 after a clear error on standard error, with 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    if arguments[0] in READING:
        import_module(f"lightning_evo.cli.{arguments[0]}").run(arguments[1:])
        return
    see_users_modules()
    from lightning_evo.cli.lightning import run

    run(arguments)
