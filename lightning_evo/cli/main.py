"""The entry point: commands that read an archive start at once; all others go to LightningCLI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from lightning_evo.cli.console import (
    CLOSED_PIPE,
    INTERRUPTED,
    add_working_directory,
    interrupts_end_commands,
    prepare_output,
    refuse,
    show,
)
from lightning_evo.utils import __version__
from lightning_evo.utils.masking import SHOW_SECRETS
from lightning_evo.utils.output import reader_is_gone, settle_output

__all__ = ["main"]

USAGE = f"""lightning-evo {__version__}: evolve any LightningModule from the config file it already has

  lightning-evo fit --config CONFIG [--config SEARCH]   search (with an `evolution:` section), or just fit
  lightning-evo fit --cli PACKAGE.MODULE:MAIN ...       the same with somebody else's LightningCLI (--import PACKAGE first)
  lightning-evo init --config CONFIG                    propose a SEARCH for a config
  lightning-evo validate | test | predict ...           same as LightningCLI
  lightning-evo hydra -cp DIR -cn NAME SEARCH           search over the configs of a Hydra project
  lightning-evo leaderboard DIR                         list the candidates of a search, best first
  lightning-evo report DIR [DIR ...]                    write one HTML page about a search; --watch: serve it live
  lightning-evo predictor DIR [DIR ...]                 evaluate predictors on the results of searches
  lightning-evo export DIR --to best/                   write the winner as a config and a plain Lightning checkpoint
  lightning-evo export DIR --csv DIR                    write a whole search as tables (or --json, --optuna)
  lightning-evo plot DIR KIND --to x.pdf                draw figures for papers
  lightning-evo check DIR [--repair]                    say whether all files of a search are whole, and rebuild them
  lightning-evo wandb DIR                               upload a search to Weights & Biases from its archive

Secrets (api_key, password, token, ...) are masked in everything that leaves the run's directory; --show-secrets, with any
command, shows them. Run `lightning-evo COMMAND --help` for details.
"""


READ_COMMANDS = ("check", "export", "leaderboard", "plot", "predictor", "report", "wandb")
"""The commands that only read what a search has recorded: each is a module of this package."""


SHOW = "--show-secrets"


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line.

    Args:
        args: The arguments; default: those of the process.

    Raises:
        SystemExit: With code 2 after an error message on standard error, with 130 after Ctrl-C, with 141 where nobody reads
            the output any more.
    """
    prepare_output()
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        with interrupts_end_commands(), _secrets_shown(SHOW in arguments):
            _run([argument for argument in arguments if argument != SHOW])
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        if not reader_is_gone():
            raise  # another pipe or connection
        raise SystemExit(CLOSED_PIPE) from None
    finally:
        settle_output()


@contextmanager
def _secrets_shown(shown: bool) -> Iterator[None]:
    """Show secrets in this process, and in those that it starts, during the block."""
    before = os.environ.get(SHOW_SECRETS)
    if shown:
        os.environ[SHOW_SECRETS] = "1"
    try:
        yield
    finally:
        if shown and before is None:
            del os.environ[SHOW_SECRETS]
        elif shown and before is not None:
            os.environ[SHOW_SECRETS] = before


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        show(USAGE.rstrip())
        return
    if arguments[0] == "--version":
        show(__version__)
        return
    if arguments[0] in READ_COMMANDS:
        command = import_module(f"lightning_evo.cli.{arguments[0]}")
        try:
            command.run(arguments[1:])
        except BrokenPipeError:
            raise
        except (OSError, OverflowError, ValueError) as error:
            # Names that no file can have, files that can't be written, numbers that no database takes.
            refuse(ValueError(f"{arguments[0]}: {error}"))
        return
    if arguments[0] == "hydra":
        from lightning_evo.cli.hydra import run as search_hydra

        search_hydra(arguments[1:])
        return
    add_working_directory()
    if arguments[0] == "init":
        from lightning_evo.cli.init import run as init

        init(arguments[1:])
        return
    from lightning_evo.cli.lightning import run

    run(arguments)
