"""What a model cost, its teachers included.

A teacher is counted once and whole, however many students or seeds it served: without it none of them would exist.
Several seeds of one model that teach are several teachers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from tutelage.compare.summary import Models, ModelSummary, base_name


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingCost:
    """FLOPs and seconds of one model: the mean over its seeds, and its teachers' training."""

    flops: float | None
    """Its own training; None where it was not counted."""
    teacher_flops: float
    """The teachers' forward passes during it."""
    scoring_flops: float
    """The passes that scored rows for its selections."""
    teachers_training_flops: float
    """Training of teachers and scorers, their own teachers included, each once."""
    seconds: float | None
    """Wall time, teaching included."""
    seconds_teaching: float
    teachers_training_seconds: float
    uncounted: tuple[str, ...]
    """Teachers that came from elsewhere, whose training nobody counted here."""

    @property
    def total_flops(self) -> float | None:
        """Everything that had to be computed to get one such model; None where nothing was counted."""
        forward = self.teacher_flops + self.scoring_flops
        return ((self.flops or 0.0) + forward + self.teachers_training_flops) or None

    @property
    def total_seconds(self) -> float | None:
        """The same in wall time."""
        return ((self.seconds or 0.0) + self.teachers_training_seconds) or None


def cost_of(models: Models, name: str) -> TeachingCost:
    """Add up what one trained copy of a model cost; an ensemble costs what its members cost."""
    model = models[name]
    ancestors = _ancestors(models, name)
    known = [(models[one], count) for one, count in ancestors.items() if one in models]
    return TeachingCost(
        flops=_mean(model, "flops"),
        teacher_flops=_mean(model, "teacher_flops") or 0.0,
        scoring_flops=_mean(model, "scoring_flops") or 0.0,
        teachers_training_flops=sum(
            count * (_mean(teacher, key) or 0.0)
            for teacher, count in known
            for key in ("flops", "teacher_flops", "scoring_flops")
        ),
        seconds=_mean(model, "seconds"),
        seconds_teaching=_mean(model, "seconds_teaching") or 0.0,
        teachers_training_seconds=sum(count * (_mean(teacher, "seconds") or 0.0) for teacher, count in known),
        uncounted=tuple(one for one in ancestors if one not in models or models[one].outside),
    )


def sources_of(model: ModelSummary) -> list[str]:
    """Names of the models that a model needs: its teachers, or the members of an ensemble."""
    return list(dict.fromkeys(base_name(reference) for reference in [*model.teachers, *model.members]))


def is_labelled(model: ModelSummary) -> bool:
    """Whether a model learned labels beside its text."""
    return any(stage.get("tasks") for stage in model.objectives)


def _ancestors(models: Models, name: str) -> dict[str, int]:
    """Teachers and scorers, their teachers, and so on, with how many seeds of each are needed; `name` left out."""
    found: dict[str, set[str]] = {}
    waiting = _needs_of(models[name])
    for reference in waiting:  # which grows meanwhile
        source = base_name(reference)
        if source == name:
            continue
        if source not in found:
            waiting += _needs_of(models[source]) if source in models else []
        found.setdefault(source, set()).add(_seed_of(models, source, reference))
    return {source: len(seeds) for source, seeds in found.items()}


def _seed_of(models: Models, source: str, reference: str) -> str:
    """The seed that a reference means: the first one unless it names one."""
    if named := re.fullmatch(r"\[(\d+)\](@.*)?", reference.removeprefix(source)):
        return named[1]
    return next(iter(models[source].seeds), "0") if source in models else "0"


def _needs_of(model: ModelSummary) -> list[str]:
    return list(dict.fromkeys([*model.teachers, *model.members, *model.scorers]))


def _mean(model: ModelSummary, key: str) -> float | None:
    return mean_of(getattr(run, key) for run in model.seeds.values())


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; None where there are none."""
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
