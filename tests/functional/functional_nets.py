"""Random networks and larger versions of them, for properties of weight inheritance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

BLOCKS = ("plain", "residual", "grouped", "depthwise", "separable", "gated", "dense", "preactivated")
GROUPS = 2


@dataclass(frozen=True)
class Block:
    kind: str
    width: int
    kernel: int = 3
    norm: str = "batch"
    project: bool = False


@dataclass(frozen=True)
class Spec:
    """What a network is made of; every width is a multiple of four."""

    blocks: tuple[Block, ...]
    activation: str = "relu"
    flatten: bool = False
    hidden: tuple[int, ...] = (8,)
    head_norm: str = "none"


def norm(kind: str, width: int, head: bool = False) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(width) if head else nn.BatchNorm2d(width)
    if kind == "group":
        return nn.GroupNorm(GROUPS, width)
    if kind == "sized":  # groups of four channels, however many
        return nn.GroupNorm(width // 4, width)
    if kind == "layer":
        return nn.LayerNorm(width) if head else nn.GroupNorm(1, width)
    return nn.Identity()


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "prelu": nn.PReLU, "tanh": nn.Tanh, "relu6": nn.ReLU6}


class Net(nn.Module):
    """Images (N, 3, 6, 6) to four scores."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = nn.Conv2d(3, spec.blocks[0].width, 3, padding=1)
        blocks, width = [], spec.blocks[0].width
        for block in spec.blocks:
            kind = PreActivated if block.kind == "preactivated" else Cell
            blocks.append(kind(block, width, spec.activation))
            width = blocks[-1].width
        self.blocks = nn.ModuleList(blocks)
        features = width * (36 if spec.flatten else 1)
        layers: list[nn.Module] = []
        for hidden in spec.hidden:
            layers += [nn.Linear(features, hidden), norm(spec.head_norm, hidden, head=True)]
            layers += [ACTIVATIONS[spec.activation]()]
            features = hidden
        self.head = nn.Sequential(*layers, nn.Linear(features, 4))

    def forward(self, images: Tensor) -> Tensor:
        values = self.stem(images)
        for block in self.blocks:
            values = block(values)
        return self.head(values.flatten(1) if self.spec.flatten else values.mean((2, 3)))


def shortcut(block: Block, inputs: int) -> nn.Module:
    return nn.Conv2d(inputs, block.width, 1) if block.project or inputs != block.width else nn.Identity()


class Cell(nn.Module):
    def __init__(self, block: Block, inputs: int, activation: str) -> None:
        super().__init__()
        kind, width, kernel = block.kind, block.width, block.kernel
        self.kind = kind
        self.act = ACTIVATIONS[activation]()
        self.out_act = ACTIVATIONS[activation]()
        groups = {"grouped": GROUPS, "depthwise": inputs}.get(kind, 1)
        width = inputs if kind == "depthwise" else width
        bias = block.norm == "none"
        self.conv = nn.Conv2d(inputs, width, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.norm = norm(block.norm, width)
        self.width = width
        if kind == "residual":
            self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=bias)
            self.norm2 = norm(block.norm, width)
            self.shortcut = shortcut(block, inputs)
        if kind == "separable":
            self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        if kind == "gated":
            self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        if kind == "dense":
            self.width = width + inputs

    def forward(self, values: Tensor) -> Tensor:
        inner = self.norm(self.conv(values))
        if self.kind == "residual":
            inner = self.norm2(self.conv2(self.act(inner)))
            return self.out_act(inner + self.shortcut(values))
        if self.kind == "separable":
            inner = self.depthwise(self.act(inner))
        if self.kind == "gated":
            inner = inner * self.up(self.act(self.down(inner.mean((2, 3), keepdim=True)))).sigmoid()
        inner = self.out_act(inner)
        return torch.cat([values, inner], 1) if self.kind == "dense" else inner


class PreActivated(nn.Module):
    def __init__(self, block: Block, inputs: int, activation: str) -> None:
        super().__init__()
        self.width, padding = block.width, block.kernel // 2
        self.norm1, self.act1 = norm(block.norm, inputs), ACTIVATIONS[activation]()
        self.conv1 = nn.Conv2d(inputs, self.width, block.kernel, padding=padding)
        self.norm2, self.act2 = norm(block.norm, self.width), ACTIVATIONS[activation]()
        self.conv2 = nn.Conv2d(self.width, self.width, block.kernel, padding=padding)
        self.shortcut = shortcut(block, inputs)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.conv1(self.act1(self.norm1(values)))
        return self.shortcut(values) + self.conv2(self.act2(self.norm2(inner)))


def lived_in(net: nn.Module, seed: int) -> nn.Module:
    """Weights, scales, shifts and statistics unlike those at the start."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if tensor.is_floating_point():
                    positive = name in ("weight", "running_var")
                    drawn = torch.rand(tensor.shape, generator=generator) if positive else None
                    tensor.data = (
                        0.5 + drawn if drawn is not None else torch.randn(tensor.shape, generator=generator) / 4
                    )
                else:
                    tensor.fill_(7)
    return net


WIDTHS = st.sampled_from((4, 8, 12))
NORMS = (("batch", "none", "sized"), ("batch", "none", "group", "layer"))
"""Groups whose size stays go with any width, groups whose number stays with multiples: neither both along one path,
nor the former with grouped convolutions."""


@st.composite
def specs(draw) -> Spec:
    norms = draw(st.sampled_from(NORMS))
    without = "grouped" if "sized" in norms else draw(st.sampled_from(("grouped", "dense")))
    kinds = st.sampled_from([kind for kind in BLOCKS if kind != without])
    blocks = draw(st.lists(st.builds(Block, kinds, WIDTHS, st.just(3), st.sampled_from(norms)), min_size=1, max_size=4))
    return Spec(
        tuple(blocks),
        draw(st.sampled_from(sorted(ACTIVATIONS))),
        draw(st.booleans()),
        tuple(draw(st.lists(WIDTHS, max_size=2))),
        draw(st.sampled_from(("none", "batch", "layer"))) if "sized" not in {b.norm for b in blocks} else "batch",
    )


@st.composite
def grown(draw, spec: Spec) -> Spec:
    """A larger version of a network, of which it holds that it can compute the same."""
    # Layer and group normalization keep their statistics if every width is the same multiple.
    statistic = spec.head_norm == "layer" or any(block.norm in ("group", "layer") for block in spec.blocks)
    factor = draw(st.sampled_from((1, 2, 3)))

    def wider(width: int) -> int:
        return width * factor if statistic else width + 4 * draw(st.sampled_from((0, 1, 2)))

    blocks = [
        replace(
            block,
            width=wider(block.width),
            kernel=draw(st.sampled_from((3, 5))),
            project=isinstance(getattr(built, "shortcut", None), nn.Conv2d),
        )
        for block, built in zip(spec.blocks, Net(spec).blocks, strict=True)
    ]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(1, len(blocks)))
        blocks.insert(at, draw(_inserted(spec, blocks, at)))
    hidden = [wider(width) for width in spec.hidden]
    return replace(spec, blocks=tuple(blocks), hidden=tuple(hidden))


def _inserted(spec: Spec, blocks: list[Block], at: int):
    width = Net(replace(spec, blocks=tuple(blocks))).blocks[at - 1].width
    new_norm = st.sampled_from(("batch", "group"))
    residual = st.builds(Block, st.just("preactivated"), st.just(width), st.just(3), new_norm)
    before = blocks[at - 1].kind
    if spec.activation in ("relu", "relu6", "prelu") and before not in ("dense", "preactivated") and width % 4 == 0:
        choices = [residual]
        if spec.activation == "relu":
            plain = st.builds(
                Block, st.sampled_from(("plain", "grouped", "depthwise")), st.just(width), st.just(3), st.just("none")
            )
            joined = st.builds(Block, st.just("residual"), st.just(width), st.just(3), new_norm)
            choices += [plain, joined]
        return st.one_of(choices)
    return residual
