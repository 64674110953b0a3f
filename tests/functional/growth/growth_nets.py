"""Networks that grow, random ones in the forms in which users write them; and pictures of networks as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from functional_nets import Net, specs
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Tanh, nn.PReLU, nn.Hardswish)
BATCH = 12
OPERATIONS = ("widen", "insert", "residual", "prune", "kernel", "activation")
Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of several things."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network and a batch of inputs."""

    net: nn.Module
    inputs: tuple[Tensor, ...] = field(repr=False)


def outputs_of(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """All tensors that a network gives; the same dropout each time, and the process's random state as it was."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)  # manual_seed takes longer than these networks
        return [leaf for leaf in tree_leaves(net(*inputs)) if isinstance(leaf, Tensor)]


def random_states() -> tuple:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()


@torch.no_grad()
def evaluated(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What a network gives in eval mode; it stays as it is."""
    modes = [(module, module.training) for module in net.modules()]
    given_ = outputs_of(net.eval(), inputs)
    for module, mode in modes:
        module.training = mode
    return given_


class Picture:
    """A network as it was: which objects, under which names, with which numbers, in which modes."""

    def __init__(self, net: nn.Module) -> None:
        self.modules = [(name, module, module.training) for name, module in net.named_modules()]
        self.tensors = {id(t): (n, t, t.detach().clone()) for n, t in [*net.named_parameters(), *net.named_buffers()]}
        self.hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
        self.described, self.randomness = repr(net), random_states()

    def check_same(self, net: nn.Module) -> None:
        """Not a bit has changed."""
        now = Picture(net)
        assert [(n, id(m), mode) for n, m, mode in now.modules] == [(n, id(m), mode) for n, m, mode in self.modules]
        assert list(now.tensors) == list(self.tensors)
        for key, (name, tensor, values) in self.tensors.items():
            assert now.tensors[key][0] == name
            assert torch.equal(tensor, values), name
        assert (now.described, now.hooks, now.randomness) == (self.described, self.hooks, self.randomness)


# Two plain ones ----------------------------------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def cnn(norm: nn.Module | None = None, **second: Any) -> nn.Sequential:
    first = [nn.Conv2d(2, 8, 3, padding=1), norm or nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(
        *first, nn.Conv2d(8, 6, 3, **second), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


_GENERATOR = torch.Generator().manual_seed(0)
POINTS, IMAGES = (torch.randn(16, *shape, generator=_GENERATOR) for shape in ((4,), (2, 8, 8)))


# Random ones -------------------------------------------------------------------------------------------------------------


def perceptron(pick: Pick) -> nn.Module:
    widths = [6, *(pick((4, 5, 8)) for _ in range(pick((1, 2, 3))))]
    layers: list[nn.Module] = []
    for inputs, width in pairwise(widths):
        layers += [nn.Linear(inputs, width, bias=pick((True, False)))]
        layers += pick(([], [nn.BatchNorm1d(width)], [nn.LayerNorm(width)], [nn.BatchNorm1d(width, affine=False)]))
        layers += [pick(ACTIVATIONS)(), *pick(([], [nn.Dropout(0.2)]))]
    head = nn.Linear(widths[-1], 3)
    return nn.Sequential(*layers, nn.utils.parametrizations.spectral_norm(head) if pick((False, False, True)) else head)


def convolutional(pick: Pick) -> nn.Module:
    """Of signals, images or volumes; classes, positions flattened or pooled, or a map."""
    at = pick((1, 2, 3))
    conv, pool = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[at - 1], (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[at - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[at - 1]
    one, two, groups = pick((4, 8)), pick((4, 6)), pick((1, 2))
    first = conv(
        2, one, 3, padding=pick((0, 1, "same")), dilation=pick((1, 2)), padding_mode=pick(("zeros", "circular"))
    )
    layers: list[nn.Module] = [first, *pick(([], [norm(one)], [nn.GroupNorm(2, one)], [nn.GroupNorm(1, one)]))]
    layers += [
        pick(ACTIVATIONS)(),
        pool(2),
        conv(one, two, pick((1, 3)), padding=1, groups=groups),
        pick(ACTIVATIONS)(),
    ]
    if pick((True, False)):
        return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))
    pooled = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[at - 1](1)
    return nn.Sequential(*layers, *pick(([Pooled()], [pooled, nn.Flatten()])), nn.Linear(two, 3))


class Pooled(nn.Module):
    """The mean over all positions."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(2)


class Branches(nn.Module):
    """Two branches of different width, concatenated, normalized and mixed."""

    def __init__(self, pick: Pick) -> None:
        super().__init__()
        one, other = pick((4, 8)), pick((4, 6))
        self.stem, self.act = nn.Conv2d(2, 4, 3, padding=1), pick(ACTIVATIONS)()
        self.narrow = nn.Conv2d(4, one, 1)
        self.wide = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, other, 1))
        self.norm = pick((nn.BatchNorm2d, nn.Identity))(one + other)
        self.mix, self.head = nn.Conv2d(one + other, 6, 1), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        values = self.act(self.stem(images))
        values = self.norm(torch.cat([self.narrow(values), self.wide(values)], dim=1))
        return self.head(self.mix(torch.relu(values)).mean((2, 3)))


class Decoder(nn.Module):
    """Halves maps, doubles them again, and keeps a skip connection."""

    def __init__(self, pick: Pick) -> None:
        super().__init__()
        width, deep = pick((4, 6)), pick((4, 8))
        self.first, self.down = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(deep, width, 2, stride=2)
        self.last, self.act = nn.Conv2d(width, 1, 3, padding=1), pick(ACTIVATIONS)()

    def forward(self, images: Tensor) -> Tensor:
        skip = self.act(self.first(images))
        return self.last(self.act(self.up(self.act(self.down(skip)))) + skip)


class Tokens(nn.Module):
    """Embedded tokens along a residual stream with pre-normalised blocks and learned scales; two outputs, by name."""

    def __init__(self, pick: Pick) -> None:
        super().__init__()
        width, hidden = pick((4, 8)), pick((6, 8))
        self.embed, self.norm = nn.Embedding(11, width), pick((nn.LayerNorm, nn.Identity))(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), pick(ACTIVATIONS)(), nn.Linear(hidden, width))
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.classes, self.count = nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        values = self.embed(tokens)
        values = values + self.scale * self.mlp(self.norm(values))
        return {"classes": self.classes(values.mean(1)), "count": self.count(values)}


class Attention(nn.Module):
    """Of torch's own transformer layer no part can change; what stands around it can."""

    def __init__(self, pick: Pick) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(6, 8), pick(ACTIVATIONS)(), nn.Linear(8, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 6), pick(ACTIVATIONS)(), nn.Linear(6, 3))

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.layer(self.project(points)[:, None])[:, 0])


class Untraceable(nn.Module):
    """What it does depends on what it sees; its children can be traced."""

    def __init__(self, pick: Pick) -> None:
        super().__init__()
        act, hidden = pick(ACTIVATIONS), pick((4, 6))
        self.body = nn.Sequential(nn.Linear(6, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, 5))
        self.head = nn.Sequential(nn.Linear(5, hidden), nn.BatchNorm1d(hidden), act(), nn.Linear(hidden, 3))
        self.single, self.norm = nn.Linear(5, 3), nn.BatchNorm1d(5)

    def forward(self, points: Tensor) -> Tensor:
        values = self.norm(self.body(points))
        if points.mean() > 1e6:
            values = -values
        return self.head(values) + self.single(values)


FORMS: dict[str, tuple[Callable[[Pick], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (6,)),
    "convolutional": (convolutional, ()),
    "branches": (Branches, (2, 6, 6)),
    "decoder": (Decoder, (2, 6, 6)),
    "tokens": (Tokens, (5,)),
    "attention": (Attention, (6,)),
    "untraceable": (Untraceable, (6,)),
}


@st.composite
def cases(draw: Any) -> Case:
    """A network, whose statistics have met data, and a batch."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    form = draw(st.sampled_from(["images", *FORMS]))
    if form == "images":  # blocks: residual, grouped, depthwise, gated, dense; normalized by batch, group or layer
        net, shape = Net(draw(specs())), (3, 6, 6)
    else:
        make, shape = FORMS[form]
        net = make(lambda options: draw(st.sampled_from(options)))
    if form == "convolutional":
        shape = (2, *[8] * len(net[0].kernel_size))
    dtype = draw(st.sampled_from((torch.float32, torch.float32, torch.float64)))
    inputs = torch.randint(11, (BATCH, *shape)) if form == "tokens" else torch.randn(BATCH, *shape, dtype=dtype)
    net.to(dtype)
    for _ in range(3):
        outputs_of(net, (inputs,))
    if len(shape) == 3 and draw(st.booleans()):
        net.to(memory_format=torch.channels_last)
    frozen = draw(st.sampled_from(("nothing", "nothing", "first")))
    if frozen == "first":
        next(iter(net.parameters())).requires_grad_(False)
    return Case(net.train(draw(st.booleans())), (inputs,))
