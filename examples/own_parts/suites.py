"""A suite: `evaluate: ["own_parts.suites:weather"]`."""

from __future__ import annotations

from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.suites.questions import Paradigm, Question

PLURALS = ("clouds", "winds", "leaves", "waves", "hills", "fields", "roads", "roofs")
SINGULARS = ("sky", "river", "garden", "harbour", "forest", "valley", "street", "lake")
STATES = ("grey", "calm", "bright", "wet")


def weather() -> list[Paradigm]:
    """Return sentences about the weather with the right verb, and with the wrong one: two paradigms of 32 pairs."""
    return [
        Paradigm("plural", _pairs(PLURALS, right="are", wrong="is")),
        Paradigm("singular", _pairs(SINGULARS, right="is", wrong="are")),
    ]


def _pairs(nouns: tuple[str, ...], right: str, wrong: str) -> tuple[Question, ...]:
    return tuple(
        Question((Item(f"The {noun} {right} {state}."), Item(f"The {noun} {wrong} {state}.")))
        for noun in nouns
        for state in STATES
    )
