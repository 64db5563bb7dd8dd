"""Gates: a weight of the teachers between 0 and 1 for each token. What they give up, the text takes up.

Entropies and losses are those at the temperature of the divergence, in nats. No gradient goes through a weight.

Shapes: B rows, T tokens, N positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage import recipe
from tutelage.teaching.encoding import tiles
from tutelage.teaching.signal import Signal, SparseSignal


@dataclass(frozen=True)
class SkipCertain:
    """1, but 0 at each row's share of lowest teacher entropy (Goyal et al. 2025, who skip 15 %).

    Within a row, so that a token's weight does not depend on which rows share its micro-batch.
    """

    share: float

    def weights(self, entropy_BT: Tensor, distill_mask_BT: Tensor) -> Tensor:
        """Return 0 or 1 for each position, `(B, T)` float32; the number skipped is rounded down, the first of equals
        goes first."""
        entropy_BT = entropy_BT.masked_fill(~distill_mask_BT, math.inf)
        rank_BT = entropy_BT.argsort(stable=True, dim=-1).argsort(-1)
        # A share such as 0.29 of 100 is a little less than 29 in floating point.
        skipped_B1 = (distill_mask_BT.sum(-1, keepdim=True).double() * self.share + 1e-9).floor()
        return rank_BT.ge(skipped_B1).float()


@dataclass(frozen=True)
class Advantage:
    """Higher where the teachers predict the right token better than the student: sigmoid of the difference."""

    scale: float

    def weights(self, student_N: Tensor, teacher_N: Tensor) -> Tensor:
        """Return the weights, `(N,)`, from the losses of both on the right tokens."""
        return torch.sigmoid((student_N - teacher_N) / self.scale)


@dataclass(frozen=True)
class Confidence:
    """Higher where the teachers are surer: 1 less their entropy's share of the largest possible one."""

    def weights(self, entropy_N: Tensor, vocab_size: int) -> Tensor:
        """Return the weights, `(N,)`."""
        return (1 - entropy_N / math.log(vocab_size)).clamp(0, 1)


Gate = SkipCertain | Advantage | Confidence


def gate_of(settings: recipe.GateSettings | None) -> Gate | None:
    """Return what a recipe asks for."""
    match settings:
        case None:
            return None
        case recipe.GateSettings(kind="skip_certain"):
            return SkipCertain(settings.share)
        case recipe.GateSettings(kind="advantage"):
            return Advantage(settings.scale)
        case _:
            return Confidence()


def entropies(signal: Signal, temperature: float) -> Tensor:
    """Return the teachers' entropy at each position, `(N,)` float32; the signal is flat, see `.at`."""
    if isinstance(signal, SparseSignal):
        return signal.entropy_N
    entropy_N = torch.empty(len(signal.hidden[0]), device=signal.hidden[0].device)
    for part, logits in tiles(signal, temperature):
        p = torch.softmax(logits, -1)
        # The likeliest token has p = exp(z - logsumexp), and its logarithm is exact.
        entropy_N[part] = logits.amax(-1) - p.amax(-1).log() - p.mul_(logits).sum(-1)
    return entropy_N
