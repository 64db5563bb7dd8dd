"""Ask for JSON, check what comes, ask again.

Requests go in waves: first all of them, then all whose answers were unusable, told what was wrong and with other seeds,
and so on. Each wave follows from the answers before it alone, so that a study that resumes after a kill asks the same.
Once the budget has ended, later waves take what is stored and ask nothing, or small questions would slip in behind.

A question is a request with a purpose of its own, from which its seed follows, and the schema of its answer. Lengths
are never part of a schema: some servers' grammars break on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.base.files import fingerprint
from tutelage.study.client.answers import Unusable, without_values
from tutelage.study.client.client import Answer, Message, Request, TeacherLLM
from tutelage.study.client.reading import read_answer
from tutelage.study.settings import Study, TeacherSettings

Check = Callable[[Any, Request], str | None]
"""Tells what is wrong with a value that follows its schema; None if nothing is."""

TO_JSON = (
    "Now write what you just answered as JSON, changing nothing. Reply with the JSON alone. It has to follow this "
    "schema:\n{schema}"
)
FAULT = "An earlier answer could not be used: {fault}. Reply with the JSON alone, exactly as asked for."
FREELY = "Answer in plain text for now; do not write JSON yet."
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


def list_of(name: str, fields: Sequence[str] = (), count: int | None = None) -> dict[str, Any]:
    """Return the schema of an object with one list: of texts, or of objects with these text fields.

    Somewhat more than the `count` asked for is let pass; a flood is malformed.
    """
    item = record(dict.fromkeys(fields, TEXT)) if fields else TEXT
    most = {} if count is None else {"maxItems": 2 * count + 4}
    return record({name: {"type": "array", "items": item, **most}})


def one_of(values: Sequence[str]) -> dict[str, Any]:
    """Return the schema of one text out of several."""
    return {"type": "string", "enum": list(values)}


def check_any(value: Any, request: Request) -> str | None:
    """Ask again where an answer of the right form holds nothing."""
    return None if any(value.values()) else "the list is empty"


@dataclass(frozen=True)
class Outcome:
    """What came of a request: checked JSON, None if no answer could be used.

    `keys` are those of all stored requests that led to it; the last one gave the value. `fault` says why there is no
    value; it is empty if there is.
    """

    value: Any | None
    keys: tuple[str, ...]
    fault: str = ""

    @property
    def origin(self) -> str:
        """Key of the request whose answer counted; empty if nothing was asked."""
        return self.keys[-1] if self.keys else ""


def ask_json(
    teacher: TeacherLLM,
    requests: Sequence[Request],
    check: Check,
    settings: TeacherSettings,
    label: str,
    spend: bool = True,
) -> list[Outcome | None]:
    """Ask requests with schemas until each has a usable answer or `settings.repairs` more answers were no better.

    With `settings.two_steps` the teacher first answers freely and then turns its answer into JSON. Without `spend`
    nothing is asked that is not stored. `check` says what else a value has to be, progress bars say `label`.

    Returns:
        An outcome each; None where the budget ended before there was one.
    """
    asked = [_Asked(request, check) for request in requests]
    for freely in (True, False) if settings.two_steps else (False,):
        for attempt in range(settings.repairs + 1):
            again = [one for one in asked if one.open and not (freely and one.free is not None)]
            if not again:
                break
            wave = [one.request_for_text(attempt) if freely else one.request_for_json(attempt) for one in again]
            answers = teacher.ask(wave, f"{label}, again" if attempt else label, spend)
            spend = spend and None not in answers
            for one, request, answer in zip(again, wave, answers, strict=True):
                if answer is None:  # the budget's end
                    one.open, one.outcome = False, None
                elif freely:
                    one.take_text(answer, last=attempt == settings.repairs)
                else:
                    one.take_json(answer, request)
    return [one.outcome for one in asked]


def _seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt: the first one's own, others that no neighbouring request has."""
    return seed if attempt == 0 else int(fingerprint([seed, attempt])[:7], 16)


class _Asked:
    """One request on its way to an outcome.

    `free` is its answer in plain text, where one was asked for and came; `open` tells whether it is to be asked again.
    """

    def __init__(self, request: Request, check: Check) -> None:
        if request.schema is None:
            raise ValueError(f"{request.purpose}: a request for JSON needs a schema")
        self._request, self._schema, self._check = request, request.schema, check
        self._keys, self._fault, self._told = list[str](), "", ""
        self.free: str | None = None
        self.open = True
        self.outcome: Outcome | None = None

    def request_for_text(self, attempt: int) -> Request:
        """Return the request without its schema."""
        request, seed = self._request, _seed(self._request.seed, attempt)
        messages = _with_line(request.messages, FREELY)
        return replace(request, messages=messages, purpose=f"{request.purpose}/text", schema=None, seed=seed)

    def request_for_json(self, attempt: int) -> Request:
        """Return the request, with what was wrong before; after a free answer, the request to turn it into JSON."""
        request, messages = self._request, self._request.messages
        if self.free is not None:
            told = TO_JSON.format(schema=json.dumps(self._schema, ensure_ascii=False))
            messages = (*messages, Message("assistant", self.free), Message("user", told))
        if self._fault:
            messages = _with_line(messages, FAULT.format(fault=self._told))
        return replace(request, messages=messages, seed=_seed(request.seed, attempt))

    def take_text(self, answer: Answer, last: bool) -> None:
        """Take the free answer; without one at the `last` attempt the request has come to nothing."""
        self._keys.append(answer.key)
        self._fault = answer.fault or ("" if answer.text.strip() else "the answer is empty")
        self._told = answer.fault.partition(":")[0] or self._fault
        if not self._fault:
            self.free = answer.text
        elif last:
            self._close(None)

    def take_json(self, answer: Answer, request: Request) -> None:
        """Take an answer in JSON; it stays open if the answer is unusable."""
        self._keys.append(answer.key)
        # Nothing that the teacher or its server wrote becomes part of a question.
        value, self._fault, self._told = None, answer.fault, answer.fault.partition(":")[0]
        if not self._fault:
            try:
                value = read_answer(answer.text, self._schema)
                self._fault = self._check(value, self._request) or ""
            except Unusable as error:
                cut = f" (the answer was cut at {request.max_tokens} tokens)" if answer.finish == "length" else ""
                self._fault = f"{error}{cut}"
            self._told = without_values(self._fault)
        if self._fault:
            self.outcome = Outcome(None, tuple(self._keys), self._fault)
        else:
            self._close(value)

    def _close(self, value: Any | None) -> None:
        self.outcome, self.open = Outcome(value, tuple(self._keys), self._fault), False


def _with_line(messages: tuple[Message, ...], line: str) -> tuple[Message, ...]:
    """Add a line at the end of the last message."""
    return (*messages[:-1], replace(messages[-1], content=f"{messages[-1].content}\n\n{line}"))
