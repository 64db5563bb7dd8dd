"""What a summary says of one run: a model with one seed, its training and its scores; see `summary`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.evaluation.benchmarks.results import Unit

Role = Literal["teacher", "student", "control", "model", "ensemble"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Point = tuple[int, int, float]
"""A point of a curve: step, tokens seen, value."""
WordPoint = tuple[Count, float | None]
"""A point of a learning curve: words seen, repeats included, and the value; None where it cannot be told."""


class Strict(BaseModel):
    """A part of a summary: no unknown keys, no lenient types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, populate_by_name=True)


class HeldOut(Strict):
    """Loss on text that was not trained on."""

    loss: float
    """Cross-entropy in nats per token."""
    perplexity: float | None = None
    bits_per_byte: float | None = None


class Paradigm(Strict):
    """Accuracy on one file of minimal pairs."""

    accuracy: Share
    strict: Share | None = None
    """Accuracy when a tie counts as wrong."""
    n: Count
    field: str | None = None
    phenomenon: str | None = None


class Suite(Strict):
    """Scores on one benchmark of minimal pairs."""

    convention: str
    """The year whose scoring was followed: BOS, leading space, sum or mean, ties."""
    accuracy: Share
    """Macro accuracy as the convention defines it."""
    strict: Share | None = None
    """The same when a tie counts as wrong."""
    items: Count
    chance: Share | None = None
    """What guessing scores: the mean of one over the number of options; a half where it is not said."""
    fields: dict[str, Share] = {}
    phenomena: dict[str, Share] = {}
    paradigms: dict[str, Paradigm] = {}


class Value(Strict):
    """One number that a benchmark without right and wrong options reports."""

    value: float | None
    """None where it cannot be told; `note` has the reason."""
    unit: Unit
    better: Literal["higher", "lower"] = "higher"
    n: Count = 0
    """Items behind it."""
    note: str = ""


class Measured(Strict):
    """Numbers on one such benchmark: correlations, explained variance, fine-tuned tasks."""

    convention: str
    """The year whose rules were followed."""
    headline: str
    """Key in `values` of the number that tables show and comparisons test."""
    values: dict[str, Value]

    @model_validator(mode="after")
    def _headline_is_a_value(self) -> Measured:
        if self.headline not in self.values:
            raise ValueError(f"the headline {self.headline!r} is not among values: {', '.join(self.values) or 'none'}")
        for name in self.values:
            if "." in name:
                raise ValueError(f"the value {name!r} has a dot, which separates evaluation and value in names")
        return self


class GateBin(Strict):
    """Tokens of about the same difficulty, and how much of the teachers' weight a gate let through there."""

    loss: float
    """The teachers' loss in nats per token, at the divergence's temperature."""
    student: float
    """The student's."""
    entropy: float
    """The teachers' entropy in nats per token."""
    gate_weight: Share
    tokens: Count


class GateStage(Strict):
    """A stage with a gate."""

    stage: int
    """Counted from 0."""
    bins: list[GateBin]
    """From the tokens that are easiest for the teachers to the hardest."""


class Along(Strict):
    """The headline of an evaluation at a model's checkpoints: a learning curve."""

    convention: str
    """The year whose rules were followed."""
    measure: str
    """`accuracy` of a suite, of other evaluations the headline."""
    unit: Unit
    better: Literal["higher", "lower"] = "higher"
    chance: Share | None = None
    """What guessing scores, where that can be said."""
    points: list[WordPoint]
    """In the order of words seen."""
    finished: WordPoint
    """The same of the finished model, which is the best checkpoint by `val`."""


class SeedRun(Strict):
    """One training of one model."""

    steps: Count | None = None
    tokens: Count | None = None
    words: Count | None = None
    """Whitespace words seen, repeats included."""
    epochs: Amount | None = None
    seconds: Amount | None = None
    """Wall time of training, teaching included."""
    seconds_teaching: Amount | None = None
    """The part of `seconds` in which teachers were asked."""
    flops: Amount | None = None
    """The model's own training FLOPs."""
    teacher_flops: Amount | None = None
    """FLOPs of the teachers' forward passes during this training."""
    seconds_scoring: Amount | None = None
    """The part of `seconds` in which rows were scored for selections."""
    scoring_flops: Amount | None = None
    """FLOPs of the passes that scored rows for selections."""
    best_step: Count | None = None
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
    clip_rate: Share | None = None
    """Share of steps whose gradient was clipped."""
    suites: dict[str, Suite] = {}
    suite_items: str | None = None
    """Path of an `.npz` with margins (log-probability, good minus bad) under the keys `<suite>/<paradigm>`."""
    measures: dict[str, Measured] = {}
    """By evaluation, as the recipe names it: everything that is no choice between options."""
    along: dict[str, Along] = {}
    """By evaluation: what was repeated at checkpoints of this training."""

    @model_validator(mode="after")
    def _a_name_means_one_thing(self) -> SeedRun:
        if twice := sorted(self.suites.keys() & self.measures.keys()):
            raise ValueError(f"{twice[0]!r} stands in suites and in measures; an evaluation is one of the two")
        return self


class Example(Strict):
    """The beginning of a row that was kept or dropped."""

    row: Count
    value: float | None
    """Its score; the share of its tokens that were kept, where tokens were selected."""
    text: str


class Selection(Strict):
    """What a stage learnt from, where that was not everything; of the first seed."""

    stage: Annotated[int, Field(ge=1)]
    by: str
    scorer: str | None = None
    reference: str | None = None
    what: Literal["rows", "tokens"]
    kept: Count
    of: Count
    unit: str
    """Of the values by which was selected."""
    lowest: float | None
    highest: float | None
    """Lowest and highest value among those kept; None where there are no values (`random`)."""
    edges: list[float] = []
    """Of the histogram's bins; what lies beyond stands in the outer ones."""
    counts: list[Count] = []
    """How many have a value in each bin."""
    counts_kept: list[Count] = []
    """How many of these were kept."""
    texts_kept: list[Example] = []
    texts_dropped: list[Example] = []
