"""Modules of tensorboard outside its documented API that this package uses, and what breaks without each.

Only the ``tensorboard`` package is needed, not TensorFlow.
"""

# The events and summaries in an event file: without them nothing can be written.
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

# The messages of the HParams plugin: without them its table and parallel coordinates stay empty.
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

# The record format of event files, with checksums. torch's SummaryWriter uses it too, but keeps every file open and has
# a thread per file: too many for thousands of candidates.
from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["Event", "RecordWriter", "SessionLog", "Summary", "api_pb2", "metadata", "plugin_data_pb2"]
