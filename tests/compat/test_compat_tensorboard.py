"""The undocumented modules of tensorboard exist; each test's name says what breaks without them."""

from __future__ import annotations

import io

from lightning_evo._compat.tensorboard import (
    Event,
    RecordWriter,
    SessionLog,
    Summary,
    api_pb2,
    metadata,
    plugin_data_pb2,
)


def test_without_events_summaries_and_the_record_writer_there_are_no_event_files():
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=1.0, session_log=SessionLog(status=SessionLog.START)).SerializeToString())
    summary = Summary(value=[Summary.Value(tag="y", simple_value=0.5)])
    writer.write(Event(wall_time=2.0, step=3, summary=summary).SerializeToString())
    assert len(buffer.getvalue()) > 2 * 16  # a length and two checksums for each record


def test_without_the_hparams_messages_the_hparams_plugin_stays_empty():
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=1.0)
    info.hparams["lr"].number_value = 0.1
    content = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    described = metadata.create_summary_metadata(content)
    assert described.plugin_data.plugin_name == metadata.PLUGIN_NAME
    assert (
        metadata.parse_session_start_info_plugin_data(described.plugin_data.content).hparams["lr"].number_value == 0.1
    )
    assert {api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_STRING, api_pb2.DATA_TYPE_BOOL}
    assert metadata.SESSION_END_INFO_TAG != metadata.EXPERIMENT_TAG
