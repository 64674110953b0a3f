"""What is the one page that shows a search? A report that opens without anything installed, as a file or served."""

from lightning_evo.reporting.page.payload import payload
from lightning_evo.reporting.page.report import report
from lightning_evo.reporting.page.watch import WatchServer

__all__ = ["WatchServer", "payload", "report"]
