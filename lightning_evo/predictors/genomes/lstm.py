"""Prediction of the fitness by a recurrent network that reads an architecture layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.genome import Genome, SearchSpace, SequenceGene, derive_seed
from lightning_evo.predictors.genomes.features import Features, check_proxies, remember
from lightning_evo.predictors.genomes.results import Scale, check_results, keep, not_fitted
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["LSTMPredictor"]

Floats = NDArray[numpy.float64]


class LSTMPredictor(Predictor):
    """LSTM that reads a row of bits per layer and predicts the fitness, modeled on the regressor of sophius.

    It needs a search space with a gene that is a sequence (:class:`~lightning_evo.genome.Layers`). Sequences are packed,
    so that padding is never read; several sequences are concatenated. The features of the genes, and proxies, join the
    last hidden state as standardized numbers. It learns on the scale of ranks
    (:class:`~lightning_evo.predictors.genomes.results.Scale`).

    Each net holds out a fifth of the results of its own, is trained with AdamW on the squared error, keeps the weights that
    were best on that fifth, and stops when those haven't improved for a while. The prediction is the nets' mean; the
    variance is the variance between the nets plus their squared error on the results held out. Training runs on the CPU,
    in one thread, and leaves the global random state and the number of threads as they were.

    Width, depth and dropout are those of sophius (https://github.com/alkorolyov/sophius). Its learning rate (1e-3) and
    batch size (8) reach the same result in about four times as many steps.

    Args:
        hidden: Width of the LSTM (default 32).
        layers: LSTM layers (default 2).
        dropout: Probability of dropout between LSTM layers and before the output in training (default 0.5).
        lr: Learning rate (default 1e-2).
        batch_size: Results per step (default 32).
        nets: How many nets are trained (default 2).
        max_steps: Most optimizer steps per net (default 150), which bounds the cost of a fit.
        patience: Stop after this many validations in a row, one every 10 steps, without a new best (default 5).
        flat: Whether the flat features of the sequences, too, join the last hidden state (default). From a few hundred
            results the LSTM alone learns much less.
        proxies: Zero-cost proxies as further inputs: ``naswot``, ``synflow``, ``gradient_norm``, ``params``, ``flops``.
        max_results: Most results to learn from (default 1000): the best half of that number, and an even sample of the
            rest.
        min_results: How many results :meth:`fit` needs (default 20).

    Raises:
        ValueError: A number or name is not accepted; from :meth:`bind` where no gene of the space is a sequence.
    """

    def __init__(
        self,
        hidden: int = 32,
        layers: int = 2,
        dropout: float = 0.5,
        lr: float = 1e-2,
        batch_size: int = 32,
        nets: int = 2,
        max_steps: int = 150,
        patience: int = 5,
        flat: bool = True,
        proxies: Sequence[str] = (),
        max_results: int = 1000,
        min_results: int = 20,
    ) -> None:
        for name, number, least in (
            ("hidden", hidden, 1),
            ("layers", layers, 1),
            ("batch_size", batch_size, 1),
            ("nets", nets, 1),
            ("max_steps", max_steps, 1),
            ("patience", patience, 1),
            ("min_results", min_results, 5),
            ("max_results", max_results, min_results),
        ):
            check_at_least(name, number, least)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout!r} is not a share of at least 0 and below 1")
        if not lr > 0:
            raise ValueError(f"lr: {lr!r} is not above 0")
        self.hidden, self.layers, self.dropout, self.lr = hidden, layers, dropout, lr
        self.batch_size, self.nets, self.max_steps, self.patience = batch_size, nets, max_steps, patience
        self.flat = flat
        self.proxies, self.max_results, self.min_results = check_proxies(proxies), max_results, min_results

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        self._sequences = {path: gene for path, gene in space.items() if isinstance(gene, SequenceGene)}
        if not self._sequences:
            raise ValueError(
                "LSTMPredictor reads a gene that is a sequence (Layers), and the space has none: "
                "ForestPredictor or GaussianProcessPredictor suits any space"
            )
        super().bind(space, seed, measure)
        rest = [path for path in space if self.flat or path not in self._sequences]
        self._features = Features(space, self.proxies, measure, rest) if rest or self.proxies else None
        self._bits: dict[Genome, Tensor] = {}
        self._trained: list[_Net] = []
        return self

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        values = check_results(self, genomes, fitness)
        kept = keep(values, self.max_results)
        self._scale = Scale.of(values[kept])
        targets = torch.tensor(self._scale.to(values[kept]), dtype=torch.float32)
        known = [genomes[i] for i in kept]
        self._centre(known)
        data = self._data(known)
        with _quietly(derive_seed(self.seed, "lstm")):
            folds = torch.randperm(len(known)) % max(5, self.nets)
            fitted = [self._train(data, targets, folds == net) for net in range(self.nets)]
        self._trained = [net for net, _ in fitted]
        self._error = float(numpy.mean([error for _, error in fitted]))
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[Floats, Floats]:
        if not getattr(self, "_trained", None):
            raise not_fitted(self)
        data = self._data(genomes)
        with _quietly(0), torch.no_grad():
            each = torch.stack([net(*data) for net in self._trained]).double().numpy()
        return self._scale.back(each.mean(axis=0), numpy.sqrt(each.var(axis=0) + self._error))

    # -- training ------------------------------------------------------------------------------------------------------

    def _train(self, data: _Data, targets: Tensor, held_out: Tensor) -> tuple[_Net, float]:
        """A net trained without ``held_out``, with the weights that fitted those best, and its squared error there."""
        net = _Net(data.rows.shape[2], data.extra.shape[1], self.hidden, self.layers, self.dropout)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr)
        seen = torch.nonzero(~held_out)[:, 0]
        unseen = data.pick(torch.nonzero(held_out)[:, 0])
        best, best_weights, worse = float("inf"), net.state_dict(), 0
        for step, batch in enumerate(_batches(seen, self.batch_size, self.max_steps), start=1):
            net.train()
            optimizer.zero_grad()
            nn.functional.mse_loss(net(*data.pick(batch)), targets[batch]).backward()
            optimizer.step()
            if step % _VALIDATE_EVERY and step < self.max_steps:
                continue
            net.eval()
            with torch.no_grad():
                error = nn.functional.mse_loss(net(*unseen), targets[held_out]).item()
            if error < best:
                best, worse = error, 0
                best_weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            else:
                worse += 1
                if worse == self.patience:
                    break
        net.load_state_dict(best_weights)
        return net.eval(), best

    # -- genomes as tensors --------------------------------------------------------------------------------------------

    def _centre(self, genomes: Sequence[Genome]) -> None:
        if self._features is not None:
            rows = self._features.rows(genomes)
            known = numpy.isfinite(rows)
            count = numpy.maximum(1, known.sum(axis=0))
            self._mean = numpy.where(known, rows, 0.0).sum(axis=0) / count
            spread = numpy.sqrt((numpy.where(known, rows - self._mean, 0.0) ** 2).sum(axis=0) / count)
            self._std = numpy.where(spread > 0, spread, 1.0)

    def _data(self, genomes: Sequence[Genome]) -> _Data:
        sequences = []
        for genome in genomes:
            if (sequence := self._bits.get(genome)) is None:
                sequence = self._read(genome)
                remember(self._bits, genome, sequence)
            sequences.append(sequence)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        rows = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        if self._features is None:
            return _Data(rows, lengths, torch.zeros(len(genomes), 0))
        extra = (self._features.rows(genomes) - self._mean) / self._std
        return _Data(rows, lengths, torch.tensor(numpy.nan_to_num(extra, nan=0.0), dtype=torch.float32))

    def _read(self, genome: Genome) -> Tensor:
        """(length, bits): the sequences one after the other; a single row of zeros where none is active."""
        width = max(gene.bit_width for gene in self._sequences.values())
        rows = [
            [*row, *[0] * (width - len(row))]
            for path, gene in self._sequences.items()
            if path in genome
            for row in gene.bits(genome[path])
        ]
        return torch.tensor(rows or [[0] * width], dtype=torch.float32)


_VALIDATE_EVERY = 10
"""Optimizer steps between two validations."""


class _Data(NamedTuple):
    """Rows (n, longest, bits), lengths (n,) and further numbers (n, columns)."""

    rows: Tensor
    lengths: Tensor
    extra: Tensor

    def pick(self, index: Tensor) -> _Data:
        """The rows at ``index``, padded only as far as they need."""
        lengths = self.lengths[index]
        return _Data(self.rows[index, : int(lengths.max())], lengths, self.extra[index])


class _Net(nn.Module):
    def __init__(self, bits: int, extra: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(bits, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden + extra, 1)

    def forward(self, rows: Tensor, lengths: Tensor, extra: Tensor) -> Tensor:
        packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(packed)
        return self.head(torch.cat([self.dropout(hidden[-1]), extra], dim=1))[:, 0]


def _batches(index: Tensor, size: int, count: int) -> Iterator[Tensor]:
    """Yield ``count`` batches, reshuffled in every round."""
    while count > 0:
        for batch in index[torch.randperm(len(index))].tensor_split(-(-len(index) // size))[:count]:
            yield batch
            count -= 1


@contextmanager
def _quietly(seed: int) -> Iterator[None]:
    """Run in one thread and from this seed, and restore the number of threads and the random state afterwards."""
    threads = torch.get_num_threads()
    with isolated_random_state(seed, devices=()):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
