"""From a YAML file to a `Recipe`: `a.b=c` overrides, `like`/`without`, errors with their place."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tutelage.base.errors import UserError, nearest
from tutelage.base.types import Json
from tutelage.recipe.experiment import LENGTHS, Recipe
from tutelage.recipe.foreign import named_here
from tutelage.recipe.shipped import yaml_text
from tutelage.recipe.yaml import Lines, Place, parse

COMMAND_LINE = 0  # in place of a line: where overrides stand
RECIPE_FILE = "recipe.yaml"
"""What a run folder keeps its recipe in."""


def override(tree: Json, assignments: Sequence[str], lines: Lines) -> None:
    """Apply `a.b=c` assignments to the tree in place; values are read as YAML, list items by their number. In `lines`,
    places that were overridden are noted as such.

    Raises:
        UserError: no `=` in it, or its path goes through something that is no mapping or list.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise UserError(f"'{assignment}' is no override: write key.key=value, as in models.student.optim.lr=1e-3")
        _check_model(tree, path.strip().split("."), assignment)
        value, _ = parse(text, f"override '{assignment}'")
        holder: Any = None
        node: Any = tree
        place: Place = ()
        for key in path.strip().split("."):
            # An override may add keys the file leaves at their defaults; the schema judges them afterwards.
            if node is None:
                node = holder[place[-1]] = {}
            place = (*place, _step(node, key, assignment))
            holder, node = node, node.get(place[-1]) if isinstance(node, dict) else node[place[-1]]
        holder[place[-1]] = value
        for below in [known for known in lines if known[: len(place)] == place]:
            del lines[below]
        lines[place] = COMMAND_LINE


def _check_model(tree: Json, path: list[str], assignment: str) -> None:
    """Refuse to change a setting of a model that is not there: a misspelt name would be a new model."""
    models = tree.get("models")
    if path[0] == "models" and len(path) > 2 and isinstance(models, dict) and path[1] not in models:
        raise UserError(
            f"override '{assignment}': no model '{path[1]}' in this recipe{nearest(path[1], models)} (models: "
            f"{', '.join(models)}); a new one is given as a whole: models.{path[1]}={{like: NAME, ...}}"
        )


def _step(node: Any, key: str, assignment: str) -> str | int:
    """Return a key of a mapping, or the index of a list."""
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise UserError(f"override '{assignment}': '{key}' is no index of a list of {len(node)}")
        return int(key)
    if not isinstance(node, dict):
        raise UserError(f"override '{assignment}': nothing lies above '{key}' that holds keys")
    return key


def _merge(base: Any, changes: Any) -> Any:
    if isinstance(base, dict) and isinstance(changes, dict):
        return base | {key: _merge(base.get(key), value) for key, value in changes.items()}
    return copy.deepcopy(changes)


def resolve_likes(tree: Json, lines: Lines, name: str) -> None:
    """Write out `like` and `without` of every model, in place.

    `without: teachers` takes the teachers, their cache and the `distill` objective away, and so does
    `without: distill`; `select` is the selection of rows; any other name is an objective. Where an objective goes, the
    remaining weights of each stage are scaled to sum to 1; without `tasks` alone they stay as they are, since those
    come on top.
    What has not the shape of a recipe stays as it is, for the schema to refuse.

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
        where = f"{_where(('models', key, 'like'), lines, name)}: models.{key}"
        if key in path:
            raise UserError(f"{where}: `like` goes in a circle: {' -> '.join((*path, key))}")
        model = models[key]
        if isinstance(model, dict) and isinstance(model.get("like"), str):
            original = model["like"]
            if original not in models:
                near = nearest(original, models)
                raise UserError(f"{where}.like names '{original}', which is not a model of this recipe{near}")
            base = resolve(original, (*path, key))
            if not isinstance(base, dict):
                raise UserError(f"{where}.like names '{original}', which is no mapping of settings")
            model = _written_out(base, model, where)
        done[key] = model
        return model

    for key in models:
        resolve(key, ())
    tree["models"] = {key: done[key] for key in models}


def _written_out(base: Json, model: Json, where: str) -> Json:
    """Return a model with the settings it does not give taken from another, and its `without` done."""
    base = {key: value for key, value in base.items() if key != "without"}
    if any(model.get(length) is not None for length in LENGTHS):
        base = {key: value for key, value in base.items() if key not in LENGTHS}
    merged: Json = _merge(base, model)
    left_out = merged.get("without", [])
    left_out = [left_out] if isinstance(left_out, str) else left_out
    if not left_out or not _is_list_of(left_out, str) or not (_has_stages(base) and _has_stages(merged)):
        return merged
    known = {part for stage in base.get("stages", [{}]) for part in _parts(stage)}
    if unknown := [item for item in left_out if item not in known]:
        raise UserError(f"{where}.without names '{unknown[0]}', which '{model['like']}' does not have: "
                        "name `teachers`, `select` or one of its objectives")  # fmt: skip
    gone = {"teachers" if item == "distill" else item for item in left_out}
    stages = [_without(stage, gone, where) for stage in merged.get("stages", [{}])]
    return {**merged, "stages": stages, "without": sorted(gone) if "distill" in left_out else merged["without"]}


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _has_stages(model: Json) -> bool:
    """Tell whether a model's stages, where it gives any, have the shape of stages."""
    stages = model.get("stages", [{}])
    return _is_list_of(stages, dict) and all(isinstance(stage.get("objectives", {}), dict) for stage in stages)


def _parts(stage: Json) -> set[str]:
    """Name what can be left out of a stage: its teachers, its selection of rows, its objectives."""
    return set(_objectives(stage)) | {key for key in ("teachers", "select") if stage.get(key)}


def _objectives(stage: Json) -> Json:
    objectives = stage.get("objectives", {"next_token": 1})
    return {term: value for term, value in objectives.items() if value is not None}


def _without(stage: Json, gone: set[str], where: str) -> Json:
    """Return a stage without its teachers or some objectives, the weights of the others scaled to sum to 1."""
    terms = gone - {"select"}
    if "teachers" in gone:
        terms, gone = terms | {"distill"}, gone | {"cache"}
    kept = {key: copy.deepcopy(value) for key, value in stage.items() if key not in gone}
    if not terms:
        return kept
    left = {term: value for term, value in _objectives(stage).items() if term not in terms}
    if not left:
        raise UserError(f"{where}: without {', '.join(sorted(gone))} a stage has nothing left to learn")
    weights = {term: _weight(value, f"{where}: the objective `{term}`") for term, value in left.items()}
    # Labels come on top of the text: they neither take up a weight nor give theirs.
    shared = sum(weight for term, weight in weights.items() if term != "tasks")
    total = shared if shared and terms != {"tasks"} else 1.0
    for term, value in left.items():
        if term != "tasks":
            weight = weights[term] / total
            left[term] = {**value, "weight": weight} if isinstance(value, dict) else weight
    return {**kept, "objectives": left}


def _weight(value: Any, where: str) -> float:
    weight = value.get("weight", 1.0) if isinstance(value, dict) else value
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= sys.float_info.max:
        raise UserError(f"{where} has the weight {weight!r}; give a number greater than 0")
    return float(weight)


def explain(error: ValidationError, tree: Json, lines: Lines, name: str, schema: type[BaseModel] = Recipe) -> str:
    """Write pydantic's findings as lines `file:line: key: what, did you mean`, one for each mistake.

    `tree` was checked against `schema`; it comes from the file `name`, where its places stand at `lines`.
    """
    items: dict[Place, list[Any]] = {}
    for item in error.errors():
        items.setdefault(_place_of(item, tree), []).append(item)
    # What is wrong within a value is the mistake; that the whole is wrong then, in each of its forms, only follows.
    whole = {place[:depth] for place in items for depth in range(len(place))}
    found = {place: _finding(place, said, schema) for place, said in items.items() if place not in whole}
    written = {(place[2:], finding) for place, finding in found.items() if place in lines}
    top = re.sub("(?<=[a-z])(?=[A-Z])", " ", schema.__name__).lower()
    return "\n".join(
        f"{_where(place, lines, name)}: {finding[0]}{'.'.join(map(str, place)) or top}{finding[1]}"
        for place, finding in found.items()
        # What `like` has copied is told where it stands in the file.
        if place in lines or (place[2:], finding) not in written
    )


def _place_of(item: Any, tree: Any) -> Place:
    """Return where in the recipe a finding is.

    Pydantic adds the names of alternative forms (`seeds.constrained-int`) and what short forms stand for; both are cut.
    """
    loc: Place = (*item["loc"], *item.get("ctx", {}).get("place", ()))
    place: Place = ()
    for number, part in enumerate(loc, start=1):
        if part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree)):
            place, tree = (*place, part), tree[part]
        elif item["type"] == "missing" and number == len(loc):
            place = (*place, part)
    return place


def _finding(place: Place, items: list[Any], schema: type[BaseModel]) -> tuple[str, str]:
    """Say what is wrong: what to write before the key, and after it. Several items are a value's alternative forms."""
    if items[0]["type"] == "extra_forbidden":
        if schema is Recipe and (ours := named_here(place)) is not None:
            return "unknown key '", f"': {ours}"
        section = _section_at(place[:-1], schema)
        choices = list(section.model_fields) if section else []
        deeper = [
            f"{key}.{place[-1]}"
            for key in choices
            if (inner := _section_at((*place[:-1], key), schema)) and place[-1] in inner.model_fields
        ]
        hint = f"; did you mean '{deeper[0]}'?" if len(deeper) == 1 else nearest(str(place[-1]), choices)
        return "unknown key '", "'" + (hint or (f"; known keys: {', '.join(choices)}" if choices else ""))
    said = (item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list") for item in items)
    first, *others = dict.fromkeys(re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", s) for s in said)
    message = ", or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
    given = items[0]["input"]
    told = isinstance(given, str | int | float | bool) and repr(given) not in message
    return "", f": {message}" + (f" (given: {given!r})" if told else "")


def _where(place: Place, lines: Lines, name: str) -> str:
    """Return the file and, where the place or one around it stands in the file, the line; or that it is an override."""
    while place and place not in lines:
        place = place[:-1]
    if place and lines[place] == COMMAND_LINE:
        return "on the command line"
    return f"{name}:{lines[place]}" if place else name


def _section_at(place: Place, schema: type[BaseModel]) -> type[BaseModel] | None:
    """Find the schema class at a place, by walking the annotations."""

    def models_in(annotation: Any) -> list[Any]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [found for part in get_args(annotation) for found in models_in(part)]

    current = schema
    for part in place:
        if isinstance(part, str) and part in current.model_fields:
            found = models_in(current.model_fields[part].annotation)
            if not found:
                return None
            current = found[0]
    return current


def find_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe as `load_recipe` does, or that of a run from its folder, which takes no overrides."""
    path = Path(source)
    if (path / RECIPE_FILE).is_file():
        if overrides:
            raise UserError(f"{source} is a run with settings of its own; overrides go with its recipe and a new name")
        return load_recipe(path / RECIPE_FILE)
    if (path / "config.json").is_file():
        raise UserError(f"{source} is a model, not a recipe; to score it, name a suite: --suite blimp")
    return load_recipe(source, overrides)


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or by the name of one that comes with the package, such as `quickstart`.

    Overrides, `a.b=c`, are applied before `like` is resolved.

    Raises:
        UserError: anything wrong with the file or the overrides, with key, line and remedy.
    """
    return recipe_from_text(yaml_text("recipe", source), str(source), overrides)


def recipe_from_text(text: str, name: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Build a recipe from YAML text; see `load_recipe`."""
    tree, lines = parse(text, name)
    if not isinstance(tree, dict):
        raise UserError(f"{name}: a recipe is a mapping of keys to values, see `tutelage show quickstart`")
    override(tree, overrides, lines)
    resolve_likes(tree, lines, name)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(explain(error, tree, lines, name)) from error
