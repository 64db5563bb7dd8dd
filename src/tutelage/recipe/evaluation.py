"""Settings: how models are scored and what is set side by side; see `recipe` for the whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tutelage.recipe.data import Count, Section
from tutelage.recipe.finetune import Finetuning
from tutelage.recipe.teacher import Teacher


class Compare(Section):
    """What the report sets side by side."""

    models: tuple[str, ...] = ()
    """Models in the table's order; all unless given. `ensemble(a, b)`: the softmax of several models' mean logits."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Further pairs to test, seed by seed; students are always set against their controls, teachers and ensembles."""
    values: Literal["headlines", "all"] = "headlines"
    """Of evaluations that give several numbers: test the one that matters most, or each."""


class Buckets(Section):
    """How held-out rows are sorted into easy and hard ones."""

    by: Teacher
    """The model of this recipe by whose loss rows are sorted."""
    parts: Annotated[int, Field(ge=2, le=20)] = 3
    """Parts with equal numbers of rows: 3 are easy, medium and hard."""


class Evaluation(Section):
    """How finished models are scored."""

    convention: Literal["2023", "2024", "2025", "2026"] = "2025"
    """Rules of that year's BabyLM evaluation: start token, leading space, sum or mean, ties. Where it is
    given, it is also `finetune.rules` unless those are."""
    along: tuple[str, ...] = ()
    """Repeated at every checkpoint by words seen (`models.*.checkpoints`) of the models compared, for learning curves:
    suites and other evaluations that need a model alone. The fast ones (`blimp-fast`) are made for it."""
    batch_tokens: Count | None = None
    """Tokens scored at once (masked models on a CPU: in each thread); unless given, what fits its caches or a GPU."""
    buckets: Buckets | None = None
    """The parts of the test split for `buckets`, as in `{by: small, parts: 3}`."""
    finetune: Finetuning = Finetuning()
    """How models are fine-tuned for `glue` and `glue:TASK`."""

    @model_validator(mode="before")
    @classmethod
    def _year_rules_all(cls, value: Any) -> Any:
        """A convention that is named rules fine-tuning too, unless `finetune.rules` says otherwise."""
        if not isinstance(value, dict) or value.get("convention") is None:
            return value
        given = value.get("finetune", {})
        if not isinstance(given, dict):
            return value
        return value | {"finetune": {"rules": value["convention"]} | given}

    @field_validator("convention", mode="before")
    @classmethod
    def _year_is_a_name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value
