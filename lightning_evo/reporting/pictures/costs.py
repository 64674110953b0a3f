"""The picture ``costs``: each cost as a bar, divided by the candidates' status, with the savings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, PercentFormatter

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import DARK, STATUSES, time_unit
from lightning_evo.reporting.summaries import Savings
from lightning_evo.reporting.views import RunSnapshot, run_savings, totals

__all__ = ["draw"]

_SAVED: Mapping[str, Any] = {"facecolor": "white", "hatch": "...."}
_INHERITED: Mapping[str, Any] = {"facecolor": "#009E73", "hatch": None}
_SCRATCH: Mapping[str, Any] = {"facecolor": "#C9C9C9", "hatch": None}


@dataclass(frozen=True)
class _Bar:
    """One bar: its name, and its parts by name."""

    name: str
    parts: Mapping[str, float]


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw candidates, epochs, training time and FLOPs by status, with the epochs that early stopping saved.

    Raises:
        ValueError: If no candidate has ended.
    """
    run = request.run
    bars = _bars(run, run_savings(run))
    if not bars:
        raise ValueError(f"{run.run}: no candidate has ended yet, so there are no costs to show")
    axes = figure.add_subplot()
    styles = {**STATUSES, "saved by early stopping": _SAVED, "inherited weights": _INHERITED, "from scratch": _SCRATCH}
    for place, bar in enumerate(bars):
        left, whole = 0.0, sum(bar.parts.values())
        for part, amount in bar.parts.items():
            share = amount / whole
            axes.barh(place, share, left=left, height=0.62, **styles[part], edgecolor=DARK, linewidth=0.5)
            _share(axes, part, share, left, place)
            left += share
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    present = [part for part in styles if any(bar.parts.get(part) for bar in bars)]
    patches = [Patch(**styles[part], edgecolor=DARK, linewidth=0.5) for part in present]
    columns = 3 if len(present) <= 3 else 2
    figure.legend(patches, present, loc="outside upper left", ncols=columns, borderaxespad=0.1)
    request.set_height(figure, 1.5 + 0.75 * len(bars) + 0.4 * -(-len(present) // columns))


def _share(axes: Axes, part: str, share: float, left: float, place: int) -> None:
    """Write a part's share into it if it is wide enough."""
    if share < 0.09:
        return
    dark = part in ("completed", "failed", "inherited weights")
    axes.text(
        left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=6,
        color="white" if dark else "black",
        bbox=None if dark else {"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _bars(run: RunSnapshot, savings: Savings) -> list[_Bar]:
    costs = totals(run)
    counts = {status: float(costs.candidates[status]) for status in STATUSES}
    unit, sign = time_unit(costs.seconds)
    amount = EngFormatter(sep=" ", places=1)
    bars = [_Bar(f"{sum(counts.values()):.0f} candidates", counts)]
    epochs = _by_status(run, "cost/epochs")
    if savings.early_stopping is not None and savings.early_stopping.epochs_saved > 0:
        epochs["saved by early stopping"] = float(savings.early_stopping.epochs_saved)
    bars += [
        _Bar(f"{costs.epochs:,.0f} epochs trained", epochs),
        _Bar(f"{costs.seconds / unit:.3g} {sign} of training", _by_status(run, "cost/seconds")),
        _Bar(f"{amount(costs.training_flops).strip()}FLOPs", _by_status(run, "cost/training_flops")),
    ]
    if savings.inheritance is not None:
        others = sum(counts.values()) - savings.inheritance.inherited
        parts = {"inherited weights": float(savings.inheritance.inherited), "from scratch": max(0.0, others)}
        bars.append(_Bar("initial weights", parts))
    return [bar for bar in bars if sum(bar.parts.values()) > 0]


def _by_status(run: RunSnapshot, cost: str) -> dict[str, float]:
    """A cost summed by status; candidates that failed before it was measured don't count."""
    sums = dict.fromkeys(STATUSES, 0.0)
    for row in run.rows:
        value = row.get(cost)
        if row["status"] in sums and row["duplicate_of"] is None and value is not None and abs(value) < float("inf"):
            sums[row["status"]] += float(value)
    return sums
