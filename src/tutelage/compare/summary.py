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
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from tutelage.base.errors import UserError
from tutelage.base.files import read_json
from tutelage.compare.summary_pairs import Comparison, CurveDifference, Difference, ParadigmDifferences, Reached
from tutelage.compare.summary_runs import Role, SeedRun, SelectionSummary
from tutelage.evaluation.benchmarks.results import Strict

SCHEMA = 1
"""Version of the shape; it rises when a reader of the old shape would misread the new one."""


class ModelSummary(Strict):
    """One entry of the recipe's `models`, over all its seeds."""

    role: Role
    preset: str | None = None
    architecture: str | None = None
    parameters: NonNegativeInt | None = None
    non_embedding_parameters: NonNegativeInt | None = None
    like: str | None = None
    """The model whose settings it took over: of a control without teachers its student, or the other way round."""
    same_settings: list[str] | None = None
    """The models of the recipe whose settings are the same but for what they learn from; None in older summaries."""
    outside: bool = False
    """Trained elsewhere: a teacher from a folder or the hub."""
    flops_of: str | None = None
    """The model whose operations were its length."""
    flops_counted: Literal["given", "counted"] | None = None
    """Whether the training of that model's teachers was among them."""
    teachers: list[str] = []
    scorers: list[str] = []
    """The models whose scores select what it learns from."""
    selections: list[SelectionSummary] = []
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


Models = Mapping[str, ModelSummary]
"""By name."""


class DataSummary(Strict):
    """The corpus, by split."""

    corpus: str | None = None
    unit: str = "words"
    """What is counted as words, everywhere in the summary."""
    words: dict[str, NonNegativeInt] = {}
    tokens: dict[str, NonNegativeInt] = {}
    vocab_size: NonNegativeInt | None = None
    bytes_per_token: dict[str, NonNegativeFloat] = {}


class Summary(Strict):
    """One experiment: its models, their scores, how they compare and where they came from."""

    version: Literal[1] = Field(alias="schema")
    recipe: str
    created: str
    tutelage: str
    versions: dict[str, str | None] = {}
    machine: dict[str, str | int | float | None] = {}
    resolved_recipe: dict[str, Any] = {}
    data: DataSummary = DataSummary()
    models: dict[str, ModelSummary]
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


def read_models(source: Summary | Mapping[str, Any]) -> dict[str, ModelSummary]:
    """Check the `models` part of a summary, as `read_summary` does."""
    if isinstance(source, Summary):
        return source.models
    plain = {k: v.model_dump(mode="json") if isinstance(v, ModelSummary) else v for k, v in source.items()}
    try:
        return TypeAdapter(dict[str, ModelSummary]).validate_json(_strict_json(plain, "models"))
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
