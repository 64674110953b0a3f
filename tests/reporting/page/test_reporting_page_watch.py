"""The served page follows a search, and answers nobody but this machine's own browser."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import threading
import time
from contextlib import contextmanager

import pytest
from reporting_archives import CREATED, empty, featured, synthetic

from lightning_evo.archive import ArchiveError, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting import views
from lightning_evo.reporting.page import WatchServer


@contextmanager
def served(*locations, **known):
    """A server that answers in a thread of its own, and looks for changes each time it is asked."""
    with WatchServer(locations, **{"every": 0.0, **known}) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.close()
            thread.join(timeout=10)
            assert not thread.is_alive()


def ask(server, path="/data", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def awaited(server, condition, **headers):
    """The first answer that meets the condition: archives are read for at most a fifth of the time."""
    deadline = time.monotonic() + 30
    while not condition(answer := ask(server, **headers)):
        assert time.monotonic() < deadline, "it didn't come"
        time.sleep(0.02)
    return answer


def data_of(answer):
    assert answer.status == 200
    assert answer.headers["Content-Encoding"] == "gzip"
    return json.loads(gzip.decompress(answer.body))


def add(writer, id, fitness):
    writer.record_candidate(Candidate(id, Genome({"x": id})), queued=CREATED + id)
    writer.record_result(id, Result("completed", (fitness,)))


def test_the_page_is_live_and_its_data_are_the_payload(tmp_path):
    with served(featured(tmp_path, run="net")) as server:
        page = ask(server, "/")
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert b"<title>net \xc2\xb7 lightning-evo</title>" in page.body
        assert b"connect-src 'self'" in page.body
        data = data_of(ask(server))
        assert data["live"] is True
        assert data["runs"][0]["name"] == "net"
        assert server.url == f"http://127.0.0.1:{server.port}/"


def test_what_a_search_adds_is_in_the_next_answer_and_nothing_new_is_not_sent_again(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        with served(tmp_path) as server:
            first = ask(server)
            assert data_of(first)["runs"][0]["candidates"]["id"] == []
            again = ask(server, If_None_Match=first.headers["ETag"])
            assert (again.status, again.body) == (304, b"")
            for id in range(3):
                add(writer, id, id / 10)
                answer = awaited(server, lambda a: a.status != 304, If_None_Match=first.headers["ETag"])
                (run,) = data_of(answer)["runs"]
                assert run["candidates"]["fitness"] == [[each / 10 for each in range(id + 1)]]
                assert run["status"] == "running"
                first = answer
            writer.close()
            ended = awaited(server, lambda a: a.status != 304, If_None_Match=first.headers["ETag"])
            assert data_of(ended)["runs"][0]["status"] == "finished"


def test_archives_are_not_read_again_before_the_time_has_come(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        with served(tmp_path, every=3600.0) as server:
            first = ask(server)
            add(writer, 0, 0.5)
            assert ask(server, If_None_Match=first.headers["ETag"]).status == 304


def test_a_search_that_begins_over_in_its_directory_is_followed(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        add(writer, 0, 0.5)
        with served(tmp_path) as server:
            first = ask(server)
            name = data_of(first)["runs"][0]["name"]
            writer.start_over()
            anew = awaited(server, lambda a: a.status != 304, If_None_Match=first.headers["ETag"])
            (run,) = data_of(anew)["runs"]
            assert run["name"] != name
            assert run["candidates"]["id"] == []


def test_an_archive_that_vanishes_is_said_and_found_again(tmp_path):
    run = empty(tmp_path / "run")
    with served(run) as server:
        run.rename(tmp_path / "moved")
        answer = awaited(server, lambda a: a.status == 503)
        assert b"no archive here" in answer.body
        (tmp_path / "moved").rename(run)
        assert data_of(ask(server))["runs"][0]["candidates"]["id"] == []


def test_importances_are_found_anew_only_once_there_is_much_to_add(tmp_path, monkeypatch):
    asked = []

    def counted(recorded, monitor):
        asked.append(len(recorded.rows))
        return views.importance(recorded, monitor)

    monkeypatch.setattr("lightning_evo.reporting.page.watch.importance", counted)
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        for id in range(30):
            add(writer, id, id / 100)
        with served(tmp_path) as server:
            for id in range(30, 37):
                add(writer, id, id / 100)
                seen = awaited(server, lambda a, id=id: data_of(a)["runs"][0]["candidates"]["id"][-1] == id)
                assert data_of(seen)["runs"][0]["importance"]["acc"]["genes"]
    assert asked == [30, 33, 37]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost", "", "[::1]:{port}"])
def test_a_request_by_another_name_is_refused(tmp_path, host):
    with served(empty(tmp_path)) as server:
        for path in ("/", "/data"):
            answer = ask(server, path, Host=host.format(port=server.port))
            assert answer.status == 403
            assert b"lightning-evo<" not in answer.body


def test_its_own_names_are_answered_and_other_pages_may_not_embed_it(tmp_path):
    with served(empty(tmp_path)) as server:
        for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}"):
            answer = ask(server, Host=host)
            assert answer.status == 200
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_there_is_nothing_but_the_page_and_its_data_and_nothing_can_be_sent(tmp_path):
    with served(empty(tmp_path)) as server:
        for path in ("/archive.sqlite", "/../journal.jsonl", "/data/x", "//data/.."):
            assert ask(server, path).status == 404
        assert ask(server, "/data?x=1").status == 200
        assert ask(server, method="POST").status == 501
        head = ask(server, "/", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["Content-Length"]) > 4e6


def test_it_listens_on_this_machine_alone(tmp_path):
    with served(empty(tmp_path)) as server, socket.socket() as other:
        other.settimeout(2)
        # Whoever listens on all interfaces answers to every address of the machine, this one included.
        assert other.connect_ex(("127.0.0.2", server.port)) != 0


def test_a_port_that_is_taken_or_is_none_is_refused(tmp_path):
    run = empty(tmp_path)
    with (
        served(run) as server,
        pytest.raises(ValueError, match=rf"--port {server.port}: not available \(Address already"),
    ):
        WatchServer([run], port=server.port)
    with pytest.raises(ValueError, match="--port 70000: is not between 0"):
        WatchServer([run], port=70_000)


def test_what_cannot_be_read_is_refused_before_anything_is_served(tmp_path):
    with pytest.raises(ArchiveError, match="no archive here"):
        WatchServer([tmp_path])
    run = empty(tmp_path)
    with pytest.raises(ValueError, match="given more than once"):
        WatchServer([run, run])


def test_several_ask_at_once_and_get_the_same(tmp_path):
    with served(synthetic(tmp_path, 200, seed=4)) as server:
        found = []
        threads = [threading.Thread(target=lambda: found.append(ask(server).headers["ETag"])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert len(found) == 8
        assert len(set(found)) == 1


def test_a_server_that_never_served_can_be_closed(tmp_path):
    server = WatchServer([empty(tmp_path)])
    server.close()
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_browser_that_goes_away_in_the_middle_is_no_error(tmp_path, capfd):
    with served(empty(tmp_path)) as server:
        for path in ("/", "/data"):
            with socket.create_connection(("127.0.0.1", server.port)) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
                gone.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
                gone.recv(1)
        assert ask(server).status == 200
    assert capfd.readouterr().err == ""
