"""A model's scores on a benchmark: by paradigm, by field and phenomenon, over all; and item by item.

Benchmarks of right and wrong options give a `SuiteResult`, all others (correlations, explained variance, fine-tuned
tasks) a `MeasuredResult`. What is kept of them as JSON, in score files and summaries, are `SuiteScores` and
`MeasuredScores`: one shape, which refuses unknown keys, wrong types, NaN and infinities when it is read.

Shapes: N items of a paradigm, K options of an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from tutelage.evaluation.benchmarks.conventions import Convention

Measure = Literal["accuracy", "strict"]
Proportion = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """JSON that is read as it was written: no unknown keys, no lenient types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, populate_by_name=True)


@dataclass(frozen=True, slots=True)
class ParadigmScore:
    """Shares of right answers on one file of items."""

    accuracy: Proportion
    strict: Proportion | None
    """The same when a tie is wrong."""
    n: NonNegativeInt
    field: str | None = None
    phenomenon: str | None = None


class SuiteScores(Strict):
    """Scores on one benchmark of right and wrong options."""

    convention: str
    """The year whose scoring was followed: BOS, leading space, sum or mean, ties."""
    accuracy: Proportion
    """Macro accuracy as the convention defines it."""
    strict: Proportion | None = None
    """The same when a tie is wrong."""
    items: NonNegativeInt
    chance: Proportion | None = None
    """What guessing scores: the mean of one over the number of options; a half where it is not said."""
    fields: dict[str, Proportion] = {}
    phenomena: dict[str, Proportion] = {}
    paradigms: dict[str, ParadigmScore] = {}


@dataclass(frozen=True)
class SuiteResult:
    """Scores of one model on one benchmark."""

    suite: str
    convention: Convention
    paradigms: Mapping[str, ParadigmScore]
    """Scores by UID."""
    log_probs: Mapping[str, NDArray[np.float64]]
    """By UID the log-probabilities of all options in nats, `(N, K)` float64, in the order of the file; column 0 is the
    right option. Means over tokens where the convention takes means; minus infinity where an item has fewer options. Of
    a SyntaxGym suite: by how many nats an item's predictions hold, and 0."""
    chosen: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """By UID which option the model is held to have chosen, `(N,)`."""
    nested: bool = False
    """Whether the macro accuracy is the mean over phenomena of the mean over their paradigms, in all years; so it is
    for entity tracking, whose phenomena are its splits."""

    def macro(self, measure: Measure) -> float:
        """Return the unweighted mean over what the convention averages: paradigms, or in 2023 phenomena."""
        return float(self.average({uid: np.array(getattr(score, measure)) for uid, score in self.paradigms.items()}))

    def average(self, shares: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Average shares of right answers by UID as `macro` does; arrays of any shape, each element by itself."""
        groups: dict[str, list[str]] = {}
        for uid, score in self.paradigms.items():
            groups.setdefault(self._group(uid, score), []).append(uid)
        pooled = [self._pooled(uids, shares) for uids in groups.values()]
        # Sorted, so that the sum does not depend on the order of the files.
        mean: NDArray[np.float64] = np.mean(np.sort(pooled, axis=0), axis=0)
        return mean

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON: macro accuracies, accuracies of fields and phenomena, and every paradigm."""
        return SuiteScores(
            convention=self.convention.name,
            accuracy=self.macro("accuracy"),
            strict=self.macro("strict"),
            items=sum(score.n for score in self.paradigms.values()),
            chance=self._chance(),
            fields=self._shares_of("field"),
            phenomena=self._shares_of("phenomenon"),
            paradigms=dict(self.paradigms),
        ).model_dump(mode="json")

    def margins(self) -> dict[str, NDArray[np.float64]]:
        """Return by `<suite>/<paradigm>` the right option's log-probability minus the best other one's, `(N,)` nats."""
        return {
            f"{self.suite}/{uid}": scores_NK[:, 0] - scores_NK[:, 1:].max(axis=1)
            for uid, scores_NK in self.log_probs.items()
        }

    def _chance(self) -> float | None:
        """What guessing scores; an option of minus infinity is none. None where the options were not kept."""
        if not self.log_probs:
            return None
        options = [np.maximum(np.sum(scores_NK != -np.inf, axis=1), 1) for scores_NK in self.log_probs.values()]
        return float(np.mean([np.mean(1 / options_N) for options_N in options]))

    def _group(self, uid: str, score: ParadigmScore) -> str:
        pools = self.nested or self.convention.macro == "phenomena"
        return str(score.phenomenon) if pools and all(other.phenomenon for other in self.paradigms.values()) else uid

    def _pooled(self, uids: list[str], shares: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Put paradigms of one group together: item by item in 2023, by their unweighted mean where nested."""
        weights = [1 if self.nested else self.paradigms[uid].n for uid in uids]
        return np.average([shares[uid] for uid in uids], axis=0, weights=weights)

    def _shares_of(self, key: Literal["field", "phenomenon"]) -> dict[str, float]:
        """Accuracy over all items of each field or phenomenon, as the years report it; paradigms of none are left out.

        Over paradigms, alike, where the benchmark averages so (`nested`).
        """
        members: dict[str, list[str]] = {}
        for uid, score in self.paradigms.items():
            if (name := getattr(score, key)) is not None:
                members.setdefault(name, []).append(uid)
        shares = {uid: np.array(score.accuracy) for uid, score in self.paradigms.items()}
        return {name: float(self._pooled(members[name], shares)) for name in sorted(members)}


Unit = Literal["accuracy", "f1", "mcc", "correlation", "percent", "months", "share", "nats"]
"""What a value is: shares from 0 to 1 (`accuracy`, `f1`, `share`), coefficients from -1 to 1 (`mcc`, `correlation`),
points of a hundred (`percent`), months, nats per token (`nats`)."""


@dataclass(frozen=True, slots=True)
class MeasuredValue:
    """One number that a benchmark reports."""

    value: float | None
    """The number; None where it cannot be told (no variance, a fit that failed), with the reason in `note`."""
    unit: Unit
    better: Literal["higher", "lower"] = "higher"
    n: NonNegativeInt = 0
    """Items behind it."""
    note: str = ""


class MeasuredScores(Strict):
    """Numbers on one benchmark that is no choice between options."""

    convention: str
    """The year whose rules were followed."""
    headline: str
    """Key in `values` of the number that tables show and comparisons test."""
    values: dict[str, MeasuredValue]

    @model_validator(mode="after")
    def _headline_is_a_value(self) -> MeasuredScores:
        if self.headline not in self.values:
            raise ValueError(f"the headline {self.headline!r} is not among values: {', '.join(self.values) or 'none'}")
        for name in self.values:
            if "." in name:
                raise ValueError(f"the value {name!r} has a dot, which separates evaluation and value in names")
        return self


@dataclass(frozen=True)
class MeasuredResult:
    """Numbers of one model on one benchmark that is not a choice between options."""

    name: str
    convention: str
    headline: str
    """Key in `values` of the number that tables show."""
    values: Mapping[str, MeasuredValue]
    """By name, such as `eye_tracking`."""
    predictions: Any = None
    """What the model said of each item, as JSON, for result files; not kept in summaries."""

    @classmethod
    def from_json(cls, name: str, kept: dict[str, Any], predictions: Any) -> MeasuredResult:
        """Make a result of what `to_json` wrote."""
        values = {key: MeasuredValue(**value) for key, value in kept["values"].items()}
        return cls(name, kept["convention"], kept["headline"], values, predictions)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON, predictions left out."""
        scores = MeasuredScores(convention=self.convention, headline=self.headline, values=dict(self.values))
        return scores.model_dump(mode="json")
