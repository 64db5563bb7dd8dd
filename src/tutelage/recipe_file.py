"""From a YAML file to a `Recipe`: safe reading, `a.b=c` overrides, `like`/`without`, errors with their place.

YAML is read with the safe loader, less its traps: keys may not repeat, aliases are capped (a few lines could otherwise
expand to gigabytes), `3e-4` is a number, and only `true` and `false` are truth values.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tutelage.errors import UserError, nearest
from tutelage.recipe import Recipe

MAX_BYTES = 1 << 20
MAX_ALIASES = 100
SECRET = re.compile(r"(api_?key|password|secret|access_?token|bearer)", re.IGNORECASE)

Tree = dict[str, Any]
Place = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML with plain numbers and booleans."""


_Loader.yaml_implicit_resolvers = {
    letter: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|nan))$"),
    list("-+.0123456789"),
)


def parse(text: str, name: str) -> tuple[Tree, dict[Place, int]]:
    """Parse YAML text to a plain tree and the line of every key.

    Raises:
        UserError: not YAML, too large, too many aliases, a repeated key, a Python tag, or no mapping at the top.
    """
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MiB; that is no recipe")
    if sum(isinstance(token, yaml.AliasToken) for token in _scan(text, name)) > MAX_ALIASES:
        raise UserError(f"{name}: more than {MAX_ALIASES} aliases; write the values out")
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[Place, int] = {}
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{name}: a recipe is a mapping of keys to values, see `tutelage show quickstart`")
        _collect_lines(node, (), lines, name)
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{name}: {error}") from error
    # Aliases share one object; an override of one place must not change the others.
    return _unshared(tree), lines


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _scan(text: str, name: str) -> Iterable[Any]:
    try:
        yield from yaml.scan(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from error


def _collect_lines(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise UserError(f"{name}:{line}: the key '{key.value}' stands here a second time")
            seen.add(key.value)
            if SECRET.search(str(key.value)):
                raise UserError(f"{name}:{line}: '{key.value}' looks like a secret; those belong in the environment")
            lines[(*place, key.value)] = line
            _collect_lines(value, (*place, key.value), lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = value.start_mark.line + 1
            _collect_lines(value, (*place, index), lines, name)


def override(tree: Tree, assignments: Sequence[str]) -> None:
    """Apply `a.b=c` assignments to the tree in place; values are read as YAML, list items by their number.

    Raises:
        UserError: no `=` in it, or its path goes through something that is no mapping or list.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise UserError(f"'{assignment}' is no override: write key.key=value, as in models.student.optim.lr=1e-3")
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise UserError(f"override '{assignment}': the value is not valid YAML: {error}") from error
        keys = path.strip().split(".")
        node: Any = tree
        for key in keys[:-1]:
            node = _step_into(node, key, assignment)
        last: Any = keys[-1]
        if isinstance(node, list):
            last = _index(node, last, assignment)
        elif not isinstance(node, dict):
            raise UserError(f"override '{assignment}': '{'.'.join(keys[:-1])}' holds no keys")
        node[last] = value


def _step_into(node: Any, key: str, assignment: str) -> Any:
    if isinstance(node, dict):
        # An override may add keys the file leaves at their defaults; the schema judges them afterwards.
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    if isinstance(node, list):
        return node[_index(node, key, assignment)]
    raise UserError(f"override '{assignment}': nothing lies below '{key}'")


def _index(node: list[Any], key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"override '{assignment}': '{key}' is no index of a list of {len(node)}")
    return int(key)


def _merge(base: Any, changes: Any) -> Any:
    if isinstance(base, dict) and isinstance(changes, dict):
        merged = dict(base)
        for key, value in changes.items():
            merged[key] = _merge(base[key], value) if key in base else copy.deepcopy(value)
        return merged
    return copy.deepcopy(changes)


LENGTHS = ("epochs", "steps", "tokens", "words")


def resolve_likes(tree: Tree, name: str) -> None:
    """Write out `like` and `without` of every model, in place.

    `without: teachers` takes the teachers and the `distill` objective away; any other name is an objective. The
    remaining weights of each stage are scaled to sum to 1.

    Raises:
        UserError: an unknown model, a circle of likes, or nothing left to learn.
    """
    models = tree.get("models")
    if not isinstance(models, dict):
        return
    done: dict[str, Any] = {}

    def resolve(key: str, path: tuple[str, ...]) -> Any:
        if key in done:
            return done[key]
        if key in path:
            raise UserError(f"{name}: models.{key}: `like` goes in a circle: {' -> '.join((*path, key))}")
        model = models[key]
        if isinstance(model, dict) and model.get("like") is not None:
            original = model["like"]
            if original not in models:
                raise UserError(
                    f"{name}: models.{key}.like names '{original}', which is not a model of this recipe"
                    + nearest(str(original), models)
                )
            base = dict(resolve(original, (*path, key)))
            base.pop("without", None)
            if any(model.get(length) is not None for length in LENGTHS):
                base = {k: v for k, v in base.items() if k not in LENGTHS}
            known = {name for stage in base.get("stages") or [{}] for name in _parts(stage)}
            model = _without(_merge(base, model), known, key, name)
        done[key] = model
        return model

    for key in models:
        resolve(key, ())
    tree["models"] = {key: done[key] for key in models}


def _parts(stage: Tree) -> set[str]:
    """Name what can be left out of a stage: its teachers and its objectives."""
    return set(_objectives(stage)) | ({"teachers"} if stage.get("teachers") else set())


def _objectives(stage: Tree) -> Tree:
    objectives = stage.get("objectives") or {"next_token": 1}
    return {term: value for term, value in objectives.items() if value is not None}


def _without(model: Tree, known: set[str], key: str, name: str) -> Tree:
    left_out = model.get("without") or ()
    left_out = (left_out,) if isinstance(left_out, str) else tuple(left_out)
    if not left_out:
        return model
    for item in left_out:
        if item not in known:
            raise UserError(
                f"{name}: models.{key}.without names '{item}', which '{model['like']}' does not have: "
                "name `teachers` or one of its objectives"
            )
    stages = []
    for stage in model.get("stages") or [{}]:
        stage = copy.deepcopy(stage)
        if "teachers" in left_out:
            stage.pop("teachers", None)
        gone = {"distill" if item == "teachers" else item for item in left_out}
        objectives = {term: value for term, value in _objectives(stage).items() if term not in gone}
        if not objectives:
            raise UserError(f"{name}: models.{key}: without {', '.join(left_out)} a stage has nothing left to learn")
        total = sum(_weight(value) for value in objectives.values())
        stage["objectives"] = {term: _scaled(value, 1 / total) for term, value in objectives.items()}
        stages.append(stage)
    return {**model, "stages": stages}


def _weight(value: Any) -> float:
    weight = value.get("weight", 1.0) if isinstance(value, dict) else value
    return float(weight) if isinstance(weight, int | float) else 1.0


def _scaled(value: Any, factor: float) -> Any:
    weight = _weight(value) * factor
    return {**value, "weight": weight} if isinstance(value, dict) else weight


def _explain(error: ValidationError, lines: dict[Place, int], name: str) -> str:
    """Write pydantic's findings as lines `file:line: key: what, did you mean`."""
    findings = []
    for item in error.errors():
        place = tuple(item["loc"])
        known = place
        while known and known not in lines:
            known = known[:-1]
        where = f"{name}:{lines[known]}" if known else name
        key = ".".join(str(part) for part in place)
        if item["type"] == "extra_forbidden":
            section = _section_at(place[:-1])
            choices = list(section.model_fields) if section else []
            hint = nearest(str(place[-1]), choices) or (f"; known keys: {', '.join(choices)}" if choices else "")
            findings.append(f"{where}: unknown key '{key}'{hint}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = item["input"]
            shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
            findings.append(f"{where}: {key or 'recipe'}: {message}{shown}")
    return "\n".join(findings)


def _section_at(place: Place) -> type[BaseModel] | None:
    """Find the schema class at a place, by walking the annotations."""
    import typing

    def models_in(annotation: Any) -> list[Any]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [found for part in typing.get_args(annotation) for found in models_in(part)]

    current: type[BaseModel] = Recipe
    for part in place:
        if isinstance(part, str) and part in current.model_fields:
            found = models_in(current.model_fields[part].annotation)
            if not found:
                return None
            current = found[0]
    return current


def shipped_recipes() -> dict[str, Any]:
    """Return the recipes that come with the package, by name: inside it, or beside it in a source checkout."""
    packaged = resources.files("tutelage") / "recipes"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"
    entries = folder.iterdir() if folder.is_dir() else ()
    return {entry.name.removesuffix(".yaml"): entry for entry in entries if entry.name.endswith(".yaml")}


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or by the name of one that comes with the package.

    Args:
        source: path of a YAML file, or a name such as `quickstart`.
        overrides: `a.b=c` assignments, applied before `like` is resolved.

    Raises:
        UserError: anything wrong with the file or the overrides, with key, line and remedy.
    """
    path = Path(source)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a YAML file") from error
    else:
        shipped = shipped_recipes()
        name = path.name.removesuffix(".yaml")
        if name not in shipped or (path.parent != Path() and path.parent.name != "recipes"):
            raise UserError(
                f"no recipe '{source}': give a file, or one of {', '.join(sorted(shipped))}" + nearest(name, shipped)
            )
        text = shipped[name].read_text(encoding="utf-8")
    return recipe_from_text(text, str(source), overrides)


def recipe_from_text(text: str, name: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Build a recipe from YAML text; see `load_recipe`."""
    tree, lines = parse(text, name)
    override(tree, overrides)
    resolve_likes(tree, name)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, lines, name)) from error
