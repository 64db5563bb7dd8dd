"""What training one model with one seed needs to be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.signal import TeacherSource
from tutelage.training.objectives import Learner
from tutelage.training.plan import Plan


@dataclass(frozen=True)
class Job:
    """Everything that training one model with one seed needs.

    Attributes:
        name: of the model, for display.
        model: the recipe's model.
        seed: of weights and dropout.
        source: training batches, `batch_rows` each.
        val: held-out rows, in order.
        val_bytes_per_token: of the held-out text.
        plan: steps, stages, evaluations.
        milestones: steps whose checkpoints are kept.
        build: makes the model with its initial weights.
        teachers: makes the teachers of a stage by its index, having let go those it made before; nobody teaches in a
            stage without teachers, and in None.
        precision: `bf16` or `fp32`.
        selected: the batches of a stage by its index, where it learns from a selection of the rows; None where it
            reads on in `source`.
        heads: makes the heads that learn labels, for hidden states of a width; None where no labels are learned.
        task_weights: of each stage, what each head's mean loss weighs; empty where no labels are learned.
    """

    name: str
    model: recipe.Model
    seed: int
    source: BatchSource
    val: BatchSource
    val_bytes_per_token: float
    plan: Plan
    milestones: frozenset[int]
    build: Callable[[], LanguageModel]
    teachers: Callable[[int | None], TeacherSource | None]
    precision: str
    selected: Callable[[int], BatchSource | None] = lambda index: None
    heads: Callable[[int], TaskHeads | None] = lambda width: None
    task_weights: tuple[tuple[float, ...], ...] = ()

    def learner(self) -> Learner:
        """Make the model and its heads with their initial weights."""
        model = self.build()
        return Learner(model, self.heads(model.weight_VD.shape[1]))

    def reading(self, step: int) -> tuple[BatchSource, int]:
        """Return the batches that a step belongs to, and the step at which they began: a selection begins anew."""
        index = self.plan.stage_at(step)
        selected = self.selected(index)
        return (self.source, 0) if selected is None else (selected, self.plan.start_of(index))

    def __str__(self) -> str:
        """Write name and seed, as messages do."""
        return f"{self.name}[{self.seed}]"
