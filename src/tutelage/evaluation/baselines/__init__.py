"""Scores that others published, as data: each file one source, each number as its authors print it.

They are set beside measured scores in tables and plots, marked as published, and enter no statistics: their corpora,
lengths of training and rules of scoring are their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Percent = Annotated[float, Field(ge=0, le=100)]

NEAR = {
    "blimp": "blimp-filtered",
    "blimp-fast": "blimp-filtered",
    "blimp-supplement-fast": "blimp-supplement",
    "ewok-fast": "ewok",
    "entity-tracking-fast": "entity-tracking",
}
"""Evaluations of other items of the same benchmark, beside which published scores are worth a look."""


class Published(BaseModel):
    """One system of a published table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    words: str
    """Words of training text, by the track: `10M`, `100M`."""
    year: int
    convention: Literal["2023", "2024", "2025", "2026"]
    """The year's pipeline that its authors used."""
    scores: dict[str, Percent]
    """In percent, by evaluation as recipes name it; `macro` is the authors' own mean."""
    source: str
    """Where the numbers stand: authors, title, table."""
    url: str
    second_hand: bool = False
    """Read in another work that quotes them."""
    note: str = ""

    @property
    def cited(self) -> str:
        """The source in a few words."""
        return self.source + (", second hand" if self.second_hand else "")


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Read every published system, by file and in the order of each file."""
    found = (entry for entry in resources.files(__name__).iterdir() if entry.name.endswith(".json"))
    files, table = sorted(found, key=lambda entry: entry.name), TypeAdapter(list[Published])
    return tuple(system for file in files for system in table.validate_json(file.read_text(encoding="utf-8")))


def wanted(evaluations: Iterable[str]) -> list[str]:
    """Return these evaluations, and those of other items of the same benchmarks, in order."""
    return list(dict.fromkeys(found for name in evaluations for found in (NEAR.get(name, name), name)))


def relevant(evaluations: Iterable[str]) -> list[Published]:
    """Return systems that published a score on one of these evaluations, or on other items of the same benchmark."""
    keys = set(wanted(evaluations))
    return [system for system in published() if keys & system.scores.keys()]
