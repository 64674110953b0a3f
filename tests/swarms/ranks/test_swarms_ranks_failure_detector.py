"""Ranks hear of each other's deaths and failures, whatever they are doing; those that have finished may leave."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

import pytest
from forked import Forked

from lightning_evo.swarms import SwarmError
from lightning_evo.swarms.ranks.failure_detector import Address, FailureDetector


def rank_1(port: int, token: str) -> None:
    """What both of these ranks begin with."""
    detector = FailureDetector(1, 2, grace=0.5)
    detector.connect(Address("127.0.0.1", port, token))
    detector.enter()


def stuck(port: int, token: str) -> None:
    """As in a collective that waits for ever."""
    rank_1(port, token)
    print("connected", flush=True)
    time.sleep(100)


def killed(port: int, token: str) -> None:
    """With a DataLoader's worker, which doesn't notice."""
    rank_1(port, token)
    worker = os.fork()
    if worker == 0:
        time.sleep(100)
    print(worker, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


_made: list[FailureDetector] = []


@pytest.fixture(autouse=True)
def _all_leave():
    """A detector that a failed test left busy would end this process after its grace period."""
    yield
    while _made:
        _made.pop().leave()


def connected(size: int) -> list[FailureDetector]:
    detectors = [FailureDetector(rank, size, grace=60.0) for rank in range(size)]
    _made.extend(detectors)
    address = detectors[0].listen("127.0.0.1")
    for detector in detectors[1:]:
        detector.connect(address)
    for detector in detectors:
        detector.enter()
    until(lambda: detectors[0]._busy_ranks == set(range(1, size)))
    return detectors


def until(true, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def die(detector: FailureDetector) -> None:
    """What the kernel does to a dead process's connections, of which a dead process tells nobody in between."""
    with detector._sending:
        for peer in list(detector._peers.values()):
            peer.shutdown(socket.SHUT_RDWR)


def test_nobody_is_gone_while_all_are_busy_ranks():
    detectors = connected(3)
    assert not detectors[2].wait(0.2)
    for detector in detectors:
        detector.check()
        detector.leave()


@pytest.mark.parametrize("dead", [1, 2])
def test_a_death_is_known_to_all_others_at_once(dead):
    detectors = connected(3)
    die(detectors[dead])
    for rank, detector in enumerate(detectors):
        if rank != dead:
            assert detector.wait(2.0)
            with pytest.raises(
                SwarmError, match=f"rank {dead} of 3 is gone: its process died; rank {rank} can't go on"
            ):
                detector.check()
            detector.leave()
    detectors[dead].leave()


def test_the_death_of_rank_0_is_known_to_all():
    detectors = connected(3)
    die(detectors[0])
    for detector in detectors[1:]:
        assert detector.wait(2.0)
        with pytest.raises(SwarmError, match="rank 0 of 3 is gone"):
            detector.check()
    for detector in detectors:
        detector.leave()


@pytest.mark.parametrize("failed", [0, 1])
def test_a_failure_is_reported_with_its_reason(failed):
    detectors = connected(3)
    detectors[failed].leave("ValueError: seven is no number")
    die(detectors[failed])
    for rank, detector in enumerate(detectors):
        if rank != failed:
            assert detector.wait(2.0)
            with pytest.raises(
                SwarmError, match=f"rank {failed} of 3 .* it failed with ValueError: seven is no number"
            ):
                detector.check()
            detector.leave()


def test_how_a_process_ended_is_reported_where_it_is_known():
    detectors = connected(2)
    detectors[0].describe_exit = lambda rank: f"its process {rank} was ended by SIGKILL"
    die(detectors[1])
    assert detectors[0].wait(2.0)
    with pytest.raises(SwarmError, match="its process 1 was ended by SIGKILL"):
        detectors[0].check()
    for detector in detectors:
        detector.leave()


def test_a_rank_that_has_finished_may_end():
    detectors = connected(3)
    detectors[2].leave()
    until(lambda: detectors[0]._busy_ranks == {1})
    die(detectors[2])
    assert not detectors[0].wait(0.3)
    detectors[0].leave()
    until(lambda: not detectors[1]._busy_ranks)
    die(detectors[0])
    assert not detectors[1].wait(0.3)
    detectors[1].leave()


def test_connections_without_the_token_are_closed():
    detectors = connected(2)
    address = detectors[0].listen("127.0.0.1")
    for words in (b'{"rank": 1, "busy": true}\n', b"wrong {}\n", b"\xff\n"):
        with socket.create_connection(address[:2]) as stranger:
            stranger.sendall(words)
            assert stranger.recv(1) == b""  # hung up on
    assert not detectors[0].wait(0.2)
    for detector in detectors:
        detector.leave()


def start(function: Callable[[int, str], None]) -> tuple[FailureDetector, Forked]:
    detector = FailureDetector(0, 2)
    _made.append(detector)
    address = detector.listen("127.0.0.1")
    detector.enter()
    return detector, Forked(function, address.port, address.token)


def first_line(rank: Forked) -> str:
    end = time.monotonic() + 60
    while not rank.output.endswith("\n"):
        assert time.monotonic() < end, "it prints nothing"
        time.sleep(0.01)
    return rank.output


@pytest.mark.slow
def test_a_rank_that_is_stuck_is_ended_with_the_error():
    detector, process = start(stuck)
    with process as rank:
        assert first_line(rank) == "connected\n"
        until(lambda: detector._busy_ranks == {1})  # rank 0 tells those that it has heard of
        detector.leave("RuntimeError: no more")
        assert rank.wait(timeout=10) == 1
        assert "lightning-evo: error: rank 0 of 2 is gone: it failed with RuntimeError: no more" in rank.output


@pytest.mark.slow
def test_a_worker_that_outlives_its_rank_does_not_hide_the_death():
    detector, process = start(killed)
    with process as rank:
        worker = int(first_line(rank))
        try:
            assert detector.wait(2.0)
        finally:
            os.kill(worker, signal.SIGKILL)
            detector.leave()
        assert rank.wait() == -signal.SIGKILL
