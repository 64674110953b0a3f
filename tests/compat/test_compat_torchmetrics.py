"""Every private name of torchmetrics that is used exists, and behaves as it is used."""

from __future__ import annotations

import warnings

import pytest
import torch
from compat_rows import Row, private_names
from torchmetrics import MeanMetric, SumMetric

from lightning_evo._compat import torchmetrics as compat


def defaults() -> None:
    metric = SumMetric()
    metric.update(3.0)
    ((name, default),) = compat.state_defaults(metric).items()
    assert getattr(metric, name) == 3
    assert default == 0


def updates() -> None:
    metric = SumMetric()
    (name,) = compat.state_defaults(metric)
    metric.update(1.0)
    assert metric.compute() == 1
    vars(metric)[name] = torch.tensor(5.0)
    compat.mark_updated(metric)
    assert metric.compute() == 5
    fresh = SumMetric()
    compat.mark_updated(fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that compute was called before update
        fresh.compute()


def bookkeeping() -> None:
    """What differs between a metric that has counted and one that hasn't, beside states and methods."""
    used, fresh = MeanMetric(), MeanMetric()
    used(1.0)
    used.compute()
    different = {
        name
        for name, value in vars(used).items()
        if isinstance(value, (int, float, torch.Tensor, type(None))) and str(value) != str(vars(fresh)[name])
    }
    assert different <= {*compat.BOOKKEEPING, *compat.state_defaults(used)}
    assert set(compat.BOOKKEEPING) <= set(vars(used))


def forward_values() -> None:
    used, other = SumMetric(), SumMetric()
    used(2.0)
    compat.share_forward_value(used, other)
    assert other._forward_cache == 2


def plain_computing() -> None:
    class Counts(compat.PlainMetric):
        calls = 0

        def update(self) -> None: ...

        def compute(self):
            self.calls += 1
            return torch.tensor(float(self.calls))

    metric = Counts()
    assert [float(metric.compute()) for _ in range(2)] == [1.0, 2.0]


TABLE = [
    Row("_defaults", "the metrics of a stack's particles count one by one", defaults),
    Row("_computed", "a metric whose states were computed elsewhere returns its earlier value", updates),
    Row("_update_count", "a metric whose states were computed elsewhere warns that it wasn't updated", updates),
    Row("_forward_cache", "Lightning logs no value per step of a mean over ranks", forward_values),
    Row("_cache", "metrics of equal settings look different, and count one by one", bookkeeping),
    Row("_update_signature", "metrics of equal settings look different, and count one by one", bookkeeping),
    Row("_wrap_compute", "a mean over ranks is cached, or synchronized a second time", plain_computing),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_it_exists_and_behaves_as_it_is_used(row):
    row.run()


def test_every_private_name_has_its_row():
    assert {row.name for row in TABLE} == private_names("torchmetrics")
