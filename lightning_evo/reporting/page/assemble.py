"""How does the page become one file? Style, scripts and data put where the page names them."""

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

__all__ = ["assemble", "packed"]

_STYLE = re.compile(r'<link rel="stylesheet" href="([\w.-]+)">')
_SCRIPT = re.compile(r'<script src="([\w.-]+)"></script>')
_DATA = '<script type="application/octet-stream" id="data"></script>'
_PLOTLY = "plotly.min.js"


def packed(payload: Mapping[str, Any]) -> bytes:
    """A payload as JSON, compressed with gzip; the same bytes for the same payload.

    Raises:
        ValueError: If it holds NaN or an infinity.
    """
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # What was no valid text (a file's name, say) came as lone surrogates.
    # Level 9 would take three times as long for a hundredth less.
    return gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=7, mtime=0)


def assemble(data: bytes, title: str, live: bool = False) -> str:
    """The page as one HTML file that asks for nothing else.

    Its policy (CSP) runs the page's own scripts by their hashes and no other, whatever names and errors hold; plotly's
    drawing on the graphics card needs ``unsafe-eval``.

    Args:
        data: From :func:`packed`.
        title: Shown by the browser.
        live: Whether the page may ask where it came from for more.
    """
    page, scripts = _inlined()
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    page = _once(page, "script-src 'unsafe-inline'", f"script-src {hashes}")
    page = _once(page, "connect-src 'self'", "connect-src 'self'" if live else "connect-src 'none'")
    page = _once(page, "<title>lightning-evo report</title>", f"<title>{html.escape(title)}</title>")
    text = base64.b64encode(data).decode()
    return _once(page, _DATA, _DATA.replace("></script>", f">{text}</script>"))


@cache
def _inlined() -> tuple[str, tuple[str, ...]]:
    """The page with its style and scripts in it, and the scripts' texts."""
    scripts: list[str] = []

    def script(found: re.Match[str]) -> str:
        # A script's text ends at the first "</script", wherever it stands; "<!--" would start a comment.
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
    # As a browser reads it, or the hashes would differ.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _once(page: str, old: str, new: str) -> str:
    if page.count(old) != 1:
        raise RuntimeError(f"page.html: {old!r} stands there {page.count(old)} times, not once")
    return page.replace(old, new)
