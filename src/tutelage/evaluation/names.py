"""The names that evaluations go by, known without loading what they compute with."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from tutelage.base.errors import UserError, nearest
from tutelage.base.functions import load_object
from tutelage.evaluation.suites.sources import FOLDERS, SOURCES, STARTER, own_name
from tutelage.recipe.finetune import GLUE_11, MSGS

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "reading": ("published",),
    "aoa": (),
    "calibration": (),
    "buckets": (),
    "tasks": (),
    "glue": (*GLUE_11, *MSGS),
}
"""Of each measurement (`named.MEASUREMENTS`), what may stand behind a colon; nothing if the name stands alone."""


def names() -> list[str]:
    """List the evaluations that can be named; arguments included."""
    measured = [full for name, given in ARGUMENTS.items() for full in (name, *(f"{name}:{a}" for a in given))]
    return [*SOURCES, STARTER, *measured, *(f"{prefix}FOLDER" for prefix in FOLDERS)]


def check_name(name: str, besides: Iterable[str] = ()) -> None:
    """Refuse a name that means nothing, with the nearest; looks at no file but the module of `package.module:function`.

    `besides` are further names that are known where this one stands.
    """
    family, colon, argument = name.partition(":")
    known = [*besides, *names()]
    if name in known or name.startswith(FOLDERS):
        return
    if family in ARGUMENTS and colon:
        choices = ARGUMENTS[family]
        if not choices:
            raise UserError(f"evaluation '{name}': '{family}' stands alone, without a colon")
        hint = f"{nearest(argument, choices)} (known: {', '.join(choices)})"
        raise UserError(f"evaluation '{name}': '{family}' has no '{argument}'{hint}")
    if own := own_evaluation(name):
        try:
            named = load_object(own[0])
        except UserError as error:
            near = nearest(family, [*ARGUMENTS, *(prefix[:-1] for prefix in FOLDERS)])
            raise UserError(f"evaluation {error}{near}") from error
        if not (inspect.isfunction(named) or _is_measurement(named)):
            raise UserError(f"evaluation '{name}' is neither a function nor a Measurement")
        return
    raise UserError(f"unknown evaluation '{name}'{nearest(name, known)} (known: {', '.join(known)})")


def own_evaluation(name: str) -> tuple[str, str] | None:
    """A user's `package.module:function`, and its argument; None for the names that are known here."""
    return None if name.startswith(FOLDERS) or name.partition(":")[0] in ARGUMENTS else own_name(name)


def _is_measurement(named: object) -> bool:
    from tutelage.evaluation.benchmarks.measurement import Measurement  # which loads torch

    return isinstance(named, Measurement)
