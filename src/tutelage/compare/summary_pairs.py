"""What a summary says of two models: comparisons, differences along the training, the way to a loss; see `summary`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from tutelage.evaluation.benchmarks.results import Proportion, Strict


class Comparison(Strict):
    """One measure of two models; differences are a minus b."""

    a: str
    b: str
    metric: str
    """`test.loss`, `test.bits_per_byte`, `<suite>.accuracy`, `<suite>.strict` or `<evaluation>.<value>`."""
    unit: str
    better: Literal["lower", "higher"]
    pairs: list[tuple[int, float, float]]
    """Seed, value of a, value of b; empty where the seeds do not pair."""
    n: NonNegativeInt
    mean: float
    interval: tuple[float, float] | None
    level: Proportion
    p: Proportion | None
    verdict: str
    method: str
    permutation_p: Proportion | None = None
    """Exact sign-flip test; from six pairs on."""
    detectable: NonNegativeFloat | None = None
    """Half the interval's width: smaller effects would go unseen with so few seeds."""
    note: str = ""


class ParadigmRow(Strict):
    """Difference of accuracy (a minus b, as a share) on one paradigm."""

    paradigm: str
    field: str | None = None
    phenomenon: str | None = None
    mean: float
    interval: tuple[float, float] | None
    p: Proportion | None
    p_holm: Proportion | None
    """The p-value after Holm's correction for all paradigms of the suite."""


class ParadigmDifferences(Strict):
    """All paradigms of one suite for one pair of models."""

    a: str
    b: str
    suite: str
    n: NonNegativeInt
    """Seed pairs."""
    level: Proportion
    method: str
    rows: list[ParadigmRow]


class Spent(Strict):
    """What one training had taken at some step; `None` where it was not measured."""

    steps: NonNegativeFloat
    """Between two evaluations: not a whole number."""
    flops: NonNegativeFloat | None = None
    """Its own and its teachers' forward passes."""
    flops_with_teachers: NonNegativeFloat | None = None
    """The same and all training of its teachers."""
    seconds: NonNegativeFloat | None = None
    seconds_with_teachers: NonNegativeFloat | None = None


class ReachedSeed(Strict):
    """When a student reached its control's lowest validation loss, for one seed."""

    seed: int
    loss: float
    """The control's lowest validation loss."""
    student: Spent | None
    """What the student had taken when it was there; None if it never was."""
    control: Spent
    """What the control had taken."""


class Mean(Strict):
    """A mean over seeds with its interval, where there is one."""

    mean: float
    interval: tuple[float, float] | None = None


class Reached(Strict):
    """What a student (a) took to reach its control's (b) lowest validation loss."""

    a: str
    b: str
    level: Proportion
    seeds: list[ReachedSeed]
    shares: dict[str, Mean] = {}
    """By amount (`steps`, `flops`, ...), student over control; empty unless every seed reached the loss."""


class CurvePoint(Strict):
    """Difference of validation loss at one step."""

    step: NonNegativeInt
    tokens: NonNegativeInt
    mean: float
    interval: tuple[float, float] | None


class CurveDifference(Strict):
    """Differences of validation loss, a minus b, at the steps at which both were evaluated."""

    a: str
    b: str
    n: NonNegativeInt
    """Seed pairs."""
    level: Proportion
    points: list[CurvePoint]


class Difference(Strict):
    """Settings in which two models differ: key, value of a, value of b."""

    a: str
    b: str
    keys: list[tuple[str, Any, Any]]
