"""The page's payload: everything that its tables and plots show, as plain JSON."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_evo.algorithms.quality import QualityHistory
from lightning_evo.archive import Archive
from lightning_evo.archive.meta import FinalOutcome, SearchDescription, read_meta
from lightning_evo.reporting.page.columns import MANY, candidate_columns, fitness_digits, gene_descriptions, rounded
from lightning_evo.reporting.views import (
    Curve,
    Importance,
    RunSnapshot,
    curves,
    early_predictions,
    front,
    gene_columns,
    importance,
    length,
    predicted,
    progress,
    read_snapshot,
    run_savings,
    sample_candidates,
    totals,
)

__all__ = ["VERSION", "ImportanceFunction", "payload"]

VERSION = 2
"""Version of the payload's format."""

ImportanceFunction = Callable[[RunSnapshot, str], Importance]
"""A function that returns the importances of a run for a monitor. It takes a second or two, so results may be cached."""

MAX_CURVE_NUMBERS = 120_000
"""Total numbers in the learning curves of all candidates on the page."""

MAX_CURVE_METRICS = 16
MAX_CURVE_POINTS = 250
MAX_CONTROLS = 2_000
MAX_QUARTILE_POINTS = 1_000


def payload(
    archives: Sequence[Archive],
    live: bool = False,
    importance_of: ImportanceFunction | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """Return everything the page shows of one or more runs, as JSON with ``null`` for NaN and infinities.

    The keys are ``version``, ``generated`` (seconds since the epoch), ``live`` and ``runs``. Each run has a description of
    the search, its candidates column by column (texts and choices by index), learning curves, predictions, importances,
    the Pareto front, the best fitness and quartiles over time, totals, and what early stopping and inheritance saved. With
    many candidates, some curves are left out; then ``curves.thinned`` describes which are included.

    Args:
        archives: The runs' archives; searches may still be writing them.
        live: Whether the page requests new data while it is open.
        importance_of: Computes importances; default: :func:`~lightning_evo.reporting.views.importance`, without a cache.
        now: The current time; default: the system's.

    Raises:
        ArchiveError: If an archive can't be read.
    """
    snapshots = [read_snapshot(archive) for archive in archives]
    names = _distinct([snapshot.run for snapshot in snapshots])
    runs = [
        _run(archive, snapshot, name, importance_of or importance)
        for archive, snapshot, name in zip(archives, snapshots, names, strict=True)
    ]
    for run, notes in zip(runs, _differences(runs), strict=True):
        run["notes"] += notes
    generated = time.time() if now is None else now
    return {"version": VERSION, "generated": round(generated, 2), "live": live, "runs": runs}


def _run(archive: Archive, snapshot: RunSnapshot, name: str, importance_of: ImportanceFunction) -> dict[str, Any]:
    meta = snapshot.meta
    search = read_meta(meta, SearchDescription) or SearchDescription()
    genes = gene_columns(snapshot)
    monitors = snapshot.monitors
    return {
        "name": name,
        "directory": str(snapshot.directory),
        "status": snapshot.status,
        "created": round(snapshot.created, 2),
        "version": meta.get("version"),
        "algorithm": _class_text(search.algorithm),
        "seed": meta.get("seed"),
        "budget": meta.get("budget") or {},
        "objectives": [{"monitor": each.monitor, "mode": each.mode} for each in snapshot.objectives],
        "config": _finite(search.config),
        "genes": _finite(gene_descriptions(genes)),
        "candidates": candidate_columns(archive, snapshot, genes),
        "curves": _curves(archive, snapshot),
        "early": _early(archive, snapshot),
        "predicted": {monitor: _predicted(snapshot, monitor) for monitor in monitors},
        "quality": _finite((read_meta(meta, QualityHistory) or QualityHistory()).to_dict()),
        "importance": {monitor: _importance(importance_of(snapshot, monitor)) for monitor in monitors},
        "front": front(snapshot).best,
        "bands": {monitor: _quartiles(snapshot, monitor) for monitor in monitors},
        "savings": _finite(run_savings(snapshot).to_dict()),
        "totals": _finite(vars(totals(snapshot))),
        "pauses": [[round(at - snapshot.created, 2) for at in pause] for pause in snapshot.pauses],
        "final": _final(read_meta(meta, FinalOutcome)),
        "notes": _notes(archive, snapshot),
    }


def _curves(archive: Archive, snapshot: RunSnapshot) -> dict[str, Any]:
    """Learning curves within the budget of numbers: of a sample of candidates, epochs and metrics if necessary."""
    trained = sum(row["duplicate_of"] is None for row in snapshot.rows)
    logged = _logged(snapshot)
    names = _curve_metrics(snapshot, logged)
    # A sample shows how long the curves are before thousands are read.
    sample = sample_candidates(snapshot, 50)
    longest = max((len(curve.places) for curve in curves(archive, sample, names)), default=1)
    points = min(longest, MAX_CURVE_POINTS)
    most = max(100, MAX_CURVE_NUMBERS // (points * (len(names) + 1)))
    found = curves(archive, sample_candidates(snapshot, most), names)
    digits = 6 if trained <= MANY else 4
    every, places = {}, {}
    for curve in found:
        # Evenly spaced points that include the last one.
        step = max(1, math.ceil(len(curve.places) / points))
        kept = range((len(curve.places) - 1) % step, len(curve.places), step)
        places[str(curve.id)] = [int(curve.places[at]) for at in kept]
        every[str(curve.id)] = {
            name: [rounded(float(values[at]), digits) for at in kept] for name, values in curve.metrics.items()
        }
    limits = []
    if trained > most:
        limits.append(f"{most:,} of {trained:,} candidates (the best, the latest, and others evenly spaced)")
    if longest > points:
        limits.append(f"about {points} points per candidate")
    omitted = len(set(logged) - set(names))
    if omitted > 0:
        limits.append(f"{len(names)} of {len(names) + omitted} metrics")
    thinned = f"The learning curves on this page are limited to {', '.join(limits)}." if limits else None
    along = "step" if any(curve.unit == "step" for curve in found) else "epoch"
    return {"metrics": names, "along": along, "places": places, "every": every, "thinned": thinned}


def _logged(snapshot: RunSnapshot) -> list[str]:
    counts = Counter(name for row in snapshot.rows for name in row if name.startswith("metrics/"))
    return [name.removeprefix("metrics/") for name, _ in counts.most_common()]


def _curve_metrics(snapshot: RunSnapshot, logged: Sequence[str]) -> list[str]:
    """The objectives first, then the metrics that most candidates logged."""
    objectives = [monitor for monitor in snapshot.monitors if not monitor.startswith("cost/")]
    return list(dict.fromkeys([*objectives, *sorted(logged[:MAX_CURVE_METRICS])]))[:MAX_CURVE_METRICS]


def _early(archive: Archive, snapshot: RunSnapshot) -> dict[str, Any]:
    """Predictions made during training; of many, those of the controls and of the candidates with a curve on the page."""
    predictions: dict[int, dict[str, Any]] = {}
    digits = fitness_digits(len(snapshot.rows))
    for each in early_predictions(snapshot):
        interval = {name: rounded(getattr(each, name), digits) for name in ("mean", "low", "high")}
        predictions.setdefault(each.id, {})[each.monitor] = interval
    chosen = set(snapshot.early)
    if len(chosen) > MAX_CONTROLS:
        controls = [id for id in sorted(chosen) if snapshot.early[id].control and id in predictions]
        chosen = set(sample_candidates(snapshot, MAX_CONTROLS)) & chosen | set(controls[-MAX_CONTROLS:])
    known = {curve.id: curve for curve in curves(archive, sorted(chosen), [])}
    found = {}
    for id in sorted(chosen):
        record, curve = snapshot.early[id], known.get(id)
        decided = [_place(curve, evaluation) for evaluation in (record.stopped_at, record.would_stop_at)]
        found[str(id)] = {
            "predicted": predictions.get(id, {}),
            "stopped_at": decided[0],
            "would_stop_at": decided[1],
            "end": None if curve is None else rounded(length(snapshot, curve), 9),
            "control": record.control,
        }
    return found


def _place(curve: Curve | None, evaluation: int | None) -> int | None:
    """Where in a training one of its evaluations was; ``None`` where there is none, or an archive doesn't hold it."""
    if curve is None or evaluation is None:
        return evaluation
    return int(curve.evaluations[evaluation]) if evaluation < len(curve.evaluations) else None


def _predicted(snapshot: RunSnapshot, monitor: str) -> dict[str, list[float | int | None]]:
    found = predicted(snapshot, monitor)
    digits = 6 if len(found.ids) <= MANY else 4
    pairs = zip(found.ids.tolist(), found.mean.tolist(), found.std.tolist(), strict=True)
    return {str(id): [rounded(mean, digits), rounded(std, 3)] for id, mean, std in pairs}


def _importance(found: Importance) -> dict[str, Any]:
    return {
        "genes": [
            {"path": gene.path, "mean": rounded(gene.mean, 4), "std": rounded(gene.std, 4)} for gene in found.genes
        ],
        "trained_on": found.trained_on,
        "r2": rounded(found.r2, 4),
        "why_not": found.why_not,
    }


def _quartiles(snapshot: RunSnapshot, monitor: str) -> dict[str, Any]:
    found = progress(snapshot, monitor, MAX_QUARTILE_POINTS)
    quantiles = {name: getattr(found, name) for name in ("best", "q25", "q50", "q75")}
    return {
        "window": found.window,
        "count": found.count.tolist(),
        "epochs": [rounded(value, 9) for value in found.epochs.tolist()],
        "seconds": [round(value, 2) for value in found.seconds.tolist()],
        "best_id": [None if id < 0 else id for id in found.best_id.tolist()],
        **{name: [rounded(value, 6) for value in values.tolist()] for name, values in quantiles.items()},
    }


def _final(outcome: FinalOutcome | None) -> dict[str, Any] | None:
    """The winner's final results, without its config."""
    if outcome is None:
        return None
    return {
        "candidate": outcome.request.candidate,
        "retrained": outcome.request.retrain,
        "tested": outcome.tested,
        "why_not": outcome.why_not,
        "metrics": _finite(dict(outcome.metrics)),
    }


def _notes(archive: Archive, snapshot: RunSnapshot) -> list[str]:
    notes = [archive.recovered] if archive.recovered else []
    if not snapshot.rows:
        notes.append("No candidate has been created yet.")
    elif snapshot.best is None:
        notes.append("No candidate has finished yet.")
    return notes


def _distinct(names: Sequence[str]) -> list[str]:
    """Make names unique by appending a number to repeated ones.

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
    """For each run, what can't be compared with the first one."""
    found: list[list[str]] = []
    for run in runs:
        notes = []
        for what, key in (("objectives", "objectives"), ("genes", "genes")):
            one, other = (_keys(each[key]) for each in (runs[0], run))
            if only := [name for name in other if name not in one]:
                notes.append(f"{what} missing in {runs[0]['name']}: {', '.join(only)}")
            if missing := [name for name in one if name not in other]:
                notes.append(f"{what} only in {runs[0]['name']}: {', '.join(missing)}")
        found.append(notes)
    return found


def _keys(described: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["path"] if "path" in each else f"{each['monitor']} ({each['mode']})" for each in described]


def _class_text(described: Any) -> str | None:
    """A class and its plain arguments on one line."""
    if not isinstance(described, Mapping) or "class_path" not in described:
        return None
    arguments = described.get("init_args") or {}
    listed = [f"{name}={value}" for name, value in arguments.items() if isinstance(value, (bool, int, float, str))]
    return f"{str(described['class_path']).rpartition('.')[2]}({', '.join(listed)})"


def _finite(value: Any) -> Any:
    """``value`` with ``None`` in place of NaN and infinities, which JSON doesn't have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(element) for element in value]
    return value
