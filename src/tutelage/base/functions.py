"""Functions of a user's own, named in a recipe as `package.module:function`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from tutelage.base.errors import nearest

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_function(name: str) -> Callable[..., Any]:
    """Import a function by its name.

    Raises:
        ValueError: no such name, module or function, with the nearest one.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"'{name}' names no function: write package.module:function")
    place, _, short = name.partition(":")
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise ValueError(f"'{name}' cannot be imported ({error}): install it, or put it on PYTHONPATH") from error
    function = getattr(module, short, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ValueError(f"{place} has no function '{short}'{nearest(short, known)}")
    return function  # type: ignore[no-any-return]


def check_settings(name: str, function: Callable[..., Any], given: int, settings: Mapping[str, Any]) -> None:
    """Make sure that a function takes so many arguments by place, and settings by name.

    Raises:
        ValueError: it does not, with the nearest name.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(*range(given), **settings)
    except TypeError as error:
        wrong = next((key for key in settings if key not in signature.parameters), "")
        raise ValueError(f"{name}{signature}: {error}{nearest(wrong, signature.parameters)}") from error
