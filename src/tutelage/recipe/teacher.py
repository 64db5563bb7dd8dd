"""How a recipe names a model that teaches or scores; see `recipe` for the whole."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from tutelage.recipe.data import Section
from tutelage.recipe.words import read_words

TEACHER = re.compile(
    r"(?P<model>[^\[\]@]+)(\[(?P<seed>\d+)\])?(@(?P<checkpoint>best|last|step-\d+|words-[1-9]\d*[KMB]?))?"
)


class Teacher(Section):
    """Who teaches: a model of this recipe, a folder, or a hub id."""

    model: str
    """Name in this recipe, path of a Hugging Face folder, or hub id."""
    seed: int | None = None
    """Which of a model's seeds (its first one unless given): `name[1]`."""
    checkpoint: str = "best"
    """`best` (by `val`), `last`, `step-N` (`name@step-2000`), or `words-N` (`name@words-3M`), at N words seen."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of this teacher in the mixture, relative to the others."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not (match := TEACHER.fullmatch(value)):
            ways = "name, name[seed], name@step-N, name@words-N, a path or a hub id"
            raise ValueError(f"'{value}' is not a teacher: write {ways}")
        return {key: found for key, found in match.groupdict().items() if found is not None}

    @property
    def words(self) -> int | None:
        """Words seen at the checkpoint, if it is named by them."""
        return read_words(self.checkpoint.removeprefix("words-")) if self.checkpoint.startswith("words-") else None

    def __str__(self) -> str:
        """Write the short form."""
        seed = "" if self.seed is None else f"[{self.seed}]"
        return f"{self.model}{seed}" + ("" if self.checkpoint == "best" else f"@{self.checkpoint}")
