"""From a YAML file to a `Study`: `a.b=c` overrides, errors with their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tutelage.base.errors import UserError
from tutelage.recipe.load import explain, override
from tutelage.recipe.yaml import dump, parse
from tutelage.study.settings import Study


def load_study(source: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study from a file.

    Args:
        source: path of a YAML file.
        overrides: `a.b=c` assignments.

    Raises:
        UserError: anything wrong with the file or the overrides, with key, line and remedy.
    """
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"no study '{path}': give a YAML file; docs/study.md shows one") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); a study is a YAML file") from error
    tree, lines = parse(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a study is a mapping of keys to values, see docs/study.md")
    override(tree, overrides, lines)
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise UserError(explain(error, tree, lines, str(path), Study)) from error


def study_text(study: Study) -> str:
    """Return a study as YAML, defaults left out."""
    tree = study.model_dump(mode="json", exclude_defaults=True)
    return dump(tree)
