"""How each student stands against each of its controls, the strongest control first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from tutelage.compare.comparisons import student_and_control
from tutelage.compare.cost import mean_of
from tutelage.compare.metrics import values_of
from tutelage.compare.summary import Summary, base_name
from tutelage.compare.summary_pairs import Comparison

_FIRST = {"test.loss": 0, "test.bits_per_byte": 1}


@dataclass(frozen=True, slots=True)
class Standing:
    """A student against one control, on the measure by which the student is judged."""

    student: str
    control: str
    entry: Comparison | None
    """Student minus control; None where the two share no measure."""

    @property
    def tested(self) -> bool:
        """Whether there is an interval."""
        return self.entry is not None and self.entry.interval is not None


def standings(summary: Summary) -> dict[str, list[Standing]]:
    """Each student's controls, the one with the best mean first; a control without the measure comes last."""
    found: dict[str, list[Standing]] = {}
    for student, control in student_and_control(summary.models):
        found.setdefault(student, []).append(Standing(student, control, None))
    return {student: _ranked(summary, student, [one.control for one in pairs]) for student, pairs in found.items()}


def judged(summary: Summary, found: dict[str, list[Standing]]) -> list[Standing] | None:
    """The standings of the student that a report speaks of: the best one among those that were tested."""

    def rank(pairs: Sequence[Standing]) -> tuple[bool, bool, float]:
        first = pairs[0]
        if first.entry is None:
            return True, True, inf
        return False, not first.tested, _badness(summary, first.student, first.entry)

    return min(found.values(), key=rank, default=None)


def entries_of(summary: Summary, student: str, control: str) -> list[Comparison]:
    """Every comparison of the two, the student first, held-out loss before the rest."""
    pairs = [entry for entry in summary.comparisons if {entry.a, entry.b} == {student, control}]
    return sorted((_oriented(entry, student) for entry in pairs), key=lambda entry: _FIRST.get(entry.metric, 2))


def weak_teachers(summary: Summary, student: str, control: str, entry: Comparison) -> dict[str, float]:
    """A student's teachers and their values, if every one, and their ensemble, is worse than a control; else nothing.

    A teacher without a value proves nothing.
    """
    models = summary.models
    teachers = list(dict.fromkeys(map(base_name, models[student].teachers)))
    together = [n for n, m in models.items() if m.members and {*map(base_name, m.members)} == {*teachers}]
    values = {name: _mean(summary, name, entry.metric) for name in (*teachers, *together) if name in models}
    known = {name: value for name, value in values.items() if value is not None}
    plain, sign = _mean(summary, control, entry.metric), 1 if entry.better == "lower" else -1
    if plain is None or control in teachers or any(name not in known for name in teachers):
        return {}
    return known if all(sign * value > sign * plain for value in known.values()) else {}


def student_better(entry: Comparison) -> bool:
    """Whether the first of the two came out better, by however little."""
    return (entry.mean > 0) == (entry.better == "higher")


def _ranked(summary: Summary, student: str, controls: Sequence[str]) -> list[Standing]:
    entries = {control: entries_of(summary, student, control) for control in controls}
    metrics = dict.fromkeys(entry.metric for found in entries.values() for entry in found)
    metric = min(metrics, key=lambda name: _FIRST.get(name, 2), default=None)
    pairs = [
        Standing(student, control, next((entry for entry in found if entry.metric == metric), None))
        for control, found in entries.items()
    ]
    return sorted(pairs, key=lambda one: inf if one.entry is None else _badness(summary, one.control, one.entry))


def _badness(summary: Summary, name: str, entry: Comparison) -> float:
    """The mean of a model on the measure of a comparison, lower being better."""
    value = _mean(summary, name, entry.metric)
    return inf if value is None else value if entry.better == "lower" else -value


def _mean(summary: Summary, name: str, metric: str) -> float | None:
    return mean_of(values_of(summary.models[name], metric).values())


def _oriented(entry: Comparison, student: str) -> Comparison:
    """The comparison with the student first, whichever way round it was made."""
    if entry.a == student:
        return entry
    low, high = entry.interval or (0.0, 0.0)
    pairs = [(seed, right, left) for seed, left, right in entry.pairs]
    turned = {"a": entry.b, "b": entry.a, "mean": -entry.mean, "interval": entry.interval and (-high, -low)}
    return entry.model_copy(update={**turned, "pairs": pairs})
