"""Assembly of the page: style, scripts and data inlined into one HTML file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["assemble", "compress"]

_STYLE = re.compile(r'<link rel="stylesheet" href="([\w.-]+)">')
_SCRIPT = re.compile(r'<script src="([\w.-]+)"></script>')
_DATA = '<script type="application/octet-stream" id="data"></script>'
_PLOTLY = "plotly.min.js"


def compress(payload: Mapping[str, Any]) -> bytes:
    """Return a payload as JSON, compressed with gzip; the same bytes for the same payload.

    Raises:
        ValueError: If it holds NaN or an infinity.
    """
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # Invalid text (in a file name, for example) arrives as lone surrogates.
    # Level 9 would take three times as long for one percent less.
    return gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=7, mtime=0)


def assemble(data: bytes, title: str, live: bool = False) -> str:
    """Return the page as one HTML file that loads nothing else.

    Its content security policy allows the page's own scripts by their hashes and no others, whatever names and errors
    contain; plotly's WebGL plots need ``unsafe-eval``.

    Args:
        data: From :func:`compress`.
        title: The title of the browser window.
        live: Whether the page may request new data from the server it came from.
    """
    page, scripts = _inlined()
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    page = _replace_once(page, "script-src 'unsafe-inline'", f"script-src {hashes}")
    page = _replace_once(page, "connect-src 'self'", "connect-src 'self'" if live else "connect-src 'none'")
    page = _replace_once(page, "<title>lightning-evo report</title>", f"<title>{html.escape(title)}</title>")
    text = base64.b64encode(data).decode()
    return _replace_once(page, _DATA, _DATA.replace("></script>", f">{text}</script>"))


@cache
def _inlined() -> tuple[str, tuple[str, ...]]:
    """The page with style and scripts inlined, and the texts of the scripts."""
    scripts: list[str] = []

    def script(found: re.Match[str]) -> str:
        # A script ends at the first "</script", even in a string; "<!--" would start a comment.
        text = re.sub("</(?=script)", r"<\\/", _asset(found[1]), flags=re.IGNORECASE).replace("<!--", "<\\!--")
        scripts.append(text)
        return f"<script>{text}</script>"

    page = _asset("page.html")
    page = _STYLE.sub(lambda found: f"<style>\n{_asset(found[1])}</style>", page)
    return _SCRIPT.sub(script, page), tuple(scripts)


def _asset(name: str) -> str:
    if name == _PLOTLY:
        from plotly.offline import get_plotlyjs

        text = get_plotlyjs()
    else:
        text = files("lightning_evo.reporting.page").joinpath("assets", name).read_text(encoding="utf-8")
    # Line ends as a browser normalizes them, or the hashes would differ.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _replace_once(page: str, old: str, new: str) -> str:
    if page.count(old) != 1:
        raise RuntimeError(f"page.html: expected {old!r} once, found it {page.count(old)} times")
    return page.replace(old, new)
