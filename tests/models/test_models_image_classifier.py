import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn

from lightning_evo.models import ImageClassifier


class Pixels(nn.Module):
    """A backbone of a user's own."""

    def __init__(self, side: int = 8, scores: int = 10) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(side * side, scores))

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_0", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchvision_model_gets_the_asked_classes_and_channels(name, channels):
    model = ImageClassifier(name, num_classes=7, in_channels=channels).eval()
    assert model(torch.zeros(2, channels, 64, 64)).shape == (2, 7)


def test_googlenet_gives_plain_scores_while_training():
    with torch.device("meta"):
        model = ImageClassifier("googlenet", num_classes=5).train()
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_a_resnet_for_small_images_keeps_their_size_in_its_first_layers():
    network = ImageClassifier("resnet18", in_channels=1, small_images=True).network
    assert network.maxpool(network.conv1(torch.zeros(1, 1, 28, 28))).shape == (1, 64, 28, 28)


def test_an_unknown_name_is_refused_with_close_ones():
    with pytest.raises(
        ValueError, match=r"'resnet19' is not a torchvision classification model; close names: .*resnet18"
    ):
        ImageClassifier("resnet19")
    with pytest.raises(ValueError, match="not a torchvision classification model"):
        ImageClassifier("fasterrcnn_resnet50_fpn")


def test_small_images_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="not a ResNet"):
        ImageClassifier("squeezenet1_0", small_images=True)


def save(model, path):
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def test_a_named_backbone_is_rebuilt_from_the_checkpoint(tmp_path):
    model = ImageClassifier("squeezenet1_0", num_classes=3, lr=0.2)
    assert save(model, tmp_path / "model.ckpt")["hyper_parameters"]["backbone"] == "squeezenet1_0"
    again = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()))
    assert again.hparams["lr"] == 0.2


def test_a_backbone_given_as_a_module_stays_out_of_the_hyperparameters(tmp_path, recwarn):
    model = ImageClassifier(Pixels(), lr=0.2)
    assert "backbone" not in save(model, tmp_path / "model.ckpt")["hyper_parameters"]
    assert not [w for w in recwarn if "nn.Module" in str(w.message)]
    again = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", backbone=Pixels())
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()))


def test_a_backbone_from_a_config_is_rebuilt_from_the_checkpoint(tmp_path):
    cli = LightningCLI(
        ImageClassifier,
        L.LightningDataModule,
        subclass_mode_data=True,
        run=False,
        seed_everything_default=False,
        save_config_callback=None,
        args={
            "model": {"backbone": {"class_path": f"{__name__}.Pixels", "init_args": {"side": 4}}, "optimizer": "sgd"},
            "data": {"class_path": "lightning_evo.data.Digits"},
        },
    )
    assert cli.model.network.side == 4
    path = tmp_path / "model.ckpt"
    assert save(cli.model, path)["hyper_parameters"]["backbone"]["init_args"] == {"side": 4, "scores": 10}
    again = ImageClassifier.load_from_checkpoint(path)
    torch.testing.assert_close(dict(again.state_dict()), dict(cli.model.state_dict()))
