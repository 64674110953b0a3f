"""Which devices belong to which slot."""

import os

import pytest
import torch

from lightning_evo.execution import available_cores, plan_slots


@pytest.fixture
def devices(monkeypatch):
    """Say how many CUDA devices this machine shows, and how CUDA_VISIBLE_DEVICES names them."""

    def devices(count, visible=None, mps=False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return devices


@pytest.fixture
def cores(monkeypatch):
    def cores(count):
        monkeypatch.setattr("lightning_evo.execution.slots.available_cores", lambda: count)

    return cores


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_each_cuda_device_is_a_slot(devices, accelerator):
    devices(3)
    assert plan_slots(accelerator) == [("0",), ("1",), ("2",)]


def test_devices_are_grouped_and_a_remainder_stays_unused(devices):
    devices(5)
    assert plan_slots("gpu", devices_per_candidate=2) == [("0", "1"), ("2", "3")]
    assert plan_slots("gpu", slots=1, devices_per_candidate=2) == [("0", "1")]


@pytest.mark.parametrize("visible", ["4,7", "GPU-1b2c, GPU-9f6e", "MIG-aa,MIG-bb"])
def test_visible_devices_keep_their_names(devices, visible):
    devices(2, visible)
    assert plan_slots("auto") == [(name.strip(),) for name in visible.split(",")]


def test_names_that_cuda_does_not_count_are_left_out(devices):
    devices(1, "2,-1,3")
    assert plan_slots("auto") == [("2",)]


def test_no_visible_device_means_cpu_where_that_is_accepted(devices, cores):
    devices(0, "")
    cores(2)
    assert plan_slots("auto") == [(), ()]
    for accelerator in ("gpu", "cuda", "mps"):
        with pytest.raises(
            ValueError, match=f"accelerator: '{accelerator}' requested, but this machine has no such device"
        ):
            plan_slots(accelerator)


@pytest.mark.parametrize(
    ("slots", "size", "message"),
    [
        (3, 1, r"3 slot\(s\) of 1 device\(s\) each need 3 devices, but this process sees 2 \(0, 1\)"),
        (2, 2, r"2 slot\(s\) of 2 device\(s\) each need 4 devices"),
        (None, 4, r"1 slot\(s\) of 4 device\(s\) each need 4 devices"),
    ],
)
def test_more_devices_than_exist_are_refused(devices, slots, size, message):
    devices(2)
    with pytest.raises(ValueError, match=message):
        plan_slots("gpu", slots, size)


def test_cpu_has_a_slot_per_core_and_any_number_on_request(devices, cores):
    devices(4)
    cores(6)
    assert plan_slots("cpu") == [()] * 6
    assert plan_slots("cpu", devices_per_candidate=4) == [()]
    assert plan_slots("cpu", slots=9) == [()] * 9


def test_mps_is_one_device_that_slots_may_share(devices):
    devices(0, mps=True)
    assert plan_slots("mps") == plan_slots("auto") == plan_slots("gpu") == [()]
    assert plan_slots("mps", slots=2) == [(), ()]
    with pytest.raises(ValueError, match="devices_per_candidate: 2 requested, but MPS is a single device"):
        plan_slots("mps", devices_per_candidate=2)
    with pytest.raises(ValueError, match="accelerator: 'cuda' requested"):
        plan_slots("cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slots": 0}, "slots: 0 is not at least 1"),
        ({"devices_per_candidate": 0}, "devices_per_candidate: 0 is not at least 1"),
        ({"accelerator": "tpu"}, "accelerator: 'tpu' is not one of auto, cpu, gpu, cuda, mps"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_slots(**arguments)


def test_planning_leaves_cuda_alone():
    plan_slots("auto")
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    ("quota", "affinity", "cores"),
    [("max 100000", 8, 8), ("200000 100000", 8, 2), ("50000 100000", 8, 1), ("900000 100000", 8, 8), (None, 3, 3)],
)
def test_cores_are_those_this_process_may_use(monkeypatch, tmp_path, quota, affinity, cores):
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr("lightning_evo.execution.slots._CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert available_cores() == cores
