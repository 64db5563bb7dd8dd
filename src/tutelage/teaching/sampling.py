"""A few tokens instead of a whole distribution: drawn without bias, or the most likely ones.

Draws are *systematic* (Madow 1944): N evenly spaced points, shifted together by one uniform number, are looked up in
the cumulative distribution. Each point by itself falls on token v with probability q(v), so the share of draws that
fell on v has q(v) as its mean, as with independent draws; but it is never further than 1/N from it, so its variance is
far smaller. Several sets shift the points against each other by equal steps: every set is unbiased, and all sets
together are one finer systematic draw.

Shapes: N positions, V vocabulary, S sets, K draws of a set.
"""

from __future__ import annotations

import torch
from torch import Tensor


def systematic(probabilities_NV: Tensor, uniforms_N: Tensor, draws: int, sets: int = 1) -> Tensor:
    """Draw tokens, each with share 1/K of its set.

    Args:
        probabilities_NV: distributions; they need not sum to exactly 1.
        uniforms_N: one random number in [0, 1) for each, float64.
        draws: K.
        sets: S.

    Returns:
        `(N, S, K)` token ids. A token of probability 0 is never drawn.
    """
    # Sums of 64k float32 would round away the tail.
    cumulative = probabilities_NV.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    shift_S = torch.arange(sets, dtype=torch.float64, device=total.device) / sets
    start_NS1 = (uniforms_N[:, None] + shift_S).remainder(1)[:, :, None]
    points = (start_NS1 + torch.arange(draws, dtype=torch.float64, device=total.device)) / draws
    # Rounding can put the last point on the very end, beyond the last token.
    points = torch.minimum(points.flatten(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True).view(-1, sets, draws)


def most_likely(probabilities_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ids of the k most likely tokens and their shares, which sum to 1, both `(N, k)`."""
    shares, ids = probabilities_NV.topk(k, -1)
    return ids, shares / shares.sum(-1, keepdim=True)
