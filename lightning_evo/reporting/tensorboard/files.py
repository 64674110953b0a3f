"""TensorBoard's event files, and the HParams plugin's messages in them.

Only the ``tensorboard`` package is needed, not TensorFlow.
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

from lightning_evo._compat.tensorboard import (
    Event,
    RecordWriter,
    SessionLog,
    Summary,
    api_pb2,
    metadata,
    plugin_data_pb2,
)
from lightning_evo.genome import FAILED, Boolean, Categorical, Gene, Integer, Ordinal, Status, Uniform, Value
from lightning_evo.utils.masking import Mask

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
    """An event file: TensorBoard expects one for each run that it shows.

    It is only open while something is appended, so that thousands of candidates don't need thousands of open files.

    Args:
        directory: The run's directory; created if it doesn't exist.
        now: Time of the first event, in seconds since the epoch.
    """

    def __init__(self, directory: Path, now: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # A running TensorBoard moves on to the file whose name sorts later.
        order = f"{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}.{next(_serial):06d}"
        self.path = directory / PATTERN.replace("*", order)
        self._buffer = io.BytesIO()
        self._records = RecordWriter(self._buffer)
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        # It then discards what it has read from the earlier file, which this one replaces.
        self._write(Event(wall_time=now, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int, now: float) -> None:
        """Append a summary; it is written by the next :meth:`flush`."""
        self._write(Event(wall_time=now, step=step, summary=summary))

    def add_scalars(self, scalars: Mapping[str, Any], step: int, now: float) -> None:
        """Append numbers by tag, including NaN and infinities; values that aren't numbers are skipped."""
        values = [
            Summary.Value(tag=utf8_safe(tag), simple_value=value)
            for tag, value in scalars.items()
            if isinstance(value, (int, float))
        ]
        if values:
            self.add(Summary(value=values), step, now)

    def flush(self) -> None:
        """Write everything that was added, in whole records."""
        with self.path.open("ab") as file:
            file.write(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def retire_event_files(*directories: Path) -> None:
    """Delete event files to make way for new ones; other files in these directories stay.

    A running TensorBoard moves on to the next file only while the one it reads exists. So the file of a run that hasn't
    ended is emptied now and deleted the next time.
    """
    for directory in directories:
        for path in directory.glob(PATTERN):
            content = path.read_bytes()
            if not content or metadata.SESSION_END_INFO_TAG.encode() in content:
                path.unlink()
            else:
                os.truncate(path, 0)


def utf8_safe(text: str) -> str:
    """The text with everything that UTF-8 can't encode as backslash escapes."""
    return text.encode(errors="backslashreplace").decode()


class Hyperparameter:
    """A gene as a column of the HParams plugin: its type, its domain and the form of its values.

    Args:
        path: The config path, which identifies the column.
        gene: The gene. If all its values are numbers, or all are booleans, they stay as they are; otherwise they become
            text: layers joined by ``;``, other structures as JSON.
        name: The column's heading.
        mask: Masks the secrets in its values.
    """

    def __init__(self, path: str, gene: Gene, name: str, mask: Mask) -> None:
        self.path, self.gene, self.name, self.mask = path, gene, name, mask
        values = gene.choices if isinstance(gene, (Categorical, Ordinal)) else gene.extremes()
        self.type = _type_of(values)

    def describe(self) -> api_pb2.HParamInfo:
        """The column's description for the plugin."""
        info = api_pb2.HParamInfo(
            name=utf8_safe(self.path),
            display_name=utf8_safe(self.name),
            description=utf8_safe(f"`{self.path}`"),
            type=self.type,
        )
        gene = self.gene
        if isinstance(gene, (Categorical, Ordinal)):
            # A Value message holds one JSON value; other values have become texts.
            info.domain_discrete.extend(list(dict.fromkeys(self.value(choice) for choice in gene.choices)))
        elif isinstance(gene, Boolean):
            info.domain_discrete.extend([False, True])
        elif isinstance(gene, (Integer, Uniform)):
            info.domain_interval.min_value = gene.low
            info.domain_interval.max_value = gene.high
        # Columns marked as differing come first, and only the first five are shown by default: long texts come last.
        info.differs = self.type != api_pb2.DATA_TYPE_STRING or info.HasField("domain_discrete")
        return info

    def value(self, value: Value) -> bool | float | str | None:
        """A value in the column's type; ``None`` if it can't be converted."""
        if self.type == api_pb2.DATA_TYPE_STRING:
            return utf8_safe(_text(self.mask.data(value, self.path)))
        return value if _type_of([value]) == self.type else None


def describe_generation(name: str) -> api_pb2.HParamInfo:
    """The column of each candidate's generation."""
    return api_pb2.HParamInfo(name=name, display_name="generation", type=api_pb2.DATA_TYPE_FLOAT64)


def describe_experiment(
    description: str, hyperparameters: Sequence[api_pb2.HParamInfo], metrics: Mapping[str, str], created: float
) -> Summary:
    """The summary that defines the plugin's columns.

    Args:
        description: A description, in Markdown.
        hyperparameters: The columns of the hyperparameters.
        metrics: The columns of the metrics: tag of a scalar in each session -> heading.
        created: Time in seconds since the epoch.
    """
    infos = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=utf8_safe(tag)), display_name=utf8_safe(name))
        for tag, name in metrics.items()
    ]
    experiment = api_pb2.Experiment(
        description=utf8_safe(description), hparam_infos=hyperparameters, metric_infos=infos, time_created_secs=created
    )
    return _summary(metadata.EXPERIMENT_TAG, experiment=experiment)


def session_start(values: Mapping[str, bool | float | str | None], started: float) -> Summary:
    """The start of a session, a row of the plugin's table, with its hyperparameters by name; ``None``: an empty cell."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=started)
    for name, value in values.items():
        if isinstance(value, bool):
            info.hparams[utf8_safe(name)].bool_value = value
        elif isinstance(value, str):
            info.hparams[utf8_safe(name)].string_value = value
        elif value is not None:
            info.hparams[utf8_safe(name)].number_value = value
    return _summary(metadata.SESSION_START_INFO_TAG, session_start_info=info)


def session_end(status: Status, ended: float) -> Summary:
    """The end of a session; the plugin only knows success and failure."""
    plugin_status = api_pb2.STATUS_FAILURE if status == FAILED else api_pb2.STATUS_SUCCESS
    info = plugin_data_pb2.SessionEndInfo(status=plugin_status, end_time_secs=ended)
    return _summary(metadata.SESSION_END_INFO_TAG, session_end_info=info)


def _summary(tag: str, **content: Any) -> Summary:
    plugin_metadata = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=plugin_metadata, tensor=metadata.NULL_TENSOR)])


def _type_of(values: Sequence[Value]) -> int:
    if values and all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    # The plugin can't display NaN and infinities as numbers.
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    return api_pb2.DATA_TYPE_FLOAT64 if values and len(numbers) == len(values) else api_pb2.DATA_TYPE_STRING


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "; ".join(value)
    return json.dumps(value)
