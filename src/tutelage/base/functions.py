"""Functions of a user's own that a recipe names as `package.module:function`.

They come from what Python finds on its path (`PYTHONPATH`, installed packages); a recipe holds no code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError, nearest
from tutelage.base.files import sha256

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_function_name(name: str) -> bool:
    """Tell whether a text has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


def load_function(name: str) -> Callable[..., Any]:
    """Import a function by its name; it is refused where it is missing, or its module fails when it is imported."""
    found = load_object(name)
    if not inspect.isfunction(found):
        place, _, function = name.partition(":")
        raise UserError(f"'{place}' has no function '{function}', but something else of that name")
    return found


def load_object(name: str) -> Any:
    """Import what a name of that form stands for, a function or another value; errors as `load_function`."""
    place, _, function = name.partition(":")
    try:
        module = import_module(place)
    except Exception as error:  # whatever the module's own code raises
        raise UserError(f"'{name}' cannot be imported ({type(error).__name__}: {error}); is its folder on PYTHONPATH?"
                        ) from error  # fmt: skip
    if not hasattr(module, function):
        raise UserError(f"'{place}' has no function '{function}'{nearest(function, dir(module))}")
    return getattr(module, function)


def code_digest(name: str) -> str:
    """Return a digest of the source of the module in which a function stands."""
    found = load_object(name)
    module = found if inspect.isfunction(found) else import_module(name.partition(":")[0])
    source = inspect.getsourcefile(module)
    assert source is not None, "a module in Python has a source"
    return sha256(Path(source))


def check_settings(name: str, function: Callable[..., Any], given: int, settings: Mapping[str, Any]) -> None:
    """Make sure that a function takes so many arguments by place, and settings by name; else raise `ValueError`."""
    signature = inspect.signature(function)
    try:
        signature.bind(*range(given), **settings)
    except TypeError as error:
        wrong = next((key for key in settings if key not in signature.parameters), "")
        raise ValueError(f"{name}{signature}: {error}{nearest(wrong, signature.parameters)}") from error
