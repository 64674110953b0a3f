import itertools
import random
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_evo.genome import Layers, Template
from lightning_evo.models import TemplateNet, TemplateNetwork

sys.path.insert(0, str(Path(__file__).parents[1] / "genome" / "templates"))
from templates_making import narrow_gene, wild_layers

pytestmark = pytest.mark.usefixtures("plain_convolutions")

EVERYTHING = """
    Conv2d 8 kernel=3
    LayerNorm
    ReLU
    Conv2d 8 depthwise
    BatchNorm2d
    PReLU
    AvgPool2d kernel=3 stride=1
    MaxPool2d
    Conv2d 16 kernel=2 groups=4 stride=2
    LeakyReLU
    Residual back=2
    ELU
    GlobalAvgPool
    Dropout rate=0.2
    Linear 32
    LayerNorm
    GELU
    Linear 32
    SiLU
    Residual back=2
"""


def run_once(template, images):
    """Build it where the images are, run it, and check every shape against what the template says."""
    seen = {}
    network = TemplateNetwork(template)
    for i, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda _, __, out, i=i: seen.update({i: tuple(out.shape[1:])}))
    scores = network(images)
    assert scores.shape == (len(images), template.num_classes)
    assert tuple(seen[i] for i in range(len(template))) == template.shapes
    assert sum(p.numel() for p in network.parameters()) == template.params
    return network, scores


def trained_once(template, batch=2):
    """Run it forward, with all checks, and backward."""
    network, scores = run_once(template, torch.randn(batch, *template.input_shape))
    scores.square().sum().backward()
    assert torch.isfinite(scores).all()
    assert all(p.grad is not None for p in network.parameters())


def built_at_two_sizes(count, seed):
    """Each template, sampled or wild, is trained at a small size; a tenth of them, repaired anew, run at a large one too.

    Large ones are on torch's meta device, which follows shapes but computes nothing, and slowly.
    """
    rng = random.Random(seed)
    sides = list(range(33, 225))
    for i in range(count):
        small = [rng.randint(1, 3), *[rng.randint(8, 20)] * 2]
        gene = narrow_gene(rng, small)
        value = gene.sample(rng)
        template = gene.template(value)
        if rng.random() < 0.2:
            template = Template(wild_layers(rng, 15), small, 10)
        assert template.lines == Template.parse(template.lines, small, template.num_classes).lines
        trained_once(template)
        if i % 10 == 0:
            large = [rng.randint(1, 3), rng.choice(sides), rng.choice(sides)]
            with torch.device("meta"):
                run_once(Template(template.layers, large, template.num_classes), torch.empty(2, *large))


def test_random_templates_train_with_the_shapes_they_print():
    built_at_two_sizes(400, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(1, 9))
def test_five_thousand_templates_train_with_the_shapes_they_print(part):
    built_at_two_sizes(625, seed=part)


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 128, 224])
def test_large_images_train_for_real(side):
    rng = random.Random(side)
    gene = narrow_gene(rng, [3, side, side])
    for _ in range(10):
        trained_once(gene.template(gene.sample(rng)))


def test_parameters_and_operations_are_what_torch_counts():
    rng = random.Random(0)
    for _ in range(60):
        shape = [rng.randint(1, 3), rng.randint(1, 20), rng.randint(1, 20)]
        template = Template(wild_layers(rng, 25), shape, 10)
        network = TemplateNetwork(template).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *shape))
        assert counter.get_total_flops() == template.flops
        assert tuple(sum(p.numel() for p in layer.parameters()) for layer in network.layers) == template.layer_params


def test_a_template_of_a_single_pixel_trains():
    for channels, lines in itertools.product((1, 3), ([], ["BatchNorm2d"], ["Conv2d 1", "LayerNorm", "BatchNorm2d"])):
        trained_once(Template.parse(lines, [channels, 1, 1], 2))


def test_a_join_adds_its_source():
    template = Template.parse(["Conv2d 3", "Residual back=1", "Conv2d 4 stride=2", "Residual back=2"], [3, 6, 6], 10)
    network = TemplateNetwork(template)
    images = torch.randn(2, 3, 6, 6)
    first, identity, second, projection, *rest = network.layers
    joined = first(images) + images
    expected = second(joined) + projection(first(images))
    for layer in rest:
        expected = layer(expected)
    assert isinstance(identity, torch.nn.Identity)
    torch.testing.assert_close(network(images), expected)


def test_it_repairs_what_it_is_given_and_prints_it():
    model = TemplateNet(["Conv2d 4 kernel=99", "MaxPool2d kernel=99"], input_shape=[1, 4, 4], num_classes=3)
    assert str(model.template).splitlines()[0].startswith("Conv2d   (4, 4, 4)  kernel=7 stride=1  # 200 parameters")
    assert TemplateNet(str(model.template), [1, 4, 4], 3).template == model.template
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


def test_everything_there_is_can_be_exported_for_any_batch():
    model = TemplateNet(EVERYTHING, input_shape=[3, 12, 12], num_classes=7, channels_last=True).eval()
    assert len({layer.kind for layer in model.template.layers}) == 16
    images = torch.randn(4, 3, 12, 12)
    program = torch.export.export(model, (images,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    for batch in (1, 9):
        images = torch.randn(batch, 3, 12, 12)
        torch.testing.assert_close(program.module()(images), model(images))


def test_images_of_another_size_are_refused_by_name():
    with pytest.raises(ValueError, match=r"images of shape \(1, 9, 9\); the layers were fitted to \(1, 8, 8\)"):
        TemplateNet("Conv2d 4", [1, 8, 8])(torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["Conv2d"]}, "Conv2d needs its channels"),
        ({"input_shape": [1, 0, 0]}, "input_shape"),
        ({"num_classes": 1}, "num_classes: 1"),
        ({"lr": 0.0}, "lr: 0.0"),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TemplateNet(**options)


def test_its_arguments_travel_with_the_checkpoint(tmp_path):
    import lightning as L

    gene = Layers([1, 8, 8], 10)
    model = TemplateNet(gene.sample(random.Random(0)), [1, 8, 8], lr=0.02)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = TemplateNet.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.hparams == model.hparams
    assert again.template == model.template
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again.eval()(images), model.eval()(images))
