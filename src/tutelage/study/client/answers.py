"""A teacher's text in, checked JSON out.

The text may be anything: it comes from a model that was told to write JSON, or from somebody who pretends to be one.
Reading it takes time and memory in proportion to its length, which the client bounds, and never recursion. Values are
checked against the part of JSON Schema that is written out here; a schema that uses more is refused, not half checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
MAX_CONTAINERS = 200_000
"""Objects and lists of an answer: they take a hundred times the memory of their text."""

# What a reasoning model thinks aloud before its answer; thoughts without an end stay.
_THOUGHTS = re.compile(r"\A<think>.*?</think>\s*", re.DOTALL)
# A string, ended or not, or a bracket. Possessive: nothing is tried twice, so that time is linear.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)```", re.DOTALL)
_UNSOUND = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_TYPES: dict[str, type | tuple[type, ...]] = {
    "boolean": bool, "object": dict, "array": list, "string": str, "integer": int, "number": float, "null": type(None),
}  # fmt: skip
"""A boolean is an integer too, and comes first."""
_CHECKED = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "minItems", "maxItems",
    "minLength", "maxLength", "minimum", "maximum",
}  # fmt: skip
_NOTES = {"title", "description", "$schema", "default", "examples"}
_LENGTHS = {"minLength", "maxLength"}
GIVEN = " (given: "
"""Begins the part of a fault that shows what the answer had there."""


class Unusable(Exception):
    """A text that is not the JSON that was asked for; it says why, in words that a teacher can be told."""


def read_json(text: str) -> Any:
    """Return the JSON value of a text: the whole of it, or what stands in its code fence, or from its first bracket on.

    Raises:
        Unusable: no JSON, nested too deeply, too many parts, not finite, or with characters that no text has.
    """
    text = _THOUGHTS.sub("", text.strip())
    if not text:
        raise Unusable("the answer is empty")
    if text[0] not in "[{" and (fenced := _FENCE.search(text)):
        text = fenced[1]
    elif text[0] not in '[{"':
        text = text[min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=0) :]
    return parse_json(text)


def parse_json(text: str) -> Any:
    """Return the JSON value that a text begins with; more JSON may not follow.

    Raises:
        Unusable: as `read_json` says.
    """
    text = text.strip()
    _check_structure(text)
    try:
        # Not strict: some servers' grammars let line breaks into strings. Other control characters are refused below.
        value, end = json.JSONDecoder(strict=False, parse_constant=_refuse_constant).raw_decode(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise Unusable(f"it is not valid JSON: {reason[:200]}") from error
    if "{" in text[end:] or "[" in text[end:]:
        raise Unusable("there is more JSON after the first value")
    return value


def check_text(text: str) -> str:
    """Tell what makes a text unsound, control characters or halves of a surrogate pair; empty if nothing does."""
    return f"it has the character {found}, which no text has" if (found := unsound(text)) else ""


def unsound(text: str) -> str:
    """Name the first character that no text has, as `U+0007`: a control character, or half of a surrogate pair."""
    found = _UNSOUND.search(text)
    return "" if found is None else f"U+{ord(found[0]):04X}"


def check_schema(value: Any, schema: Mapping[str, Any], place: str = "the answer") -> str:
    """Tell how a value differs from a schema, by the first place where it does; empty if it does not.

    Raises:
        ValueError: the schema uses a keyword that is not checked here.
    """
    if unknown := schema.keys() - _CHECKED - _NOTES:
        raise ValueError(f"schema keyword '{min(unknown)}' is not checked here")
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    kind = next(kind for kind, types in _TYPES.items() if isinstance(value, types))
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        return f"{place} should be of type {' or '.join(kinds)}, not {kind}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{place} is not one of {', '.join(map(shown, schema['enum'][:20]))}{_given(value)}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{place} is not {shown(schema['const'])}{_given(value)}"
    if kind == "string" and (fault := check_text(value)):
        return f"{place}: {fault}"
    if kind in ("integer", "number"):
        return _check_number(value, schema, place)
    if kind in ("string", "array") and (fault := _check_size(value, schema, place)):
        return fault
    if kind == "array":
        items = schema.get("items", {})
        return next((fault for i, one in enumerate(value) if (fault := check_schema(one, items, f"{place}[{i}]"))), "")
    return _check_object(value, schema, place) if kind == "object" else ""


def shown(value: Any) -> str:
    """Write a value so that it may stand in a message: short, on one line, without control characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def without_values(fault: str) -> str:
    """Return a fault as a teacher may be told it: where it is, without what stood there, which anybody wrote."""
    return fault.partition(GIVEN)[0]


def _given(value: Any) -> str:
    return f"{GIVEN}{shown(value)})"


def for_servers(schema: Any) -> Any:
    """Return a schema without lengths of strings, which make a widespread grammar library let broken JSON through."""
    if isinstance(schema, Mapping):
        # A property may be called so, and then has a schema for a value.
        kept = {key: one for key, one in schema.items() if not (key in _LENGTHS and isinstance(one, int))}
        return {key: for_servers(one) for key, one in kept.items()}
    return list(map(for_servers, schema)) if isinstance(schema, list | tuple) else schema


def _check_structure(text: str) -> None:
    depth = containers = 0
    for found in _STRUCTURE.finditer(text):
        if found[0] in "[{":
            depth, containers = depth + 1, containers + 1
            if depth > MAX_DEPTH:
                raise Unusable(f"it is nested more than {MAX_DEPTH} deep")
            if containers > MAX_CONTAINERS:
                raise Unusable(f"it has more than {MAX_CONTAINERS:,} lists and objects")
        elif found[0] in "]}":
            depth -= 1


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _check_size(value: str | list[Any], schema: Mapping[str, Any], place: str) -> str:
    word, unit = ("Length", "characters") if isinstance(value, str) else ("Items", "items")
    least = schema.get(f"min{word}", 0)
    if least <= len(value) <= schema.get(f"max{word}", math.inf):
        return ""
    return f"{place} has {len(value):,} {unit}, {'fewer' if len(value) < least else 'more'} than it may have"


def _check_number(value: float, schema: Mapping[str, Any], place: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place} is no finite number"
    within = schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
    return "" if within else f"{place} is out of bounds{_given(value)}"


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], place: str) -> str:
    known = schema.get("properties", {})
    if missing := [key for key in schema.get("required", ()) if key not in value]:
        return f"{place} lacks {shown(missing[0])}"
    other = schema.get("additionalProperties", True)
    for key, one in value.items():
        if key not in known and other is False:
            return f"{place} has a key that was not asked for{_given(key)}"
        if fault := check_text(key):
            return f"{place}: a key: {fault}"
        part = known.get(key, other if isinstance(other, Mapping) else {})
        if fault := check_schema(one, part, f"{place}.{key[:40] if key in known else '*'}"):
            return fault
    return ""
