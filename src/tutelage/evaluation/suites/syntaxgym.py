"""SyntaxGym's test suites (Gauthier et al. 2020): JSON files with regions, conditions and predictions about surprisals.

Format: github.com/cpllab/syntaxgym-core, `docs/suite_json.rst` and `docs/schemas/test_suite.json`. A sentence is its
regions joined by spaces, empty ones left out. A region's surprisal is the sum over its tokens, in bits; `-log2 p`. An
item is right if all predictions of its suite hold for it; a suite's score is the share of such items.

A question's options are the regions that the formulas mention, each after all that comes before it: what a causal model
says of a region depends on nothing else. (A masked one sees nothing of what follows.) The published tools put a start
token before every sentence; here the convention decides, and lm-eval's rules of 2023 and 2024 put one only before a
text without anything before it.
"""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.types import Floats
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.reading import json_file
from tutelage.evaluation.suites.formulas import Formula, Region, parse
from tutelage.evaluation.suites.questions import Paradigm, Question


def read_syntaxgym(folder: Traversable) -> tuple[Paradigm, ...]:
    """Read a folder of SyntaxGym suites, or one file; a paradigm a suite.

    Raises:
        UserError: no folder or file, broken JSON, missing or wrong fields, formulas that cannot be read or speak of
            conditions or regions that an item lacks; with file and item.
    """
    files = [folder] if folder.is_file() else []
    if folder.is_dir():
        files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    if not files:
        raise UserError(f"no .json file in {folder}: give a folder of SyntaxGym test suites")
    return tuple(_read(file) for file in files)


def margins(paradigm: Paradigm, scores_NK: Floats) -> Floats:
    """Return by how many nats the predictions of each of N items hold, the least of them, `(N,)`.

    The paradigm is of `read_syntaxgym`, the scores log-probabilities of its questions' options in nats.
    """
    columns = _mentioned(paradigm.formulas)
    bits = {region: -scores_NK[:, column] / np.log(2) for column, region in enumerate(columns)}
    found: Floats = np.min([formula.margin(bits) for formula in paradigm.formulas], axis=0) * np.log(2)
    return found


def _read(file: Traversable) -> Paradigm:
    suite = json_file(file)
    meta = _get(suite, "meta", dict, str(file))
    if _get(meta, "metric", str, f"{file}: meta") != "sum":
        raise UserError(f"{file}: its metric is '{meta['metric']}'; only 'sum' is known, in SyntaxGym too")
    formulas = []
    for index, prediction in enumerate(_get(suite, "predictions", list, str(file)), start=1):
        where = f"{file}: prediction {index}"
        if _get(prediction, "type", str, where) != "formula":
            raise UserError(f"{where} is of the type '{prediction['type']}'; only 'formula' is known")
        try:
            formulas.append(parse(_get(prediction, "formula", str, where)))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    if not formulas:
        raise UserError(f"{file} has no predictions: nothing can be right or wrong")
    regions = _mentioned(tuple(formulas))
    questions = []
    for index, item in enumerate(_get(suite, "items", list, str(file)), start=1):
        where = f"{file}: item {index}"
        questions.append(Question(_options(item, regions, where), str(_get(item, "item_number", int, where))))
    if not questions:
        raise UserError(f"{file} has no items")
    return Paradigm(file.name.removesuffix(".json"), tuple(questions), formulas=tuple(formulas))


def _options(item: Any, mentioned: tuple[Region, ...], where: str) -> tuple[Item, ...]:
    """What the formulas speak about: a region after everything before it, or a whole sentence."""
    sentences: dict[str, dict[str, str]] = {}
    for condition in _get(item, "conditions", list, where):
        name = _get(condition, "condition_name", str, where)
        here = f"{where}, condition '{name}'"
        sentences[name] = {
            str(_get(region, "region_number", int, here)): _get(region, "content", str, here).strip()
            for region in _get(condition, "regions", list, here)
        }
    options = []
    for number, name in mentioned:
        if name not in sentences or number not in {"*", *sentences[name]}:
            known = {key: list(regions) for key, regions in sentences.items()}
            raise UserError(f"{where}: a prediction speaks of region {number} of '{name}', and it has only {known}")
        options.append(_item(sentences[name], number))
    return tuple(options)


def _item(regions: dict[str, str], number: str) -> Item:
    if number == "*":
        return Item(" ".join(filter(None, regions.values())))
    before: list[str] = []
    for key, content in regions.items():
        if key == number:
            break
        before.append(content)
    prefix = " ".join(filter(None, before))
    return Item(f" {content}" if prefix and content else content, prefix=prefix)


def _mentioned(formulas: tuple[Formula, ...]) -> tuple[Region, ...]:
    return tuple(dict.fromkeys(region for formula in formulas for region in formula.regions))


def _get(value: Any, key: str, kind: type, where: str) -> Any:
    """A field of the right type."""
    if not isinstance(value, dict) or not isinstance(value.get(key), kind) or isinstance(value[key], bool):
        found = value.get(key) if isinstance(value, dict) else value
        raise UserError(f"{where}: '{key}' must be a {kind.__name__}, and is {str(found)[:80]!r}")
    return value[key]
