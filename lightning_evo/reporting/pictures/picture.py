"""How does an archive become a picture? Read once, drawn with settings that hold for it alone, written whole."""

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
from lightning_evo.reporting.pictures.view import Against, View
from lightning_evo.reporting.views import record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ENDINGS", "check_picture", "plot"]

ENDINGS = (".pdf", ".svg", ".png")

WIDTH = 8.5
"""Centimetres: a column of most two-column papers."""

_ASPECT = 0.7
_LEAST, _MOST = 2.0, 200.0
"""Centimetres that a picture may be wide or high."""

_UNDATED: dict[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


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
    """Draw a run, or several, also while they are searched.

    Text stays text (Type 42 fonts in PDF, text elements in SVG), and the same archive gives the same file. What is more
    than a page of vectors can bear (thousands of points) is put in as pixels, its axes and text are not. matplotlib's
    global settings stay as they are.

    Args:
        location: The run's directory, an archive file or a database URL; several of them for ``progress``.
        kind: One of :data:`KINDS`: ``progress``, ``parallel``, ``importance``, ``front``, ``lineage``, ``curves``,
            ``predicted``, ``occupation``, ``costs``.
        to: Where to write it, ``.pdf``, ``.svg`` or ``.png``; a file that is there is replaced. Default: nowhere.
        width: In centimetres.
        height: In centimetres; default: what suits the picture.
        dpi: Pixels per inch of a ``.png``, and of what is pixels in the others.
        metric: Which objective (``curves``: which metric); default: the first objective.
        candidate: Which candidate (``lineage``, ``curves``); default: the best.
        top: How many candidates or genes (``parallel``, ``importance``, ``lineage``, ``curves``).
        against: What the progress is drawn against: ``candidates`` (default), ``epochs`` or ``seconds``.
        run: Which run, where a database holds several.

    Returns:
        The figure. It belongs to no window and no list of pyplot's; a notebook shows it.

    Raises:
        ArchiveError: If an archive can't be read.
        ValueError: If there is no such kind or nothing of it to draw, or an argument is out of range or not one of that
            kind's; the message says what is accepted.
        ModuleNotFoundError: If matplotlib is missing.
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
        runs = [record(archive) for archive in archives]
        view = View(archives, runs, metric, candidate, top, against or "candidates", height)
        stack.enter_context(rc_context(RC))
        size = (width / 2.54, (width * _ASPECT if height is None else height) / 2.54)
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        draw(figure, view)
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
    """Refuse what :func:`plot` couldn't do, before anything is read.

    Args:
        kind: Which picture.
        to: Where it is to be written.
        runs: How many runs.
        width: In centimetres.
        height: In centimetres.
        dpi: Pixels per inch.
        given: What else was given, by the argument's name; ``None`` doesn't count.

    Raises:
        ValueError: Naming the argument, what was given and what is accepted.
        ModuleNotFoundError: If matplotlib is missing.
    """
    if kind not in KINDS:
        listed = "; ".join(f"{name}: {each.description}" for name, each in KINDS.items())
        raise ValueError(f"kind: {kind!r} is no picture. There are {listed}")
    if runs == 0:
        raise ValueError("location: give at least one run")
    if runs > 1 and not KINDS[kind].several:
        can = ", ".join(name for name, each in KINDS.items() if each.several)
        raise ValueError(f"{kind}: shows one run, {runs} were given; several can be in {can}")
    for name, value in (given or {}).items():
        if value is not None and name not in KINDS[kind].options:
            of = ", ".join(other for other, each in KINDS.items() if name in each.options)
            raise ValueError(f"{name}: {kind} has no such option; it is one of {of}")
    for name, number in {"width": width, "height": height}.items():
        if number is not None and not _LEAST <= number <= _MOST:
            raise ValueError(f"{name}: {number:g} cm is not from {_LEAST:g} to {_MOST:g}")
    if not (math.isfinite(dpi) and 20 <= dpi <= 2400):
        raise ValueError(f"dpi: {dpi:g} is not from 20 to 2400")
    top, against = (given or {}).get("top"), (given or {}).get("against")
    if top is not None and top < 1:
        raise ValueError(f"top: {top} is not at least 1")
    if against is not None and against not in get_args(Against):
        raise ValueError(f"against: {against!r} is none of {', '.join(get_args(Against))}")
    if to is not None:
        if to.suffix.lower() not in ENDINGS:
            raise ValueError(f"to: {to} ends in none of {', '.join(ENDINGS)}")
        check_output(to, "to:", overwrite=True)
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "pictures need matplotlib, which is not installed: pip install 'lightning-evo[plot]'; "
            "`lightning-evo report` needs nothing more"
        )


def _write(figure: Figure, to: Path, dpi: float) -> None:
    ending = to.suffix.lower()
    with output_file(to, "to:", overwrite=True) as part:
        figure.savefig(part, format=ending[1:], dpi=dpi, metadata=_UNDATED[ending])
