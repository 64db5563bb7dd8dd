"""What users add by name: `package.module:function`, imported from their own code."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.base.errors import UserError, nearest
from tutelage.base.files import sha256

_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.\w+)*):(?P<function>[A-Za-z_]\w*)(?::(?P<argument>.+))?")


class Extension(NamedTuple):
    """A name in its parts: `module:function`, or `module:function:argument`."""

    module: str
    function: str
    argument: str = ""

    def load(self, key: str) -> Any:
        """Import what is named.

        Args:
            key: where in the recipe, or by which option, it is named; for messages.

        Raises:
            UserError: no such module, a module that fails while it is imported, or nothing of that name in it.
        """
        where = f"{key}: '{self.module}:{self.function}'"
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                raise UserError(f"{where}: {self.module} needs the module {error.name}, which is not there") from error
            raise UserError(
                f"{where}: there is no module {error.name}; install its package, or name its folder in PYTHONPATH"
            ) from error
        except Exception as error:  # whatever a user's module may raise
            raise UserError(f"{where}: importing {self.module} fails: {type(error).__name__}: {error}") from error
        if not hasattr(module, self.function):
            known = [name for name in vars(module) if not name.startswith("_")]
            raise UserError(f"{where}: {module.__file__} has no '{self.function}'{nearest(self.function, known)}")
        return getattr(module, self.function)

    @property
    def source(self) -> str:
        """Digest of the module's file, once it is imported; results depend on it."""
        file = inspect.getsourcefile(sys.modules[self.module])
        return sha256(Path(file)) if file else ""


def extension(name: str) -> Extension | None:
    """Take a name apart; None where it has another form."""
    match = _NAME.fullmatch(name)
    return Extension(match["module"], match["function"], match["argument"] or "") if match else None
