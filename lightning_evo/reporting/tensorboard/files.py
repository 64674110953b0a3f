"""How is something said to TensorBoard? In files of events, and in the HParams plugin's own messages within them.

Only the ``tensorboard`` package is needed, no TensorFlow.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_evo.genome import FAILED, Boolean, Categorical, Gene, Integer, Ordinal, Status, Uniform, Value

__all__ = [
    "EventFile",
    "Hyperparameter",
    "describe_experiment",
    "describe_generation",
    "retire_event_files",
    "session_end",
    "session_start",
]

PATTERN = "events.out.tfevents.*"

_serial = itertools.count()


class EventFile:
    """A file of events, of which TensorBoard wants one for each run that it shows.

    It is open only while something is appended: thousands of candidates never need thousands of open files.

    Args:
        directory: The run's directory, made if need be.
        now: When its first event happens, in seconds since the epoch.
    """

    def __init__(self, directory: Path, now: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # A TensorBoard that is running goes on to the file whose name comes later.
        order = f"{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}.{next(_serial):06d}"
        self.path = directory / PATTERN.replace("*", order)
        self._buffer = io.BytesIO()
        self._records = RecordWriter(self._buffer)
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        # It then forgets what it read from the one before, which this one takes the place of.
        self._write(Event(wall_time=now, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int, now: float) -> None:
        """Append a summary; in the file after the next :meth:`flush`."""
        self._write(Event(wall_time=now, step=step, summary=summary))

    def add_scalars(self, scalars: Mapping[str, Any], step: int, now: float) -> None:
        """Append numbers by tag, NaN and infinities included; what is no number is left out."""
        values = [
            Summary.Value(tag=plain(tag), simple_value=value)
            for tag, value in scalars.items()
            if isinstance(value, (int, float))
        ]
        if values:
            self.add(Summary(value=values), step, now)

    def flush(self) -> None:
        """Bring everything that was added to the file, whole records only."""
        with self.path.open("ab") as file:
            file.write(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def retire_event_files(*directories: Path) -> None:
    """Make way for new event files in these directories; what else somebody may have put there stays.

    A TensorBoard that is running goes on to the next file only as long as the one it reads is there. So that of a run
    which hasn't ended is emptied, and deleted the next time.
    """
    for directory in directories:
        for path in directory.glob(PATTERN):
            content = path.read_bytes()
            if not content or metadata.SESSION_END_INFO_TAG.encode() in content:
                path.unlink()
            else:
                os.truncate(path, 0)


def plain(text: str) -> str:
    """The text without what UTF-8 can't write."""
    return text.encode(errors="backslashreplace").decode()


# -- the HParams plugin ------------------------------------------------------------------------------------------------


class Hyperparameter:
    """A gene as a column of the HParams plugin: its type and domain, and how its values are written.

    Args:
        path: The config path, the column's identity.
        gene: What it may be. Numbers stay numbers and truth values stay such where all are; everything else is text:
            layers joined by ``;``, other structures as JSON.
        name: The column's heading.
    """

    def __init__(self, path: str, gene: Gene, name: str) -> None:
        self.path, self.gene, self.name = path, gene, name
        values = gene.choices if isinstance(gene, (Categorical, Ordinal)) else gene.extremes()
        self.type = _type_of(values)

    def describe(self) -> api_pb2.HParamInfo:
        """What the plugin is told of it once."""
        info = api_pb2.HParamInfo(
            name=plain(self.path),
            display_name=plain(self.name),
            description=plain(f"`{self.path}`"),
            type=self.type,
        )
        gene = self.gene
        if isinstance(gene, (Categorical, Ordinal)):
            # A Value message holds one JSON value; what can't be one was made a text.
            info.domain_discrete.extend(list(dict.fromkeys(self.value(choice) for choice in gene.choices)))
        elif isinstance(gene, Boolean):
            info.domain_discrete.extend([False, True])
        elif isinstance(gene, (Integer, Uniform)):
            info.domain_interval.min_value = gene.low
            info.domain_interval.max_value = gene.high
        # Columns that differ come first, and the first five are shown until the user checks others: long texts are last.
        info.differs = self.type != api_pb2.DATA_TYPE_STRING or info.HasField("domain_discrete")
        return info

    def value(self, value: Value) -> bool | float | str | None:
        """A value as the plugin takes it; ``None`` where it would not be of the column's type."""
        if self.type == api_pb2.DATA_TYPE_STRING:
            return plain(_text(value))
        return value if _type_of([value]) == self.type else None


def describe_generation(name: str) -> api_pb2.HParamInfo:
    """The column that holds each candidate's generation."""
    return api_pb2.HParamInfo(name=name, display_name="generation", type=api_pb2.DATA_TYPE_FLOAT64)


def describe_experiment(
    description: str, hyperparameters: Sequence[api_pb2.HParamInfo], metrics: Mapping[str, str], created: float
) -> Summary:
    """The one summary by which the plugin knows its columns.

    Args:
        description: What it is, Markdown.
        hyperparameters: The columns of what was chosen.
        metrics: The columns of what came of it: a scalar's tag in each session -> heading.
        created: Seconds since the epoch.
    """
    infos = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=plain(tag)), display_name=plain(name))
        for tag, name in metrics.items()
    ]
    experiment = api_pb2.Experiment(
        description=plain(description), hparam_infos=hyperparameters, metric_infos=infos, time_created_secs=created
    )
    return _summary(metadata.EXPERIMENT_TAG, experiment=experiment)


def session_start(values: Mapping[str, bool | float | str | None], started: float) -> Summary:
    """A row of the plugin's table begins: its hyperparameters by name; those that are ``None`` stay empty."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=started)
    for name, value in values.items():
        if isinstance(value, bool):
            info.hparams[plain(name)].bool_value = value
        elif isinstance(value, str):
            info.hparams[plain(name)].string_value = value
        elif value is not None:
            info.hparams[plain(name)].number_value = value
    return _summary(metadata.SESSION_START_INFO_TAG, session_start_info=info)


def session_end(status: Status, ended: float) -> Summary:
    """A row has ended; the plugin knows only success and failure."""
    of_plugin = api_pb2.STATUS_FAILURE if status == FAILED else api_pb2.STATUS_SUCCESS
    info = plugin_data_pb2.SessionEndInfo(status=of_plugin, end_time_secs=ended)
    return _summary(metadata.SESSION_END_INFO_TAG, session_end_info=info)


def _summary(tag: str, **content: Any) -> Summary:
    of_plugin = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=of_plugin, tensor=metadata.NULL_TENSOR)])


def _type_of(values: Sequence[Value]) -> int:
    if values and all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    # The plugin can't show NaN and infinities as numbers.
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    return api_pb2.DATA_TYPE_FLOAT64 if values and len(numbers) == len(values) else api_pb2.DATA_TYPE_STRING


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "; ".join(value)
    return json.dumps(value)
