"""What do all pictures have in common? Type, lines, colours that grey and colour-blind readers tell apart, units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.ticker import EngFormatter, LogLocator
from numpy.typing import NDArray

from lightning_evo.genome.representation import shown

__all__ = [
    "COLOURS",
    "DARK",
    "LINES",
    "MANY",
    "PALE",
    "RC",
    "STATUSES",
    "axis_name",
    "by_value",
    "plain",
    "robust_limits",
    "suited",
    "time_unit",
    "with_margin",
]

RC: Any = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.5,
    # Type 42 keeps text as text that editors and publishers' checks accept; type 3 doesn't.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # The same archive gives the same file.
    "svg.hashsalt": "lightning-evo",
}
"""Settings of matplotlib, in force only while a picture is drawn and written."""

# Okabe and Ito's colours, in an order in which neighbours also differ in brightness.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
LINES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
"""Line styles, one for each colour: in grey, two colours may be alike."""

DARK, PALE = "#222222", "#BBBBBB"

STATUSES: Mapping[str, Mapping[str, Any]] = {
    "completed": {"facecolor": "#0072B2", "hatch": None},
    "stopped": {"facecolor": "#F0C75E", "hatch": "////"},
    "failed": {"facecolor": "#222222", "hatch": None},
}
"""How candidates of each status are filled; their brightness differs."""

MANY = 2_000
"""Above so many marks a picture holds them as pixels: as vectors, they would make the file slow to open and to print."""

_NAMES = {
    "cost/params": "parameters",
    "cost/flops": "FLOPs per sample",
    "cost/training_flops": "FLOPs of the training",
    "cost/seconds": "training time [s]",
    "cost/peak_memory": "peak memory [B]",
    "cost/epochs": "epochs",
    "cost/samples_per_second": "samples per second",
    "cost/waiting": "waiting for data [share of time]",
    "cost/utilisation": "utilisation [share of time]",
}
_LARGE = ("cost/params", "cost/flops", "cost/training_flops", "cost/peak_memory", "cost/samples_per_second")
_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))


def plain(text: object, longest: int = 40) -> str:
    """A user's text as it is: dollars would make matplotlib read a formula; what is too long is cut."""
    return shown(text, longest).replace("$", r"\$")


def axis_name(monitor: str, mode: str | None = None) -> str:
    """What an axis is called: a cost in words with its unit; with an arrow to where it is better."""
    arrow = {None: "", "max": " ↑", "min": " ↓"}[mode]
    return f"{_NAMES.get(monitor, plain(monitor))}{arrow}"


def suited(axis: Axis, monitor: str, values: NDArray[numpy.float64]) -> None:
    """Give an axis the scale and the numbers that suit a metric: logarithmic over two decades, 10k for 10,000."""
    finite = values[numpy.isfinite(values)]
    wide = len(finite) > 0 and finite.min() > 0 and finite.max() / finite.min() > 100
    if wide:
        (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(numticks=6))
    if monitor in _LARGE and len(finite) and abs(finite).max() >= 1000:
        axis.set_major_formatter(EngFormatter(sep=""))


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit in which a span is a number people read: seconds in it, and its sign.

    >>> time_unit(90), time_unit(400), time_unit(1e6)
    ((1.0, 's'), (60.0, 'min'), (86400.0, 'd'))
    """
    return next((unit for unit in reversed(_UNITS) if seconds >= 3 * unit[0]), _UNITS[0])


def robust_limits(values: Sequence[NDArray[numpy.float64]], always: Sequence[float] = ()) -> tuple[float, float] | None:
    """The range that one value in a hundred at either end may leave: an exploded loss would flatten all others.

    Args:
        values: What is drawn; NaN and infinities don't count.
        always: Values that must lie within.
    """
    together = numpy.concatenate([*(numpy.ravel(each) for each in values), numpy.zeros(0)])
    together = together[numpy.isfinite(together)]
    if not len(together):
        return None
    low, high = numpy.percentile(together, (1, 99))
    return with_margin(min([low, *always]), max([high, *always]))


def with_margin(low: float, high: float, share: float = 0.05) -> tuple[float, float]:
    """A range with some room at either end; also where it is a single point."""
    room = (high - low) * share or abs(low) * share or 1.0
    return low - room, high + room


def by_value() -> Colormap:
    """Colours for numbers: the darker the higher, in grey too; cividis without its lightest third, lost on white."""
    from matplotlib import colormaps

    whole = colormaps["cividis_r"]
    return LinearSegmentedColormap.from_list("cividis_on_white", whole(numpy.linspace(0.2, 1.0, 256)))
