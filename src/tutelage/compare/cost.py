"""What a model cost, its teachers included.

A teacher is counted once and whole, however many students or seeds it served: without it none of them would exist.
"""

from __future__ import annotations

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
    known = [models[ancestor] for ancestor in ancestors if ancestor in models]
    return TeachingCost(
        flops=_mean(model, "flops"),
        teacher_flops=_mean(model, "teacher_flops") or 0.0,
        scoring_flops=_mean(model, "scoring_flops") or 0.0,
        teachers_training_flops=sum(
            _mean(teacher, key) or 0.0 for teacher in known for key in ("flops", "teacher_flops", "scoring_flops")
        ),
        seconds=_mean(model, "seconds"),
        seconds_teaching=_mean(model, "seconds_teaching") or 0.0,
        teachers_training_seconds=sum(_mean(teacher, "seconds") or 0.0 for teacher in known),
        uncounted=tuple(ancestor for ancestor in ancestors if ancestor not in models),
    )


def sources_of(model: ModelSummary) -> list[str]:
    """Names of the models that a model needs: its teachers, or the members of an ensemble."""
    return list(dict.fromkeys(base_name(reference) for reference in [*model.teachers, *model.members]))


def is_labelled(model: ModelSummary) -> bool:
    """Whether a model learned labels beside its text."""
    return any(stage.get("tasks") for stage in model.objectives)


def _ancestors(models: Models, name: str) -> list[str]:
    """Teachers and scorers, their teachers, and so on; each once, `name` itself left out."""
    found: dict[str, None] = {}
    waiting = _needs_of(models[name])
    while waiting:
        source = waiting.pop(0)
        if source in found or source == name:
            continue
        found[source] = None
        waiting += _needs_of(models[source]) if source in models else []
    return list(found)


def _needs_of(model: ModelSummary) -> list[str]:
    return list(dict.fromkeys([*sources_of(model), *map(base_name, model.scorers)]))


def _mean(model: ModelSummary, key: str) -> float | None:
    return mean_of(getattr(run, key) for run in model.seeds.values())


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; None where there are none."""
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
