"""Proxies measured in a worker process: what may go wrong there harms nobody."""

from __future__ import annotations

import logging
import math
import multiprocessing

import pytest

from lightning_evo.execution.proxies import ProxyMeter
from lightning_evo.genome import Genome
from lightning_evo.training import ConfigTrainable

NAMES = ["synflow", "gradient_norm", "params"]
WIDTH, MISBEHAVE = "model.init_args.width", "model.init_args.misbehave"


@pytest.fixture
def trainable(config):
    return ConfigTrainable(config)


def processes() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_every_genome_has_its_proxies_in_order(trainable):
    with ProxyMeter(trainable, NAMES) as meter:
        measured = meter([Genome({WIDTH: width}) for width in (3, 8, 3)])
    assert [list(values) for values in measured] == [NAMES] * 3
    assert [values["params"] for values in measured] == [3 * 5 + 2, 8 * 5 + 2, 3 * 5 + 2]
    assert measured[0] == measured[2]


def test_the_seed_decides_the_values_whatever_was_measured_before(trainable):
    genomes = [Genome({WIDTH: width}) for width in (3, 8)]
    values = []
    for seed, order in ((0, genomes), (0, genomes[::-1]), (1, genomes)):
        with ProxyMeter(trainable, NAMES, seed=seed) as meter:
            values.append(dict(zip(order, meter(order), strict=True)))
    assert values[0] == values[1] != values[2]


def test_one_that_dies_crashes_or_takes_too_long_is_nan_and_the_others_stand(trainable, caplog):
    kinds = ["die", "crash", "sleep", ""]
    with caplog.at_level(logging.WARNING), ProxyMeter(trainable, NAMES, time_limit=5) as meter:
        measured = meter([Genome({WIDTH: 3, MISBEHAVE: kind}) for kind in kinds])
        again = meter([Genome({WIDTH: 3, MISBEHAVE: kind}) for kind in kinds])
    assert [all(map(math.isnan, values.values())) for values in measured] == [True, True, True, False]
    assert list(map(str, again)) == list(map(str, measured))
    reasons = [record.getMessage() for record in caplog.records if record.name.startswith("lightning_evo")]
    assert len(reasons) == 3
    for said in ("its worker process died", "this model always crashes", "time limit of 5 s"):
        assert any(said in reason for reason in reasons), reasons


def test_no_process_is_started_before_the_first_call_and_none_is_left(trainable):
    before = processes()
    meter = ProxyMeter(trainable, NAMES)
    assert processes() == before
    meter([Genome({WIDTH: 3})])
    meter.close()
    meter.close()
    assert processes() == before
    assert meter([Genome({WIDTH: 3})])[0]["params"] == 17  # remembered


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["snip"]}, "'snip' is not one of naswot"),
        ({"names": "params"}, "'params' is not a list"),
        ({"batch_size": 1}, "batch_size: 1 is not at least 2"),
        ({"time_limit": 0}, "time_limit: 0 is not above 0"),
        ({"workers": 0}, "workers: 0 is not at least 1"),
    ],
)
def test_bad_arguments_are_refused(trainable, arguments, message):
    with pytest.raises(ValueError, match=message):
        ProxyMeter(trainable, **{"names": NAMES, **arguments})
