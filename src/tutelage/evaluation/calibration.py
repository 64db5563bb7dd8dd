"""Expected calibration error: does a model that is 70 % sure of a token find it right 70 % of the time?

For every token to be predicted, the most likely one is the prediction and its probability the confidence. Predictions
are sorted into bins of equal width by confidence; the error is the mean distance of a bin's accuracy from its mean
confidence, weighted by how many predictions it has (Naeini et al. 2015; Guo et al. 2017).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Floats, Precision
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.likelihood.batching import logit_rows
from tutelage.teaching.signal import DenseSignal
from tutelage.teaching.teachers import Ensemble

BINS = 15
"""As Guo et al. have it."""


def calibration(
    ensemble: Ensemble, source: BatchSource, device: torch.device, precision: Precision = "fp32", bins: int = BINS
) -> MeasuredResult:
    """Measure a model's calibration over every row of held-out text once; logits exist for some positions at a time.

    The rows of `source` are in order, unshuffled; a masked model's have masked tokens. `bf16` runs the models under
    autocast; the output layer stays in float32.

    Returns:
        `error` (a share from 0 to 1, lower is better), `accuracy` of the most likely token and mean `confidence`;
        `predictions` holds the table of bins: `low`, `high`, `n`, `accuracy`, `confidence`.

    Raises:
        UserError: nothing to predict, or a model that gives no probabilities.
    """
    totals = np.zeros((bins, 3))
    with torch.inference_mode(), progress("calibration", source.tokens_per_epoch, "tok") as bar:
        for batch in source.once():
            batch = batch.to(device)
            targets = batch.targets_BT.flatten()
            index_M = (targets != IGNORE).nonzero().squeeze(1)
            signal = ensemble.dense_signal(batch.tokens_BT, batch.lengths_B, precision)
            totals += _count(signal, index_M, targets[index_M], bins)
            bar.advance(batch.token_count)
    count, right, sure = totals.sum(0)
    if not count:
        raise UserError("there is no token to predict in this text: calibration cannot be measured")
    if not np.isfinite(sure):
        raise UserError("the model's probabilities are not numbers: look whether its weights are finite")
    error, n = float(np.abs(totals[:, 1] - totals[:, 2]).sum() / count), int(count)
    values = {
        "error": MeasuredValue(error, "share", better="lower", n=n, note=f"{bins} bins of equal width"),
        "accuracy": MeasuredValue(float(right / count), "accuracy", n=n),
        "confidence": MeasuredValue(float(sure / count), "share", n=n, note="mean; nearest to the accuracy is best"),
    }
    return MeasuredResult("calibration", f"ECE, {bins} bins", "error", values, {"bins": _rows(totals)})


def _count(signal: DenseSignal, index_M: Tensor, targets_M: Tensor, bins: int) -> Floats:
    """By bin: predictions, right ones, and the sum of confidences, `(bins, 3)`."""
    totals = torch.zeros(bins, 3, dtype=torch.float64, device=index_M.device)
    rows = logit_rows(signal, index_M.device.type)
    for start in range(0, len(index_M), rows):
        picked = signal.at(index_M[start : start + rows])
        exact = replace(picked, hidden=tuple(hidden.float() for hidden in picked.hidden))
        log_p, predicted = exact.log_probs().max(-1)
        sure = log_p.exp().double()
        right = (predicted == targets_M[start : start + rows]).double()
        # A confidence of exactly 1 belongs to the last bin; what is no number goes there too, to be told.
        bin_M = (sure * bins).nan_to_num(bins - 1.0).long().clamp(max=bins - 1)
        totals.index_add_(0, bin_M, torch.stack([torch.ones_like(sure), right, sure], 1))
    return totals.cpu().numpy()


def _rows(totals: Floats) -> list[dict[str, float | int | None]]:
    width = 1 / len(totals)
    return [
        {"low": index * width, "high": (index + 1) * width, "n": int(count),
         "accuracy": right / count if count else None, "confidence": sure / count if count else None}
        for index, (count, right, sure) in enumerate(totals.tolist())
    ]  # fmt: skip


def _calibration(context: Context) -> MeasuredResult:
    if context.held_out is None:
        raise UserError("evaluation 'calibration' is measured on a recipe's held-out text, and there is no recipe here")
    return calibration(context.ensemble, context.held_out(), context.models.device, context.precision)


CALIBRATION = Measurement(_calibration, needs=frozenset({"held_out"}))
