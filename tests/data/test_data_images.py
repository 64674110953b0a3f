import json
import os

import lightning as L
import numpy as np
import pytest
import torch
from forked import run_ranks

from lightning_evo.data import Digits, ImageSet, TensorImages
from lightning_evo.models import BitstringCNN


class Counted(TensorImages):
    """A set of a user's own that counts how often it is read."""

    loads = 0

    def __init__(self, name: str = "a", count: int = 60, **common) -> None:
        super().__init__(**common)
        self.name, self.count = name, count

    def source(self):
        return self.name, self.count

    def load(self):
        type(self).loads += 1
        pixels = np.random.default_rng(0).integers(0, 256, (self.count, 8, 8, 3), dtype=np.uint8)
        return ImageSet.from_arrays(pixels, np.arange(self.count) % 3, size=self.size)


def trainer(epochs=1, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet, **options)


class Watcher(L.LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.trained, self.judged = [], []

    def training_step(self, batch, batch_idx):
        self.trained.append((self.current_epoch, *batch))
        return (batch[0] * self.scale).mean()

    def validation_step(self, batch, batch_idx):
        self.judged.append(batch)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_what_a_model_must_know_is_known_before_training():
    data = Counted(size=12)
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 3, 12)


def test_candidates_of_one_process_read_a_set_once_and_other_sets_anew():
    before = Counted.loads
    for validation in (0.2, 0.3):
        Counted("once", validation=validation).setup("fit")
    assert Counted.loads == before + 1
    Counted("another").setup("fit")
    Counted("once", size=4).setup("fit")
    assert Counted.loads == before + 3


def test_training_on_a_set_leaves_it_as_it_was():
    data = Counted("kept", crop_padding=1, flip=True, cutout=2)
    before = data.images.images.clone()
    trainer(epochs=2).fit(Watcher(), data)
    assert torch.equal(Counted("kept").images.images, before)


def test_the_model_gets_normalised_floats():
    model, data = Watcher(), Counted(batch_size=1000)
    trainer().fit(model, data)
    [(_, images, labels)] = model.trained
    assert images.dtype == torch.float32
    assert images.shape == (36, 3, 8, 8)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3))
    assert labels.bincount().tolist() == [12, 12, 12]


def test_a_half_precision_model_gets_inputs_of_its_own_type():
    model = Watcher()
    trainer(precision="bf16-true").fit(model, Counted())
    assert model.trained[0][1].dtype == torch.bfloat16


def test_only_training_images_are_augmented():
    model, data = Watcher(), Counted(crop_padding=3, batch_size=100)
    trainer(epochs=2).fit(model, data)
    plain = data.prepare(data.images.images[data.splits.validation])
    torch.testing.assert_close(torch.cat([images for images, _ in model.judged[-1:]]), plain)
    first, second = (images[labels == 0].flatten(1).sum(1).sort().values for _, images, labels in model.trained)
    assert not torch.allclose(first, second)


def test_epochs_are_shuffled_anew_and_torchs_seed_decides_how():
    def orders(seed, **options):
        model = Watcher()
        L.seed_everything(seed, verbose=False)
        trainer(epochs=2, **options).fit(model, Counted(batch_size=100))
        return [labels.tolist() for _, _, labels in model.trained]

    first, again, other = orders(1), orders(1), orders(2)
    assert first == again
    assert first[0] != first[1]
    assert first != other
    fixed = orders(1, overfit_batches=1)
    assert fixed[0] == fixed[1]


def test_the_split_does_not_follow_the_global_seed():
    L.seed_everything(1, verbose=False)
    first = Counted(seed=4).splits
    L.seed_everything(2, verbose=False)
    assert torch.equal(Counted(seed=4, batch_size=7).splits.train, first.train)
    assert not torch.equal(Counted(seed=5).splits.train, first.train)


def test_training_resumed_from_a_checkpoint_goes_on_with_the_next_epochs_order(tmp_path):
    def labels_of(model, epoch):
        return [labels.tolist() for at, _, labels in model.trained if at == epoch]

    L.seed_everything(1, verbose=False)
    whole = Watcher()
    trainer(epochs=3).fit(whole, Counted(batch_size=10))
    L.seed_everything(1, verbose=False)
    half, rest = Watcher(), Watcher()
    run = trainer(epochs=1)
    run.fit(half, Counted(batch_size=10))
    run.save_checkpoint(tmp_path / "half.ckpt")
    L.seed_everything(1, verbose=False)
    trainer(epochs=3).fit(rest, Counted(batch_size=10), ckpt_path=tmp_path / "half.ckpt")
    assert labels_of(rest, 1) == labels_of(whole, 1)
    assert labels_of(rest, 2) == labels_of(whole, 2)


def test_a_resident_set_gives_the_same_batches():
    def seen(**options):
        model = Watcher()
        L.seed_everything(1, verbose=False)
        run = trainer()
        run.fit(model, Counted("resident", **options))
        run.test(model, Counted("resident", **options), verbose=False)
        return [labels for _, _, labels in model.trained] + [images for images, _ in model.judged]

    for resident, plain in zip(seen(resident=True), seen(), strict=True):
        assert torch.equal(resident, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_made_on_the_device(resident):
    data, model = Counted(resident=resident, crop_padding=1, flip=True, cutout=2), Watcher()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=1, accelerator="gpu", devices=1, enable_model_summary=False, **quiet).fit(model, data)
    assert {images.device.type for _, images, _ in model.trained} == {"cuda"}


def test_a_last_image_on_its_own_does_not_break_batch_normalisation():
    data = Digits(batch_size=2, limit_train=9, limit_validation=1, limit_test=1)
    model = BitstringCNN("11" + "0" * 18, image_size=8, widths=(1, 2, 3, 4), max_width=4, head=())
    run = trainer()
    run.fit(model, data)
    assert run.global_step == 4
    assert 0 <= run.test(model, data, verbose=False)[0]["test_acc"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"eval_batch_size": 0}, "eval_batch_size: 0"),
        ({"validation": 0.0}, "validation: 0.0"),
        ({"test": 1.0}, "test: 1.0"),
        ({"size": 0}, "size: 0"),
        ({"limit_train": 0}, "limit_train: 0"),
        ({"crop_padding": -1}, "crop_padding: -1"),
        ({"cutout": -1}, "cutout: -1"),
    ],
)
def test_a_number_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Digits(**arguments)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match="no images are left for the train split"):
        Digits(validation=0.6, test=0.5).setup("fit")


def train_rank(directory):
    """One rank's training; what it saw is written down."""
    model = Watcher()
    torch.manual_seed(100 + int(os.environ["LOCAL_RANK"]))  # the processes are seeded differently
    run = trainer(epochs=2, strategy="ddp", devices=2)
    run.fit(model, Counted(count=101, batch_size=8, eval_batch_size=4))
    seen = {
        "trained": [[at, images.flatten(1).sum(1).tolist()] for at, images, _ in model.trained],
        "judged": [images.flatten(1).sum(1).tolist() for images, _ in model.judged],
    }
    (directory / f"rank{run.global_rank}.json").write_text(json.dumps(seen))


@pytest.mark.slow
def test_two_processes_train_on_disjoint_equal_shares_and_judge_on_everything(tmp_path):
    run_ranks(2, train_rank, tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    data = Counted(count=101)

    def fingerprints(part):
        return {round(value, 3) for value in data.prepare(data.images.images[part]).flatten(1).sum(1).tolist()}

    train, validation = fingerprints(data.splits.train), fingerprints(data.splits.validation)
    for epoch in (0, 1):
        shares = [[round(v, 3) for at, values in rank["trained"] if at == epoch for v in values] for rank in ranks]
        assert len(shares[0]) == len(shares[1]) == len(train) // 2
        assert set(shares[0]).isdisjoint(shares[1])
        assert set(shares[0]) | set(shares[1]) <= train
    judged = [[round(v, 3) for values in rank["judged"] for v in values] for rank in ranks]
    batches = [len(rank["judged"]) for rank in ranks]
    assert batches[0] == batches[1]
    assert set(judged[0]) | set(judged[1]) == validation
