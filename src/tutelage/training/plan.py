"""How long a model trains, and which stage each step belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.errors import UserError
from tutelage.word_counts import ALMOST, write_words


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        total: optimizer steps in all.
        ends: the step at which each stage is over.
        evaluations: steps after which `val` is measured, the last one included.
        words: numbers of words at which a checkpoint is kept, in rising order, with the step that reaches them.
    """

    total: int
    ends: tuple[int, ...]
    evaluations: frozenset[int]
    words: Mapping[int, int] = field(default_factory=dict)

    def stage_at(self, step: int) -> int:
        """Return the index of the stage that a step (counted from 0) belongs to."""
        return next(index for index, end in enumerate(self.ends) if step < end)


def plan(
    name: str,
    model: recipe.Model,
    source: BatchSource,
    words_per_token: float,
    milestones: frozenset[int] = frozenset(),
    words: frozenset[int] = frozenset(),
) -> Plan:
    """Turn lengths and spans into steps.

    Args:
        name: of the model, for messages.
        model: the recipe's model.
        source: its training batches.
        words_per_token: of the training split.
        milestones: steps whose checkpoints others need; checked, and saved by the loop.
        words: numbers of words seen at which others need a checkpoint; likewise.

    Raises:
        UserError: a length below one step, stages that leave no room for each other, or a needed checkpoint beyond the
            end.
    """
    per_step = source.tokens_per_epoch / source.steps_per_epoch
    if model.steps is not None:
        total, tokens = model.steps, model.steps * per_step
    elif model.epochs is not None:
        total, tokens = int(model.epochs * source.steps_per_epoch), model.epochs * source.tokens_per_epoch
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
    reached: dict[int, int] = {}
    scheduled = model.checkpoint_words if isinstance(model.checkpoints, str) else ()
    for count in sorted({*model.checkpoint_words, *words}):
        step = source.step_at(count / words_per_token)
        enough = ALMOST * count if count in scheduled else count
        # A length in words, tokens or epochs is rounded down to whole steps: the last one stands for the rest of it.
        if step <= total or enough <= tokens * words_per_token:
            reached[count] = min(step, total)
        elif count in words:
            seen = round(tokens * words_per_token)
            raise UserError(f"'{name}@words-{write_words(count)}' is asked for, but {name} sees only {seen:,} words")
    spaced = {round(total * (i + 1) / model.evaluations) for i in range(model.evaluations)} - {0}
    return Plan(total, tuple(ends), frozenset(spaced | {total}), reached)
