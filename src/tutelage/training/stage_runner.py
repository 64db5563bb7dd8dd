"""What a step learns from: the stage's objectives, the rows it reads, and its teachers as long as they teach.

A stage whose teachers stop before its end has two phases, with and without them. Between phases teachers change:
those that no longer teach are released before others are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.progress import console
from tutelage.corpus.batches import Batch
from tutelage.teaching.prefetch import prefetching
from tutelage.teaching.signal import TeacherSource
from tutelage.teaching.teachers import Ensemble
from tutelage.training.fused import LossScales
from tutelage.training.job import Job
from tutelage.training.objectives import LossCounts, count, effective_weights, scales_for
from tutelage.training.parallel import Group
from tutelage.training.record import StepSettings
from tutelage.training.tasks import in_words


class StageRunner:
    """The stages of a run; go to a step before asking about it or its `teachers`."""

    def __init__(self, job: Job, group: Group) -> None:
        self.teachers: TeacherSource | None = None
        self._job, self._group = job, group
        self._custom = custom_names(job.model.stages)
        self._stage, self._taught = -1, False
        self._source, self._first = job.source, 0
        # The teachers' weight is written down where it changes.
        taught = {bool(stage.teachers) for stage in job.model.stages}
        self._weight_changes = bool(job.plan.weight_schedules) or len(taught) > 1

    @property
    def objectives(self) -> recipe.Objectives:
        """The stage's."""
        return self._job.model.stages[self._stage].objectives

    def go_to(self, step: int) -> None:
        """Change to the stage and the teachers of a step, if they are others than those of the step before."""
        phase, before = self._job.plan.phase_at(step), (self._stage, self._taught)
        if phase == before:
            return
        self._stage, self._taught = phase
        self._source, self._first = self._job.reading(step)
        self._change_teachers(step)
        if self._stage != before[0] and self._group.is_main:
            self._announce()

    def batch(self, step: int) -> Batch:
        """Return the rows of a step."""
        return self._source.batch(step - self._first)

    def count(self, batch: Batch) -> LossCounts:
        """Count a batch's targets; without teachers, none of the divergence."""
        found = count(batch)
        mine = self.objectives.custom or {}
        found = replace(found, custom=tuple(found.target * (name in mine) for name in self._custom))
        return found if self.teachers is not None else replace(found, distilled=0, distilled_rows=0)

    def scales(self, step: int, counts: LossCounts) -> LossScales:
        """Return the factors of a step's sums."""
        plan = self._job.plan
        tasks = self._job.task_weights[self._stage] if self._job.task_weights else ()
        return scales_for(self.objectives, counts, plan.share_at(step), plan.temperature_at(step), tasks, self._custom)

    def settings(self, step: int, rate: float) -> StepSettings:
        """Return what the log says of a step beside what was measured; `rate` is the learning rate."""
        share, temperature = self._job.plan.share_at(step), self._job.plan.temperature_at(step)
        distill = self.objectives.distill
        weight = (distill.weight * share if distill else 0.0) if self._weight_changes else None
        gated = self.teachers is not None and distill is not None and distill.gate is not None
        return StepSettings(rate, weight, temperature if share else None, gated)

    def _change_teachers(self, step: int) -> None:
        taught = self._taught and bool(self._job.model.stages[self._stage].teachers)
        released = self.teachers is not None and not taught
        self.teachers = None  # before others take their place in memory
        teachers = self._job.teachers(self._stage if taught else None)
        if released:
            machine.release_memory()
            if self._group.is_main:
                console.print(f"{self._job}: teachers released after step {step}")
        if isinstance(teachers, Ensemble):
            self._group.place(teachers, self._job.model.sharding, self._job.precision)
            cut = partial(micro_batches, self._job, self._group)
            teachers = prefetching(teachers, self._source, step - self._first, cut)
        elif teachers is not None:
            teachers.to(self._group.device)
        self.teachers = teachers

    def _announce(self) -> None:
        job, stage = self._job, self._job.model.stages[self._stage]
        taught = f", taught by {', '.join(map(str, stage.teachers))}" if stage.teachers else ""
        which = f" stage {self._stage + 1} of {len(job.plan.ends)}" if len(job.plan.ends) > 1 else ""
        console.print(f"{job}{which}: {effective_weights(stage.objectives, job.source.row_length)}{taught}")
        if job.source.labels is not None and job.task_weights:
            weights = job.task_weights[self._stage]
            named = {task.name: weight for task, weight in zip(job.source.labels.tasks, weights, strict=True)}
            console.print(f"{job}{which}: labels: {in_words(named, job.source.labels.tasks)}")
        for what, course in (("weight", job.plan.weight_schedules), ("temperature", job.plan.temperature_schedules)):
            if self._stage in course:
                console.print(f"{job}{which}: the teachers' {what}: {course[self._stage]}")


def custom_names(stages: Sequence[recipe.Stage]) -> tuple[str, ...]:
    """List the user's functions that stages learn, each once."""
    return tuple(dict.fromkeys(name for stage in stages for name in stage.objectives.custom or ()))


def micro_batches(job: Job, group: Group, batch: Batch) -> list[Batch]:
    """Cut this process's rows of a step into micro-batches."""
    return group.micro_batches(batch, job.model.optim.micro_batch_rows or job.model.optim.batch_rows)
