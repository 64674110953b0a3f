"""A user's own LightningCLI, importable by tests and workers."""

from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningCLI

from toys import ToyData, ToyNet


class LinkedCLI(LightningCLI):
    """Links a model argument to what the data knows, and brings a callback of its own."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("trainer_defaults", {"callbacks": [Timer()]})
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser):
        parser.link_arguments("data.num_features", "model.features", apply_on="instantiate")
        parser.link_arguments("data.batch_size", "model.width")


ARGUMENTS = {"model_class": ToyNet, "datamodule_class": ToyData}
