"""A small search with every kind of event, and everything an archive remembers of it in comparable form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Prediction, Result, Segment

OBJECTIVES = [{"monitor": "val_acc", "mode": "max"}]


PREDICTIONS = {
    1: Prediction(proxies={"naswot": 12.5, "synflow": 1e300}),
    2: Prediction((0.75,), (0.125,), used=True, results=10),
}


def make_candidate(id: int) -> Candidate:
    values: dict[str, Any] = {"model.init_args.lr": 0.1 / (id + 1), "model.init_args.kind": ["conv", "linear"][id % 2]}
    if id % 2 == 0:
        values["model.init_args.kernel"] = id
    return Candidate(
        id=id,
        genome=Genome(values, rates={"": 0.2, "model.init_args.lr": 0.04}),
        parents=tuple(range(max(0, id - 2), id))[::-1],
        generation=id // 4,
        seed=2**32 - 1 - id,
        origin="mate+mutate" if id else "sample",
        inherits=id - 1 if id % 3 == 2 else None,
        duplicate_of=1 if id == 7 else None,
        prediction=PREDICTIONS.get(id % 4),
        segment=Segment(id, id + 2) if id % 3 == 2 else None,
    )


def make_result(id: int) -> Result:
    if id % 5 == 4:
        return Result(
            "failed", error="Traceback ...\nRuntimeError: \u2718", error_type="RuntimeError: \u2718", fatal=id == 9
        )
    accuracy = math.sin(id) / 2 + 0.5
    return Result(
        status="stopped" if id % 5 == 3 else "completed",
        fitness=(accuracy,),
        metrics={"val_acc": accuracy, "val_loss": math.inf if id == 1 else 1.0},
        curve=[{"epoch": epoch, "val_acc": accuracy * epoch, "val_loss": math.nan} for epoch in range(3)],
        cost={"params": 1000 * id, "seconds": 0.25},
        checkpoint=f"candidates/{id:06d}/checkpoint.ckpt",
        checkpoint_bytes=2**33 + id,
        started=1.7e9 + id,
        ended=1.7e9 + id + 0.25,
        slot=id % 2,
        attempts=1 + id % 2,
        extra={"note": [id, None, {"nested": True}]},
    )


def record(writer: ArchiveWriter, ids: range) -> None:
    """Each candidate's result comes two asks later, so that asks and tells interleave and two stay pending."""
    for id in ids:
        writer.record_candidate(make_candidate(id), queued=1.6e9 + id)
        if id >= 2:
            writer.record_result(id - 2, make_result(id - 2))
        if id % 4 == 3:
            writer.set_meta("elapsed", float(id))
        if id % 6 == 5:
            writer.update_checkpoint(id - 5, None)


def make_run(directory: Path, candidates: int = 12) -> ArchiveWriter:
    writer = ArchiveWriter(directory)
    writer.update_meta({"objectives": OBJECTIVES, "seed": 3, "nan": math.nan})
    record(writer, range(candidates))
    return writer


def remembered(directory: str | Path, run: str | None = None) -> str:
    """Everything, as text: NaN is equal to itself there."""
    with Archive(directory, run) as archive:
        return repr(
            {
                "run": archive.run,
                "meta": archive.meta,
                "rows": archive.candidates(),
                "events": [(vars(candidate), result and result.to_dict()) for candidate, result in archive.events()],
                "curves": archive.curves(),
                "columns": archive.columns(),
            }
        )
