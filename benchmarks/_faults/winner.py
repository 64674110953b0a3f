"""The winner's test: once per winner, whatever is killed, lost or extended."""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from _faults import Case, kind
from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.archive import Archive
from lightning_evo.genome import LogUniform

LOST = ("final/model.ckpt", "final", "tested.json", "candidates/{winner:06d}/checkpoint.ckpt", "nothing")


class Killed(BaseException):
    """Stands for a kill of the controller: nothing after it happens."""


def search(run: Path, candidates: int) -> None:
    config: dict[str, Any] = {
        "model": {"class_path": "_models.DigitsNet", "init_args": {"width": 16}},
        "data": {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": 256}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    with ThreadPoolExecutor(1) as threads:
        Evolution(
            config=config,
            space={"model.init_args.lr": LogUniform(1e-4, 1e-1)},
            algorithm=RandomSearch(),
            objectives=[Objective("val_acc")],
            budget=Budget(candidates=candidates),
            workers=Workers(slots=1),
            directory=run,
            seed=1,
            executor=threads,
            progress=False,
        ).run().close()


@kind("the winner is tested once", cases=8)
def once(case: Case) -> None:
    from lightning_evo.data import Digits

    run, candidates, tests, winners = case.folder / "run", 2, Counter[str](), set[int]()
    original = Digits.test_dataloader

    def counting(data: Any) -> Any:
        tests["made"] += 1
        return original(data)

    with mock.patch.object(Digits, "test_dataloader", counting):
        for _ in range(4):
            with mock.patch("lightning_evo.evolution.winner.write_schedule", side_effect=Killed):
                if case.rng.random() < 0.5:
                    with suppress(Killed):
                        search(run, candidates)
            search(run, candidates)
            with Archive(run) as archive:
                final = archive.meta["final"]
            winners.add(final["request"]["candidate"])
            case.check("test_acc" in final["metrics"] and final["tested"], f"recorded was {final['metrics']}")
            case.check((run / "final/model.ckpt").is_file(), "the winner isn't there")
            lost = run / case.rng.choice(LOST).format(winner=final["request"]["candidate"])
            shutil.rmtree(lost) if lost.is_dir() else lost.unlink(missing_ok=True)
            candidates += case.rng.randint(0, 1)
    case.check(tests["made"] == len(winners), f"{tests['made']} tests of {len(winners)} winners")
