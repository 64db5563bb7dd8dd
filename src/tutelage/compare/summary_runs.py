"""What a summary says of one run: a model with one seed, its training and its scores; see `summary`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from tutelage.evaluation.benchmarks.results import MeasuredScores, Proportion, Strict, SuiteScores, Unit
from tutelage.training.outcome import GateStage, HeldOut

Role = Literal["teacher", "student", "control", "model", "ensemble"]
Point = tuple[int, int, float]
"""A point of a curve: step, tokens seen, value."""
WordPoint = tuple[NonNegativeInt, float | None]
"""A point of a learning curve: words seen, repeats included, and the value; None where it cannot be told."""


class Along(Strict):
    """The headline of an evaluation at a model's checkpoints: a learning curve."""

    convention: str
    """The year whose rules were followed."""
    measure: str
    """`accuracy` of a suite, of other evaluations the headline."""
    unit: Unit
    better: Literal["higher", "lower"] = "higher"
    chance: Proportion | None = None
    """What guessing scores, where that can be said."""
    points: list[WordPoint]
    """In the order of words seen."""
    finished: WordPoint
    """The same of the finished model, which is the best checkpoint by `val`."""


class SeedRun(Strict):
    """One training of one model."""

    steps: NonNegativeInt | None = None
    tokens: NonNegativeInt | None = None
    words: NonNegativeInt | None = None
    """Whitespace words seen, repeats included."""
    epochs: NonNegativeFloat | None = None
    seconds: NonNegativeFloat | None = None
    """Wall time of training, teaching included."""
    seconds_teaching: NonNegativeFloat | None = None
    """The part of `seconds` in which teachers were asked."""
    flops: NonNegativeFloat | None = None
    """The model's own training FLOPs."""
    teacher_flops: NonNegativeFloat | None = None
    """FLOPs of the teachers' forward passes during this training."""
    seconds_scoring: NonNegativeFloat | None = None
    """The part of `seconds` in which rows were scored for selections."""
    scoring_flops: NonNegativeFloat | None = None
    """FLOPs of the passes that scored rows for selections."""
    best_step: NonNegativeInt | None = None
    """The step whose checkpoint was kept, chosen on the validation split."""
    val: HeldOut | None = None
    test: HeldOut | None = None
    curves: dict[str, list[Point]] = {}
    """`train_loss`, `train_kl`, `val_loss`, `lr`, `teacher_weight`, `gate_weight`, `temperature`; `flops` (teachers'
    forward passes included) and `seconds` so far, at the evaluations; others are kept and not drawn."""
    gate_report: list[GateStage] = []
    """What gates came to by difficulty, on held-out text once training was over."""
    machine: dict[str, str | int | float | None] = {}
    """Where it was trained."""
    clip_rate: Proportion | None = None
    """Proportion of steps whose gradient was clipped."""
    suites: dict[str, SuiteScores] = {}
    suite_items: str | None = None
    """Path of an `.npz` with margins (log-probability, good minus bad) under the keys `<suite>/<paradigm>`."""
    measures: dict[str, MeasuredScores] = {}
    """By evaluation, as the recipe names it: everything that is no choice between options."""
    along: dict[str, Along] = {}
    """By evaluation: what was repeated at checkpoints of this training."""

    @model_validator(mode="after")
    def _a_name_means_one_thing(self) -> SeedRun:
        if twice := sorted(self.suites.keys() & self.measures.keys()):
            raise ValueError(f"{twice[0]!r} stands in suites and in measures; an evaluation is one of the two")
        return self


class SelectedExample(Strict):
    """The beginning of a row that was kept or dropped."""

    row: NonNegativeInt
    value: float | None
    """Its score; the share of its tokens that were kept, where tokens were selected."""
    text: str


class SelectionSummary(Strict):
    """What a stage learnt from, where that was not everything; of the first seed."""

    stage: Annotated[int, Field(ge=1)]
    by: str
    scorer: str | None = None
    reference: str | None = None
    what: Literal["rows", "tokens"]
    kept: NonNegativeInt
    of: NonNegativeInt
    ties: NonNegativeInt | None = None
    """How many of those kept equal one that was left out, so that a draw decided; None where it was not counted."""
    unit: str
    """Of the values by which was selected."""
    lowest: float | None
    highest: float | None
    """Lowest and highest value among those kept; None where there are no values (`random`)."""
    edges: list[float] = []
    """Of the histogram's bins; what lies beyond stands in the outer ones."""
    counts: list[NonNegativeInt] = []
    """How many have a value in each bin."""
    counts_kept: list[NonNegativeInt] = []
    """How many of these were kept."""
    texts_kept: list[SelectedExample] = []
    texts_dropped: list[SelectedExample] = []
