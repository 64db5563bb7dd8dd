"""What a report is made of: one experiment's results as typed, strict JSON.

`docs/summary-schema.md` describes the same shape for readers. Unknown keys, wrong types, NaN and infinities are refused
by name: a published number must not depend on how leniently a file was read. Most values may be missing (null), because
a run may lack suites, a test split or a teacher of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from tutelage.errors import UserError
from tutelage.evaluation.results import Unit
from tutelage.files import read_json

SCHEMA = 1
"""Version of the shape; it rises when a reader of the old shape would misread the new one."""

Role = Literal["teacher", "student", "control", "model", "ensemble"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Point = tuple[int, int, float]
"""A point of a curve: step, tokens seen, value."""
WordPoint = tuple[Count, float | None]
"""A point of a learning curve: words seen, repeats included, and the value; None where it cannot be told."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, populate_by_name=True)


class HeldOut(_Strict):
    """Loss on text that was not trained on."""

    loss: float
    """Cross-entropy in nats per token."""
    perplexity: float | None = None
    bits_per_byte: float | None = None


class Paradigm(_Strict):
    """Accuracy on one file of minimal pairs."""

    accuracy: Share
    strict: Share | None = None
    """Accuracy when a tie counts as wrong."""
    n: Count
    field: str | None = None
    phenomenon: str | None = None


class Suite(_Strict):
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


class Value(_Strict):
    """One number that a benchmark without right and wrong options reports."""

    value: float | None
    """None where it cannot be told; `note` has the reason."""
    unit: Unit
    better: Literal["higher", "lower"] = "higher"
    n: Count = 0
    """Items behind it."""
    note: str = ""


class Measured(_Strict):
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


class Heard(_Strict):
    """Tokens of about the same difficulty, and how much of the teachers' weight a gate let through there."""

    loss: float
    """The teachers' loss in nats per token, at the divergence's temperature."""
    student: float
    """The student's."""
    entropy: float
    """The teachers' entropy in nats per token."""
    heard: Share
    tokens: Count


class HeardStage(_Strict):
    """A stage with a gate."""

    stage: int
    """Counted from 0."""
    bins: list[Heard]
    """From the tokens that are easiest for the teachers to the hardest."""


class Along(_Strict):
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


class SeedRun(_Strict):
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
    """`train_loss`, `train_kl`, `val_loss`, `lr`, `teacher_weight`, `teacher_heard`, `temperature`; `flops` (teachers'
    forward passes included) and `seconds` so far, at the evaluations; others are kept and not drawn."""
    heard: list[HeardStage] = []
    """Where gates let the teachers be heard, on held-out text once training was over."""
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


class Example(_Strict):
    """The beginning of a row that was kept or dropped."""

    row: Count
    value: float | None
    """Its score; the share of its tokens that were kept, where tokens were selected."""
    text: str


class Selection(_Strict):
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


class Model(_Strict):
    """One entry of the recipe's `models`, over all its seeds."""

    role: Role
    preset: str | None = None
    architecture: str | None = None
    parameters: Count | None = None
    non_embedding_parameters: Count | None = None
    like: str | None = None
    """The model whose settings it took over: of a control without teachers its student, or the other way round."""
    flops_of: str | None = None
    """The model whose operations were its length."""
    flops_counted: Literal["given", "counted"] | None = None
    """Whether the training of that model's teachers was among them."""
    teachers: list[str] = []
    scorers: list[str] = []
    """The models whose scores select what it learns from."""
    selections: list[Selection] = []
    objectives: list[dict[str, Any]] = []
    """One mapping a stage: the objective's name to its weight or its settings."""
    members: list[str] = []
    """The models an ensemble averages."""
    seeds: dict[str, SeedRun] = {}

    @field_validator("seeds")
    @classmethod
    def _seeds_are_integers(cls, seeds: dict[str, SeedRun]) -> dict[str, SeedRun]:
        for seed in seeds:
            if not re.fullmatch(r"-?\d+", seed):
                raise ValueError(f"the seed {seed!r} is not an integer; use keys such as '0', '1'")
        return dict(sorted(seeds.items(), key=lambda item: int(item[0])))


class Comparison(_Strict):
    """One measure of two models; differences are a minus b."""

    a: str
    b: str
    metric: str
    """`test.loss`, `test.bits_per_byte`, `<suite>.accuracy`, `<suite>.strict` or `<evaluation>.<value>`."""
    unit: str
    better: Literal["lower", "higher"]
    pairs: list[tuple[int, float, float]]
    """Seed, value of a, value of b; empty where the seeds do not pair."""
    n: Count
    mean: float
    interval: tuple[float, float] | None
    level: Share
    p: Share | None
    verdict: str
    method: str
    permutation_p: Share | None = None
    """Exact sign-flip test; from six pairs on."""
    detectable: Amount | None = None
    """Half the interval's width: smaller effects would go unseen with so few seeds."""
    note: str = ""


class ParadigmRow(_Strict):
    """Difference of accuracy (a minus b, as a share) on one paradigm."""

    paradigm: str
    field: str | None = None
    phenomenon: str | None = None
    mean: float
    interval: tuple[float, float] | None
    p: Share | None
    p_holm: Share | None
    """The p-value after Holm's correction for all paradigms of the suite."""


class ParadigmDifferences(_Strict):
    """All paradigms of one suite for one pair of models."""

    a: str
    b: str
    suite: str
    n: Count
    """Seed pairs."""
    level: Share
    method: str
    rows: list[ParadigmRow]


class Spent(_Strict):
    """What one training had taken at some step; `None` where it was not measured."""

    steps: Amount
    """Between two evaluations: not a whole number."""
    flops: Amount | None = None
    """Its own and its teachers' forward passes."""
    flops_with_teachers: Amount | None = None
    """The same and all training of its teachers."""
    seconds: Amount | None = None
    seconds_with_teachers: Amount | None = None


class ReachedSeed(_Strict):
    """When a student reached its control's lowest validation loss, for one seed."""

    seed: int
    loss: float
    """The control's lowest validation loss."""
    student: Spent | None
    """What the student had taken when it was there; None if it never was."""
    control: Spent
    """What the control had taken."""


class Mean(_Strict):
    """A mean over seeds with its interval, where there is one."""

    mean: float
    interval: tuple[float, float] | None = None


class Reached(_Strict):
    """What a student (a) took to reach its control's (b) lowest validation loss."""

    a: str
    b: str
    level: Share
    seeds: list[ReachedSeed]
    shares: dict[str, Mean] = {}
    """By amount (`steps`, `flops`, ...), student over control; empty unless every seed reached the loss."""


class CurvePoint(_Strict):
    """Difference of validation loss at one step."""

    step: Count
    tokens: Count
    mean: float
    interval: tuple[float, float] | None


class CurveDifference(_Strict):
    """Differences of validation loss, a minus b, at the steps at which both were evaluated."""

    a: str
    b: str
    n: Count
    """Seed pairs."""
    level: Share
    points: list[CurvePoint]


class Difference(_Strict):
    """Settings in which two models differ: key, value of a, value of b."""

    a: str
    b: str
    keys: list[tuple[str, Any, Any]]


class Data(_Strict):
    """The corpus, by split."""

    corpus: str | None = None
    words: dict[str, Count] = {}
    tokens: dict[str, Count] = {}
    vocab_size: Count | None = None
    bytes_per_token: dict[str, Amount] = {}


class Summary(_Strict):
    """One experiment: its models, their scores, how they compare and where they came from."""

    version: Literal[1] = Field(alias="schema")
    recipe: str
    created: str
    tutelage: str
    versions: dict[str, str | None] = {}
    machine: dict[str, str | int | float | None] = {}
    resolved_recipe: dict[str, Any] = {}
    data: Data = Data()
    models: dict[str, Model]
    comparisons: list[Comparison] = []
    paradigm_differences: list[ParadigmDifferences] = []
    reached: list[Reached] = []
    curve_differences: list[CurveDifference] = []
    differences: list[Difference] = []

    @model_validator(mode="after")
    def _names_are_known(self) -> Summary:
        for kind in ("comparisons", "paradigm_differences", "reached", "curve_differences", "differences"):
            for i, entry in enumerate(getattr(self, kind)):
                for name in (entry.a, entry.b):
                    if name not in self.models:
                        raise ValueError(f"{kind}[{i}] names the model {name!r}, which `models` does not have")
        return self

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON values, under the keys of the schema."""
        result: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))
        return result


def read_summary(source: Summary | Mapping[str, Any] | Path) -> Summary:
    """Check a summary (JSON values or a file); a `UserError` names the key and value that do not fit."""
    if isinstance(source, Summary):
        return source
    value = read_json(source) if isinstance(source, Path) else source
    where = str(source) if isinstance(source, Path) else "the summary"
    if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, Mapping) else type(value).__name__
        raise UserError(
            f"{where}: schema {found!r} is not the version this tutelage reads ({SCHEMA}); "
            "make the summary again with this version"
        )
    try:
        return Summary.model_validate_json(_strict_json(value, where))
    except ValidationError as error:
        raise UserError(_explain(error, where)) from error


def read_models(source: Summary | Mapping[str, Any]) -> dict[str, Model]:
    """Check the `models` part of a summary, as `read_summary` does."""
    if isinstance(source, Summary):
        return source.models
    try:
        return TypeAdapter(dict[str, Model]).validate_json(
            _strict_json(
                {k: v.model_dump(mode="json") if isinstance(v, Model) else v for k, v in source.items()}, "models"
            )
        )
    except ValidationError as error:
        raise UserError(_explain(error, "models")) from error


def base_name(reference: str) -> str:
    """Name of the model in a teacher reference such as `teacher[1]@step-200`."""
    return re.sub(r"(\[\d+\])?(@[\w-]+)?$", "", reference)


def _strict_json(value: Any, where: str) -> str:
    """Write JSON (tuples become lists); NaN and infinities are refused by their key."""
    try:
        return json.dumps(value, allow_nan=False)
    except TypeError as error:
        raise UserError(f"{where} holds something that is not JSON: {error}") from error
    except ValueError as error:
        key = _first_not_finite(value)
        raise UserError(f"{where}: {key or error} is not a finite number; leave a value out (null) instead") from error


def _first_not_finite(value: Any, path: str = "") -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} = {value}"
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = enumerate(value)
    found = (_first_not_finite(item, f"{path}.{key}".lstrip(".")) for key, item in items)
    return next((hit for hit in found if hit), None)


def _explain(error: ValidationError, where: str) -> str:
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"])
    value = "" if first["type"] == "missing" else f" (found {str(first['input'])[:60]!r})"
    rest = f"; and {more} more" if more else ""
    return f"{where}: {key or 'value'}: {first['msg']}{value}{rest}; docs/summary-schema.md has the shape"
