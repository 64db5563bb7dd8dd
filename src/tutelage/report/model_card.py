"""The README of an exported model; the texts are in `templates`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.recipe import Recipe
from tutelage.report.render import render
from tutelage.training.outcome import Finished


def model_card(what: Recipe, name: str, seed: int, done: Finished) -> str:
    """Write the README of an exported model."""
    return _card("model_card.md.j2", what, name, seed, done)


def babylm_card(
    what: Recipe,
    name: str,
    seed: int,
    done: Finished,
    *,
    year: str,
    revision: str,
    words: int,
    corpus: str,
    tokenizer: str,
    scores: Mapping[str, str],
) -> str:
    """Write the README of a model that is handed in to BabyLM, or of one of its checkpoints.

    `revision` is `main` or a checkpoint's name, `words` how many it had seen by then, repeats included. `corpus`,
    `tokenizer` and the revision's `scores` by benchmark are described in words.
    """
    more = {"year": year, "revision": revision, "words": words, "corpus": corpus, "tokenizer": tokenizer}
    return _card("babylm_card.md.j2", what, name, seed, done, scores=scores, **more)


def _card(template: str, what: Recipe, name: str, seed: int, done: Finished, **more: Any) -> str:
    model = what.models[name]
    teachers = ", ".join(str(teacher) for stage in model.stages for teacher in stage.teachers) or "none"
    return render(template, what=what, name=name, seed=seed, model=model, done=done, teachers=teachers, **more)
