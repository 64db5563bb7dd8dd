"""A small plan, and examples of all kinds."""

from __future__ import annotations

import pytest

from tutelage.corpus.examples import Example
from tutelage.corpus.study_plan import StudyPlan, check_plan


@pytest.fixture
def small_plan() -> StudyPlan:
    tree = {
        "title": "Small",
        "lessons": [
            {"kind": "classification", "tasks": [
                {"name": "mood", "description": "m", "labels": {"good": "g", "bad": "b"}},
                {"name": "tense", "description": "t", "labels": {"past": "p", "now": "n", "later": "l"}}]},
            {"kind": "pair_classification", "tasks": [
                {"name": "follows", "description": "f", "labels": {"yes": "y", "no": "n"}}]},
            {"kind": "tagging", "tasks": [
                {"name": "pos", "description": "p", "labels": {"N": "noun", "V": "verb"}}]},
            {"kind": "generation", "tasks": [{"name": "story", "description": "s"}]},
        ],
    }  # fmt: skip
    return check_plan(tree, "plan")


@pytest.fixture
def text():
    """Makes an example of a text."""

    def make(text: str, pair: str | None = None, **more) -> Example:
        kind = "classification" if pair is None else "pair_classification"
        return Example(kind=more.pop("kind", kind), text=text, text_pair=pair, **more)

    return make
