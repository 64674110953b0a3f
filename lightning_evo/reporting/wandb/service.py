"""Weights & Biases from within one process: quiet, with many runs at a time, and without cost when the server is down."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import wandb
import yaml
from wandb.errors import AuthenticationError, CommError, UsageError

from lightning_evo._compat.wandb import EXPERIMENTAL_SETTINGS, create_sweep, kill_service
from lightning_evo.reporting.reporter import ReporterError
from lightning_evo.reporting.wandb.state import LOCAL_SUFFIX
from lightning_evo.utils.masking import Mask
from lightning_evo.utils.text import printable, storable_data

__all__ = ["OpenRun", "OuterSweep", "WandbService"]

UPLOAD_TIMEOUT = 30.0
"""Seconds that a run may take to upload the rest of its data when it ends."""

INIT_TIMEOUT = 20.0
"""Seconds that the server may take to start a run."""

PING_TIMEOUT = 5.0
"""Seconds that the server may take to answer a request that only checks whether it is up."""

PING_INTERVAL = 10.0
"""Seconds for which a server that has answered is assumed to be up."""

RETRY_INTERVAL = 60.0
"""Seconds after which a server that was down is tried again."""

PARALLEL_UPLOADS = 8
"""How many runs may be uploading the rest of their data at a time, while the search goes on."""

_SINGLE_RUN_VARIABLES = (
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_NAME",
    "WANDB_NOTES",
    "WANDB_TAGS",
    "WANDB_RUN_GROUP",
    "WANDB_JOB_TYPE",
)
"""Environment variables that define a process's only run. This process has many, and workers must not see these."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OuterSweep:
    """The sweep whose agent started this process: the search is one of its runs.

    Args:
        sweep: The sweep's id.
        run: The run's id.
        parameters: The values that the agent chose.
    """

    sweep: str
    run: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class OpenRun:
    """A run that is being written.

    Args:
        run: W&B's own object.
        online: Whether it is sent to the server as well as written to a file.
        next_step: The first step still to be logged; the server already has the earlier ones.
    """

    run: wandb.Run
    online: bool
    next_step: int = 0

    @property
    def directory(self) -> Path:
        """The directory of its files."""
        return Path(self.run.settings.sync_dir)


class WandbService:
    """W&B within one process, for many runs in sequence and in parallel.

    Args:
        mode: Whether runs are sent to the server or only written to files; ``None``: as W&B's settings say.
    """

    def __init__(self, mode: Literal["online", "offline"] | None) -> None:
        self._mode = mode
        self.online = mode != "offline"
        self.variables: dict[str, str] = {}
        self.notify: Callable[[str], None] = lambda line: None
        self.directory = Path()
        self._down_since: float | None = None
        self._reason = ""
        self._last_answer = -PING_INTERVAL
        self._uploads: list[threading.Thread] = []
        self._upload_slots = threading.Semaphore(PARALLEL_UPLOADS)
        self._unusable_ids: set[str] = set()
        self._owns_process = self._closed = False

    # Process

    def connect(self) -> bool:
        """Start W&B's process and log in; called before any worker is started, so that workers inherit nothing of it.

        Returns:
            Whether W&B is enabled: its settings may say ``disabled``.

        Raises:
            ReporterError: If there is no login, or the server refuses it.
        """
        self.variables = {name: os.environ.pop(name) for name in _SINGLE_RUN_VARIABLES if name in os.environ}
        self._owns_process = "WANDB_SERVICE" not in os.environ
        try:
            with _restored_environment("WANDB_SERVICE", "WANDB_MODE"):
                os.environ.pop("WANDB_MODE", None)
                self._settings = settings = wandb.setup(wandb.Settings(silent=True)).settings
                if self._mode is None and settings.mode == "disabled":
                    self.close()
                    return False
                self.online = (self._mode or settings.mode) in ("online", "run", "shared")
                settings.mode = "online" if self.online else "offline"
                settings.sweep_id = settings.sweep_param_path = settings.run_id = None  # if it was set up before
                if self.online and wandb.run is None and self._ping():
                    self._log_in(settings)
        except BaseException:
            self.close()
            raise
        return True

    @property
    def outer_sweep(self) -> OuterSweep | None:
        """The sweep whose agent started this process, if one did."""
        sweep, run = self.variables.get("WANDB_SWEEP_ID"), self.variables.get("WANDB_RUN_ID")
        if not sweep or not run:
            return None
        path = Path(self.variables.get("WANDB_SWEEP_PARAM_PATH", ""))
        chosen = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
        parameters = {name: item["value"] for name, item in chosen.items() if isinstance(item, dict)}
        return OuterSweep(sweep, run, parameters)

    def close(self) -> None:
        """Restore the environment, and end W&B's process unless the user had started it before."""
        self._restore_variables()
        if self._owns_process and not self._closed:
            self._closed = True
            with contextlib.suppress(OSError, SystemExit):  # the process may have died
                wandb.teardown()

    def abandon(self) -> None:
        """End W&B's process at once; otherwise it would block the exit until everything is uploaded. Its files stay."""
        self._restore_variables()
        if self._owns_process and not self._closed:
            self._closed = True
            kill_service()

    def _restore_variables(self) -> None:
        for name, value in self.variables.items():
            os.environ.setdefault(name, value)
        self.variables = {}

    def _log_in(self, settings: wandb.Settings) -> None:
        hint = "log in with `wandb login`, or set WANDB_MODE=offline (or mode: offline) and upload later"
        try:
            logged_in = wandb.login(prompt=False, verify=True)
        except (AuthenticationError, UsageError) as error:
            raise ReporterError(f"{settings.base_url} refused the login: {_first_line(error)}; {hint}") from None
        except CommError as error:
            self._mark_down(_first_line(error))
            return
        if not logged_in:
            raise ReporterError(f"no login for {settings.base_url}: {hint}")

    # Server

    def reachable(self) -> bool:
        """Whether the server can be relied on now. One that was down is tried again from time to time."""
        now = time.monotonic()
        if not self.online or (self._down_since is not None and now - self._down_since < RETRY_INTERVAL):
            return False
        return now - self._last_answer < PING_INTERVAL or self._ping()

    def reachable_again(self) -> bool:
        """Whether the server answers now, even if it was down a moment ago."""
        return self.online and self._ping()

    def begin(self, directory: Path, notify: Callable[[str], None]) -> None:
        """Set the directory for the runs' files, and how to show a line to the user."""
        self.directory, self.notify = directory, notify
        directory.mkdir(exist_ok=True)
        if self._down_since is not None:
            self._notify_down()

    def create_sweep(self, config: Mapping[str, Any], project: str, entity: str | None) -> str | None:
        """Create a sweep on the server; its id, or ``None`` where the server is down."""
        if not self.reachable():
            return None
        with _restored_environment("WANDB_PROJECT", "WANDB_ENTITY"):  # wandb sets them as the process's defaults
            try:
                return create_sweep(dict(config), project, entity)
            except CommError as error:
                self._mark_down(_first_line(error))
                return None

    def _ping(self) -> bool:
        settings = self._settings
        proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
        handlers = (
            [urllib.request.ProxyHandler({k: v for k, v in proxies.items() if v})] if any(proxies.values()) else []
        )
        try:
            urllib.request.build_opener(*handlers).open(settings.base_url, timeout=PING_TIMEOUT).close()
        except urllib.error.HTTPError as error:
            error.close()  # it is up
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not isinstance(reason, ssl.SSLError):  # W&B has certificates of its own
                self._mark_down(str(reason))
                return False
        self._last_answer = time.monotonic()
        if self._down_since is not None:
            self.notify("W&B: the server is reachable again")
        self._down_since = None
        return True

    def _mark_down(self, reason: str) -> None:
        before, self._reason = self._down_since, reason
        self._down_since, self._last_answer = time.monotonic(), -PING_INTERVAL
        if before is None:
            self._notify_down()

    def _notify_down(self) -> None:
        self.notify(
            f"W&B: {self._settings.base_url} does not answer ({self._reason}); runs are written to {self.directory} "
            "until it does"
        )

    # Runs

    def open(
        self,
        mask: Mask,
        id: str,
        *,
        sweep: str | None,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> OpenRun:
        """Start or resume a run.

        Args:
            mask: Masks the secrets in ``options``.
            id: Its id.
            sweep: The sweep it belongs to, if any.
            resume: Whether the server may already know it.
            settings: Further settings of W&B.
            options: Further arguments of ``wandb.init``.

        Returns:
            The run. Where the server is down, it is only written to a file.
        """
        common = {
            **EXPERIMENTAL_SETTINGS,
            "sweep_id": sweep,
            "disable_git": True,
            "disable_code": True,
            "save_code": False,
            "label_disable": True,
            "console": "off",
            "silent": True,
            "symlink": False,
            "init_timeout": INIT_TIMEOUT,
            "finish_timeout": UPLOAD_TIMEOUT,
            "finish_timeout_raises": True,
            **(settings or {}),
        }
        options = {
            **storable_data(mask.data(options)),
            "dir": self.directory.parent,
            "reinit": "create_new",
            "allow_val_change": True,
        }
        if self.can_open(id) and self.reachable():
            try:
                allow: Literal["allow"] | None = "allow" if resume else None
                run = wandb.init(id=id, mode="online", settings=wandb.Settings(**common), resume=allow, **options)
                self._last_answer = time.monotonic()
                return OpenRun(run, online=True, next_step=run.starting_step)
            except CommError as error:
                self._mark_down(_first_line(error))
                for path in self.directory.glob(f"run-*-{id}"):
                    shutil.rmtree(path, ignore_errors=True)  # an empty file, at which `wandb sync` would fail
                self._unusable_ids.add(id)
        id = id if self.can_open(id) else f"{id}{LOCAL_SUFFIX}"
        return OpenRun(wandb.init(id=id, mode="offline", settings=wandb.Settings(**common), **options), online=False)

    def can_open(self, id: str) -> bool:
        """Whether a run may have this id. W&B's process keeps the id of a run that could not be started."""
        return id not in self._unusable_ids

    def end(self, opened: OpenRun, exit_code: int, then: Callable[[bool], None]) -> None:
        """End a run. An online run uploads the rest of its data in the background.

        Args:
            opened: The run.
            exit_code: 0 for success, 255 for a run that was interrupted, anything else for a failure.
            then: Called with whether the server has all data, possibly from another thread.
        """
        if not opened.online:
            opened.run.finish(exit_code)
            then(False)
            return

        def upload() -> None:
            try:
                then(self._finish(opened, exit_code))
            except Exception as error:
                if not self._closed:
                    _log.warning("run %s was not ended: %s", opened.run.id, printable(_first_line(error)))
            finally:
                self._upload_slots.release()

        self._upload_slots.acquire()
        thread = threading.Thread(target=upload, name="wandb upload", daemon=True)
        self._uploads = [each for each in self._uploads if each.is_alive()] + [thread]
        thread.start()

    def wait_for_uploads(self) -> None:
        """Wait until no run is uploading."""
        for thread in self._uploads:
            thread.join()
        self._uploads = []

    def _finish(self, opened: OpenRun, exit_code: int) -> bool:
        try:
            opened.run.finish(exit_code)
        except TimeoutError:
            self._mark_down(f"a run was not uploaded within {UPLOAD_TIMEOUT:.0f} s")
            return False
        return True


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _restored_environment(*names: str) -> Iterator[None]:
    """Restore these environment variables after the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
