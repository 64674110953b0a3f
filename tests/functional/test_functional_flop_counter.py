"""FLOPs of every kind of operation, against what can be counted by hand."""

from __future__ import annotations

from math import log2

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

from lightning_evo.functional.flop_counter import FlopCounter

B, T, E, H = 2, 5, 8, 6
"""Sequences, steps of each, features, hidden units."""
SEQUENCES = torch.randn(B, T, E)


def evaluated(module, *inputs, **named):
    with torch.no_grad():
        return module.eval()(*inputs, **named)


def summed(output) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output.sum()


def attention(query, key, value):
    return nn.functional.scaled_dot_product_attention(query, key, value)


def heads(count: int, steps: int, width: int = 4) -> torch.Tensor:
    return torch.randn(B, count, steps, width, requires_grad=True)


def packed():
    return nn.utils.rnn.pack_padded_sequence(SEQUENCES, [5, 3], batch_first=True)


def jagged():
    return torch.nested.nested_tensor([torch.randn(3, E), torch.randn(5, E)], layout=torch.jagged)


MASK = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
SPARSE = torch.sparse_coo_tensor(torch.tensor([[0, 1, 1], [2, 0, 2]]), torch.ones(3), (3, 4), check_invariants=True)

LSTM, GRU, RNN = (gates * H * (E + H) for gates in (4, 3, 1))
"""Numbers in the two weight matrices of a layer; each is multiplied and added once per step of each sequence."""
SECOND = 4 * H * (2 * H + H)
ENCODER = 2 * B * T * (4 * E * E + 2 * E * 16) + 4 * B * T * T * E
DENSE = torch.randn(4, 7)

FORWARD = {
    "LSTM": (lambda: nn.LSTM(E, H, batch_first=True)(SEQUENCES), 2 * B * T * LSTM),
    "LSTM of two layers, both ways": (
        lambda: nn.LSTM(E, H, 2, bidirectional=True, batch_first=True)(SEQUENCES),
        2 * B * T * 2 * (LSTM + SECOND),
    ),
    "LSTM with projections": (
        lambda: nn.LSTM(E, H, proj_size=3, batch_first=True)(SEQUENCES),
        2 * B * T * (4 * H * (E + 3) + 3 * H),
    ),
    "LSTM of packed sequences": (lambda: nn.LSTM(E, H, batch_first=True)(packed()), 2 * (5 + 3) * LSTM),
    "LSTM without gradients": (lambda: evaluated(nn.LSTM(E, H, batch_first=True), SEQUENCES), 2 * B * T * LSTM),
    "LSTM on meta": (
        lambda: nn.LSTM(E, H, batch_first=True, device="meta")(SEQUENCES.to("meta")),
        2 * B * T * LSTM,
    ),
    "GRU": (lambda: nn.GRU(E, H, batch_first=True)(SEQUENCES), 2 * B * T * GRU),
    "RNN": (lambda: nn.RNN(E, H, batch_first=True)(SEQUENCES), 2 * B * T * RNN),
    "LSTMCell": (lambda: nn.LSTMCell(E, H)(SEQUENCES[:, 0]), 2 * B * LSTM),
    "GRUCell": (lambda: nn.GRUCell(E, H)(SEQUENCES[:, 0]), 2 * B * GRU),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(E, 2, batch_first=True)(SEQUENCES, SEQUENCES, SEQUENCES),
        2 * B * T * 4 * E * E + 4 * B * T * T * E,
    ),
    "MultiheadAttention's fast path": (
        lambda: evaluated(nn.MultiheadAttention(E, 2, batch_first=True), SEQUENCES, SEQUENCES, SEQUENCES),
        2 * B * T * 4 * E * E + 4 * B * T * T * E,
    ),
    "TransformerEncoder's fast path": (
        lambda: evaluated(nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), SEQUENCES),
        ENCODER,
    ),
    "TransformerEncoder of nested sequences": (
        lambda: evaluated(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), 1),
            SEQUENCES,
            src_key_padding_mask=MASK,
        ),
        2 * 8 * (4 * E * E + 2 * E * 16) + 4 * (5 * 5 + 3 * 3) * E,
    ),
    "attention of shared keys": (
        lambda: nn.functional.scaled_dot_product_attention(heads(4, 5), heads(2, 7), heads(2, 7), enable_gqa=True),
        2 * B * 4 * 5 * 7 * (4 + 4),
    ),
    "FlexAttention": (lambda: flex_attention(*[torch.randn(1, 1, 128, 16)] * 3), 2 * 128 * 128 * 32),
    "Linear on jagged sequences": (lambda: nn.Linear(E, H)(jagged()).values(), 2 * 8 * E * H),
    "Embedding": (lambda: nn.Embedding(9, 3)(torch.arange(4)), 0),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(9, 3)(torch.arange(4)[None]), 0),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5)(torch.randn(2, 3), torch.randn(2, 4)), 2 * 2 * 3 * 4 * 5),
    "grouped convolution": (lambda: nn.Conv1d(4, 6, 3, groups=2)(torch.randn(2, 4, 9)), 2 * 2 * 7 * 6 * 2 * 3),
    "transposed convolution": (
        lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, stride=2)(torch.randn(2, 4, 9)),
        2 * 2 * 9 * 4 * 3 * 3,
    ),
    "einsum": (lambda: torch.einsum("bte,bse->bts", SEQUENCES, SEQUENCES), 2 * B * T * T * E),
    "baddbmm": (lambda: torch.baddbmm(torch.zeros(1), SEQUENCES, SEQUENCES.mT), 2 * B * T * T * E),
    "addbmm": (lambda: torch.addbmm(torch.zeros(1), SEQUENCES, SEQUENCES.mT), 2 * B * T * T * E),
    "matrix and vector": (lambda: DENSE @ torch.ones(7), 2 * 4 * 7),
    "dot": (lambda: torch.ones(7) @ torch.ones(7), 2 * 7),
    "sparse matrix": (lambda: SPARSE @ DENSE, 2 * 3 * 7),
    "sparse matrix, compressed": (lambda: SPARSE.to_sparse_csr() @ DENSE, 2 * 3 * 7),
    "sparse.mm": (lambda: torch.sparse.mm(SPARSE, DENSE), 2 * 3 * 7),
    "two sparse matrices": (lambda: torch.sparse.mm(SPARSE, SPARSE.t()).to_dense(), 2 * (1 * 1 + 2 * 2)),
    "distances": (lambda: torch.cdist(torch.randn(30, 4), torch.randn(9, 4)), 2 * 30 * 9 * 4),
    "fft2": (lambda: torch.fft.fft2(SEQUENCES).abs(), round(5 * B * T * E * log2(T * E))),
    "rfft": (lambda: torch.fft.rfft(SEQUENCES).abs(), round(2.5 * B * T * E * log2(E))),
    "activations, normalization, pooling": (
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.GELU(), nn.Dropout(), nn.AvgPool1d(2))(SEQUENCES),
        0,
    ),
    "cond": (
        lambda: torch.cond(SEQUENCES.sum() > 1e9, lambda x: x @ x.mT @ x, lambda x: x @ x.mT, (SEQUENCES,)),
        2 * B * T * T * E,
    ),
}


@pytest.mark.parametrize("case", FORWARD)
def test_a_forward_pass_counts_what_its_products_take(case):
    run, expected = FORWARD[case]
    with FlopCounter() as counter:
        run()
    assert (counter.total, dict(counter.uncounted)) == (expected, {})


LAYER = nn.Linear(E, H)
COMPILED = torch.compile(lambda inputs: LAYER(inputs).relu(), backend="eager")
TRAINED = {
    # Forward, and the gradients of weights and inputs: the kernel computes both for every layer.
    "LSTM": (lambda: nn.LSTM(E, H, 2, batch_first=True)(SEQUENCES), 3 * 2 * B * T * (LSTM + 4 * H * 2 * H)),
    "attention": (
        lambda: attention(heads(2, 5), heads(2, 7), heads(2, 7)),
        2 * B * 2 * 5 * 7 * (4 + 4) + 2 * B * 2 * 5 * 7 * 5 * 4,
    ),
    "grouped convolution": (
        lambda: nn.Conv1d(4, 6, 3, groups=2)(torch.randn(2, 4, 9, requires_grad=True)),
        3 * 2 * 2 * 7 * 6 * 2 * 3,
    ),
    "transposed convolution": (
        lambda: nn.ConvTranspose1d(4, 6, 3, groups=2)(torch.randn(2, 4, 9, requires_grad=True)),
        3 * 2 * 2 * 9 * 4 * 3 * 3,
    ),
    "first layer": (lambda: LAYER(SEQUENCES), 2 * 2 * B * T * E * H),
    "computed twice": (
        lambda: checkpoint(nn.Sequential(LAYER, nn.ReLU(), nn.Linear(H, E)), SEQUENCES, use_reentrant=False),
        2 * B * T * E * H * (2 + 1 + 1 + 2),
    ),
    "compiled": (lambda: COMPILED(SEQUENCES), 2 * 2 * B * T * E * H),
    "compiled before": (
        lambda: (COMPILED(SEQUENCES), COMPILED(SEQUENCES))[1],
        2 * 2 * B * T * E * H + 2 * B * T * E * H,
    ),
    "sparse": (
        lambda: torch.sparse.mm(SPARSE, (DENSE + 0).requires_grad_()),
        2 * 2 * 3 * 7,
    ),
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_training_step_counts_its_gradients_too(case):
    run, expected = TRAINED[case]
    with FlopCounter() as counter:
        summed(run()).backward()
    assert (counter.total, dict(counter.uncounted)) == (expected, {})


@torch.library.custom_op("lightning_evo_tests::scan", mutates_args=())
def scan(inputs: torch.Tensor) -> torch.Tensor:
    return inputs @ inputs.mT


def test_what_no_formula_is_known_of_is_named_with_its_calls():
    with FlopCounter() as counter:
        scan(SEQUENCES)
        scan(SEQUENCES)
        torch.linalg.eigh(torch.eye(3))
    assert counter.total == 0
    assert counter.uncounted == {"lightning_evo_tests::scan": 2, "aten::_linalg_eigh": 1}


def test_nothing_stays_behind():
    with pytest.raises(ValueError), FlopCounter():  # noqa: PT011
        raise ValueError
    with FlopCounter() as outer, FlopCounter() as inner:
        LAYER(SEQUENCES)
    assert outer.total == inner.total > 0
    compiled = []
    torch.compile(lambda x: x + 1, backend=lambda graph, _: compiled.append(graph) or graph.forward)(SEQUENCES)
    assert compiled
