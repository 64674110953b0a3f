"""Arguments of a search from Python: a config's mappings are taken, and a wrong kind is named with what is accepted."""

from __future__ import annotations

import os
import re
import sys

import pytest
import warm
from searching import evolution

from lightning_evo import Budget, Final, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.evolution import SearchError


def test_settings_may_be_mappings(tmp_path):
    search = evolution(
        tmp_path,
        None,
        objectives=[{"monitor": "value", "mode": "min"}, {"monitor": "cost/params"}],
        budget={"candidates": 3},
        workers={"slots": 2, "threads": 1},
        final={"retrain": True},
    )
    assert search.objectives == (Objective("value", "min"), Objective("cost/params"))
    assert (search.budget, search.workers) == (Budget(candidates=3), Workers(slots=2, threads=1))
    assert search.final == Final(retrain=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objectives": ["value"]}, "objectives[0]: 'value' is neither Objective(...) nor a mapping of monitor, mode"),
        ({"objectives": Objective("a")}, "objectives: Objective(monitor='a', mode='max') is not a list of objectives"),
        ({"objectives": [{"made": "min"}]}, "objectives[0]: Objective has no 'made'; it has monitor, mode"),
        ({"objectives": [{"monitor": "value", "mode": "low"}]}, "objectives[0]: mode: 'low' is not 'max' or 'min'"),
        ({"objectives": [{"mode": "min"}]}, "objectives[0]: "),
        ({"budget": 12}, "budget: 12 is neither Budget(...) nor a mapping of candidates, epochs, wall_time"),
        ({"budget": {"candidates": 0}}, "budget: candidates: 0 is not above 0"),
        ({"workers": 2}, "workers: 2 is neither Workers(...) nor a mapping of slots, "),
        ({"final": True}, "final: True is neither Final(...) nor a mapping of "),
        ({"algorithm": RandomSearch}, "algorithm: <class "),
        ({"algorithm": "RandomSearch"}, "algorithm: 'RandomSearch' is not an Algorithm, such as RandomSearch()"),
        ({"callbacks": "Timer"}, "callbacks: 'Timer' is not a list of which each is a lightning.pytorch Callback"),
        ({"callbacks": ["Timer"]}, "callbacks[0]: 'Timer' is not a lightning.pytorch Callback"),
        ({"reporters": ["wandb"]}, "reporters[0]: 'wandb' is not a Reporter"),
        ({"trust": "yes"}, "trust: 'yes' is not true or false"),
        ({"links": "a"}, "links"),
        ({"space": ["x"]}, "space: ['x'] is not a mapping from config paths to genes"),
        ({"seed": "1"}, "seed: '1'"),
    ],
)  # fmt: skip
def test_what_is_of_another_kind_is_named_with_what_is_accepted(given, said, tmp_path):
    with pytest.raises(SearchError, match=re.escape(f"evolution.{said}")):
        evolution(tmp_path, None, **given)


SESSION = """
from lightning_evo import Budget, Evolution, Objective
from lightning_evo.evolution import SearchError
from lightning_evo.training import Blueprint, ConfigTrainable
from toys import ToyData, ToyNet

class Net(ToyNet):
    pass

trainer = {"max_epochs": 1, "accelerator": "cpu"}
fixed = ConfigTrainable({"trainer": trainer}, Blueprint(cli_arguments={"model_class": Net, "datamodule_class": ToyData}))
named = {"model": {"class_path": "__main__.Net"}, "data": {"class_path": "toys.ToyData"}, "trainer": trainer}
for config, gene in ((fixed, "model.lr"), (named, "model.init_args.lr")):
    try:
        Evolution({gene: [0.1, 0.2]}, [Objective("val_acc")], Budget(candidates=1), config=config).run()
    except SearchError as error:
        print(error)
"""


def test_a_class_of_a_session_is_refused_before_workers_look_for_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SESSION]
    done = warm.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "Net can't be imported by worker processes: move it from the session to a file\n" * 2
    assert not (tmp_path / "runs").exists()
