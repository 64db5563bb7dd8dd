"""How long a model trains, and which stage each step belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.errors import UserError


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        total: optimizer steps in all.
        ends: the step at which each stage is over.
        evaluations: steps after which `val` is measured, the last one included.
    """

    total: int
    ends: tuple[int, ...]
    evaluations: frozenset[int]

    def stage_at(self, step: int) -> int:
        """Return the index of the stage that a step (counted from 0) belongs to."""
        return next(index for index, end in enumerate(self.ends) if step < end)


def plan(
    name: str,
    model: recipe.Model,
    source: BatchSource,
    words_per_token: float,
    milestones: frozenset[int] = frozenset(),
) -> Plan:
    """Turn lengths and spans into steps.

    Args:
        name: of the model, for messages.
        model: the recipe's model.
        source: its training batches.
        words_per_token: of the training split.
        milestones: steps whose checkpoints others need; checked, and saved by the loop.

    Raises:
        UserError: a length below one step, or stages that leave no room for each other.
    """
    per_step = source.tokens_per_epoch / source.steps_per_epoch
    if model.steps is not None:
        total = model.steps
    elif model.epochs is not None:
        total = int(model.epochs * source.steps_per_epoch)
    else:
        tokens = model.tokens if model.tokens is not None else (model.words or 0) / words_per_token
        total = int(tokens / per_step)
    if total < 1:
        raise UserError(
            f"models.{name}: its length is less than one step of {model.optim.batch_rows} rows (an epoch "
            f"has {source.steps_per_epoch:.2f} steps); train longer or lower optim.batch_rows"
        )
    ends: list[int] = []
    for stage in model.stages:
        start = ends[-1] if ends else 0
        if stage.span is None:
            end = total
        elif isinstance(stage.span, int):
            end = start + stage.span
        else:
            end = start + round(float(stage.span.rstrip("%")) / 100 * total)
        if end <= start or end > total:
            raise UserError(
                f"models.{name}.stages: a span of {stage.span or 'the rest'} after step {start} does not fit "
                f"into {total} steps"
            )
        ends.append(end)
    if milestones and max(milestones) > total:
        raise UserError(f"a teacher is '{name}@step-{max(milestones)}', but {name} has only {total} steps")
    spaced = {round(total * (i + 1) / model.evaluations) for i in range(model.evaluations)} - {0}
    return Plan(total, tuple(ends), frozenset(spaced | {total}))
