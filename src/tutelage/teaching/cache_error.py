"""How far a cache is from live teaching, on a sample of its rows.

They are read in other batches than those that filled it, as in training: differences of rounding between batches count.

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
from tutelage.teaching.signal import Signal


@torch.no_grad()
def error_of(cache: TeacherCache, epochs: range) -> dict[str, float]:
    """Measure an open cache, filled for some epochs at least in part, against its live teachers.

    Returns `tokens` measured, and for `hidden` `kl`: Kullback-Leibler divergence from live to kept teachers in nats a
    token, at temperature 1. For the others, which are compared as distributions (their error is, up to factors, that
    of the gradient in the student's logits, whatever the student):

    - `noise`: root mean square of the error's norm at a token, over that of a single label drawn from the teachers,
      which is what a text is: 1/sqrt(K) for independent draws. `noise_all_sets`: of all sets' mean.
    - `bias`: total variation between the mean distributions over all tokens; `bias_by_chance`: what it would be on
      average if there were no bias and errors of tokens were independent.
    - `missing_mass` (`top_k`): probability of the tokens that were left out.
    """
    sums: dict[str, Tensor] = {}
    for batch in cache.sample(epochs, rows=4, tokens=8192):
        index = batch.real_BT.flatten().nonzero().squeeze(1)
        live = cache.live_signal(batch).at(index)
        kept = [signal.at(index) for signal in _signals(cache, batch)]
        for part, logits_NV in live.tiles(cache.encoding.temperature):
            found = cache.encoding.error(F.log_softmax(logits_NV, -1), [signal.at(part) for signal in kept])
            for name, value in found.items():
                sums[name] = sums[name] + value if name in sums else value
    return _facts(sums, cache.encoding.biased) if sums else {}


def _signals(cache: TeacherCache, batch: Batch) -> list[Signal]:
    """Return what the cache holds of a batch: one signal for every set."""
    sets = 1 if cache.source.varies else cache.encoding.sets
    # Which set is read follows from the epoch.
    each = [replace(batch, epochs_B=torch.full_like(batch.epochs_B, e)) for e in range(sets)] if sets > 1 else [batch]
    return [cache.signal(one, cache.precision) for one in each]


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
