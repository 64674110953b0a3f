"""The report page: one self-contained HTML file about a search, written to disk or served while the search runs."""

from lightning_evo.reporting.page.payload import payload
from lightning_evo.reporting.page.report import report
from lightning_evo.reporting.page.watch import WatchServer

__all__ = ["WatchServer", "payload", "report"]
