"""The private names of wandb exist; each test's name says what breaks without them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import wandb

from lightning_evo._compat.wandb import EXPERIMENTAL_SETTINGS


def test_without_upsert_sweep_creating_a_sweep_prints_into_the_display():
    from wandb.apis.public.sweeps import _upsert_sweep

    parameters = inspect.signature(_upsert_sweep).parameters
    assert {"api", "config", "project", "entity"} <= set(parameters)


def test_with_an_unknown_experimental_setting_no_run_can_be_opened():
    settings = wandb.Settings(**EXPERIMENTAL_SETTINGS)
    for name, value in EXPERIMENTAL_SETTINGS.items():
        assert getattr(settings, name) == value


def test_without_the_connections_process_ctrl_c_waits_for_an_upload(tmp_path):
    """In a process of its own, because the service belongs to the process."""
    code = (
        "import sys, wandb\n"
        "from lightning_evo._compat.wandb import kill_service\n"
        "wandb.setup(wandb.Settings(silent=True, mode='offline')).ensure_service()\n"
        "process = wandb.setup()._connection._proc._process\n"
        "assert callable(wandb.setup()._connection._cleanup)\n"
        "kill_service()\n"
        "sys.exit(0 if process.wait(timeout=10) == -9 else 1)\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
