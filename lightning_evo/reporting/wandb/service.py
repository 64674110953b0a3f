"""How is Weights & Biases spoken to? From this process alone, quietly, and so that a server that is away costs nothing."""

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

from lightning_evo.reporting.reporter import ReporterError
from lightning_evo.reporting.wandb.state import KEPT

__all__ = ["OpenRun", "Outer", "WandbService"]

UPLOAD_TIME = 30.0
"""Seconds that a run may take to upload what is left of it when it ends."""

INIT_TIME = 20.0
"""Seconds that the server may take to begin a run."""

ANSWER_TIME = 5.0
"""Seconds that the server may take to show that it is there."""

TRUSTED = 10.0
"""Seconds for which a server that has answered is taken to be there."""

AWAY = 60.0
"""Seconds after which a server that was away is looked for again."""

ENDING = 8
"""How many runs may be uploading their rest at a time, while others go on."""

_OF_ONE_RUN = (
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
"""Variables that say what the one run of a process is. This process has many; those of candidates know of none."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outer:
    """A sweep whose agent started this process: the search is one of its runs.

    Args:
        sweep: The sweep's id.
        run: The run's id.
        parameters: What the agent chose.
    """

    sweep: str
    run: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class OpenRun:
    """A run that is being written.

    Args:
        run: W&B's own object.
        online: Whether it goes to the server as well as into a file.
        steps: From which step on there is something to log: what the server has of it by now is below.
    """

    run: wandb.Run
    online: bool
    steps: int = 0

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return Path(self.run.settings.sync_dir)


class WandbService:
    """W&B within one process, for many runs one after the other and beside each other.

    Args:
        mode: Whether runs go to the server, or into files alone; ``None``: as W&B's settings say.
    """

    def __init__(self, mode: Literal["online", "offline"] | None) -> None:
        self._mode = mode
        self.online = mode != "offline"
        self.variables: dict[str, str] = {}
        self.say: Callable[[str], None] = lambda line: None
        self.directory = Path()
        self._away_since: float | None = None
        self._reason = ""
        self._answered = -TRUSTED
        self._uploading: list[threading.Thread] = []
        self._uploads = threading.Semaphore(ENDING)
        self._spent: set[str] = set()
        self._ours = self._closed = False

    # -- this process ----------------------------------------------------------------------------------------------------

    def connect(self) -> bool:
        """Start W&B's process and log in; called before any worker is started, so that none inherits anything of it.

        Returns:
            Whether anything is wanted: W&B's settings may say ``disabled``.

        Raises:
            ReporterError: If there is no login, or the server refuses it.
        """
        self.variables = {name: os.environ.pop(name) for name in _OF_ONE_RUN if name in os.environ}
        self._ours = "WANDB_SERVICE" not in os.environ
        try:
            with _kept("WANDB_SERVICE", "WANDB_MODE"):
                os.environ.pop("WANDB_MODE", None)
                self._settings = settings = wandb.setup(wandb.Settings(silent=True)).settings
                if self._mode is None and settings.mode == "disabled":
                    self.close()
                    return False
                self.online = (self._mode or settings.mode) in ("online", "run", "shared")
                settings.mode = "online" if self.online else "offline"
                settings.sweep_id = settings.sweep_param_path = settings.run_id = None  # where it was set up before
                if self.online and wandb.run is None and self._answers():
                    self._log_in(settings)
        except BaseException:
            self.close()
            raise
        return True

    @property
    def outer(self) -> Outer | None:
        """The sweep whose agent started this process, if one did."""
        sweep, run = self.variables.get("WANDB_SWEEP_ID"), self.variables.get("WANDB_RUN_ID")
        if not sweep or not run:
            return None
        path = Path(self.variables.get("WANDB_SWEEP_PARAM_PATH", ""))
        chosen = (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
        parameters = {name: item["value"] for name, item in chosen.items() if isinstance(item, dict)}
        return Outer(sweep, run, parameters)

    def close(self) -> None:
        """Put back what was taken away, and end W&B's process where the user had none before."""
        self._restore()
        if self._ours and not self._closed:
            self._closed = True
            with contextlib.suppress(OSError, SystemExit):  # where the process had died
                wandb.teardown()

    def abandon(self) -> None:
        """End W&B's process at once, which would keep this one until everything is uploaded. Its files stay."""
        self._restore()
        if not self._ours or self._closed:
            return
        self._closed = True
        connection = getattr(wandb.setup(), "_connection", None)
        process = getattr(getattr(connection, "_proc", None), "_process", None)
        forget = getattr(connection, "_cleanup", None)
        if process is not None and forget is not None:  # nothing public does it
            forget()
            process.kill()
            with contextlib.suppress(OSError, SystemExit):
                wandb.teardown()  # forgets the process, which can't be told any more, and exits as it did

    def _restore(self) -> None:
        for name, value in self.variables.items():
            os.environ.setdefault(name, value)
        self.variables = {}

    def _log_in(self, settings: wandb.Settings) -> None:
        how = "log in with `wandb login`, or set WANDB_MODE=offline (or mode: offline) and upload later"
        try:
            known = wandb.login(prompt=False, verify=True)
        except (AuthenticationError, UsageError) as error:
            raise ReporterError(f"{settings.base_url} refuses the login: {_first_line(error)}; {how}") from None
        except CommError as error:
            self._lose(_first_line(error))
            return
        if not known:
            raise ReporterError(f"no login for {settings.base_url}: {how}")

    # -- the server ------------------------------------------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """Whether the server didn't answer when it was last asked to."""
        return self.online and self._away_since is not None

    def reachable(self) -> bool:
        """Whether the server can be counted on now. One that was away is looked for again from time to time."""
        now = time.monotonic()
        if not self.online or (self._away_since is not None and now - self._away_since < AWAY):
            return False
        return now - self._answered < TRUSTED or self._answers()

    def look_again(self) -> bool:
        """Whether the server answers, even if it was found away a moment ago."""
        return self.online and self._answers()

    def _answers(self) -> bool:
        settings = self._settings
        proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
        handlers = (
            [urllib.request.ProxyHandler({k: v for k, v in proxies.items() if v})] if any(proxies.values()) else []
        )
        try:
            urllib.request.build_opener(*handlers).open(settings.base_url, timeout=ANSWER_TIME).close()
        except urllib.error.HTTPError as error:
            error.close()  # it is there
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not isinstance(reason, ssl.SSLError):  # W&B has certificates of its own
                self._lose(str(reason))
                return False
        self._answered = time.monotonic()
        if self._away_since is not None:
            self.say("W&B answers again")
        self._away_since = None
        return True

    def begin(self, directory: Path, say: Callable[[str], None]) -> None:
        """Runs are written below this directory, and what the user should know is said like this."""
        self.directory, self.say = directory, say
        directory.mkdir(exist_ok=True)
        if self._away_since is not None:
            self._say_away()

    def _lose(self, reason: str) -> None:
        before, self._reason = self._away_since, reason
        self._away_since, self._answered = time.monotonic(), -TRUSTED
        if before is None:
            self._say_away()

    def _say_away(self) -> None:
        away = f"W&B: {self._settings.base_url} does not answer ({self._reason})"
        self.say(f"{away}; runs are written to {self.directory} until it does")

    def create_sweep(self, config: Mapping[str, Any], project: str, entity: str | None) -> str | None:
        """Make a sweep on the server; its id, or ``None`` where the server is away."""
        if not self.reachable():
            return None
        with _kept("WANDB_PROJECT", "WANDB_ENTITY"):  # it would make them the process's own defaults
            try:
                return _create_sweep(dict(config), project, entity)
            except CommError as error:
                self._lose(_first_line(error))
                return None

    # -- runs ------------------------------------------------------------------------------------------------------------

    def open(
        self,
        id: str,
        *,
        sweep: str | None,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        **told: Any,
    ) -> OpenRun:
        """Begin a run, or go on with one.

        Args:
            id: Its id.
            sweep: The sweep it belongs to, if any.
            resume: Whether the server may know it already.
            settings: Further settings of W&B's.
            told: Further arguments of ``wandb.init``.

        Returns:
            The run. Where the server is away, it is written into a file alone.
        """
        common = {
            "sweep_id": sweep,
            "x_save_requirements": False,
            "x_disable_stats": True,
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_transaction_log_flush_interval": 2.0,
            "disable_git": True,
            "disable_code": True,
            "save_code": False,
            "label_disable": True,
            "console": "off",
            "silent": True,
            "symlink": False,
            "init_timeout": INIT_TIME,
            "finish_timeout": UPLOAD_TIME,
            "finish_timeout_raises": True,
            **(settings or {}),
        }
        told = {**told, "dir": self.directory.parent, "reinit": "create_new", "allow_val_change": True}
        if self.can_open(id) and self.reachable():
            try:
                again: Literal["allow"] | None = "allow" if resume else None
                run = wandb.init(id=id, mode="online", settings=wandb.Settings(**common), resume=again, **told)
                self._answered = time.monotonic()
                return OpenRun(run, online=True, steps=run.starting_step)
            except CommError as error:
                self._lose(_first_line(error))
                for path in self.directory.glob(f"run-*-{id}"):
                    shutil.rmtree(path, ignore_errors=True)  # an empty file, which `wandb sync` would stumble over
                self._spent.add(id)
        id = id if self.can_open(id) else f"{id}{KEPT}"
        return OpenRun(wandb.init(id=id, mode="offline", settings=wandb.Settings(**common), **told), online=False)

    def can_open(self, id: str) -> bool:
        """Whether a run may have this id. W&B's process doesn't give up that of a run that could not be begun."""
        return id not in self._spent

    def end(self, opened: OpenRun, exit_code: int, then: Callable[[bool], None]) -> None:
        """End a run. One that is online uploads its rest while others go on.

        Args:
            opened: Which one.
            exit_code: 0 for one that went well, 255 for one that was cut short, anything else for a failed one.
            then: Called with whether the server has all of it, perhaps from another thread.
        """
        if not opened.online:
            opened.run.finish(exit_code)
            then(False)
            return

        def upload() -> None:
            try:
                then(self._upload(opened, exit_code))
            except Exception as error:
                if not self._closed:
                    _log.warning("run %s was not ended: %s", opened.run.id, _first_line(error))
            finally:
                self._uploads.release()

        self._uploads.acquire()
        thread = threading.Thread(target=upload, name="wandb upload", daemon=True)
        self._uploading = [each for each in self._uploading if each.is_alive()] + [thread]
        thread.start()

    def settle(self) -> None:
        """Wait until no run uploads any more."""
        for thread in self._uploading:
            thread.join()
        self._uploading = []

    def _upload(self, opened: OpenRun, exit_code: int) -> bool:
        try:
            opened.run.finish(exit_code)
        except TimeoutError:
            self._lose(f"not all of a run was uploaded within {UPLOAD_TIME:.0f} s")
            return False
        return True


def _create_sweep(config: dict[str, Any], project: str, entity: str | None) -> str:
    try:
        from wandb.apis.public.sweeps import _upsert_sweep
    except ImportError:
        return wandb.sweep(config, project=project, entity=entity)  # says so on standard output
    sweep, _ = _upsert_sweep(wandb.Api(), config, project=project, entity=entity)
    return sweep["name"]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _kept(*names: str) -> Iterator[None]:
    """Give variables, behind the block, the values they had before it."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
