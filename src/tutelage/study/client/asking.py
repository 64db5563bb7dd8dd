"""Ask for JSON, check what comes, ask again.

Requests go in waves: first all of them, then all whose answers were unusable, told what was wrong and with other seeds,
and so on. Each wave follows from the answers before it alone, so that a study that goes on after a kill asks the same.
Once the budget has ended, later waves take what is stored and ask nothing, or small questions would slip in behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.base.files import fingerprint
from tutelage.study.client.answers import Unusable, check_schema, read_json, without_values
from tutelage.study.client.teacher_llm import Answer, Message, Request, TeacherLLM
from tutelage.study.settings import Teacher

Check = Callable[[Any, Request], str | None]
"""Tells what is wrong with a value that follows its schema; None if nothing is."""

TO_JSON = (
    "Now write what you just answered as JSON, changing nothing. Reply with the JSON alone. It has to follow this "
    "schema:\n{schema}"
)
FAULT = "An earlier answer could not be used: {fault}. Reply with the JSON alone, exactly as asked for."
FREELY = "Answer in plain text for now; do not write JSON yet."


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        value: checked JSON; None if no answer could be used.
        keys: of all stored requests that led to it; the last one gave the value.
        fault: why there is no value; empty if there is.
    """

    value: Any | None
    keys: tuple[str, ...]
    fault: str = ""


def ask_json(
    teacher: TeacherLLM,
    requests: Sequence[Request],
    check: Check,
    settings: Teacher,
    label: str,
    spend: bool = True,
) -> list[Outcome | None]:
    """Ask requests with schemas until each has a usable answer or `settings.repairs` more answers were no better.

    Args:
        teacher: who is asked.
        requests: each with its schema.
        check: what else a value has to be.
        settings: says whether the teacher first answers freely and then turns its answer into JSON (`two_steps`).
        label: what progress bars say.
        spend: whether anything is asked that is not stored.

    Returns:
        An outcome each; None where the budget ended before there was one.
    """
    asked = {index: _Asked(request) for index, request in enumerate(requests)}
    if settings.two_steps:
        spend = _answer_freely(teacher, asked, settings, label, spend)
    for attempt in range(settings.repairs + 1):
        again = [one for one in asked.values() if one.open]
        if not again:
            break
        wave = [one.request_for_json(attempt) for one in again]
        answers = _ask(teacher, wave, label, attempt, spend)
        spend = spend and None not in answers
        for one, request, answer in zip(again, wave, answers, strict=True):
            one.take(request, answer, check)
    return [one.outcome for one in asked.values()]


def _answer_freely(teacher: TeacherLLM, asked: dict[int, _Asked], settings: Teacher, label: str, spend: bool) -> bool:
    """Have all requests answered in free text; tells whether anything more may be asked."""
    for attempt in range(settings.repairs + 1):
        again = [one for one in asked.values() if one.open and one.free is None]
        if not again:
            break
        wave = [one.request_for_text(attempt) for one in again]
        answers = _ask(teacher, wave, label, attempt, spend)
        spend = spend and None not in answers
        for one, answer in zip(again, answers, strict=True):
            one.take_text(answer, last=attempt == settings.repairs)
    return spend


def _ask(teacher: TeacherLLM, wave: Sequence[Request], label: str, attempt: int, spend: bool) -> list[Answer | None]:
    return teacher.ask(wave, f"{label}, again" if attempt else label, spend)


def _seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt: the first one's own, others that no neighbouring request has."""
    return seed if attempt == 0 else int(fingerprint([seed, attempt])[:7], 16)


class _Asked:
    """One request on its way to an outcome."""

    def __init__(self, request: Request) -> None:
        if request.schema is None:
            raise ValueError(f"{request.purpose}: a request for JSON needs a schema")
        self._request, self._keys, self._fault, self._told = request, list[str](), "", ""
        self.free: str | None = None
        self.open = True
        self.outcome: Outcome | None = None

    def request_for_text(self, attempt: int) -> Request:
        """Return the request without its schema."""
        request = self._request
        return replace(
            request,
            messages=_with_line(request.messages, FREELY),
            purpose=f"{request.purpose}/text",
            schema=None,
            seed=_seed(request.seed, attempt),
        )

    def request_for_json(self, attempt: int) -> Request:
        """Return the request, with what was wrong before; after a free answer, the request to turn it into JSON."""
        request, messages = self._request, self._request.messages
        if self.free is not None:
            schema = json.dumps(request.schema, ensure_ascii=False)
            messages = (
                *messages,
                Message("assistant", self.free),
                Message("user", TO_JSON.format(schema=schema)),
            )
        if self._fault:
            messages = _with_line(messages, FAULT.format(fault=self._told))
        return replace(request, messages=messages, seed=_seed(request.seed, attempt))

    def take_text(self, answer: Answer | None, last: bool) -> None:
        """Take the free answer; `None` is the budget's end."""
        if answer is None:
            self.open = False
            return
        self._keys.append(answer.key)
        self._fault = answer.fault or ("" if answer.text.strip() else "the answer is empty")
        self._told = answer.fault.partition(":")[0] or self._fault
        if not self._fault:
            self.free = answer.text
        elif last:
            self._close(None)

    def take(self, request: Request, answer: Answer | None, check: Check) -> None:
        """Take an answer in JSON; it stays open if the answer is unusable. `None` is the budget's end."""
        if answer is None:
            self.open, self.outcome = False, None
            return
        self._keys.append(answer.key)
        value = None
        self._fault = answer.fault
        # Nothing that the teacher or its server wrote becomes part of a question.
        self._told = answer.fault.partition(":")[0]
        if not self._fault:
            try:
                value = read_json(answer.text)
                assert request.schema is not None
                self._fault = check_schema(value, request.schema) or check(value, self._request) or ""
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
