"""Measures by name: `test.loss`, `blimp.accuracy`, `reading.eye_tracking`; their values, units and how they are shown.

A measure's name is where it was measured, a dot, and what: a held-out split, a suite of right and wrong options
(`accuracy`, `strict`), or another evaluation and one of its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from tutelage.compare.summary import ModelSummary, Summary
from tutelage.compare.summary_runs import SeedRun
from tutelage.evaluation.benchmarks.results import MeasuredScores, MeasuredValue, Unit

MISSING = "–"
HELD_OUT = ("val", "test")
FEW = 4
"""So many evaluations are read in one table beside the loss."""
_ACCURACY = ("accuracy", "accuracy")


@dataclass(frozen=True, slots=True)
class Shown:
    """How numbers of a unit are written.

    Attributes:
        scale: factor before they are written.
        digits: decimals of a value.
        finer: decimals of a difference.
        sign: unit of a value, short, as a column's head has it.
        points: unit of a difference, short.
        words: the same in a sentence.
    """

    scale: float
    digits: int
    finer: int
    sign: str
    points: str
    words: str


_SHARE = Shown(100, 1, 2, "%", "points", "points")
_COEFFICIENT = Shown(1, 3, 4, "", "", "")
_BY_UNIT: dict[Unit, Shown] = {
    "accuracy": _SHARE,
    "f1": _SHARE,
    "share": _SHARE,
    "mcc": _COEFFICIENT,
    "correlation": _COEFFICIENT,
    "percent": Shown(1, 2, 2, "%", "points", "points"),
    "months": Shown(1, 2, 2, "months", "months", "months"),
    "nats": Shown(1, 3, 4, "nats/token", "nats/token", "nats per token"),
}
UNITS: Mapping[str, Shown] = {
    "bits/byte": Shown(1, 3, 4, "bits/byte", "bits/byte", "bits per byte"),
    **{str(unit): shown for unit, shown in _BY_UNIT.items()},
}


def suites_of(model: ModelSummary) -> list[str]:
    """Names of the suites that any seed of a model was scored on, in the order of the evaluation."""
    return list(dict.fromkeys(name for run in model.seeds.values() for name in run.suites))


def measured_of(model: ModelSummary) -> dict[str, MeasuredScores]:
    """A model's other evaluations, each as its first seed has it."""
    found: dict[str, MeasuredScores] = {}
    for run in model.seeds.values():
        found = {**run.measures, **found}
    return found


def evaluations_of(summary: Summary) -> list[str]:
    """Every suite and other evaluation that some model was scored on, in the order of the recipe."""
    models = summary.models.values()
    names = [name for model in models for name in (*suites_of(model), *measured_of(model))]
    asked = summary.resolved_recipe.get("evaluate")
    order = {name: place for place, name in enumerate(asked)} if isinstance(asked, list) else {}
    return sorted(dict.fromkeys(names), key=lambda name: order.get(name, len(order)))


def headlines_of(summary: Summary) -> dict[str, tuple[str, str]]:
    """For each evaluation its headline's metric and unit; of a suite the accuracy."""
    found: dict[str, tuple[str, str]] = {}
    for name in evaluations_of(summary):
        measured = [m for model in summary.models.values() if (m := measured_of(model).get(name)) is not None]
        key, unit = (measured[0].headline, measured[0].values[measured[0].headline].unit) if measured else _ACCURACY
        found[name] = (f"{name}.{key}", unit)
    return found


def main_evaluations(summary: Summary) -> list[str]:
    """Those that the table of models shows: all of a few, else the first ones of the recipe."""
    names = evaluations_of(summary)
    return names if len(names) <= FEW else names[: FEW - 1]


def metrics_of(model: ModelSummary, every: bool = False) -> list[str]:
    """Measures that a model has: held-out loss, accuracies, and of other evaluations the headlines, or every value."""
    names = ["test.loss", "test.bits_per_byte"]
    names += [f"{suite}.{measure}" for suite in suites_of(model) for measure in ("accuracy", "strict")]
    for name, measured in measured_of(model).items():
        names += [f"{name}.{value}" for value in (measured.values if every else [measured.headline])]
    return [name for name in names if values_of(model, name)]


def value_of(run: SeedRun, metric: str) -> float | None:
    """The value of a measure for one seed, or None where it was not measured or cannot be told."""
    source, _, name = metric.rpartition(".")
    if source in run.measures:
        found = run.measures[source].values.get(name)
        return None if found is None else found.value
    holder = {"test": run.test, "val": run.val}.get(source, run.suites.get(source))
    value = getattr(holder, name, None)
    return float(value) if isinstance(value, int | float) else None


def values_of(model: ModelSummary, metric: str) -> dict[str, float]:
    """The measure by seed, for the seeds that have it."""
    found = {seed: value_of(run, metric) for seed, run in model.seeds.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def facts_of(model: ModelSummary, metric: str) -> set[tuple[str, Literal["lower", "higher"], str]]:
    """Unit, better direction and convention of a measure, over a model's seeds: one, unless its seeds disagree."""
    source, _, name = metric.rpartition(".")
    if source in HELD_OUT:
        return {("bits/byte" if name == "bits_per_byte" else "nats", "lower", "")}
    suites = [run.suites[source] for run in model.seeds.values() if source in run.suites]
    found: set[tuple[str, Literal["lower", "higher"], str]] = {("accuracy", "higher", s.convention) for s in suites}
    return found | {(value.unit, value.better, year) for value, year in _values(model, source, name)}


def conventions(model: ModelSummary, suite: str) -> set[str]:
    """The scoring conventions under which a model's seeds were scored on a suite."""
    return {run.suites[suite].convention for run in model.seeds.values() if suite in run.suites}


def notes_of(model: ModelSummary, metric: str) -> list[str]:
    """What must be known of a measure, each remark once."""
    source, _, name = metric.rpartition(".")
    return list(dict.fromkeys(value.note for value, _ in _values(model, source, name) if value.note))


def items_of(model: ModelSummary, metric: str) -> int:
    """Items behind a measure; of the seed that has most."""
    source, _, name = metric.rpartition(".")
    counts = [value.n for value, _ in _values(model, source, name)]
    counts += [run.suites[source].items for run in model.seeds.values() if source in run.suites]
    return max(counts, default=0)


def measure_name(metric: str, unit: str) -> str:
    """A measure in words, with the unit of a difference."""
    source, _, name = metric.rpartition(".")
    if source in HELD_OUT:
        return f"{source} bits/byte" if name == "bits_per_byte" else f"{source} loss (nats/token)"
    points = UNITS[unit].points
    return f"{source} {name.replace('_', ' ')}" + (f" ({points})" if points else "")


def spread(values: Iterable[float], digits: int, scale: float = 1) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one seed."""
    scaled = [value * scale for value in values]
    if not scaled:
        return MISSING
    around = f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{fmean(scaled):.{digits}f}{around}"


def _values(model: ModelSummary, source: str, name: str) -> list[tuple[MeasuredValue, str]]:
    runs = [run.measures[source] for run in model.seeds.values() if source in run.measures]
    return [(run.values[name], run.convention) for run in runs if name in run.values]
