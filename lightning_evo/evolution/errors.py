"""Ends of a search other than by its budget."""

__all__ = ["SearchError", "SearchInterrupted"]


class SearchError(Exception):
    """A search that can't start or go on; the message says what was given, what is accepted, and where."""


class SearchInterrupted(Exception):
    """The search was stopped from outside; its archive is clean and the same call continues it."""
