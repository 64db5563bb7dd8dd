"""Loss on text that was held out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tutelage.base.progress import progress
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.teaching.signal import DenseSignal
from tutelage.training.outcome import HeldOut

Predict = Callable[[Tensor, Tensor | None], DenseSignal]
"""Tokens and lengths in, the distributions of a model (or several) out."""


def held_out(
    predict: Predict,
    source: BatchSource,
    bytes_per_token: float,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
    label: str = "held-out loss",
) -> HeldOut | None:
    """Measure the loss over every row of a source once; None where `should_stop`, asked before every batch, says yes.

    `bytes_per_token` of the split gives bits per byte.
    """
    total, tokens = 0.0, 0
    # Not inference mode: weights of a sharded model that were first put together inside it could not be trained.
    with torch.no_grad(), progress(label, source.tokens_per_epoch, "tok") as bar:
        for batch in source.once():
            if should_stop():
                return None
            batch = batch.to(device)
            index = (batch.targets_BT != IGNORE).flatten().nonzero().squeeze(1)
            signal = predict(batch.tokens_BT, batch.lengths_B).at(index)
            total -= float(signal.target_log_probs(batch.targets_BT.flatten()[index]).sum(dtype=torch.float64))
            tokens += len(index)
            bar.advance(batch.token_count)
    loss = total / tokens
    # An untrained or broken model may exceed what a float's exponential holds.
    return HeldOut(loss, math.exp(min(loss, 700.0)), loss / math.log(2) / bytes_per_token, tokens)
