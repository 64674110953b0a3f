"""The meaning of a 20-bit chromosome, and which chromosomes describe the same network; without torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LENGTH", "Decoded", "canonical_chromosome", "decode"]

LENGTH = 20
"""Bits in a chromosome."""

DEPTHS = (2, 3, 4, 5)
KERNEL_SIZES = (3, 5, 7, 9)
ACTIVATIONS = ("relu", "elu", "leaky_relu", "gelu")
POOLINGS = ("max", "average", "mixed", "stride")

_WIDTH, _KERNEL, _ACTIVATION, _POOLING, _FLAGS = slice(0, 2), slice(3, 5), slice(6, 8), slice(9, 11), slice(12, 19)


@dataclass(frozen=True)
class Decoded:
    """A decoded chromosome, independent of widths, image size and number of classes.

    Args:
        width: Index of the first block's width, 0 to 3; each further block doubles the width.
        kernel_size: Side of every convolution's kernel: 3, 5, 7 or 9.
        activation: ``relu``, ``elu``, ``leaky_relu`` (slope 0.1) or ``gelu``.
        pooling: How a block halves its map: ``max``, ``average``, ``mixed`` (the mean of the two) or ``stride`` (its
            last convolution has stride 2).
        convolutions: Convolutions in each block, 1 or 2; as many entries as there are blocks, 2 to 5.
    """

    width: int
    kernel_size: int
    activation: str
    pooling: str
    convolutions: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.convolutions)


def decode(bits: str) -> Decoded:
    """Read a chromosome; see :class:`~lightning_evo.models.BitstringCNN` for the meaning of every bit.

    Args:
        bits: 20 characters 0 and 1.

    Raises:
        ValueError: ``bits`` is anything else.

    >>> decode("01000010000010100000")
    Decoded(width=1, kernel_size=3, activation='leaky_relu', pooling='max', convolutions=(1, 2, 1))
    """
    check(bits)
    width = int(bits[_WIDTH], 2)
    return Decoded(
        width=width,
        kernel_size=KERNEL_SIZES[int(bits[_KERNEL], 2)],
        activation=ACTIVATIONS[int(bits[_ACTIVATION], 2)],
        pooling=POOLINGS[int(bits[_POOLING], 2)],
        convolutions=tuple(1 if flag == "1" else 2 for flag in bits[_FLAGS][: DEPTHS[width]]),
    )


def canonical_chromosome(bits: str) -> str:
    """The one chromosome that stands for all that build the same network: bits that nothing reads become 0.

    There are 3,840 such chromosomes behind the 2^20: 4 kernels, 4 activations and 4 poolings, and
    2^2 + 2^3 + 2^4 + 2^5 = 60 ways to choose a width (and with it a depth) and the layout of that many blocks.

    Args:
        bits: 20 characters 0 and 1.

    Raises:
        ValueError: ``bits`` is anything else.

    >>> canonical_chromosome("00111111111111111111")
    '00011011011011000000'
    """
    check(bits)
    read = DEPTHS[int(bits[_WIDTH], 2)]
    flags = bits[_FLAGS][:read].ljust(7, "0")
    return "0".join((bits[_WIDTH], bits[_KERNEL], bits[_ACTIVATION], bits[_POOLING], flags, ""))


def check(bits: str) -> None:
    """Raise ``ValueError`` unless ``bits`` is a string of 20 characters 0 and 1."""
    if not isinstance(bits, str):
        raise ValueError(f"chromosome: {bits!r} is not a string; write it in quotes, otherwise YAML reads a number")
    if len(bits) != LENGTH or set(bits) - {"0", "1"}:
        raise ValueError(f"chromosome: {bits!r} is not a string of {LENGTH} characters 0 and 1")
