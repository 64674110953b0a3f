"""The style of all pictures: fonts, lines, colors that are distinct in grayscale and for color-blind readers, and units."""

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
    "COLORS",
    "DARK",
    "LINES",
    "MANY",
    "PALE",
    "RC",
    "STATUSES",
    "axis_name",
    "format_axis",
    "plain_text",
    "robust_limits",
    "time_unit",
    "value_colormap",
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
    # Type 42 fonts keep text editable, and publishers accept them; type 3 fonts don't.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # The same archive produces the same file.
    "svg.hashsalt": "lightning-evo",
}
"""matplotlib's settings, active only while a picture is drawn and written."""

# Okabe and Ito's colors, ordered so that neighbors also differ in brightness.
COLORS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
LINES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
"""Line styles, one per color: in grayscale, two colors may look alike."""

DARK, PALE = "#222222", "#BBBBBB"

STATUSES: Mapping[str, Mapping[str, Any]] = {
    "completed": {"facecolor": "#0072B2", "hatch": None},
    "stopped": {"facecolor": "#F0C75E", "hatch": "////"},
    "failed": {"facecolor": "#222222", "hatch": None},
}
"""Fill of each status; they also differ in brightness."""

MANY = 2_000
"""More marks than this are rasterized: as vectors, they would make the file slow to open and to print."""

_NAMES = {
    "cost/params": "parameters",
    "cost/flops": "FLOPs per sample",
    "cost/training_flops": "training FLOPs",
    "cost/seconds": "training time [s]",
    "cost/peak_memory": "peak memory [B]",
    "cost/epochs": "epochs",
    "cost/samples_per_second": "samples per second",
    "cost/waiting": "waiting for data [share of time]",
    "cost/utilisation": "utilization [share of time]",
}
_LARGE = ("cost/params", "cost/flops", "cost/training_flops", "cost/peak_memory", "cost/samples_per_second")
_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))


def plain_text(text: object, longest: int = 40) -> str:
    """A user's text, shortened, with dollar signs escaped so that matplotlib doesn't read them as math."""
    return shown(text, longest).replace("$", r"\$")


def axis_name(monitor: str, mode: str | None = None) -> str:
    """The name of an axis: costs in words and with their unit, objectives with an arrow in the better direction."""
    arrow = {None: "", "max": " ↑", "min": " ↓"}[mode]
    return f"{_NAMES.get(monitor, plain_text(monitor))}{arrow}"


def format_axis(axis: Axis, monitor: str, values: NDArray[numpy.float64]) -> None:
    """Set an axis' scale and number format to suit a metric: logarithmic over two decades, 10k for 10,000."""
    finite = values[numpy.isfinite(values)]
    wide = len(finite) > 0 and finite.min() > 0 and finite.max() / finite.min() > 100
    if wide:
        (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(numticks=6))
    if monitor in _LARGE and len(finite) and abs(finite).max() >= 1000:
        axis.set_major_formatter(EngFormatter(sep=""))


def time_unit(seconds: float) -> tuple[float, str]:
    """A unit that suits a duration: its length in seconds, and its symbol.

    >>> time_unit(90), time_unit(400), time_unit(1e6)
    ((1.0, 's'), (60.0, 'min'), (86400.0, 'd'))
    """
    return next((unit for unit in reversed(_UNITS) if seconds >= 3 * unit[0]), _UNITS[0])


def robust_limits(values: Sequence[NDArray[numpy.float64]], always: Sequence[float] = ()) -> tuple[float, float] | None:
    """An axis range that leaves out one percent of values at either end: a diverged loss would flatten everything else.

    Args:
        values: The values; NaN and infinities don't count.
        always: Values that must be inside the range.
    """
    everything = numpy.concatenate([*(numpy.ravel(each) for each in values), numpy.zeros(0)])
    everything = everything[numpy.isfinite(everything)]
    if not len(everything):
        return None
    low, high = numpy.percentile(everything, (1, 99))
    return with_margin(min([low, *always]), max([high, *always]))


def with_margin(low: float, high: float, share: float = 0.05) -> tuple[float, float]:
    """A range with a margin at either end, even if it is a single point."""
    room = (high - low) * share or abs(low) * share or 1.0
    return low - room, high + room


def value_colormap() -> Colormap:
    """A colormap for numbers: darker is higher, also in grayscale; cividis without its lightest part."""
    from matplotlib import colormaps

    whole = colormaps["cividis_r"]
    return LinearSegmentedColormap.from_list("cividis_on_white", whole(numpy.linspace(0.2, 1.0, 256)))
