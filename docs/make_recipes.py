"""Write the lower parts of `docs/recipes.md` and `docs/study-keys.md` from the schemas: every section, key, default.

The text above a page's marker is written by hand and kept. Run `python docs/make_recipes.py` after a change in
`src/tutelage/recipe/` or of `study/settings.py`; `--check` only tells, by exit code 1, whether a page is stale.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tutelage.recipe import Recipe
from tutelage.study.settings import Study

PAGES: dict[Path, tuple[type[BaseModel], str]] = {
    Path(__file__).with_name("recipes.md"): (Recipe, "src/tutelage/recipe/"),
    Path(__file__).with_name("study-keys.md"): (Study, "src/tutelage/study/settings.py"),
}
MARKER = "<!-- Written by docs/make_recipes.py from {source}: edit that file, then run the script. -->"
PLURALS = {"text": "texts", "whole number": "whole numbers", "whole number (≥ 1)": "whole numbers (≥ 1)"}
NAMES = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Path: "path", Any: "anything"}


def main() -> int:
    """Write the pages, or with `--check` compare them."""
    stale = 0
    for path, (schema, source) in PAGES.items():
        found = path.read_text(encoding="utf-8")
        wanted = page(path, found, schema, MARKER.format(source=source))
        if sys.argv[1:] != ["--check"]:
            path.write_text(wanted, encoding="utf-8")
        elif found != wanted:
            print(f"{path.name} is stale: run `python docs/make_recipes.py`", file=sys.stderr)
            stale = 1
    return stale


def page(path: Path, found: str, schema: type[BaseModel], marker: str) -> str:
    """Return a page with its lower part written anew; everything above the marker stays."""
    head, there, _ = found.partition(marker)
    if not there:
        raise SystemExit(f"{path} has lost its marker line: {marker}")
    return f"{head}{marker}\n\n" + "\n\n".join(section(name, place) for name, place in sections(schema, "")) + "\n"


def sections(
    schema: type[BaseModel], place: str, seen: set[type[BaseModel]] | None = None
) -> Iterator[tuple[Any, str]]:
    """Yield every section once, in reading order, with the place where it stands."""
    seen = set() if seen is None else seen
    seen.add(schema)
    yield schema, place
    for key, field in schema.model_fields.items():
        for inner, suffix in nested(field.annotation):
            if inner not in seen:
                yield from sections(inner, f"{place}.{key}{suffix}".lstrip("."), seen)


def nested(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the sections inside an annotation, with what follows the key on the way to them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
        return
    suffix = {tuple: ".0", dict: ".NAME"}.get(get_origin(annotation), "")
    for part in get_args(annotation):
        for inner, rest in nested(part):
            yield inner, suffix + rest


def section(schema: type[BaseModel], place: str) -> str:
    """Write a section: where it stands, what it is, a table of its keys."""
    where = f"At `{place}`. " if place else "The top of the file. "
    rows = [
        f"| `{key}` | {kind(field.annotation, field.metadata)} | {default(field)} | {cell(field.description)} |"
        for key, field in schema.model_fields.items()
    ]
    head = ["| key | value | default | what |", "|:--|:--|:--|:--|"]
    return "\n".join([f"### {schema.__name__}", "", where + cell(schema.__doc__), "", *head, *rows])


def cell(text: str | None) -> str:
    """Put text on one line of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say in words which values an annotation allows."""
    return f"{words(annotation)}{bounds(metadata)}"


def words(annotation: Any) -> str:
    """Say an annotation without the bounds beside it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [mark for found in parts[1:] for mark in (found.metadata if isinstance(found, FieldInfo) else [found])]
        return kind(parts[0], marks)
    if origin is Literal:
        return ", ".join(f"`{scalar(value)}`" for value in parts)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if part is type(None) else words(part) for part in parts)
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"list of {PLURALS.get(inner := words(parts[0]), inner)}"
        return f"[{', '.join(words(part) for part in parts)}]"
    if origin is dict:
        return f"mapping of names to {words(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return NAMES[annotation]


def bounds(metadata: Iterable[Any]) -> str:
    """Say the bounds of a value."""
    said = []
    for mark in metadata:
        match mark:
            case Ge():
                said.append(f"≥ {mark.ge}")
            case Gt():
                said.append(f"> {mark.gt}")
            case Le():
                said.append(f"≤ {mark.le}")
            case Lt():
                said.append(f"< {mark.lt}")
            case MinLen():
                said.append(f"at least {mark.min_length}")
            case _ if getattr(mark, "pattern", None):
                said.append(f"like `{mark.pattern}`")
    return f" ({', '.join(said)})" if said else ""


def default(field: FieldInfo) -> str:
    """Write a default; a section whose keys all have their defaults is `{}`."""
    if field.is_required():
        return "**required**"
    return f"`{scalar(plain(field.default))}`"


def scalar(value: Any) -> str:
    """Write a value as a recipe would, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def plain(value: Any) -> Any:
    """Turn a default into what a recipe would say."""
    if isinstance(value, BaseModel):
        return {key: plain(getattr(value, key)) for key in value.model_fields_set}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
