"""What training one model with one seed needs to be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.teaching.signal import TeacherSource
from tutelage.training.plan import Plan


@dataclass(frozen=True)
class Job:
    """Everything that training one model with one seed needs."""

    name: str
    model: recipe.Model
    seed: int
    """Of weights and dropout."""
    source: BatchSource
    val: BatchSource
    """Held-out rows, in order."""
    val_bytes_per_token: float
    plan: Plan
    milestones: frozenset[int]
    """Steps whose checkpoints are kept."""
    teachers: Callable[[int | None], TeacherSource | None]
    """Loads the teachers of a stage by its index, once those of the stage before are released; None in a stage without
    teachers, and for None. A function, since teachers take memory while they teach only."""
    precision: str
    selected: Mapping[int, BatchSource] = field(default_factory=dict)
    """The batches of stages, by index, that learn from a selection of the rows; others read on in `source`."""
    task_weights: tuple[tuple[float, ...], ...] = ()
    """Of each stage, what each head's mean loss weighs; empty where no labels are learned."""

    def autocast(self, device: torch.device) -> torch.autocast:
        """Compute in the job's precision on a device."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def reading(self, step: int) -> tuple[BatchSource, int]:
        """Return the batches that a step belongs to, and the step at which they began: a selection begins again."""
        index = self.plan.stage_at(step)
        selected = self.selected.get(index)
        return (self.source, 0) if selected is None else (selected, self.plan.start_of(index))

    def __str__(self) -> str:
        return f"{self.name}[{self.seed}]"
