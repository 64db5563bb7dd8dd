"""Cutting rows of tokens into batches, and log-probabilities at some positions of a batch.

Shapes: R rows, B rows of a batch, T tokens, M scored positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.base.types import Bools, Ints
from tutelage.models.logits import LIKELIHOOD
from tutelage.teaching.signal import DenseSignal

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of a batch by default: on a CPU so few that a layer's activations stay in its caches."""


def batch_size(device: str, asked: int | None = None) -> int:
    """Return the tokens of a batch: those asked for, or what suits the device."""
    return asked or BATCH_TOKENS.get(device, 8192)


def batches(widths_R: Ints, batch_tokens: int) -> Iterator[NDArray[np.intp]]:
    """Yield rows of similar width, widest first (what does not fit in memory fails at once); width 0 is left out."""
    order = np.argsort(-widths_R, kind="stable")
    order = order[: np.count_nonzero(widths_R)]
    start = 0
    while start < len(order):
        stop = start + max(1, batch_tokens // int(widths_R[order[start]]))
        yield order[start:stop]
        start = stop


def places(starts_B: Ints, widths_B: Ints) -> tuple[Ints, Bools]:
    """Return places of some rows' tokens end to end, `(B, T)`, and which are no padding; padding points at place 0."""
    column_T = np.arange(widths_B.max())
    inside_BT = column_T < widths_B[:, None]
    return np.where(inside_BT, starts_B[:, None] + column_T, 0), inside_BT


def target_log_probs(signal: DenseSignal, index_M: Tensor, targets_M: Tensor) -> Tensor:
    """Return the log-probability of a token at each position of the flattened batch, `(M,)`, by a head in float32."""
    picked = signal.at(index_M)
    exact = replace(picked, hidden=tuple(hidden.float() for hidden in picked.hidden))
    return exact.target_log_probs(targets_M, chunk=logit_rows(signal, index_M.device.type))


def logit_rows(signal: DenseSignal, device: str) -> int:
    """Return how many positions' logits may exist at once."""
    return LIKELIHOOD.block_rows(device, signal.vocab_size)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Forbid TF32, which a training may have allowed: its ten bits of mantissa move scores by tenths of a nat."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
