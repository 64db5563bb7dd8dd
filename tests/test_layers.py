"""Every import goes downwards, and no file needs itself by a detour.

Read from the source, so that imports inside functions and for type checkers count like all others.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tutelage

ROOT = Path(tutelage.__file__).parent
FLOORS = (
    "starter",
    "base",
    "recipe",
    "corpus",
    "models",
    "study",
    "study.client",
    "study.filter",
    "study.write",
    "teaching",
    "training",
    "bench",
    "evaluation.baselines",
    "evaluation.benchmarks",
    "evaluation.likelihood",
    "evaluation.finetune",
    "evaluation.suites",
    "evaluation.psychometrics",
    "evaluation",
    "compare",
    "report",
    "experiment",
    "babylm",
    "api",
    "cli",
    "__main__",
)
"""The folders from the lowest floor up; a file may import from its own folder and from those before it."""


def imports_in(root: Path) -> dict[str, set[str]]:
    """The files of a package, as dotted names below its root, and which others each imports."""
    files = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".") if package else []
                above = above[: len(above) - node.level + 1] if node.level else []
                start = ".".join(
                    [*([root.name] if node.level else []), *above, *([node.module] if node.module else [])]
                )
                targets |= {f"{start}.{alias.name}" for alias in node.names}
        found[name] = {file for target in targets if (file := _file_of(target, root.name, files)) not in (None, name)}
    return found


def _file_of(target: str, package: str, files: dict[str, Path]) -> str | None:
    """The file that an imported name is, or is defined in; None outside the package."""
    head, _, rest = target.partition(".")
    if head != package:
        return None
    while rest and rest not in files:
        rest = rest.rpartition(".")[0]
    return rest if rest in files else None


def floor_of(name: str, floors: tuple[str, ...]) -> int:
    """The floor of a file: that of the innermost folder with one."""
    while name not in floors:
        if not name:
            raise AssertionError("a folder without a floor")
        name = name.rpartition(".")[0]
    return floors.index(name)


def upward(imports: dict[str, set[str]], floors: tuple[str, ...]) -> list[str]:
    """Imports from a higher floor."""
    return [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in others
        if name and other and floor_of(other, floors) > floor_of(name, floors)
    ]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """A chain of files each of which imports the next, from a file back to itself; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_import_goes_upwards() -> None:
    assert upward(imports_in(ROOT), FLOORS) == []


def test_no_file_imports_itself_by_a_detour() -> None:
    assert circle(imports_in(ROOT)) == []


def test_nothing_lies_loose_at_the_top() -> None:
    entries = [entry for entry in ROOT.iterdir() if entry.name != "__pycache__"]
    assert {entry.name for entry in entries if entry.suffix == ".py"} == {"__init__.py", "__main__.py"}
    assert len(entries) <= 20
    folders = {entry.name for entry in entries if entry.is_dir()} - {"recipes"}
    assert folders == {floor for floor in FLOORS if "." not in floor and floor != "__main__"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"low/a.py": "from house.high.b import x", "high/b.py": "x = 1"}, "low.a imports high.b"),
        ({"low/a.py": "def f():\n    from house.high import b", "high/b.py": ""}, "low.a imports high.b"),
        ({"low/a.py": "if TYPE_CHECKING:\n    import house.high.b", "high/b.py": ""}, "low.a imports high.b"),
        ({"low/a.py": "from ..high.b import x", "high/b.py": "x = 1"}, "low.a imports high.b"),
    ],
)
def test_upward_imports_are_seen(tmp_path: Path, files: dict[str, str], found: str) -> None:
    assert upward(imports_in(_house(tmp_path, files)), ("low", "high")) == [found]


def test_circles_are_seen_in_functions_and_over_folders(tmp_path: Path) -> None:
    files = {
        "low/a.py": "from house.low import b",
        "low/b.py": "def f():\n    from house.high.c import x",
        "high/c.py": "import house.low.a\nx = 1",
        "high/d.py": "from house.high.c import x",
    }
    assert sorted(set(circle(imports_in(_house(tmp_path, files))))) == ["high.c", "low.a", "low.b"]


def _house(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in ({"__init__.py": "", "low/__init__.py": "", "high/__init__.py": ""} | files).items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "house"
