"""Preloaded by a test: makes the forkserver look like a system without F_SETSIG (macOS)."""

import fcntl

if "pytest" not in __import__("sys").modules:
    del fcntl.F_SETSIG
