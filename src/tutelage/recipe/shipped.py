"""What comes with the package as YAML files: recipes, and studies from which an LLM writes a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tutelage.base.errors import UserError, nearest

Kind = Literal["recipe", "study"]
FOLDERS: Mapping[Kind, str] = {"recipe": "recipes", "study": "recipes/studies"}
"""Inside the package, or beside it in a source checkout."""


def shipped(kind: Kind) -> dict[str, Any]:
    """Return the files of a kind that come with the package, by name and in the order of names."""
    packaged = resources.files("tutelage") / FOLDERS[kind]
    folder = packaged if packaged.is_dir() else Path(__file__).parents[3] / FOLDERS[kind]
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {entry.name.removesuffix(".yaml"): entry for entry in entries if entry.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def yaml_text(kind: Kind, source: str | Path) -> str:
    """Read a file, or one that comes with the package, by its name (`quickstart`) or place (`recipes/quickstart.yaml`).

    Raises:
        UserError: there is none of this name, with the nearest; or it is no UTF-8 text.
    """
    path, known = Path(source), shipped(kind)
    name = path.name.removesuffix(".yaml")
    if not path.is_file() and (name not in known or path.parent.name not in ("", Path(FOLDERS[kind]).name)):
        raise UserError(f"no {kind} '{source}': give a file, or one of {', '.join(known)}{nearest(name, known)}")
    try:
        # With the mark of Windows editors taken off.
        return str((path if path.is_file() else known[name]).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); a {kind} is a YAML file") from error
