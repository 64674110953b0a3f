"""Private names of wandb that this package uses, and what breaks without each."""

from __future__ import annotations

import contextlib
from typing import Any

import wandb

__all__ = ["EXPERIMENTAL_SETTINGS", "create_sweep", "kill_service"]

EXPERIMENTAL_SETTINGS: dict[str, Any] = {
    # wandb writes a requirements.txt into every candidate's run: a slow listing of all installed packages.
    "x_save_requirements": False,
    # A thread per run samples CPU, GPU and network, which are the machine's and not the candidate's.
    "x_disable_stats": True,
    # Every candidate's run gets the same metadata file, with the command line and the git state of the search.
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    # A killed search loses up to 15 seconds of every open run instead of 2.
    "x_transaction_log_flush_interval": 2.0,
}
"""Settings of a candidate's run whose names start with ``x_``, which wandb may rename without notice."""


def create_sweep(config: dict[str, Any], project: str, entity: str | None) -> str:
    """Create a sweep on the server without printing anything.

    Uses ``wandb.apis.public.sweeps._upsert_sweep``. Without it, the public ``wandb.sweep`` is called, which does the same
    and prints the sweep's URL to standard output, in the middle of the search's display.

    Returns:
        The sweep's id.
    """
    try:
        from wandb.apis.public.sweeps import _upsert_sweep
    except ImportError:
        return wandb.sweep(config, project=project, entity=entity)
    sweep, _ = _upsert_sweep(wandb.Api(), config, project=project, entity=entity)
    return sweep["name"]


def kill_service() -> None:
    """End wandb's service process at once; its files stay.

    Uses ``_connection`` of ``wandb.setup()``, and ``_proc``, ``_process`` and ``_cleanup`` of that connection. Without
    them the service keeps this process alive until everything is uploaded: with an unreachable server, Ctrl-C takes
    minutes to end a search.
    """
    connection = getattr(wandb.setup(), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    cleanup = getattr(connection, "_cleanup", None)
    if process is None or cleanup is None:
        return
    cleanup()
    process.kill()
    with contextlib.suppress(OSError, SystemExit):
        wandb.teardown()  # forgets the process, which can't be notified any more, and exits with its exit code
