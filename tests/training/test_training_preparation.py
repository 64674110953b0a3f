"""Candidates prepare their data one after the other."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_evo.training.preparation import prepare_in_turn
from toys import ToyData, ToyNet


class Downloaded(ToyData):
    """Downloads where the folder isn't there yet, as most data modules do."""

    def __init__(self, place) -> None:
        super().__init__()
        self.place = place

    def prepare_data(self):
        if not self.place.is_dir():
            self.place.mkdir()
            for i in range(3):
                time.sleep(0.02)
                (self.place / str(i)).touch()
        assert len(list(self.place.iterdir())) == 3


class PreparingNet(ToyNet):
    """Does the same by itself, for all nodes at once."""

    def __init__(self, place) -> None:
        super().__init__()
        self.place, self.prepare_data_per_node = place, False

    prepare_data = Downloaded.prepare_data


def test_nobody_sees_half_of_a_download(tmp_path):
    def prepare(id):
        data, net = Downloaded(tmp_path / "data"), PreparingNet(tmp_path / "net")
        prepare_in_turn(tmp_path / "run" / "candidates" / f"{id:06d}", net, data)
        for owner in (data, net):
            assert is_overridden("prepare_data", owner)
            owner.prepare_data()
            assert "prepare_data" not in vars(owner)

    (tmp_path / "run").mkdir()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(prepare, range(4)))


def test_where_nothing_is_prepared_nothing_is_added_and_a_data_module_can_be_sent(tmp_path):
    data, bare = Downloaded(tmp_path), ToyData()
    prepare_in_turn(tmp_path / "run" / "candidates" / "000000", data, bare, None)
    assert "prepare_data" not in vars(bare)
    sent = pickle.loads(pickle.dumps(data))
    assert vars(sent)["prepare_data"].args[0] is sent


def test_where_files_cannot_be_locked_data_is_prepared_all_the_same(tmp_path):
    data = Downloaded(tmp_path / "data")
    prepare_in_turn(tmp_path / "no" / "such" / "candidates" / "000000", data)
    (tmp_path / "no").touch()
    data.prepare_data()
    assert (tmp_path / "data").is_dir()
