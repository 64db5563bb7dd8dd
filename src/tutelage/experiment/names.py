"""Every name in a recipe, looked up before any data is touched, and before torch is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from tutelage.base.errors import UserError, nearest
from tutelage.compare.metrics import HELD_OUT
from tutelage.corpus import sources
from tutelage.evaluation.names import check_name
from tutelage.experiment.runs import in_order, seed_of
from tutelage.models.presets import preset
from tutelage.recipe import Recipe, Teacher, is_path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_names(what: Recipe, wanted: str | Teacher | None = None) -> None:
    """Refuse presets, corpora, teachers and evaluations that do not exist, as far as names tell, with the nearest.

    `wanted` is a model that a user asks for: one of the recipe, by name or reference, or as a `Teacher` any.

    Raises:
        UserError: such a name; a seed that a teacher is not trained with; models that teach each other in a circle.
    """
    for name, model in what.models.items():
        if model.preset is not None:
            preset(model.preset)
        if model.weights is not None:
            _check_outside(model.weights, f"models.{name}.weights", ())
        for number, stage in enumerate(model.stages):
            for teacher in stage.needs:
                _check_teacher(what, teacher, f"models.{name}.stages.{number}")
    in_order(what)
    for corpus in (what.data.corpus, *(one.corpus for one in what.data.mix)):
        sources.check_name(corpus)
    for evaluation in (*what.evaluate, *what.evaluation.along):
        check_name(evaluation, HELD_OUT)
    if isinstance(wanted, Teacher):
        _check_teacher(what, wanted, "")
    elif wanted is not None and wanted not in what.compare.models:
        asked = named(wanted)
        in_order(what, asked.model)
        seed_of(what, asked)


def named(model: str, ways: str = "name, name[seed], name@step-N, a folder or a hub id") -> Teacher:
    """Read a reference to a model; `ways` are those in which it may be written."""
    try:
        return Teacher.model_validate(model)
    except ValidationError as error:
        raise UserError(f"'{model}' is no model: write {ways}") from error


def _check_teacher(what: Recipe, teacher: Teacher, place: str) -> None:
    if teacher.model in what.models:
        seed_of(what, teacher)
        return
    _check_outside(teacher.model, place, what.models)
    if teacher.seed is not None or teacher.checkpoint != "best":
        raise UserError(
            f"teacher '{teacher}': seeds and checkpoints can be named of models of the recipe only, and "
            f"'{teacher.model}' is none{nearest(teacher.model, what.models)}"
        )


def _check_outside(name: str, place: str, models: Iterable[str]) -> None:
    """Refuse what can be no model from outside; `models` are those of the recipe that could have been meant."""
    if is_path(name):
        if not (Path(name).expanduser() / "config.json").is_file():
            raise UserError(f"{place}: '{name}' is no model folder: it has no config.json".removeprefix(": "))
    elif not HUB_ID.fullmatch(name):
        known = f" of this recipe{nearest(name, models)} (models: {', '.join(models)})" if models else ""
        hub = "no hub id, which is written owner/name, as openai-community/gpt2"
        said = f"'{name}' is no model{known}, no folder here, and {hub}"
        raise UserError(f"{place}: {said}".removeprefix(": "))


def check_suites(suites: Sequence[str]) -> None:
    """Refuse evaluations that models from outside cannot be scored on: none, unknown ones, held-out text.

    Raises:
        UserError: such a name.
    """
    if not suites:
        raise UserError("name what to score the models on, as in --suite blimp")
    if held := [name for name in suites if name in HELD_OUT]:
        raise UserError(f"'{held[0]}' is held-out text of a recipe; score this model on a suite, such as blimp")
    for name in suites:
        check_name(name)
