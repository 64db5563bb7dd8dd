"""How far a cache is from live teaching, on a sample of its rows.

The rows are taken in other batches than those that filled the cache, as in training, so that differences of rounding
between batches are part of the error.

Shapes: N positions, V vocabulary, S sets, K draws or kept tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import Batch
from tutelage.teaching.cache import TeacherCache
from tutelage.teaching.encoding import Sparse, TopK
from tutelage.teaching.signal import DenseSignal, SparseSignal

SAMPLE_TOKENS = 8192
SAMPLE_ROWS = 4


@torch.no_grad()
def error_of(cache: TeacherCache, epochs: range) -> dict[str, float]:
    """Measure a cache against its live teachers.

    Args:
        cache: open, and filled at least in part.
        epochs: those it is filled for.

    Returns:
        `tokens` measured, and for `hidden` `kl`: Kullback-Leibler divergence from live to kept teachers in nats a
        token, at temperature 1. For the others, which are compared as distributions (their error is, up to factors,
        that of the gradient in the student's logits, whatever the student):

        - `noise`: root mean square of the error's norm at a token, over that of a single label drawn from the
          teachers, which is what a text is: 1/sqrt(K) for independent draws. `noise_all_sets`: of all sets' mean.
        - `bias`: total variation between the mean distributions over all tokens; `bias_by_chance`: what it would be
          on average if there were no bias and errors of tokens were independent.
        - `missing_mass` (`top_k`): probability of the tokens that were left out.
    """
    sums: dict[str, Tensor] = {}
    for batch in cache.sample(epochs, SAMPLE_ROWS, SAMPLE_TOKENS):
        index = batch.real_BT.flatten().nonzero().squeeze(1)
        live = cache.live_signal(batch).at(index)
        kept = [signal.at(index) for signal in _signals(cache, batch)]
        temperature = getattr(cache.encoding, "temperature", 1.0)
        for part, logits_NV in live.tiles(temperature):
            log_q_NV = F.log_softmax(logits_NV, -1)
            first, *others = [signal.at(part) for signal in kept]
            if isinstance(first, DenseSignal):
                found = _dense(log_q_NV, first)
            else:
                found = _sparse(log_q_NV.exp(), [first, *(s for s in others if isinstance(s, SparseSignal))])
            for name, value in found.items():
                sums[name] = sums[name] + value if name in sums else value
    return _facts(sums, isinstance(cache.encoding, TopK)) if sums else {}


def _signals(cache: TeacherCache, batch: Batch) -> list[DenseSignal | SparseSignal]:
    """Return what the cache holds of a batch: one signal for every set."""
    sets = cache.encoding.sets if isinstance(cache.encoding, Sparse) and not cache.source.varies else 1
    # Which set is read follows from the epoch.
    batches = (
        [replace(batch, epochs_B=torch.full_like(batch.epochs_B, e)) for e in range(sets)] if sets > 1 else [batch]
    )
    return [cache.signal(each, cache.precision) for each in batches]


def _dense(log_q_NV: Tensor, kept: DenseSignal) -> dict[str, Tensor]:
    difference = log_q_NV.double() - kept.log_probs().double()
    kl = (log_q_NV.double().exp() * difference).sum()
    return {"tokens": torch.tensor(float(len(log_q_NV))), "kl": kl}


def _sparse(q_NV: Tensor, kept: list[SparseSignal]) -> dict[str, Tensor]:
    errors = [torch.zeros_like(q_NV).scatter_add_(1, s.ids_NK, s.shares_NK).sub_(q_NV) for s in kept]
    mean = torch.stack(errors).mean(0)
    return {
        "tokens": torch.tensor(float(len(q_NV))),
        "label": (1 - q_NV.square().sum(1)).sum(dtype=torch.float64),
        "one": torch.stack([error.square().sum(dtype=torch.float64) for error in errors]).mean(),
        "sum_V": mean.sum(0, dtype=torch.float64),
        "squares_V": mean.square().sum(0, dtype=torch.float64),
        "missing": (1 - q_NV.gather(1, kept[0].ids_NK).sum(1)).sum(dtype=torch.float64),
    }


def _facts(sums: dict[str, Tensor], top_k: bool) -> dict[str, float]:
    tokens = float(sums["tokens"])
    if "kl" in sums:
        return {"tokens": tokens, "kl": float(sums["kl"]) / tokens}
    label = sums["label"].clamp_min(1e-12)
    facts = {
        "tokens": tokens,
        "noise": float((sums["one"] / label).sqrt()),
        "noise_all_sets": float((sums["squares_V"].sum() / label).sqrt()),
        "bias": float(sums["sum_V"].abs().sum()) / tokens / 2,
        # The mean size of a normal number is sqrt(2 / pi) of its deviation.
        "bias_by_chance": float(sums["squares_V"].sqrt().sum()) * math.sqrt(2 / math.pi) / tokens / 2,
    }
    return facts | ({"missing_mass": float(sums["missing"]) / tokens} if top_k else {})
