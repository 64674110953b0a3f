"""Which genes no training could go on with under another value."""

from __future__ import annotations

import pytest

from lightning_evo.genome import Categorical, Integer, LogUniform, Ordinal, SearchSpace, Uniform
from lightning_evo.training import ConfigTrainable
from lightning_evo.training.structure import StructureComparison, compare_structures
from toys import ToyNet


@pytest.fixture
def trainable(config):
    return ConfigTrainable(config)


def structural_genes(trainable, space):
    return compare_structures(trainable.blueprint, trainable.variants(space)).entry(StructureComparison).structural


def test_what_changes_a_shape_or_a_layer_is_structural_and_the_rest_is_not(trainable):
    space = SearchSpace(
        {
            "model.init_args.width": Ordinal([4, 8, 16]),
            "model.init_args.depth": Integer(1, 3),
            "model.init_args.lr": LogUniform(1e-3, 1.0),
            "model.init_args.activation": Categorical(["relu", "tanh"]),
            "data.init_args.batch_size": Ordinal([8, 16]),
            "trainer.gradient_clip_val": Uniform(0.1, 1.0),
        }
    )
    found = structural_genes(trainable, space)
    assert set(found) == {"model.init_args.width", "model.init_args.depth"}
    assert found["model.init_args.width"] == "net.0.weight is 4x2 or 16x2"
    assert "net.2" in found["model.init_args.depth"]


def test_the_class_of_an_optimizer_or_of_the_model_is_structural(trainable):
    space = SearchSpace(
        {
            "optimizer": Categorical(
                [{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}, {"class_path": "torch.optim.Adam"}]
            ),
            "model.class_path": Categorical(["toys.ToyNet", "toys.WideNet"]),
        }
    )
    found = structural_genes(trainable, space)
    assert found["optimizer"].startswith("optimizer 0 is SGD of [4] parameters or Adam")
    assert "model.class_path" in found


def test_a_conditional_gene_is_built_with_what_switches_it_on(trainable):
    space = SearchSpace(
        {
            "model.init_args.activation": Categorical(["relu", "tanh"]),
            "model.init_args.width": Ordinal([4, 8], when={"model.init_args.activation": ["tanh"]}),
        }
    )
    assert set(structural_genes(trainable, space)) == {"model.init_args.width"}


def test_what_cant_be_built_is_told_apart(trainable):
    space = SearchSpace({"model.init_args.misbehave": Categorical(["", "crash", "slow"])})
    found = compare_structures(trainable.blueprint, trainable.variants(space)).entry(StructureComparison)
    assert found.structural == {}
    assert "this model always crashes" in found.unbuilt["model.init_args.misbehave"]


class Picky(ToyNet):
    """Has no optimizer for a high learning rate."""

    def configure_optimizers(self):
        if self.lr > 0.5:
            raise ValueError(f"lr {self.lr} is too much")
        return super().configure_optimizers()


def test_what_configure_optimizers_raises_is_recorded_by_gene(config):
    config["model"]["class_path"] = f"{__name__}.Picky"
    trainable = ConfigTrainable(config)
    space = SearchSpace({"model.init_args.lr": LogUniform(1e-3, 1.0), "model.init_args.depth": Integer(1, 2)})
    found = compare_structures(trainable.blueprint, trainable.variants(space)).entry(StructureComparison)
    assert found.uncompared == {"model.init_args.lr": "ValueError: lr 1.0 is too much"}
    assert set(found.structural) == {"model.init_args.depth"}
    assert found.unbuilt == {}
