"""What a model answered, read by the schema it was asked with.

Models that were told to write JSON think aloud before it, make remarks around it, wrap it, forget its braces, leave a
comma behind. What follows the schema in one of these ways is taken; where two values do, none is. The schema decides,
so nothing is guessed from the words of an answer, but for a single label, which small models write as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tutelage.study.client.answers import Unusable, check_schema, parse_json, read_json

MOST_STARTS = 32
"""Brackets at which JSON is looked for in one answer; a text full of brackets is not read without end."""
LONGEST_LABEL = 200
"""Characters of an answer in which a bare label is looked for."""

_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>|<\|channel\|>final<\|message\|>", re.IGNORECASE)
_COMMA = re.compile(r'("(?:[^"\\]++|\\.)*+"?)|,(?=\s*+[\]}])', re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)```", re.DOTALL)


def read_answer(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value of an answer that follows a schema.

    Raises:
        Unusable: there is none, or more than one; it says what is wrong with the first that was found.
    """
    text = text.strip()
    if not text:
        raise Unusable("the answer is empty")
    ends = [found.end() for found in _THOUGHT_ENDS.finditer(text)]
    faults: list[str] = []
    for part in dict.fromkeys((text[ends[-1] :] if ends else text, text)):
        found: list[Any] = []
        for value in _values(part, faults):
            for form in _forms(value, schema):
                fault = check_schema(named := _with_labels(form, schema), schema)
                if not fault and named not in found:
                    found.append(named)
                faults += [fault] if fault else []
                if not fault:
                    break
        if len(found) > 1:
            raise Unusable("there is more JSON after the first value")
        if found:
            return found[0]
        if (label := _bare_label(part, schema)) is not None:
            return label
    raise Unusable(faults[0] if faults else "it is not valid JSON: no bracket")


def label_of(text: str, labels: Sequence[str]) -> str | None:
    """Return the one label that a text says, whatever its case and what stands around it; None where it says none.

    The text begins with the label, after marks and a word with a colon, and names no other.
    """
    known = {label.casefold(): label for label in labels}
    text = text.casefold().strip()
    if len(known) < len(labels) or len(text) > LONGEST_LABEL:
        return None
    longest = sorted(map(re.escape, known), key=len, reverse=True)
    any_of = re.compile(rf"(?<!\w)(?:{'|'.join(longest)})(?!\w)")
    named = {found[0] for found in any_of.finditer(text)}
    if len(named) != 1 or not re.match(rf"\W*(?:[\w ]{{1,30}}:)?\W*{any_of.pattern}", text):
        return None
    return known[named.pop()]


def _values(text: str, faults: list[str]) -> Iterator[Any]:
    """Yield the JSON values of a text: the whole of it, what its fence holds, what its brackets begin."""
    text = _COMMA.sub(lambda found: found[1] or "", text.strip())
    if text[:1] == '"':
        try:
            yield parse_json(text)
            return
        except Unusable:
            pass  # a text that begins with a quotation
    if text[:1] not in ("[", "{") and (fenced := _FENCE.search(text)):
        text = fenced[1].strip()
    try:
        # Depth, parts and numbers are bounded there; where it is fine, nothing else need be tried.
        yield read_json(text)
        return
    except Unusable as error:
        faults.append(str(error))
        if "nested" in str(error) or "lists and objects" in str(error):
            return
    decoder, place = json.JSONDecoder(strict=False), 0
    for _ in range(MOST_STARTS):
        place = min((at for at in (text.find("{", place), text.find("[", place)) if at >= 0), default=-1)
        if place < 0:
            return
        try:
            value, place = decoder.raw_decode(text, place)
            yield value
        except (ValueError, RecursionError):
            place += 1


def _forms(value: Any, schema: Mapping[str, Any], depth: int = 0) -> Iterator[Any]:
    """Yield a value as it is, out of a string, out of an object of one key, and a list as the one list asked for."""
    yield value
    if depth == 2:
        return
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            inner = parse_json(value)
        except Unusable:
            return
        yield from _forms(inner, schema, depth + 1)
    elif isinstance(value, dict) and len(value) == 1:
        (inner,) = value.values()
        if isinstance(inner, dict | list):
            yield from _forms(inner, schema, depth + 1)
    elif isinstance(value, list) and (name := _only(schema, "array")) is not None:
        yield {name: value}


def _only(schema: Mapping[str, Any], kind: str) -> str | None:
    """Name the one field of a record, if it has one alone and that is of a kind."""
    fields = schema.get("properties", {})
    if len(fields) != 1:
        return None
    ((name, of),) = fields.items()
    return name if of.get("type") == kind else None


def _with_labels(value: Any, schema: Mapping[str, Any]) -> Any:
    """Write labels as the schema has them, where an answer differs by case or by what stands around them."""
    if isinstance(value, str) and "enum" in schema and value not in schema["enum"]:
        return label_of(value, schema["enum"]) or value
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        return {key: _with_labels(one, fields.get(key, {})) for key, one in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [_with_labels(one, schema["items"]) for one in value]
    return value


def _bare_label(text: str, schema: Mapping[str, Any]) -> dict[str, str] | None:
    """Read an answer without JSON where a single label was asked for."""
    name = _only(schema, "string")
    labels = schema["properties"][name].get("enum") if name else None
    label = label_of(text, labels) if labels else None
    return None if label is None or name is None else {name: label}
