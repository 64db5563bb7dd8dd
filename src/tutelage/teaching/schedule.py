"""The teachers over a stage: their weight, which falls to nothing, and their temperature.

Both are functions of the step alone, so that a resumed run repeats them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WeightSchedule:
    """The weight of a stage's teachers as a share of the whole, step by step; see `recipe.WeightScheduleSettings`."""

    kind: Literal["step", "linear", "cosine", "wsd", "ratio_linear"]
    start: int
    """The stage's first step."""
    over: int
    """Steps from there until they no longer teach."""
    warmup: int = 0
    """Of these, steps of the rise (`wsd`)."""
    decay: int = 0
    """Of these, steps of the fall (`wsd`)."""
    ratio: float = 1.0
    """Their whole weight over the text's (`ratio_linear`)."""

    @property
    def end(self) -> int:
        """The first step without teachers."""
        return self.start + self.over

    def share(self, step: int) -> float:
        """Return the share of a step of the stage, counted as steps of the run are: 0 from `end` on, above 0 before.

        The first step of a fall has the whole weight; the one at its end, the first without teachers, would have none.
        As with learning rates, the first step of a rise has 1/warmup.
        """
        at = step - self.start
        if at >= self.over:
            return 0.0
        left = 1 - at / self.over
        match self.kind:
            case "step":
                return 1.0
            case "linear":
                return left
            case "cosine":
                return 0.5 * (1 - math.cos(math.pi * left))
            case "wsd":
                rise = (at + 1) / self.warmup if self.warmup else 1.0
                return min(1.0, rise, (self.over - at) / self.decay)
            case "ratio_linear":
                # Of weights whose sum stays: w/(1-w) = ratio * left, over w at the start.
                return left * (1 + self.ratio) / (1 + self.ratio * left)

    def __str__(self) -> str:
        until = f"in the {self.over:,} steps from {self.start:,}"
        parts = {"step": f"whole {until}", "wsd": f"wsd {until}, rising in {self.warmup:,}, falling in {self.decay:,}"}
        return parts.get(self.kind, f"falls to 0 ({self.kind}) {until}")


@dataclass(frozen=True)
class TemperatureSchedule:
    """The temperature of a stage, step by step: `first` at its first step `start`, `last` from `start + over` on."""

    kind: Literal["linear", "cosine"]
    start: int
    over: int
    first: float
    last: float

    def at(self, step: int) -> float:
        """Return the temperature of a step, counted as steps of the run are."""
        left = max(0.0, 1 - (step - self.start) / self.over)
        if self.kind == "cosine":
            left = 0.5 * (1 - math.cos(math.pi * left))
        return self.last + (self.first - self.last) * left

    def __str__(self) -> str:
        return f"{self.first:g} to {self.last:g} ({self.kind}) in the {self.over:,} steps from {self.start:,}"
