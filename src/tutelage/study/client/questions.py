"""How a stage puts its questions: purpose, seed, and the JSON form of the answer.

Lengths are never part of a schema: some servers' grammars break on them, and they are checked here anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tutelage.study.client.teacher_llm import Message, Request
from tutelage.study.settings import Study

TEXT = {"type": "string"}


def question(study: Study, purpose: str, messages: tuple[Message, ...], schema: dict[str, Any] | None) -> Request:
    """Return a request whose seed follows from the study's seed and its purpose, which must be its own."""
    return Request(messages, purpose, schema, seed_of(study.seed, purpose), study.teacher.max_tokens)


def seed_of(*parts: object) -> int:
    """Return a number below 2^31 that depends on all parts, and is the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


def record(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def list_of(name: str, fields: Sequence[str] = (), wished: int | None = None) -> dict[str, Any]:
    """Return the schema of an object with one list: of texts, or of objects with these text fields.

    Somewhat more than `wished` is let pass; a flood is malformed.
    """
    item = record(dict.fromkeys(fields, TEXT)) if fields else TEXT
    most = {} if wished is None else {"maxItems": 2 * wished + 4}
    return record({name: {"type": "array", "items": item, **most}})


def one_of(values: Sequence[str]) -> dict[str, Any]:
    """Return the schema of one text out of several."""
    return {"type": "string", "enum": list(values)}
