"""From an archive to a picture: read once, drawn with local matplotlib settings, written atomically."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning_evo.archive import Archive
from lightning_evo.reporting.output_file import check_output, output_file
from lightning_evo.reporting.pictures.kinds import KINDS
from lightning_evo.reporting.pictures.request import Against, PictureRequest
from lightning_evo.reporting.views import read_snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ENDINGS", "check_picture", "plot"]

ENDINGS = (".pdf", ".svg", ".png")

WIDTH = 8.5
"""In centimeters: a column in most two-column papers."""

_ASPECT = 0.7
_MIN_SIZE, _MAX_SIZE = 2.0, 200.0
"""Range of width and height, in centimeters."""

_NO_DATE: dict[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


def plot(
    location: str | Path | Sequence[str | Path],
    kind: str,
    to: str | Path | None = None,
    *,
    width: float = WIDTH,
    height: float | None = None,
    dpi: float = 300,
    metric: str | None = None,
    candidate: int | None = None,
    top: int | None = None,
    against: Against | None = None,
    run: str | None = None,
) -> Figure:
    """Draw one run, or several, as a figure for papers. The searches may still be running.

    Text stays text (Type 42 fonts in PDF, text elements in SVG), and the same archive produces the same file. Thousands
    of points are rasterized, without axes and text, because they would make a vector file slow. matplotlib's global
    settings don't change.

    Args:
        location: The run's directory, an archive file or a database URL; for ``progress`` also several of them.
        kind: One of :data:`KINDS`: ``progress``, ``parallel``, ``importance``, ``front``, ``lineage``, ``curves``,
            ``predicted``, ``occupation``, ``costs``.
        to: The file to write or replace, ``.pdf``, ``.svg`` or ``.png``; default: none.
        width: Width in centimeters.
        height: Height in centimeters; default: suited to the picture.
        dpi: Pixels per inch of a ``.png``, and of rasterized parts of other formats.
        metric: The objective (``curves``: any logged metric); default: the first objective.
        candidate: The candidate (``lineage``, ``curves``); default: the best.
        top: Number of candidates or genes (``parallel``, ``importance``, ``lineage``, ``curves``).
        against: The horizontal axis of ``progress``: ``candidates`` (default), ``epochs`` or ``seconds``.
        run: Which run, where a database holds several.

    Returns:
        The figure, which is not registered with pyplot; a notebook displays it.

    Raises:
        ArchiveError: If an archive can't be read.
        ValueError: If there is no such kind, nothing to draw, or an argument is out of range or doesn't apply to the kind;
            the message says what is accepted.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    locations = [location] if isinstance(location, (str, Path)) else list(location)
    given = {"metric": metric, "candidate": candidate, "top": top, "against": against}
    check_picture(kind, None if to is None else Path(to), len(locations), width, height, dpi, given)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from lightning_evo.reporting.pictures.style import RC

    draw = import_module(f"lightning_evo.reporting.pictures.{kind}").draw
    with ExitStack() as stack:
        archives = [stack.enter_context(Archive(each, run)) for each in locations]
        runs = [read_snapshot(archive) for archive in archives]
        request = PictureRequest(archives, runs, metric, candidate, top, against or "candidates", height)
        stack.enter_context(rc_context(RC))
        size = (width / 2.54, (width * _ASPECT if height is None else height) / 2.54)
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        draw(figure, request)
        if to is not None:
            _write(figure, Path(to), dpi)
    return figure


def check_picture(
    kind: str,
    to: Path | None,
    runs: int = 1,
    width: float = WIDTH,
    height: float | None = None,
    dpi: float = 300,
    given: dict[str, Any] | None = None,
) -> None:
    """Refuse arguments that :func:`plot` can't handle, before anything is read.

    Args:
        kind: The kind of picture.
        to: The file to write.
        runs: Number of runs.
        width: Width in centimeters.
        height: Height in centimeters.
        dpi: Pixels per inch.
        given: Other arguments by name; ``None``: not given.

    Raises:
        ValueError: Naming the argument, its value and what is accepted.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    if kind not in KINDS:
        listed = "; ".join(f"{name}: {each.description}" for name, each in KINDS.items())
        raise ValueError(f"kind: {kind!r} is unknown; choose from {listed}")
    if runs == 0:
        raise ValueError("location: give at least one run")
    if runs > 1 and not KINDS[kind].several:
        can = ", ".join(name for name, each in KINDS.items() if each.several)
        raise ValueError(f"{kind}: shows a single run, but {runs} were given; kinds for several runs: {can}")
    for name, value in (given or {}).items():
        if value is not None and name not in KINDS[kind].options:
            kinds = ", ".join(other for other, each in KINDS.items() if name in each.options)
            raise ValueError(f"{name}: does not apply to {kind}, only to {kinds}")
    for name, number in {"width": width, "height": height}.items():
        if number is not None and not _MIN_SIZE <= number <= _MAX_SIZE:
            raise ValueError(f"{name}: {number:g} cm is not between {_MIN_SIZE:g} and {_MAX_SIZE:g}")
    if not (math.isfinite(dpi) and 20 <= dpi <= 2400):
        raise ValueError(f"dpi: {dpi:g} is not between 20 and 2400")
    top, against = (given or {}).get("top"), (given or {}).get("against")
    if top is not None and top < 1:
        raise ValueError(f"top: {top!r} is not at least 1")
    if against is not None and against not in get_args(Against):
        raise ValueError(f"against: {against!r} is not one of {', '.join(get_args(Against))}")
    if to is not None:
        if to.suffix.lower() not in ENDINGS:
            raise ValueError(f"to: {to} does not end in one of {', '.join(ENDINGS)}")
        check_output(to, "to:", overwrite=True)
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "figures require matplotlib, which is not installed: pip install 'lightning-evo[plot]'; "
            "`lightning-evo report` works without it"
        )


def _write(figure: Figure, to: Path, dpi: float) -> None:
    ending = to.suffix.lower()
    with output_file(to, "to:", overwrite=True) as part:
        figure.savefig(part, format=ending[1:], dpi=dpi, metadata=_NO_DATE[ending])
