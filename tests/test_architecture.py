"""docs/architecture.md is held to the tree: every file and name in it exists, and no folder is missing from it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tutelage"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
REFERENCE = re.compile(r"`([\w./-]+\.py)(?::([\w.]+))?`")
PAGES = {page.name: page for page in (ROOT / "docs" / "architecture.md", ROOT / "docs" / "decisions.md")}


def missing(reference: tuple[str, str]) -> bool:
    """Tell whether there is no such file, or nothing of that name in it."""
    path, name = reference
    file = next((place / path for place in (PACKAGE, ROOT) if (place / path).is_file()), None)
    return file is None or (bool(name) and name not in names_in(file))


@cache
def names_in(file: Path) -> frozenset[str]:
    """The names that a file defines, those of classes with a dot: `f`, `TABLE`, `Model`, `Model.forward`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        own = defined(node)
        found |= own
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in defined(inner)}
    return frozenset(found)


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_file_and_name_exists(page: str) -> None:
    references = REFERENCE.findall(PAGES[page].read_text(encoding="utf-8"))
    assert len(references) > 30
    gone = [":".join(filter(None, reference)) for reference in references if missing(reference)]
    if page == "decisions.md":  # in a section on one folder, its files by their names alone
        gone = [reference for reference in gone if not list(PACKAGE.rglob(reference))]
    assert gone == []


def test_every_folder_is_in_the_map() -> None:
    listed = re.findall(r"^\| `([\w/]+)/` \|", PAGE, re.MULTILINE)
    folders = {str(file.parent.relative_to(PACKAGE)) for file in PACKAGE.rglob("__init__.py")} - {"."}
    assert set(listed) == folders
    assert len(listed) == len(set(listed))


def test_the_map_goes_from_the_top_floor_down() -> None:
    from test_layers import FLOORS

    listed = [folder.replace("/", ".") for folder in re.findall(r"^\| `([\w/]+)/` \|", PAGE, re.MULTILINE)]
    floors = [FLOORS.index(folder) for folder in listed if "." not in folder]
    assert floors == sorted(floors, reverse=True)


@pytest.mark.parametrize(
    ("reference", "gone"),
    [
        (("training/loop.py", ""), False),
        (("training/loop.py", "train"), False),
        (("corpus/batches.py", "BatchSource.batch"), False),
        (("models/presets.py", "PRESETS"), False),
        (("training/loops.py", ""), True),
        (("training/loop.py", "trains"), True),
        (("corpus/batches.py", "BatchSource.bath"), True),
    ],
)
def test_what_is_missing_is_seen(reference: tuple[str, str], gone: bool) -> None:
    assert missing(reference) is gone
