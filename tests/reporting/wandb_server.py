"""A W&B server on loopback that remembers what it is told, and reads the files that W&B writes offline."""

from __future__ import annotations

import json
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

ENTITY = "tester"
KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass
class StoredRun:
    """What the server knows of one run."""

    name: str
    project: str = ""
    sweep: str | None = None
    group: str | None = None
    job_type: str | None = None
    display_name: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    starts: int = 0
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def own(self) -> dict[str, Any]:
        """The config without W&B's own entry."""
        return {key: value for key, value in self.config.items() if key != "_wandb"}


class WandbServer:
    """Enough of W&B's protocol (0.31) for sweeps, runs, ``wandb sync`` and ``wandb agent``.

    Args:
        unknown_sweeps: Whether a run may belong to a sweep that was never made here; W&B's own server says 404.
        work: Arguments of the runs that agents are given, in order; then they are told to exit.
    """

    def __init__(self, unknown_sweeps: bool = False, work: tuple[Mapping[str, Any], ...] = ()) -> None:
        self.unknown_sweeps = unknown_sweeps
        self.work = list(work)
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, StoredRun] = {}
        self.asked: list[str] = []
        self.unhandled: list[str] = []
        self.delay = 0.0
        self.down = False
        self.login = True
        self._given: list[str] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                time.sleep(outer.delay)
                if outer.down:
                    self.close_connection = True
                    self.connection.close()
                    return
                with outer._lock:
                    code, answer = outer._answer(self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _answer

        self._http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process use this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}

    def candidates(self) -> list[StoredRun]:
        """The runs of candidates, by their names."""
        return sorted((run for run in self.runs.values() if run.job_type == "candidate"), key=lambda run: run.name)

    def searches(self) -> list[StoredRun]:
        """The runs of searches."""
        return [run for run in self.runs.values() if run.job_type == "search"]

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path.endswith("/graphql"):
            asked = json.loads(body)
            query, given = asked["query"], asked.get("variables") or {}
            operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
            name = operation[1] if operation else query
            self.asked.append(name)
            if name not in self._ANSWERS:
                self.unhandled.append(name)
                return 400, {"errors": [{"message": f"no answer to {name}"}]}
            result = self._ANSWERS[name](self, given)
            if isinstance(result, tuple):
                code, message = result
                return code, {"errors": [{"message": message}], "data": None}
            return 200, {"data": result}
        if path.endswith("/file_stream"):
            self._stream(path.split("/")[-2], json.loads(body))
            return 200, {"exitcode": None, "limits": {}}
        if path.startswith("/upload/"):
            _, _, run, name = path.split("/", 3)
            self.runs[run].files[name] = body
        return 200, {}

    def _viewer(self, given: Mapping[str, Any]) -> Any:
        if not self.login:
            return {"viewer": None}
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "admin": False}
        return {"viewer": {**viewer, "teams": {"edges": []}, "apiKeys": {"edges": []}}}

    def _upsert_sweep(self, given: Mapping[str, Any]) -> Any:
        name = f"sweep{len(self.sweeps)}"
        project = given["projectName"] or "uncategorized"
        self.sweeps[name] = {"config": given["config"], "project": project, "name": given.get("displayName")}
        place = {"id": "p", "name": project, "entity": {"id": "e", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"id": name, "name": name, "project": place}, "configValidationWarnings": []}}

    def _upsert_run(self, given: Mapping[str, Any]) -> Any:
        sweep = given.get("sweep")
        if sweep and sweep not in self.sweeps and not self.unknown_sweeps:
            return 404, f"sweep {sweep} not found"
        name = given.get("name") or given["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name))
        if given.get("project"):
            run.starts += bool(given.get("jobType") or inserted)
        if given.get("config"):
            run.config = {key: item["value"] for key, item in json.loads(given["config"]).items()}
        fields = {"project": "project", "sweep": "sweep", "groupName": "group", "jobType": "job_type", "notes": "notes"}
        for key, attribute in {**fields, "displayName": "display_name"}.items():
            if given.get(key) is not None:
                setattr(run, attribute, given[key])
        if given.get("tags") is not None:
            run.tags = tuple(given["tags"])
        place = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": f"id-{name}", "name": name, "displayName": run.display_name, "description": None}
        bucket |= {"config": json.dumps(run.config), "sweepName": run.sweep, "project": place}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run.history)}, "inserted": inserted}}

    def _resume(self, given: Mapping[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        if run is None:
            return {"model": {**model, "bucket": None}}
        bucket = {
            "id": f"id-{run.name}",
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.display_name,
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": list(run.tags),
            "notes": run.notes,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {**model, "bucket": bucket}}

    def _files(self, given: Mapping[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{given['run']}", "uploadHeaders": [], "files": files}}

    def _artifact(self, given: Mapping[str, Any]) -> Any:
        # Said to be here already, so that its files don't follow: those of tables come as the run's own as well.
        artifact = {"id": "t", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _sweep(self, given: Mapping[str, Any]) -> Any:
        known = self.sweeps.get(given["sweep"])
        if known is None:
            return {"project": {"sweep": None}}
        sweep = {"id": given["sweep"], "name": given["sweep"], "method": "custom", "state": "RUNNING"}
        sweep |= {"config": known["config"], "runs": {"edges": []}, "controller": None, "scheduler": None}
        return {"project": {"sweep": sweep}}

    def _heartbeat(self, given: Mapping[str, Any]) -> Any:
        commands: list[dict[str, Any]] = []
        if json.loads(given["runState"]):
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        if len(self._given) < len(self.work):
            arguments = {name: {"value": value} for name, value in self.work[len(self._given)].items()}
            self._given.append(f"outer{len(self._given)}")
            commands = [{"type": "run", "run_id": self._given[-1], "args": arguments, "program": "none", "logs": []}]
        else:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}

    _ANSWERS: ClassVar[dict[str, Callable[..., Any]]] = {
        "Viewer": _viewer,
        "UpsertSweep": _upsert_sweep,
        "UpsertBucket": _upsert_run,
        "RunResumeStatus": _resume,
        "CreateRunFiles": _files,
        "CreateArtifact": _artifact,
        "ArtifactType": lambda self, given: {"project": {"artifact": None}},
        "SweepWithRuns": _sweep,
        "CreateAgent": lambda self, given: {"createAgent": {"agent": {"id": "a"}}},
        "Heartbeat": _heartbeat,
        "ServerFeaturesQuery": lambda self, given: {"serverInfo": {"features": []}},
        "RunStoppedStatus": lambda self, given: {"project": {"run": {"stopped": False}}},
    }

    def _stream(self, name: str, sent: Mapping[str, Any]) -> None:
        run = self.runs[name]
        files = sent.get("files") or {}
        if "wandb-history.jsonl" in files:
            chunk = files["wandb-history.jsonl"]
            # An upload at an earlier offset replaces what stood there.
            lines = [json.loads(line) for line in chunk["content"]]
            run.history[chunk["offset"] : chunk["offset"] + len(lines)] = lines
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode")


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        """Clients that go away in the middle are usual here."""


@contextmanager
def wandb_server(**settings: Any) -> Iterator[WandbServer]:
    """A server that answers until the block ends."""
    server = WandbServer(**settings)
    thread = threading.Thread(target=server._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._http.shutdown()
        server._http.server_close()
        thread.join()


# -- offline files -----------------------------------------------------------------------------------------------------

_BLOCK, _HEADER, _MAGIC = 32768, 7, b":W&B"


@dataclass
class OfflineRun:
    """What one ``.wandb`` file holds."""

    path: Path
    id: str = ""
    project: str = ""
    sweep: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def own(self) -> dict[str, Any]:
        """The config without W&B's own entry."""
        return {key: value for key, value in self.config.items() if key != "_wandb"}


def read_offline(directory: Path) -> dict[str, OfflineRun]:
    """The runs whose files lie below a directory ``wandb``, by id; a run in two files is an error."""
    runs = [read_file(path) for path in sorted(directory.glob("*run-*/*.wandb"))]
    found = {run.id: run for run in runs}
    assert len(found) == len(runs), [str(run.path) for run in runs]
    return found


def read_file(path: Path) -> OfflineRun:
    """What a ``.wandb`` file holds, as far as it was written."""
    from wandb.proto import wandb_internal_pb2 as pb

    run = OfflineRun(path)
    for data in _records(path.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told = record.run
            run.id, run.project, run.sweep, run.group = told.run_id, told.project, told.sweep_id, told.run_group
            run.job_type, run.name, run.tags = told.job_type, told.display_name, tuple(told.tags)
            run.notes = told.notes or run.notes
            _apply(run.config, told.config.update)
        elif kind == "config":
            _apply(run.config, record.config.update)
        elif kind == "history":
            run.history.append(_apply({}, record.history.item))
        elif kind == "summary":
            _apply(run.summary, record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _apply(to: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        keys = list(item.nested_key) or [item.key]
        at = to
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = json.loads(item.value_json)
    return to


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, as far as they are whole."""
    assert data[:4] == _MAGIC, data[:8]
    at, begun = _HEADER, b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        part = data[at + _HEADER : at + _HEADER + length]
        if len(part) < length or kind == 0:
            return
        assert zlib.crc32(bytes([kind]) + part) & 0xFFFFFFFF == checksum, "a damaged record"
        at += _HEADER + length
        begun = part if kind in (1, 2) else begun + part
        if kind in (1, 4):
            yield begun
