"""The result in the candidate's directory, and what surrounds a job in the process that runs it."""

import errno
import json
import math
import os
import pickle
import re
import shutil
import sys
from types import SimpleNamespace

import execution_jobs as jobs
import pytest

from lightning_evo.execution import find_result, read_result
from lightning_evo.execution.results import decode_result, encode_result, write_result
from lightning_evo.execution.worker import run_job
from lightning_evo.genome import COMPLETED, FAILED, Result


def run(directory, function, attempt=1, **arguments):
    text, fit = run_job(pickle.dumps((function, arguments)), str(directory), 0, attempt, False)
    return decode_result(text), fit


def test_a_result_comes_back_as_it_was(tmp_path):
    result = Result(
        COMPLETED,
        fitness=(0.5, -math.inf),
        metrics={"val_acc": 0.5},
        curve=[{"epoch": 0, "val_acc": 0.25}],
        cost={"params": 10},
        extra={"note": ["a", {"b": None}]},
    )
    write_result(tmp_path, encode_result(result))
    assert read_result(tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"status": "completed", "fit',
        b"[]",
        b"{}",
        b'{"status": "splendid"}',
        b'{"status": "completed", "a_later_field": 1}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_result_counts_as_none(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    assert read_result(tmp_path) is None


WHOLE = {
    "status": "completed",
    "fitness": [0.5],
    "metrics": {"v": 0.5},
    "curve": [{"epoch": 0, "v": 0.5}],
    "cost": {},
    "checkpoint": "checkpoint.ckpt",
    "checkpoint_bytes": 9,
    "fatal": False,
    "started": 1.0,
    "ended": 2.0,
    "slot": 0,
    "attempts": 1,
    "extra": {},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fitness": None}, "fitness is 'None'"),
        ({"fitness": []}, "fitness"),
        ({"fitness": [math.nan]}, "fitness is '\\[nan\\]'"),
        ({"fitness": ["0.5"]}, "fitness"),
        ({"fitness": {"v": 1}}, "fitness"),
        ({"fitness": [True]}, "fitness"),
        ({"fitness": [10**400]}, "fitness"),
        ({"status": "failed"}, "error_type is 'None'"),
        ({"status": ["completed"]}, "status"),
        ({"metrics": [1]}, "metrics"),
        ({"metrics": {"v": "0.5"}}, "metrics"),
        ({"metrics": {"v": {}}}, "metrics"),
        ({"cost": None}, "cost"),
        ({"curve": {}}, "curve"),
        ({"curve": [0.5]}, "curve"),
        ({"extra": []}, "extra"),
        ({"fatal": 0}, "fatal"),
        ({"started": math.nan}, "started"),
        ({"ended": "now"}, "ended"),
        ({"slot": 0.5}, "slot"),
        ({"attempts": None}, "attempts"),
        ({"attempts": 2**70}, "attempts"),
        ({"checkpoint_bytes": -1}, "checkpoint_bytes"),
        ({"checkpoint": "/etc/passwd"}, "checkpoint is '/etc/passwd'"),
        ({"checkpoint": "../../other"}, "checkpoint"),
        ({"checkpoint": 3}, "checkpoint"),
        ({"directory": "000007"}, "it belongs to '000007'"),
    ],
)
def test_a_result_that_is_json_but_wrong_is_damaged_and_said_to_be(tmp_path, change, said):
    (tmp_path / "result.json").write_text(json.dumps(WHOLE))
    assert find_result(tmp_path)[0].fitness == (0.5,)
    (tmp_path / "result.json").write_text(json.dumps(WHOLE | change))
    result, fault = find_result(tmp_path)
    assert result is None
    assert re.search(said, fault)


@pytest.mark.parametrize("content", ["[" * 100_000, "3", "null", '{"a": 1' + "0" * 5_000 + "}", "[1, 2]"])
def test_json_of_any_other_kind_is_damaged(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    result, fault = find_result(tmp_path)
    assert result is None
    assert fault


def test_a_result_of_another_candidate_or_with_a_changed_digit_is_damaged(tmp_path):
    for name in ("000001", "000002"):
        (tmp_path / name).mkdir()
    write_result(tmp_path / "000001", encode_result(Result(COMPLETED, fitness=(0.125,))))
    path = tmp_path / "000001" / "result.json"
    shutil.copy(path, tmp_path / "000002")
    assert find_result(tmp_path / "000002") == (None, "it belongs to '000001'")
    path.write_bytes(path.read_bytes().replace(b"0.125", b"0.925"))
    assert find_result(tmp_path / "000001") == (None, "it is not as it was written: its checksum is another")


def test_what_is_no_file_is_no_result(tmp_path):
    (tmp_path / "result.json").mkdir()
    assert find_result(tmp_path) == (None, "it is no file")
    (tmp_path / "result.json").rmdir()
    os.mkfifo(tmp_path / "result.json")
    assert find_result(tmp_path) == (None, "it is no file")


def test_no_result_is_none(tmp_path):
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "nowhere") is None
    (tmp_path / "file").touch()
    assert read_result(tmp_path / "file") is None


def test_an_unknown_status_is_a_failure():
    result = decode_result(encode_result(Result("splendid")))
    assert result.status == FAILED
    assert "status: 'splendid' is not one of completed, stopped, failed" in result.error_type


def test_a_failed_result_is_left_as_well(tmp_path):
    result, _ = run(tmp_path, jobs.raise_value_error)
    assert read_result(tmp_path) == result
    assert result.status == FAILED


def test_an_earlier_result_is_gone_once_the_job_runs(tmp_path):
    write_result(tmp_path, encode_result(Result(COMPLETED, fitness=(1.0,))))
    (tmp_path / "kept").touch()
    jobs_result, _ = run(tmp_path, jobs.raise_value_error)
    assert read_result(tmp_path) == jobs_result
    assert (tmp_path / "kept").exists()


def test_a_result_whose_file_cannot_be_written_is_returned_and_fatal(tmp_path):
    result, _ = run(tmp_path, jobs.spoil_result_file, where=str(tmp_path))
    assert (result.status, result.fitness) == (COMPLETED, (1.0,))
    assert result.fatal
    assert result.error_type.startswith("IsADirectoryError")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_the_result_is_written_is_fatal(tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, "no room")

    monkeypatch.setattr("os.replace", full)
    result, _ = run(tmp_path, jobs.succeed, value=2)
    assert (result.fitness, result.fatal) == ((2.0,), True)
    assert list(tmp_path.iterdir()) == []


def test_any_failure_on_a_full_disk_is_fatal(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert run(tmp_path, jobs.raise_value_error)[0].fatal
    assert not run(tmp_path, jobs.succeed)[0].fatal


def test_a_process_whose_cuda_is_broken_is_not_fit_for_another_job(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("CUDA error: device-side assert triggered")

    calls = []
    cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=broken, empty_cache=lambda: calls.append("empty"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    result, fit = run(tmp_path, jobs.succeed, value=1)
    assert (result.fitness, fit) == ((1.0,), False)
    cuda.synchronize = lambda: None
    assert run(tmp_path, jobs.succeed)[1]
    assert calls == ["empty"]


def test_the_file_is_plain_json(tmp_path):
    run(tmp_path, jobs.succeed, value=1)
    assert json.loads((tmp_path / "result.json").read_text())["fitness"] == [1.0]
