import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.models import ImageClassifier
from lightning_evo.models.optimization import (
    OptimizerName,
    ScheduleName,
    build_optimizer,
    build_schedule,
    schedule_factor,
)

OPTIMIZERS = OptimizerName.__args__
SCHEDULES = ScheduleName.__args__


class Linear(nn.Module):
    """A backbone of a user's own; its scores for an image are weights times mean brightness."""

    def __init__(self, scores: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Linear(4, scores)

    def forward(self, images):
        return self.last(self.convolution(images).mean((2, 3)))


def loader(count=48, batch_size=10):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 6, 6, generator=generator) / 4 + labels.view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def trainer(epochs=1, **options):
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fitted(epochs=1, data=None, backbone=None, options=None, **arguments):
    torch.manual_seed(0)
    model = ImageClassifier(backbone or Linear(), num_classes=2, in_channels=1, **arguments)
    run = trainer(epochs, **(options or {}))
    data = data or loader()
    run.fit(model, data, data)
    return model, run


def test_it_learns_and_logs_loss_and_accuracy_of_each_split():
    model, run = fitted(epochs=12, optimizer="adam", lr=0.05)
    assert {"train_loss", "val_loss", "val_acc"} <= set(run.callback_metrics)
    assert run.callback_metrics["val_acc"] == 1.0
    [tested] = run.test(model, loader(), verbose=False)
    assert set(tested) == {"test_loss", "test_acc"}
    assert tested["test_acc"] == 1.0


def test_logged_numbers_are_those_of_the_whole_set_and_not_means_of_batches():
    model, run = fitted()  # 48 images in batches of 10: the last one is smaller
    images, labels = loader().dataset.tensors
    with torch.no_grad():
        scores = model.eval()(images)
    torch.testing.assert_close(run.callback_metrics["val_loss"], nn.functional.cross_entropy(scores, labels))
    torch.testing.assert_close(run.callback_metrics["val_acc"], (scores.argmax(1) == labels).float().mean())


def test_a_diverged_model_reports_nan():
    _, run = fitted(optimizer="sgd", lr=1e30, momentum=0.0, epochs=2)
    assert math.isnan(run.callback_metrics["val_loss"])
    assert math.isnan(run.callback_metrics["train_loss"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_reduces_the_loss(name):
    _, before = fitted(optimizer=name, lr=1e-9)
    _, after = fitted(optimizer=name, lr=0.02, epochs=4)
    assert after.callback_metrics["val_loss"] < before.callback_metrics["val_loss"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_precision_and_gradient_clipping_are_ordinary_options(precision):
    _, run = fitted(epochs=4, lr=0.05, options={"precision": precision, "gradient_clip_val": 1.0})
    assert torch.isfinite(run.callback_metrics["val_loss"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_decay_and_biases_do_not(name):
    optimizer = build_optimizer(name, Linear(), lr=0.1, weight_decay=0.5, momentum=0.8)
    decays = {p.ndim > 1: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {True: 0.5, False: 0.0}


def test_frozen_parameters_are_left_out_of_the_optimizer():
    module = Linear()
    module.convolution.requires_grad_(False)
    groups = build_optimizer("adam", module, lr=0.1).param_groups
    assert sum(len(group["params"]) for group in groups) == 2


def test_an_unknown_optimizer_or_schedule_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'lion' is not one of sgd, adam"):
        build_optimizer("lion", Linear(), lr=0.1)
    with pytest.raises(ValueError, match="'stairs' is not one of constant, linear"):
        schedule_factor("stairs", 5, 10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_stays_within_the_base_rate_and_ends_low_unless_constant(name):
    factors = [schedule_factor(name, step, 50) for step in range(60)]
    assert max(factors) == pytest.approx(1.0)
    assert min(factors) > 0
    assert factors[50:] == [pytest.approx(1.0 if name == "constant" else 1e-3)] * 10


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_to_the_base_rate_where_it_ends(name):
    factors = [schedule_factor(name, step, 100, warmup=0.2) for step in range(100)]
    assert factors[:21] == sorted(factors[:21])
    assert factors[0] < 0.1
    assert factors[20] == pytest.approx(1.0)


def test_linear_and_cosine_pass_the_middle_at_half_the_rate():
    assert schedule_factor("linear", 50, 100) == pytest.approx(0.5005)
    assert schedule_factor("cosine", 50, 100) == pytest.approx(0.5005)


def test_the_learning_rate_follows_the_schedule_over_the_steps_of_the_whole_training():
    _, run = fitted(epochs=3, optimizer="sgd", lr=0.1, schedule="linear")
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 1e-3)


def test_a_schedule_without_an_end_is_refused_and_a_constant_rate_is_not():
    optimizer = build_optimizer("sgd", Linear(), lr=0.1)
    with pytest.raises(ValueError, match="max_epochs"):
        build_schedule(optimizer, "cosine", math.inf)
    build_schedule(optimizer, "constant", math.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes: 1"),
        ({"lr": 0.0}, "lr: 0.0"),
        ({"lr": math.nan}, "lr: nan"),
        ({"momentum": 1.0}, "momentum: 1.0"),
        ({"warmup": -0.1}, "warmup: -0.1"),
        ({"label_smoothing": 1.5}, "label_smoothing: 1.5"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0"),
    ],
)
def test_a_number_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifier(Linear(), **{"num_classes": 2, **arguments})


def test_a_backbone_with_another_number_of_scores_is_refused():
    model = ImageClassifier(Linear(3), num_classes=2)
    with pytest.raises(ValueError, match=r"output has shape \(1, 3\); num_classes requires \(N, 2\)"):
        model(torch.zeros(1, 1, 4, 4))


def test_channels_last_changes_the_layout_and_not_the_numbers():
    plain, _ = fitted(epochs=2)
    last, _ = fitted(epochs=2, channels_last=True)
    assert last.network.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(plain(images), last(images), rtol=1e-4, atol=1e-5)


def test_compiling_keeps_the_names_in_the_checkpoint():
    plain, _ = fitted()
    # Eager stance: what is compiled runs as it stands, so the test needs no compiler.
    with torch.compiler.set_stance("force_eager"):
        compiled, run = fitted(compile=True)
        run.test(compiled, loader(), verbose=False)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict())


@pytest.mark.slow
def test_a_really_compiled_network_trains_to_the_same_numbers():
    plain, _ = fitted(data=loader(batch_size=16))
    compiled, _ = fitted(data=loader(batch_size=16), compile=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(dict(compiled.state_dict()), dict(plain.state_dict()), rtol=1e-3, atol=1e-4)


def test_predicting_gives_scores_for_images_with_or_without_labels():
    model = ImageClassifier(Linear(), num_classes=2)
    with_labels = trainer().predict(model, loader())
    images = DataLoader(loader().dataset.tensors[0], batch_size=10)
    torch.testing.assert_close(with_labels, trainer().predict(model, images))
    assert sum(len(scores) for scores in with_labels) == 48
