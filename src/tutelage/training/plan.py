"""How long a model trains, which stage each step belongs to, and what the teachers weigh in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource
from tutelage.recipe.words import ALMOST, write_words
from tutelage.teaching.schedule import TemperatureSchedule, WeightSchedule


@dataclass(frozen=True)
class Plan:
    """The optimizer steps of a run."""

    total: int
    ends: tuple[int, ...]
    """The step at which each stage is over."""
    evaluations: frozenset[int]
    """Steps after which `val` is measured, the last one included."""
    words: Mapping[int, int] = field(default_factory=dict)
    """Numbers of words at which a checkpoint is kept, in rising order, with the step that reaches them."""
    weight_schedules: Mapping[int, WeightSchedule] = field(default_factory=dict)
    """The course of the teachers' weight, for stages where it changes."""
    temperature_schedules: Mapping[int, TemperatureSchedule] = field(default_factory=dict)
    """The course of the temperature, likewise."""

    def stage_at(self, step: int) -> int:
        """Return the index of the stage that a step (counted from 0) belongs to."""
        return next(index for index, end in enumerate(self.ends) if step < end)

    def start_of(self, stage: int) -> int:
        """Return the first step of a stage."""
        return self.ends[stage - 1] if stage else 0

    def taught_until(self, stage: int) -> int:
        """Return the first step without a stage's teachers: where it ends, if not before."""
        return self.weight_schedules[stage].end if stage in self.weight_schedules else self.ends[stage]

    def phase_at(self, step: int) -> tuple[int, bool]:
        """Return the stage of a step, and whether its teachers, if it has any, still teach."""
        stage = self.stage_at(step)
        return stage, step < self.taught_until(stage)

    def share_at(self, step: int) -> float:
        """Return the teachers' weight at a step as a share of the whole."""
        schedule = self.weight_schedules.get(self.stage_at(step))
        return schedule.share(step) if schedule else 1.0

    def temperature_at(self, step: int) -> float | None:
        """Return the temperature at a step where it changes; None where the recipe's number stands."""
        schedule = self.temperature_schedules.get(self.stage_at(step))
        return schedule.at(step) if schedule else None


@dataclass(frozen=True)
class Scale:
    """Turns written lengths into steps: `total` of the run, so many `tokens` in each."""

    total: int
    tokens: float
    words_per_token: float

    def steps(self, written: str | int) -> int:
        """Return the steps of a length, see `recipe.read_length`, rounded."""
        length = recipe.read_length(written)
        match length.unit:
            case "steps":
                return int(length.amount)
            case "share":
                return round(length.amount * self.total)
            case "tokens":
                return round(length.amount / self.tokens)
            case "words":
                return round(length.amount / self.words_per_token / self.tokens)


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
        model: the recipe's.
        source: its training batches.
        words_per_token: of the training split.
        milestones: steps whose checkpoints others need; checked here, and saved by the loop.
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
        raise UserError(f"models.{name}: its length is less than one step of {model.optim.batch_rows} rows (an epoch "
                        f"has {source.steps_per_epoch:.2f} steps); train longer or lower optim.batch_rows")  # fmt: skip
    scale = Scale(total, per_step, words_per_token)
    ends: list[int] = []
    for stage in model.stages:
        start = ends[-1] if ends else 0
        end = total if stage.span is None else start + scale.steps(stage.span)
        if end <= start or end > total:
            span = f"a span of {stage.span or 'the rest'} after step {start}"
            raise UserError(f"models.{name}.stages: {span} does not fit into {total} steps")
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
    weight_schedules, temperature_schedules = {}, {}
    for index, (stage, start, end) in enumerate(zip(model.stages, (0, *ends), ends, strict=False)):
        place, distill = f"models.{name}.stages.{index}.objectives.distill", stage.objectives.distill
        if distill is None:
            continue
        if distill.schedule is not None:
            weight_schedules[index] = _weight_schedule(f"{place}.schedule", stage.objectives, scale, start, end)
            end = weight_schedules[index].end
        if isinstance(course := distill.temperature, recipe.TemperatureScheduleSettings):
            what = "the time in which the teachers teach"
            over = _steps(f"{place}.temperature.over", course.over, scale, end - start, what)
            temperature_schedules[index] = TemperatureSchedule(course.kind, start, over, course.start, course.end)
    return Plan(total, tuple(ends), frozenset(spaced | {total}), reached, weight_schedules, temperature_schedules)


def _weight_schedule(place: str, terms: recipe.Objectives, scale: Scale, start: int, end: int) -> WeightSchedule:
    distill, text = terms.distill, terms.next_token or terms.masked
    assert distill is not None
    assert text is not None
    settings = distill.schedule
    assert settings is not None
    over = _steps(f"{place}.over", settings.over, scale, end - start, "the stage")
    if settings.kind == "step" and start + over == scale.total:
        raise UserError(
            f"{place}: kind=step over={settings.over} never ends: the teacher would teach to the last of {scale.total} "
            "steps; shorten `over`, or leave `schedule` out if that is meant"
        )
    warmup = 0 if settings.warmup is None else _steps(f"{place}.warmup", settings.warmup, scale, over, "`over`")
    decay = max(1, round(over / 5))
    if settings.decay is not None:
        decay = _steps(f"{place}.decay", settings.decay, scale, over, "`over`")
    if settings.kind == "wsd" and warmup + decay > over:
        raise UserError(
            f"{place}: a warmup of {warmup} steps and a decay of {decay} overlap, since `over` has {over} steps; "
            "shorten one of the two, or lengthen `over`"
        )
    return WeightSchedule(settings.kind, start, over, warmup, decay, distill.weight / text.weight)


def _steps(place: str, written: str | int | None, scale: Scale, most: int, what: str) -> int:
    """Return the steps of a length within another one, all of that unless given."""
    if written is None:
        return most
    steps = scale.steps(written)
    if steps < 1:
        raise UserError(f"{place}={written} is less than one of {scale.total} steps; lengthen it")
    if steps > most:
        raise UserError(
            f"{place}={written} is {steps} steps, but {what} has only {most}, so that it would never end; shorten it"
        )
    return steps
