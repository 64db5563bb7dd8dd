"""Gates: a weight of the teachers between 0 and 1 for each token. What they give up, the text takes up.

Entropies and losses are those at the temperature of the divergence, in nats. No gradient goes through a weight. A new
gate is a class like these, a line in `GATES`, and its name in `recipe.GateSettings`.

Shapes: B rows, T tokens, N positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tutelage.corpus.batches import IGNORE


class TeacherView(Protocol):
    """What a gate may ask about the teachers; a `TeacherTile` is one."""

    def entropy(self) -> Tensor:
        """Return their entropy, `(N,)`."""

    def loss(self, gold_n: Tensor) -> Tensor:
        """Return their loss on the targets, `(N,)`."""


class Gate:
    """Gives the teachers their weight at each token, from one of two views of them."""

    by_row: ClassVar[bool] = False
    """Whether it compares the tokens of a row (`at_rows`, before the loss) or takes each by itself (`at_tokens`)."""

    def at_rows(self, entropy_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the weights, `(B, T)` float32, given the teachers' entropy and where there is a divergence."""
        raise NotImplementedError

    def at_tokens(self, teachers: TeacherView, student_N: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
        """Return the weights, `(N,)`, given the student's loss on the targets, some of which may be `IGNORE`."""
        raise NotImplementedError


@dataclass(frozen=True)
class SkipCertain(Gate):
    """1, but 0 at each row's share of lowest teacher entropy (Goyal et al. 2025, who skip 15 %).

    Within a row, so that a token's weight does not depend on which rows share its micro-batch.
    """

    share: float
    by_row: ClassVar[bool] = True

    def at_rows(self, entropy_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """See `Gate`: 0 or 1; the number skipped is rounded down, and of equals the first is skipped."""
        entropy_BT = entropy_BT.masked_fill(~mask_BT, math.inf)
        rank_BT = entropy_BT.argsort(stable=True, dim=-1).argsort(-1)
        # A share such as 0.29 of 100 is a little less than 29 in floating point.
        skipped_B1 = (mask_BT.sum(-1, keepdim=True).double() * self.share + 1e-9).floor()
        return rank_BT.ge(skipped_B1).float()


@dataclass(frozen=True)
class Advantage(Gate):
    """Higher where the teachers predict the right token better than the student: sigmoid of the difference."""

    scale: float

    def at_tokens(self, teachers: TeacherView, student_N: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
        known_N = targets_N != IGNORE
        # Where the text gives no answer, only the teachers can be learned from.
        return self.weights(student_N, teachers.loss(targets_N.clamp_min(0))).where(known_N, 1.0)

    def weights(self, student_N: Tensor, teacher_N: Tensor) -> Tensor:
        """Return the weights, `(N,)`, from the losses of both on the right tokens."""
        return torch.sigmoid((student_N - teacher_N) / self.scale)


@dataclass(frozen=True)
class Confidence(Gate):
    """Higher where the teachers are surer: 1 less their entropy's share of the largest possible one."""

    def at_tokens(self, teachers: TeacherView, student_N: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
        return self.weights(teachers.entropy(), vocab_size)

    def weights(self, entropy_N: Tensor, vocab_size: int) -> Tensor:
        """Return the weights, `(N,)`."""
        return (1 - entropy_N / math.log(vocab_size)).clamp(0, 1)


GATES: dict[str, Callable[[float, float], Gate]] = {
    "skip_certain": lambda share, scale: SkipCertain(share),
    "advantage": lambda share, scale: Advantage(scale),
    "confidence": lambda share, scale: Confidence(),
}
"""By name, from the numbers `share` and `scale` of a recipe."""
