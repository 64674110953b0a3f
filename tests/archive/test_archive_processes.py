import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from archive_examples import make_candidate, make_run, remembered

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"}


def start(*arguments):
    return subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def test_what_was_recorded_before_a_kill_is_there_exactly_once(tmp_path):
    rng = random.Random(0)
    said = []
    for _ in range(5):
        process = start(HERE / "archive_writing.py", tmp_path, 10_000)
        for line in process.stdout:
            if line.endswith("\n"):
                said.append(line.split())
            if line.startswith("open"):
                threading.Timer(rng.uniform(0.0, 0.15), process.kill).start()
        assert process.wait() == -signal.SIGKILL
    asked = [int(id) for word, id in said if word == "asked"]
    told = [int(id) for word, id in said if word == "told"]
    assert told, "no process lived long enough to say anything"

    with ArchiveWriter(tmp_path):
        pass
    events = [(candidate.id, result is not None) for candidate, result in Archive(tmp_path).events()]
    assert len(events) == len(set(events))
    assert {(id, False) for id in asked} | {(id, True) for id in told} <= set(events)
    # A record may be there whose call never returned: at most one for each kill.
    assert len(events) <= len(asked) + len(told) + 2 * 5
    ids = [id for id, ended in events if not ended]
    assert ids == list(range(len(ids)))
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in journal] == list(range(len(journal)))


def test_a_kill_in_the_middle_of_a_repair_loses_nothing(tmp_path):
    rng = random.Random(1)
    with make_run(tmp_path, candidates=60):
        expected = remembered(tmp_path)
    opening = multiprocessing.get_context("fork")
    for name in ("archive.sqlite", "journal.jsonl") * 3:
        for _ in range(3):
            with contextlib.suppress(FileNotFoundError):  # a kill can come between two renamings
                os.truncate(tmp_path / name, int((tmp_path / name).stat().st_size * rng.random()))
            process = opening.Process(target=ArchiveWriter, args=(tmp_path,))
            process.start()
            process.join(rng.uniform(0.0, 0.06))
            process.kill()
            process.join()
        ArchiveWriter(tmp_path).close()  # before the other one is harmed
        assert remembered(tmp_path) == expected


def test_readers_are_never_refused_nor_refuse_the_writer(tmp_path):
    with make_run(tmp_path):
        pass
    process = start(HERE / "archive_writing.py", tmp_path, 150)
    assert any(line.startswith("told 20") for line in process.stdout)
    # However slow this process is, one look at least falls in the middle of the writing.
    process.send_signal(signal.SIGSTOP)
    threading.Timer(0.2, process.send_signal, [signal.SIGCONT]).start()
    seen = []
    while process.poll() is None:
        with Archive(tmp_path) as archive:
            counts = archive.counts()
            assert len(archive.ranked(limit=3)) == 3
            seen.append(sum(counts.values()))
            for candidate, result in archive.events():
                assert candidate.id >= 0
                assert result is None or result.status != "pending"
    assert process.wait() == 0
    process.stdout.close()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1, "nothing was written while it was read"
    assert sum(Archive(tmp_path).counts().values()) == 162


def test_a_second_controller_is_refused_naming_the_first(tmp_path):
    writer = make_run(tmp_path)
    with pytest.raises(ArchiveError, match=rf"another search is writing here \(process {os.getpid()} on "):
        ArchiveWriter(tmp_path)
    writer.close()
    ArchiveWriter(tmp_path).close()


HOLDING = """
import os, sys, time
from lightning_evo.archive import ArchiveWriter
writer = ArchiveWriter(sys.argv[1])
if os.fork() == 0:
    print("forked", flush=True)
time.sleep(60)
"""


def test_a_worker_that_outlives_its_controller_holds_no_lock(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "forked\n"
        with pytest.raises(ArchiveError, match=f"process {process.pid} "):
            ArchiveWriter(tmp_path)
        process.kill()
        process.wait()
        with ArchiveWriter(tmp_path) as writer:  # the forked child still sleeps
            writer.record_candidate(make_candidate(0), queued=0.0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_reading_does_not_wait_for_a_transaction_of_another_run(tmp_path):
    with make_run(tmp_path) as writer:
        expected = remembered(tmp_path)
        begun = time.monotonic()
        with writer._engine.begin():  # holds the write lock
            assert remembered(tmp_path) == expected
        assert time.monotonic() - begun < 30  # the wait for a lock would be longer
