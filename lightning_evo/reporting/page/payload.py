"""What does the page know? Runs as plain JSON: everything that its tables and plots show."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.reporting.page.columns import MANY, candidate_columns, fitness_digits, gene_descriptions, rounded
from lightning_evo.reporting.views import (
    Importance,
    Recorded,
    curves,
    early_predictions,
    front,
    gene_columns,
    importance,
    predicted,
    progress,
    record,
    saved,
    totals,
    worth_showing,
)

__all__ = ["VERSION", "Weighing", "payload"]

VERSION = 1
"""Of the payload's form."""

Weighing = Callable[[Recorded, str], Importance]
"""How importances are found: given the run and a monitor. It takes a second or two, so who asks often keeps them."""

CURVE_NUMBERS = 120_000
"""How many numbers of learning curves the page holds at most, of all candidates together."""

CURVE_METRICS = 16
CURVE_POINTS = 250
CONTROLS = 2_000
BAND_POINTS = 1_000


def payload(
    archives: Sequence[Archive], live: bool = False, weigh: Weighing | None = None, now: float | None = None
) -> dict[str, Any]:
    """Everything the page shows of some runs, as JSON that knows neither NaN nor infinities (both are ``null``).

    ``version``, ``generated`` (seconds since the epoch), ``live`` and ``runs``. Of a run: what was searched and how, its
    candidates column by column (texts and choices by number), learning curves, predictions, importances, the Pareto front,
    quantiles of its course, totals, and what early stopping and inheritance saved. Of many candidates not every curve is
    held: ``curves.thinned`` says so.

    Args:
        archives: The runs', which searches may be writing.
        live: Whether the page asks for more while it is open.
        weigh: How importances are found; default: :func:`~lightning_evo.reporting.views.importance`, each time.
        now: When it is made; default: now.

    Raises:
        ArchiveError: If an archive can't be read.
    """
    recorded = [record(archive) for archive in archives]
    names = _distinct([each.run for each in recorded])
    runs = [
        _run(archive, each, name, weigh or importance)
        for archive, each, name in zip(archives, recorded, names, strict=True)
    ]
    for run, notes in zip(runs, _differences(runs), strict=True):
        run["notes"] += notes
    generated = time.time() if now is None else now
    return {"version": VERSION, "generated": round(generated, 2), "live": live, "runs": runs}


def _run(archive: Archive, recorded: Recorded, name: str, weigh: Weighing) -> dict[str, Any]:
    meta = recorded.meta
    search = meta.get("search", {})
    genes = gene_columns(recorded)
    monitors = recorded.monitors
    return {
        "name": name,
        "directory": str(recorded.directory),
        "status": recorded.status,
        "created": round(recorded.created, 2),
        "version": meta.get("version"),
        "algorithm": _named(search.get("evolution", {}).get("algorithm")),
        "seed": meta.get("seed"),
        "budget": meta.get("budget") or {},
        "objectives": [{"monitor": each.monitor, "mode": each.mode} for each in recorded.objectives],
        "config": _finite(search.get("config")),
        "genes": _finite(gene_descriptions(genes)),
        "candidates": candidate_columns(archive, recorded, genes),
        "curves": _curves(archive, recorded),
        "early": _early(recorded),
        "predicted": {monitor: _predicted(recorded, monitor) for monitor in monitors},
        "quality": _finite(meta.get("predictor_quality", [])),
        "importance": {monitor: _weighed(weigh(recorded, monitor)) for monitor in monitors},
        "front": front(recorded).best,
        "bands": {monitor: _bands(recorded, monitor) for monitor in monitors},
        "savings": _finite(saved(recorded).to_dict()),
        "totals": _finite(vars(totals(recorded))),
        "pauses": [[round(at - recorded.created, 2) for at in pause] for pause in recorded.pauses],
        "final": _final(meta.get("final")),
        "notes": _notes(archive, recorded),
    }


# -- parts of a run ----------------------------------------------------------------------------------------------------


def _curves(archive: Archive, recorded: Recorded) -> dict[str, Any]:
    """Curves within a budget of numbers: fewer candidates first, then fewer epochs of each, and not every metric."""
    trained = sum(row["duplicate_of"] is None for row in recorded.rows)
    logged = _logged(recorded)
    names = _curve_metrics(recorded, logged)
    # A first look at some tells how long curves are, before thousands are read.
    looked = worth_showing(recorded, 50)
    longest = max((len(curve.epochs) for curve in curves(archive, looked, names)), default=1)
    points = min(longest, CURVE_POINTS)
    most = max(100, CURVE_NUMBERS // (points * (len(names) + 1)))
    found = curves(archive, worth_showing(recorded, most), names)
    digits = 6 if trained <= MANY else 4
    every = {}
    for curve in found:
        # Evenly spaced epochs, the last one among them.
        step = max(1, math.ceil(len(curve.epochs) / points))
        kept = range((len(curve.epochs) - 1) % step, len(curve.epochs), step)
        every[str(curve.id)] = {"epoch": [int(curve.epochs[at]) for at in kept]} | {
            name: [rounded(float(values[at]), digits) for at in kept] for name, values in curve.metrics.items()
        }
    said = []
    if trained > most:
        said.append(f"{most:,} of {trained:,} candidates: the best, the last, and others evenly between them")
    if longest > points:
        said.append(f"about {points} epochs of each")
    left_out = len(set(logged) - set(names))
    if left_out > 0:
        said.append(f"{left_out} metrics left out")
    thinned = f"The page holds the learning curves of {'; '.join(said)}." if said else None
    return {"metrics": names, "every": every, "thinned": thinned}


def _logged(recorded: Recorded) -> list[str]:
    counts = Counter(name for row in recorded.rows for name in row if name.startswith("metrics/"))
    return [name.removeprefix("metrics/") for name, _ in counts.most_common()]


def _curve_metrics(recorded: Recorded, logged: Sequence[str]) -> list[str]:
    """The objectives first, then what most candidates logged."""
    sought = [monitor for monitor in recorded.monitors if not monitor.startswith("cost/")]
    return list(dict.fromkeys([*sought, *sorted(logged[:CURVE_METRICS])]))[:CURVE_METRICS]


def _early(recorded: Recorded) -> dict[str, Any]:
    """What was predicted while candidates trained; of many, of the controls and of those whose curves are worth showing."""
    predictions: dict[int, dict[str, Any]] = {}
    digits = fitness_digits(len(recorded.rows))
    for each in early_predictions(recorded):
        interval = {name: rounded(getattr(each, name), digits) for name in ("mean", "low", "high")}
        predictions.setdefault(each.id, {})[each.monitor] = interval
    chosen = set(recorded.early)
    if len(chosen) > CONTROLS:
        controls = [id for id in sorted(chosen) if recorded.early[id].control and id in predictions]
        chosen = set(worth_showing(recorded, CONTROLS)) & chosen | set(controls[-CONTROLS:])
    return {
        str(id): {
            "predicted": predictions.get(id, {}),
            **{
                name: getattr(recorded.early[id], name)
                for name in ("stopped_at", "would_stop_at", "horizon", "control")
            },
        }
        for id in sorted(chosen)
    }


def _predicted(recorded: Recorded, monitor: str) -> dict[str, list[float | int | None]]:
    found = predicted(recorded, monitor)
    digits = 6 if len(found.ids) <= MANY else 4
    pairs = zip(found.ids.tolist(), found.mean.tolist(), found.std.tolist(), strict=True)
    return {str(id): [rounded(mean, digits), rounded(std, 3)] for id, mean, std in pairs}


def _weighed(found: Importance) -> dict[str, Any]:
    return {
        "genes": [
            {"path": gene.path, "mean": rounded(gene.mean, 4), "std": rounded(gene.std, 4)} for gene in found.genes
        ],
        "trained_on": found.trained_on,
        "r2": rounded(found.r2, 4),
        "why_not": found.why_not,
    }


def _bands(recorded: Recorded, monitor: str) -> dict[str, Any]:
    found = progress(recorded, monitor, BAND_POINTS)
    quantiles = {name: getattr(found, name) for name in ("best", "q25", "q50", "q75")}
    return {
        "window": found.window,
        "count": found.count.tolist(),
        "epochs": [rounded(value, 9) for value in found.epochs.tolist()],
        "seconds": [round(value, 2) for value in found.seconds.tolist()],
        "best_id": [None if id < 0 else id for id in found.best_id.tolist()],
        **{name: [rounded(value, 6) for value in values.tolist()] for name, values in quantiles.items()},
    }


def _final(outcome: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The winner as it was finished, without its config."""
    if outcome is None:
        return None
    request = outcome.get("request", {})
    return {
        "candidate": request.get("candidate"),
        "retrained": bool(request.get("retrain")),
        "tested": bool(outcome.get("tested")),
        "why_not": outcome.get("why_not"),
        "metrics": _finite(dict(outcome.get("metrics", {}))),
    }


def _notes(archive: Archive, recorded: Recorded) -> list[str]:
    notes = [archive.recovered] if archive.recovered else []
    if not recorded.rows:
        notes.append("No candidate has been asked for yet.")
    elif recorded.best is None:
        notes.append("No candidate has finished yet.")
    return notes


# -- several runs ------------------------------------------------------------------------------------------------------


def _distinct(names: Sequence[str]) -> list[str]:
    """Each name once: the second of a name gets a number behind it.

    >>> _distinct(["a", "b", "a", "a (2)"])
    ['a', 'b', 'a (3)', 'a (2)']
    """
    taken, found = set(names), []
    for at, name in enumerate(names):
        if name in names[:at]:
            number = 2
            while (numbered := f"{name} ({number})") in taken:
                number += 1
            taken.add(numbered)
            found.append(numbered)
        else:
            found.append(name)
    return found


def _differences(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each run what can't be compared with the first one."""
    found: list[list[str]] = []
    for run in runs:
        notes = []
        for what, key in (("objectives", "objectives"), ("genes", "genes")):
            one, other = (_keys(each[key]) for each in (runs[0], run))
            if only := [name for name in other if name not in one]:
                notes.append(f"{what} that {runs[0]['name']} doesn't have: {', '.join(only)}")
            if missing := [name for name in one if name not in other]:
                notes.append(f"{what} of {runs[0]['name']} that it doesn't have: {', '.join(missing)}")
        found.append(notes)
    return found


def _keys(described: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["path"] if "path" in each else f"{each['monitor']} ({each['mode']})" for each in described]


# -- plain data --------------------------------------------------------------------------------------------------------


def _named(described: Any) -> str | None:
    """A class with its plain arguments in one line."""
    if not isinstance(described, Mapping) or "class_path" not in described:
        return None
    arguments = described.get("init_args") or {}
    said = [f"{name}={value}" for name, value in arguments.items() if isinstance(value, (bool, int, float, str))]
    return f"{str(described['class_path']).rpartition('.')[2]}({', '.join(said)})"


def _finite(value: Any) -> Any:
    """``value`` without NaN and infinities, which JSON doesn't know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(element) for element in value]
    return value
