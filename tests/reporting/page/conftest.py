"""Searches made into pages, and a browser to look at them, for the tests of the page: each made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import chromium, opened
from page_expected import SIZE
from reporting_archives import featured, synthetic


@pytest.fixture(scope="session")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="session")
def ordinary(place) -> Path:
    """A search of two objectives as searches are."""
    return synthetic(place / "ordinary", SIZE, seed=1, objectives=2)


@pytest.fixture(scope="session")
def ordinary_page(ordinary, place) -> Path:
    from lightning_evo.reporting.page import report

    return report([ordinary], place / "ordinary.html")


@pytest.fixture(scope="session")
def strange(place) -> Path:
    """A search of three objectives in which everything happens, markup in names included."""
    return featured(place / "strange", objectives=3)


@pytest.fixture(scope="session")
def strange_page(strange, place) -> Path:
    from lightning_evo.reporting.page import report

    return report([strange], place / "strange.html")


@pytest.fixture
def page(browser, ordinary_page):
    with opened(browser, ordinary_page) as seen:
        yield seen
