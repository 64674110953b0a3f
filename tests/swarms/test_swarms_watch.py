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
from lightning_evo.swarms.ranks.failure_detector import Address, Watch


def rank_1(port: int, token: str) -> None:
    """What both of these ranks begin with."""
    watch = Watch(1, 2, grace=0.5)
    watch.connect(Address("127.0.0.1", port, token))
    watch.enter()


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


_made: list[Watch] = []


@pytest.fixture(autouse=True)
def _all_leave():
    """A watch that a failed test left at work would end this process when its grace is over."""
    yield
    while _made:
        _made.pop().leave()


def connected(size: int) -> list[Watch]:
    watches = [Watch(rank, size, grace=60.0) for rank in range(size)]
    _made.extend(watches)
    address = watches[0].listen("127.0.0.1")
    for watch in watches[1:]:
        watch.connect(address)
    for watch in watches:
        watch.enter()
    until(lambda: watches[0]._at_work == set(range(1, size)))
    return watches


def until(true, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def die(watch: Watch) -> None:
    """What the kernel does to a dead process's connections, of which a dead process tells nobody in between."""
    with watch._sending:
        for peer in list(watch._peers.values()):
            peer.shutdown(socket.SHUT_RDWR)


def test_nobody_is_gone_while_all_are_at_work():
    watches = connected(3)
    assert not watches[2].wait(0.2)
    for watch in watches:
        watch.check()
        watch.leave()


@pytest.mark.parametrize("dead", [1, 2])
def test_a_death_is_known_to_all_others_at_once(dead):
    watches = connected(3)
    die(watches[dead])
    for rank, watch in enumerate(watches):
        if rank != dead:
            assert watch.wait(2.0)
            with pytest.raises(
                SwarmError, match=f"rank {dead} of 3 is gone: its process died; rank {rank} can't go on"
            ):
                watch.check()
            watch.leave()
    watches[dead].leave()


def test_the_death_of_rank_0_is_known_to_all():
    watches = connected(3)
    die(watches[0])
    for watch in watches[1:]:
        assert watch.wait(2.0)
        with pytest.raises(SwarmError, match="rank 0 of 3 is gone"):
            watch.check()
    for watch in watches:
        watch.leave()


@pytest.mark.parametrize("failed", [0, 1])
def test_a_failure_is_told_with_its_reason(failed):
    watches = connected(3)
    watches[failed].leave("ValueError: seven is no number")
    die(watches[failed])
    for rank, watch in enumerate(watches):
        if rank != failed:
            assert watch.wait(2.0)
            with pytest.raises(
                SwarmError, match=f"rank {failed} of 3 .* it failed with ValueError: seven is no number"
            ):
                watch.check()
            watch.leave()


def test_how_a_process_ended_is_said_where_it_is_known():
    watches = connected(2)
    watches[0].explain = lambda rank: f"its process {rank} was ended by SIGKILL"
    die(watches[1])
    assert watches[0].wait(2.0)
    with pytest.raises(SwarmError, match="its process 1 was ended by SIGKILL"):
        watches[0].check()
    for watch in watches:
        watch.leave()


def test_a_rank_that_has_finished_may_end():
    watches = connected(3)
    watches[2].leave()
    until(lambda: watches[0]._at_work == {1})
    die(watches[2])
    assert not watches[0].wait(0.3)
    watches[0].leave()
    until(lambda: not watches[1]._at_work)
    die(watches[0])
    assert not watches[1].wait(0.3)
    watches[1].leave()


def test_strangers_are_not_heard():
    watches = connected(2)
    address = watches[0].listen("127.0.0.1")
    for words in (b'{"rank": 1, "busy": true}\n', b"wrong {}\n", b"\xff\n"):
        with socket.create_connection(address[:2]) as stranger:
            stranger.sendall(words)
            assert stranger.recv(1) == b""  # hung up on
    assert not watches[0].wait(0.2)
    for watch in watches:
        watch.leave()


def start(function: Callable[[int, str], None]) -> tuple[Watch, Forked]:
    watch = Watch(0, 2)
    _made.append(watch)
    address = watch.listen("127.0.0.1")
    watch.enter()
    return watch, Forked(function, address.port, address.token)


def first_line(rank: Forked) -> str:
    end = time.monotonic() + 60
    while not rank.output.endswith("\n"):
        assert time.monotonic() < end, "it says nothing"
        time.sleep(0.01)
    return rank.output


@pytest.mark.slow
def test_a_rank_that_is_stuck_is_ended_with_the_error():
    watch, process = start(stuck)
    with process as rank:
        assert first_line(rank) == "connected\n"
        until(lambda: watch._at_work == {1})  # rank 0 tells those that it has heard of
        watch.leave("RuntimeError: no more")
        assert rank.wait(timeout=10) == 1
        assert "lightning-evo: error: rank 0 of 2 is gone: it failed with RuntimeError: no more" in rank.output


@pytest.mark.slow
def test_a_worker_that_outlives_its_rank_does_not_hide_the_death():
    watch, process = start(killed)
    with process as rank:
        worker = int(first_line(rank))
        try:
            assert watch.wait(2.0)
        finally:
            os.kill(worker, signal.SIGKILL)
            watch.leave()
        assert rank.wait() == -signal.SIGKILL
