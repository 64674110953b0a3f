"""The gene that holds a whole architecture: ranges for every layer, and templates that always build."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning_evo.genome.genes import Gene, Json, Value
from lightning_evo.genome.templates.encoding import BIT_WIDTH, encode_layer, read_layer
from lightning_evo.genome.templates.features import FEATURES, describe
from lightning_evo.genome.templates.layers import ACTIVATIONS, DEPTHWISE, NORMS, Layer, parse_layers
from lightning_evo.genome.templates.limits import Limits, check_input
from lightning_evo.genome.templates.sampling import sample_layers
from lightning_evo.genome.templates.template import Template
from lightning_evo.genome.templates.variation import CROSSOVERS, MUTATIONS

__all__ = ["Layers", "SequenceGene"]

_ATTEMPTS = 30
"""How often a mutation or crossover that changed nothing is tried again before something else is."""


@runtime_checkable
class SequenceGene(Protocol):
    """A gene whose values are sequences, each element a row of bits: what a recurrent predictor reads."""

    max_layers: int

    @property
    def bit_width(self) -> int:
        """Bits per row."""

    def bits(self, value: Value) -> list[list[int]]:
        """A row of :attr:`bit_width` bits per element, at most :attr:`max_layers` rows."""


class Layers(Gene):
    """The layers of a convolutional classifier, of any number: lines such as ``Conv2d (16, 8, 8) kernel=3 stride=1``.

    Every value is a repaired template (see :func:`~lightning_evo.genome.templates.repair`): it builds, respects these
    ranges, and its lines contain each layer's output shape. Its config path is ``model.init_args.layers`` of
    :class:`~lightning_evo.models.TemplateNet`. Lists of numbers must be in ascending order.

    Args:
        input_shape: Channels, height and width of the images.
        num_classes: Number of classes, at least 2.
        min_conv: Minimum number of convolutions.
        max_conv: Maximum number of convolutions.
        min_linear: Minimum number of linear layers, including the last one (the head).
        max_linear: Maximum number of linear layers, including the head.
        max_layers: Maximum number of layers of any kind; excess auxiliary layers are dropped from the end.
        max_features: Maximum number of features after ``Flatten``; a larger map is averaged first.
        channels: Channels of a convolution.
        kernels: Kernels of a convolution.
        strides: Strides of a convolution.
        groups: Groups of a grouped convolution.
        widths: Widths of hidden linear layers.
        pool_kernels: Kernels of pooling.
        pool_strides: Strides of pooling.
        slopes: Slopes of ``LeakyReLU``.
        rates: Rates of ``Dropout``.
        max_back: Maximum number of layers that a residual connection skips.
        activations: Kinds of activation.
        norms: Kinds of norm.
        activation_probability: Probability of an activation after a convolution or hidden linear layer. As for all
            probabilities, 0 excludes such layers from the search.
        norm_probability: Probability of a norm after a convolution or hidden linear layer.
        max_pool_probability: Probability of ``MaxPool2d`` after a convolution.
        avg_pool_probability: Probability of ``AvgPool2d`` after a convolution.
        global_pool_probability: Probability of ``GlobalAvgPool`` after the last convolution.
        dropout_probability: Probability of ``Dropout`` after a convolution.
        linear_dropout_probability: Probability of ``Dropout`` after a hidden linear layer.
        residual_probability: Probability of a residual connection over the last one or two blocks.
        group_probability: Probability that a convolution is grouped.
        depthwise_probability: Probability that a convolution is depthwise.
        mutations: Weights with which ``insert``, ``delete``, ``duplicate``, ``swap`` or ``alter`` is chosen; 0 for
            those left out. Default: 1, 1, 0.5, 0.5 and 3.
        crossovers: Weights of ``one_point`` and ``homologous``. Default: equal.
        when: See :class:`Gene`.

    Raises:
        ValueError: If no network is possible, limits contradict each other, or a number doesn't fit the 32 bits per layer
            of :mod:`~lightning_evo.genome.templates.encoding`.

    >>> gene = Layers([1, 8, 8], 10, max_conv=1, max_linear=1, norm_probability=0.0, residual_probability=0.0)
    >>> gene.sample(random.Random(0))
    ['Conv2d (32, 4, 4) kernel=7 stride=2', 'ELU (32, 4, 4)', 'GlobalAvgPool (32, 1, 1)', 'Flatten 32', 'Linear 10']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        min_conv: int = 1,
        max_conv: int = 6,
        min_linear: int = 1,
        max_linear: int = 3,
        max_layers: int = 40,
        max_features: int = 4096,
        channels: Sequence[int] = (8, 16, 32, 64, 128),
        kernels: Sequence[int] = (1, 3, 5, 7),
        strides: Sequence[int] = (1, 2),
        groups: Sequence[int] = (2, 4, 8),
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        pool_kernels: Sequence[int] = (2, 3),
        pool_strides: Sequence[int] = (1, 2),
        slopes: Sequence[float] = (0.001, 0.01, 0.1),
        rates: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
        max_back: int = 12,
        activations: Sequence[str] = ACTIVATIONS,
        norms: Sequence[str] = NORMS,
        activation_probability: float = 1.0,
        norm_probability: float = 0.5,
        max_pool_probability: float = 0.3,
        avg_pool_probability: float = 0.2,
        global_pool_probability: float = 0.5,
        dropout_probability: float = 0.1,
        linear_dropout_probability: float = 0.5,
        residual_probability: float = 0.2,
        group_probability: float = 0.1,
        depthwise_probability: float = 0.1,
        mutations: Mapping[str, float] | None = None,
        crossovers: Mapping[str, float] | None = None,
        when: Mapping[str, Sequence[Json]] | None = None,
    ) -> None:
        super().__init__(when)
        self.input_shape, self.num_classes = list(check_input(input_shape, num_classes)), num_classes
        self.min_conv, self.max_conv = min_conv, max_conv
        self.min_linear, self.max_linear = min_linear, max_linear
        self.max_layers, self.max_features, self.max_back = max_layers, max_features, max_back
        self.channels, self.kernels, self.strides = list(channels), list(kernels), list(strides)
        self.groups, self.widths = list(groups), list(widths)
        self.pool_kernels, self.pool_strides = list(pool_kernels), list(pool_strides)
        self.slopes, self.rates = [float(n) for n in slopes], [float(n) for n in rates]
        self.activations = _known("activations", activations, ACTIVATIONS)
        self.norms = _known("norms", norms, NORMS)
        self.activation_probability, self.norm_probability = activation_probability, norm_probability
        self.max_pool_probability, self.avg_pool_probability = max_pool_probability, avg_pool_probability
        self.global_pool_probability = global_pool_probability
        self.dropout_probability = dropout_probability
        self.linear_dropout_probability = linear_dropout_probability
        self.residual_probability = residual_probability
        self.group_probability, self.depthwise_probability = group_probability, depthwise_probability
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{name}: {value!r} is not a probability between 0 and 1")
        self.mutations = _weights("mutations", mutations, dict(zip(MUTATIONS, (1.0, 1.0, 0.5, 0.5, 3.0), strict=True)))
        self.crossovers = _weights("crossovers", crossovers, dict.fromkeys(CROSSOVERS, 1.0))
        self.pool_probabilities = {"MaxPool2d": max_pool_probability, "AvgPool2d": avg_pool_probability}
        self.vector_norms = [norm for norm in self.norms if norm == "LayerNorm"]
        self.limits = self._limits()
        self._check_encoding()

    def template(self, value: Value) -> Template:
        """What a value builds: shapes, parameters, operations, and a listing to print.

        Raises:
            ValueError: If a line can't be read.
        """
        return self._fit(parse_layers(value))

    # -- the gene ------------------------------------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> list[str]:
        return self._fit(sample_layers(self, rng)).lines

    def mutate(self, value: Value, rng: random.Random, operation: str | None = None) -> list[str]:
        """Insert, delete, duplicate, swap or alter one layer, and repair.

        Args:
            value: The parent.
            rng: Source of all randomness.
            operation: Which of them (a name in ``mutations``); default: drawn by their weights. Another one is taken
                where it can't change anything.
        """
        layers = list(self.template(value).layers)
        names, weights = list(self.mutations), list(self.mutations.values())
        for attempt in range(2 * _ATTEMPTS):
            named = operation is not None and attempt < _ATTEMPTS
            name = operation if named and operation is not None else rng.choices(names, weights)[0]
            changed = MUTATIONS[name](self, layers, rng)
            if changed is not None:
                child = self._fit(changed).lines
                if child != value:
                    return child
        samples = (self.sample(rng) for _ in range(_ATTEMPTS))
        return next((sample for sample in samples if sample != value), value)

    def crossover(
        self, first: Value, second: Value, rng: random.Random, kind: str | None = None
    ) -> tuple[list[str], list[str]]:
        """Exchange parts of two templates, of any lengths, and repair; children differ from the parents where they can.

        Args:
            first: One parent.
            second: The other.
            rng: Source of all randomness.
            kind: Which crossover (a name in ``crossovers``); default: drawn by their weights.
        """
        one_parent, other_parent = (list(self.template(value).layers) for value in (first, second))
        one, two = first, second
        for _ in range(_ATTEMPTS if first != second else 0):
            name = kind or rng.choices(list(self.crossovers), list(self.crossovers.values()))[0]
            one, two = (self._fit(child).lines for child in CROSSOVERS[name](self, one_parent, other_parent, rng))
            if not {tuple(one), tuple(two)} <= {tuple(first), tuple(second)}:
                break
        return one, two

    def validate(self, value: Value) -> None:
        fitted = self.read(value)
        for number, (given, right) in enumerate(zip(value, fitted, strict=False), 1):
            if given != right:
                raise ValueError(f"layer {number}: {given!r} doesn't fit here; repaired, the line is {right!r}")
        if len(value) != len(fitted):
            raise ValueError(f"{len(value)} layers; repaired, there are {len(fitted)}, the last {fitted[-1]!r}")

    def read(self, value: Value) -> list[str]:
        """Lines by hand (``Conv2d 16 kernel=3``), repaired; see :meth:`validate`."""
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list of lines, one per layer")
        return self.template(value).lines

    def extremes(self) -> list[Value]:
        """The smallest template, a largest, and a few samples."""
        return [self._bounded(0), self._bounded(-1), *(self.sample(random.Random(seed)) for seed in range(8))]

    def canonical(self, value: Value) -> list[str]:
        return self.template(value).lines

    # -- numbers -------------------------------------------------------------------------------------------------------

    @property
    def bit_width(self) -> int:
        """Bits per layer."""
        return BIT_WIDTH

    def bits(self, value: Value) -> list[list[int]]:
        """A row of 32 bits per layer (see :mod:`~lightning_evo.genome.templates.encoding`), without padding."""
        return [encode_layer(layer) for layer in self.template(value).layers]

    @property
    def width(self) -> int:
        return BIT_WIDTH * self.max_layers

    def encode(self, value: Value) -> list[float]:
        """The bits of all layers, and zeros up to ``max_layers``."""
        flat = [float(bit) for row in self.bits(value) for bit in row]
        return flat + [0.0] * (self.width - len(flat))

    def decode(self, numbers: Sequence[float]) -> list[str]:
        rows = (numbers[at : at + BIT_WIDTH] for at in range(0, self.width, BIT_WIDTH))
        return self._fit([layer for layer in map(read_layer, rows) if layer is not None]).lines

    def features(self, value: Value) -> list[float]:
        """What a predictor should know of the network (see :mod:`~lightning_evo.genome.templates.features`)."""
        return list(describe(self.template(value)).values())

    @property
    def feature_names(self) -> list[str]:
        return list(FEATURES)

    def __repr__(self) -> str:
        return f"Layers({self.input_shape}, {self.num_classes}, max_layers={self.max_layers})"

    # -- limits --------------------------------------------------------------------------------------------------------

    def _fit(self, layers: Sequence[Layer]) -> Template:
        return Template(layers, self.input_shape, self.num_classes, self.limits)

    def _limits(self) -> Limits:
        kinds = {kind for kind, probability in self.pool_probabilities.items() if probability > 0}
        kinds.update(self.activations if self.activation_probability > 0 else ())
        kinds.update(self.norms if self.norm_probability > 0 else ())
        if self.dropout_probability > 0 or self.linear_dropout_probability > 0:
            kinds.add("Dropout")
        if self.residual_probability > 0:
            kinds.add("Residual")
        return Limits(
            min_conv=self.min_conv,
            max_conv=self.max_conv,
            min_linear=self.min_linear,
            max_linear=self.max_linear,
            max_layers=self.max_layers,
            max_features=self.max_features,
            channels=tuple(self.channels),
            kernels=tuple(self.kernels),
            strides=tuple(self.strides),
            groups=tuple(self.groups) if self.group_probability > 0 else (1,),
            widths=tuple(self.widths),
            pool_kernels=tuple(self.pool_kernels),
            pool_strides=tuple(self.pool_strides),
            slopes=tuple(self.slopes),
            rates=tuple(self.rates),
            max_back=self.max_back,
            kinds=frozenset(kinds),
            depthwise=self.depthwise_probability > 0,
        )

    def _check_encoding(self) -> None:
        """Every number there may be must fit its bits."""
        ranges: list[tuple[str, list[Any], Any]] = [
            ("channels", self.channels, lambda n: Layer("Conv2d", n, 1, 1)),
            ("kernels", self.kernels, lambda n: Layer("Conv2d", 1, n, 1)),
            ("strides", self.strides, lambda n: Layer("Conv2d", 1, 1, n)),
            ("groups", self.groups, lambda n: Layer("Conv2d", 1, 1, 1, n)),
            ("input_shape", [self.input_shape[0]], lambda n: Layer("Conv2d", n, 1, 1, DEPTHWISE)),
            ("widths", self.widths, lambda n: Layer("Linear", n)),
            ("num_classes", [self.num_classes], lambda n: Layer("Linear", n)),
            ("pool_kernels", self.pool_kernels, lambda n: Layer("MaxPool2d", kernel=n, stride=1)),
            ("pool_strides", self.pool_strides, lambda n: Layer("MaxPool2d", kernel=1, stride=n)),
            ("slopes", self.slopes, lambda n: Layer("LeakyReLU", slope=n)),
            ("rates", self.rates, lambda n: Layer("Dropout", rate=n)),
            ("max_back", [self.max_back], lambda n: Layer("Residual", back=n)),
        ]
        for name, choices, layer in ranges:
            for choice in choices:
                whole = name not in ("slopes", "rates")
                if whole and (not isinstance(choice, int) or isinstance(choice, bool) or choice < 1):
                    raise ValueError(f"{name}: {choice!r} is not an integer of at least 1")
                if name == "rates" and not 0 < choice < 1:
                    raise ValueError(f"rates: {choice!r} is not a share between 0 and 1")
                try:
                    encode_layer(layer(choice))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None

    def _bounded(self, at: int) -> list[str]:
        """The template with the fewest and smallest layers (``at`` 0) or the most and largest ones (-1)."""
        conv = Layer("Conv2d", self.channels[at], self.kernels[at], self.strides[-1 - at])
        hidden = Layer("Linear", self.widths[at])
        if at == 0:
            return self._fit([*[conv] * self.min_conv, Layer("GlobalAvgPool"), *[hidden] * (self.min_linear - 1)]).lines
        extras = [Layer(self.norms[0]), Layer(self.activations[0]), Layer("Dropout", rate=self.rates[0])]
        join = Layer("Residual", back=4)
        maps = [conv, *extras, join] * self.max_conv
        return self._fit([*maps, *[hidden, *extras] * (self.max_linear - 1)]).lines


def _known(name: str, kinds: Sequence[str], accepted: Sequence[str]) -> list[str]:
    if isinstance(kinds, str) or not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= set(accepted):
        raise ValueError(f"{name}: {kinds!r} is not a list of {', '.join(accepted)}, each at most once")
    return list(kinds)


def _weights(name: str, given: Mapping[str, float] | None, default: dict[str, float]) -> dict[str, float]:
    if given is None:
        return default
    if not given or not set(given) <= set(default) or min(given.values()) < 0 or sum(given.values()) <= 0:
        raise ValueError(
            f"{name}: {dict(given)} is not a weight, at least 0 and one above, for some of {list(default)}"
        )
    return dict(given)
