"""Averages of a model's weights over training, which are evaluated and exported in place of the last weights.

`ema` is an exponential moving average whose memory grows with the run at first, so that it forgets the initial weights
(Polyak averaging with the warm-up of TensorFlow's `ExponentialMovingAverage`). `tail` is the plain mean over the last
share of a run, the weights themselves before (Izmailov et al., arXiv 1803.05407, at every step).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tutelage import recipe
from tutelage.training.sharding import held, reshard


class WeightAverage:
    """The averages of a learner's weights, shared out over processes as these are.

    Training never sees them: a run with averages takes the same steps as one without.
    """

    def __init__(self, learner: nn.Module, settings: recipe.Average, total: int) -> None:
        self._learner, self._settings, self._total = learner, settings, total
        # What this process holds of them.
        self._weights = [held(parameter) for parameter in learner.parameters() if parameter.requires_grad]
        self._averages = [torch.empty_like(weight) for weight in self._weights]
        self.take()

    @torch.no_grad()
    def take(self) -> None:
        """Begin anew with the weights as they are."""
        torch._foreach_copy_(self._averages, self._weights)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights in as they are after so many steps."""
        torch._foreach_lerp_(self._averages, self._weights, self.weight_of(step))

    def weight_of(self, step: int) -> float:
        """Return what the weights after so many steps weigh in the average then."""
        if self._settings.kind == "ema":
            return 1 - min(self._settings.decay, (1 + step) / (10 + step))
        return 1 / max(1, step - round(self._total * (1 - self._settings.share)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the learner have the averages for its weights inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # A forward pass may have left some weights whole.
        reshard(self._learner)
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)
