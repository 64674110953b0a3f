"""Networks of one architecture as vectors that can be added and scaled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Particle"]


class Particle(Mapping[str, Tensor]):
    """A network's parameters and buffers as a value: ``0.5 * a + 0.5 * b``.

    Its tensors are copies, shared with no module and no other particle, and detached from autograd. No operation changes a
    particle; :meth:`load_into` writes one into a module, whose parameters stay the same objects and keep their
    ``requires_grad`` and gradients.

    Floating-point and complex tensors are added and scaled, buffers (running statistics) included; half precision is
    computed in single precision and rounded once per operation. Integer and boolean buffers (``num_batches_tracked``) can't
    be: a combination takes them from the term with the coefficient that is largest in magnitude, and of several such the
    larger integer (``True`` before ``False``), so that the order of the terms doesn't matter.

    A stack holds ``count`` networks along each tensor's first axis (:meth:`stack`); a coefficient may then be a tensor
    (``count``,), and norms, distances and products are (``count``,) too.

    Args:
        tensors: Name -> tensor, as in a state dict.
        count: The number of networks along the first axis; ``None``: a single network, without such an axis.

    Raises:
        TypeError: If a value in ``tensors`` isn't a tensor.
        ValueError: If there are no tensors, or the first axis of a tensor of a stack has another length.

    Example:
        >>> a, b = Particle({"w": torch.tensor([1.0, 3.0])}), Particle({"w": torch.tensor([3.0, 5.0])})
        >>> (0.5 * a + 0.5 * b)["w"]
        tensor([2., 4.])
        >>> a.distance(b)
        tensor(2.8284)
    """

    def __init__(self, tensors: Mapping[str, Tensor], count: int | None = None) -> None:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} is a {type(tensor).__name__}, not a tensor")
            if nn.parameter.is_lazy(tensor):
                raise ValueError(f"{name} has no shape yet: run the module once before")
            if count is not None and (tensor.ndim == 0 or tensor.shape[0] != count):
                raise ValueError(
                    f"{name} of shape {tuple(tensor.shape)} does not hold {count} networks along its first axis"
                )
        if not tensors:
            raise ValueError("a particle needs at least one tensor")
        self._set({name: tensor.detach().clone() for name, tensor in tensors.items()}, count, 1.0)

    @classmethod
    def of(cls, source: nn.Module | Mapping[str, Tensor]) -> Particle:
        """The particle that a module, or a state dict, is now.

        A state dict's entries that are no tensors (a module's extra state) are left out.

        >>> sorted(Particle.of(nn.BatchNorm1d(2)))
        ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
        """
        if isinstance(source, Particle):
            return source.clone()
        state = source.state_dict() if isinstance(source, nn.Module) else source
        return cls({name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)})

    @classmethod
    def stack(cls, sources: Sequence[nn.Module | Mapping[str, Tensor]]) -> Particle:
        """Several networks as one particle with them along a first axis.

        Raises:
            ValueError: If there are none, or names, shapes, dtypes or devices differ.

        >>> swarm = Particle.stack([nn.Linear(2, 1), nn.Linear(2, 1)])
        >>> swarm.count, tuple(swarm["weight"].shape), tuple((torch.tensor([0.5, 2.0]) * swarm).norm().shape)
        (2, (2, 1, 2), (2,))
        """
        if not sources:
            raise ValueError("there is no network to stack")
        particles = [source if isinstance(source, Particle) else cls.of(source) for source in sources]
        for number, one in enumerate(particles):
            particles[0]._check(one, f"network {number} and network 0")
        return _made(
            {name: torch.stack([one[name] for one in particles]) for name in particles[0]}, len(particles), 1.0
        )

    def unstack(self) -> list[Particle]:
        """The networks of a stack, one by one.

        Raises:
            ValueError: If it is none.
        """
        if self.count is None:
            raise ValueError("this particle is a single network, not a stack")
        return [_made({name: t[at].clone() for name, t in self.items()}, None, 1.0) for at in range(self.count)]

    # The particle as a mapping.

    @property
    def count(self) -> int | None:
        """The number of networks along the first axis; ``None``: a single network, without such an axis."""
        return self._count

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same numbers under the same names, with the same dtypes and on the same device."""
        if not isinstance(other, Particle):
            return NotImplemented
        return (
            self.count == other.count
            and self.keys() == other.keys()
            and all(
                t.dtype == other[n].dtype and t.device == other[n].device and t.equal(other[n]) for n, t in self.items()
            )
        )

    def __repr__(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.values())
        networks = "" if self.count is None else f"{self.count} networks, "
        return f"Particle({networks}{len(self)} tensors, {numbers:,} numbers)"

    # The particle as a vector.

    def __add__(self, other: Particle) -> Particle:
        if not isinstance(other, Particle):
            return NotImplemented
        return self._plus(other, 1.0)

    def __sub__(self, other: Particle) -> Particle:
        if not isinstance(other, Particle):
            return NotImplemented
        return self._plus(other, -1.0)

    def __mul__(self, coefficient: float | Tensor) -> Particle:
        if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float, Tensor)):
            return NotImplemented
        return self._times(coefficient)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | Tensor) -> Particle:
        if isinstance(divisor, bool) or not isinstance(divisor, (int, float, Tensor)):
            return NotImplemented
        return self._times(1 / divisor)

    def __neg__(self) -> Particle:
        return self._times(-1.0)

    def __pos__(self) -> Particle:
        return self.clone()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make ``tensor * particle`` the same as ``particle * tensor``; no other function of torch takes a particle."""
        if func in (Tensor.mul, Tensor.__mul__, torch.mul) and isinstance(args[1], Particle) and not kwargs:
            return args[1] * args[0]
        return NotImplemented

    def clone(self) -> Particle:
        """An equal particle with tensors of its own."""
        return _made({name: tensor.clone() for name, tensor in self.items()}, self.count, self._weight)

    def zeros_like(self) -> Particle:
        """The zero vector: ``a + a.zeros_like()`` is ``a``, integers included."""
        return self._times(0.0)

    def random_like(self, generator: torch.Generator | None = None) -> Particle:
        """A particle of this architecture with numbers from the standard normal distribution.

        Integers are this particle's own. The default generator is torch's global one.

        >>> a = Particle.of(nn.Linear(2, 1))
        >>> b = a + 0.01 * a.random_like(torch.Generator().manual_seed(0))  # a small step in a random direction
        """
        drawn = {
            name: torch.randn(t.shape, dtype=t.dtype, device=t.device, generator=generator) if _real(t) else t.clone()
            for name, t in self.items()
        }
        return _made(drawn, self.count, self._weight)

    def dot(self, other: Particle) -> Tensor:
        """The scalar product over all floating-point tensors, in double precision: () or, of stacks, (``count``,).

        Raises:
            ValueError: If the two aren't of one architecture.
        """
        self._check(other, "the two particles")
        return self._sum(
            {name: _wide(t, torch.float64) * _wide(other[name], torch.float64).conj() for name, t in self._floats()}
        )

    def norm(self, p: float = 2.0) -> Tensor:
        """The p-norm over all floating-point tensors: () or, of a stack, (``count``,). ``p`` may be ``inf``.

        Raises:
            ValueError: If ``p`` is below 1.
        """
        if not p >= 1:
            raise ValueError(f"p: {p!r} is not at least 1")
        rows = [
            torch.linalg.vector_norm(t.reshape(self.count or 1, -1), p, dim=1, dtype=_wider(t.dtype, torch.float64))
            for _, t in self._floats()
            if t.numel()
        ]
        device = next(iter(self.values())).device
        norms = torch.linalg.vector_norm(
            torch.stack(rows) if rows else torch.zeros(1, self.count or 1, device=device, dtype=torch.float64), p, dim=0
        ).float()
        return norms if self.count is not None else norms[0]

    def distance(self, other: Particle, p: float = 2.0) -> Tensor:
        """The p-norm of the difference."""
        return (self - other).norm(p)

    # Writing it into modules.

    @torch.no_grad()
    def load_into(self, target: nn.Module | Sequence[nn.Module]) -> None:
        """Write the particle into a module's parameters and buffers, in place, on any device; a stack into several modules.

        Parameters stay the same objects, so that optimizers still hold them; gradients and ``requires_grad`` don't change.

        Args:
            target: A module; for a stack, ``count`` modules, such as
                :attr:`ParticleStack.particles <lightning_evo.ParticleStack.particles>`.

        Raises:
            ValueError: If names, shapes or dtypes of a module differ, or the number of modules. No module is changed then.

        >>> net = nn.Linear(2, 1)
        >>> (0.0 * Particle.of(net)).load_into(net)
        >>> bool((net.weight == 0).all())
        True
        """
        modules = [target] if isinstance(target, nn.Module) else list(target)
        if isinstance(target, nn.Module) != (self.count is None) or len(modules) != (self.count or 1):
            given = "a module" if isinstance(target, nn.Module) else f"{len(modules)} modules"
            raise ValueError(f"{_kind(self.count)} can't be written into {given}")
        pairs = []
        for at, module in enumerate(modules):
            own = self if self.count is None else {name: tensor[at] for name, tensor in self.items()}
            theirs = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
            _check_alike(own, theirs, f"the particle and {type(module).__name__}", devices=False)
            pairs += [(theirs[name], tensor) for name, tensor in own.items()]
        for theirs_tensor, tensor in pairs:
            theirs_tensor.copy_(tensor)

    # Internals.

    _tensors: Mapping[str, Tensor]
    _count: int | None
    _weight: float  # the coefficient, in magnitude, of the term that the integers were taken from

    def _set(self, tensors: dict[str, Tensor], count: int | None, weight: float) -> None:
        self._tensors, self._count, self._weight = tensors, count, weight

    def _check(self, other: Particle, which: str) -> None:
        if self.count != other.count:
            raise ValueError(f"{which} differ: one is {_kind(self.count)}, the other {_kind(other.count)}")
        _check_alike(self, other, which)

    def _floats(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in self.items() if _real(tensor))

    def _sum(self, products: Mapping[str, Tensor]) -> Tensor:
        rows = [product.reshape(self.count or 1, -1).sum(1) for product in products.values()]
        total = torch.stack(rows).sum(0) if rows else torch.zeros(self.count or 1, dtype=torch.float64)
        return total if self.count is not None else total[0]

    @torch.no_grad()
    def _plus(self, other: Particle, sign: float) -> Particle:
        self._check(other, "the two particles")
        result = {}
        for name, tensor in self.items():
            if _real(tensor):
                wide = _wider(tensor.dtype)
                result[name] = torch.add(tensor.to(wide), other[name].to(wide), alpha=sign).to(tensor.dtype)
            elif self._weight == other._weight:
                result[name] = torch.maximum(tensor, other[name])
            else:
                result[name] = (self if self._weight > other._weight else other)[name].clone()
        return _made(result, self.count, max(self._weight, other._weight))

    @torch.no_grad()
    def _times(self, coefficient: float | Tensor) -> Particle:
        factors = _factors(coefficient, self.count)
        weight = self._weight * float(factors.abs().max() if isinstance(factors, Tensor) else abs(factors))
        return _made({name: _scaled(tensor, factors) for name, tensor in self.items()}, self.count, weight)


def _made(tensors: dict[str, Tensor], count: int | None, weight: float) -> Particle:
    """A particle that takes over these tensors, without copying them."""
    particle = cast(Particle, Particle.__new__(Particle))
    particle._set(tensors, count, weight)
    return particle


def _factors(coefficient: float | Tensor, count: int | None) -> float | Tensor:
    if not isinstance(coefficient, Tensor):
        return float(coefficient)
    if coefficient.ndim == 0:
        return float(coefficient)
    if count is None or coefficient.shape != (count,):
        raise ValueError(
            f"a coefficient of shape {tuple(coefficient.shape)} does not fit {_kind(count)}; accepted are a number"
            + ("" if count is None else f" and a tensor ({count},)")
        )
    return coefficient.detach()


def _scaled(tensor: Tensor, factors: float | Tensor) -> Tensor:
    if not _real(tensor):
        return tensor.clone()
    wide = tensor.to(_wider(tensor.dtype))
    if isinstance(factors, Tensor):
        factors = factors.to(device=tensor.device, dtype=wide.dtype).reshape(-1, *(1,) * (tensor.ndim - 1))
    return (wide * factors).to(tensor.dtype)


def _real(tensor: Tensor) -> bool:
    """Whether a tensor can be scaled."""
    return tensor.is_floating_point() or tensor.is_complex()


def _wider(dtype: torch.dtype, at_least: torch.dtype = torch.float32) -> torch.dtype:
    return torch.promote_types(dtype, at_least)


def _wide(tensor: Tensor, at_least: torch.dtype) -> Tensor:
    return tensor.to(_wider(tensor.dtype, at_least))


def _kind(count: int | None) -> str:
    return "a single network" if count is None else f"a stack of {count}"


def _check_alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor], which: str, devices: bool = True) -> None:
    """Raise ``ValueError`` naming the first tensor in which two architectures differ."""
    alone = [name for name in (*one, *other) if name not in one or name not in other]
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        raise ValueError(f"{which} are of different architectures: {alone[0]}{more} is in one of them only")
    for name, tensor in one.items():
        theirs = other[name]
        if tensor.shape != theirs.shape:
            raise ValueError(f"{which} differ in {name}: shape {tuple(tensor.shape)} and {tuple(theirs.shape)}")
        if tensor.dtype != theirs.dtype:
            raise ValueError(f"{which} differ in {name}: dtype {tensor.dtype} and {theirs.dtype}; convert one of them")
        if devices and tensor.device != theirs.device:
            raise ValueError(f"{which} differ in {name}: on {tensor.device} and {theirs.device}; move one of them")
