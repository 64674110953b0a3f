"""Whole architectures as genes: lists of layers that repair themselves, their variation and their encoding."""

from lightning_evo.genome.templates.encoding import BIT_WIDTH, ENCODING_VERSION, decode_layer, encode_layer
from lightning_evo.genome.templates.gene import Layers, SequenceGene
from lightning_evo.genome.templates.layers import Layer, parse_layers
from lightning_evo.genome.templates.limits import Limits
from lightning_evo.genome.templates.repair import repair
from lightning_evo.genome.templates.template import Template

__all__ = [
    "BIT_WIDTH",
    "ENCODING_VERSION",
    "Layer",
    "Layers",
    "Limits",
    "SequenceGene",
    "Template",
    "decode_layer",
    "encode_layer",
    "parse_layers",
    "repair",
]
