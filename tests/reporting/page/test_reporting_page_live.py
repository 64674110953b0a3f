"""The report's page while a search runs: it grows with the archive, keeps what the reader chose, says when it is alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import PATIENCE, opened
from reporting_archives import CREATED, empty, synthetic

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.reporting.page import WatchServer


@contextmanager
def watched(*locations: Path) -> Iterator[WatchServer]:
    """The page's server, in a thread of its own."""
    with WatchServer(locations, every=0.1) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.close()
            thread.join()


def grow(location: Path, source: Path, first: int, end: int) -> None:
    """Record candidates of another search with their results."""
    with Archive(source) as known, ArchiveWriter(location) as writer:
        for id in range(first, end):
            candidate, result = known.candidate(id), known.result(id)
            assert result is not None
            writer.record_candidate(candidate, queued=CREATED + id)
            writer.record_result(id, result)


def test_the_page_grows_with_the_archive_and_keeps_what_the_reader_chose(browser, tmp_path):
    source, running = synthetic(tmp_path / "source", 60, seed=4), empty(tmp_path / "running")
    with watched(running) as server, opened(browser, server.url, strict=False) as seen:
        assert seen.text("#shown") == "0 candidates"
        grow(running, source, 0, 20)
        seen.waits("state.run.size === 20")
        seen.draw("progress")
        seen("openCandidate(3)")
        seen.page.click("#statuses button:has-text('completed')")
        seen.page.click("#table th button[data-sort='id']")
        seen("Plotly.relayout(plots.get('progress').place, { 'xaxis.range': [2, 9] }) && null")
        before = seen.points("progress", "completed")
        grow(running, source, 20, 60)
        seen.waits("state.run.size === 60")
        seen.draw("progress")
        assert seen.points("progress", "completed") > before
        assert seen.text("#shown").endswith("of 60 candidates")
        assert not seen.text("#shown").startswith("60")
        assert seen.rows() == sorted(seen.rows())
        assert seen.text("#details h2").startswith("#3 ")
        assert seen("plots.get('progress').place._fullLayout.xaxis.range") == [2, 9]
        assert not seen.errors


def test_the_page_says_when_the_server_is_gone_and_keeps_what_it_knew(browser, tmp_path):
    command = [
        str(Path(sys.executable).with_name("lightning-evo")),
        "report",
        "--watch",
        str(synthetic(tmp_path / "run", 10)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            with opened(browser, url, strict=False) as seen:
                seen.page.wait_for_selector("#live:not([hidden])", timeout=PATIENCE)
                assert seen.text("#live").startswith("Live")
                server.kill()
                seen.page.wait_for_selector("#live.gone", timeout=PATIENCE)
                assert "hasn't answered since" in seen.text("#live")
                assert len(seen.rows()) == 10
        finally:
            server.kill()
