"""Does an endpoint follow a JSON schema by force? Many answer as if they did, and do not.

It is asked, in a sentence that has nothing to do with it, for an object that no model would write by itself. The
questions are requests like all others: stored, counted, and asked once in the life of a study.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.study.client.answers import Unusable, check_schema, read_json
from tutelage.study.client.teacher_llm import Answer, Message, Request

SCHEMA = {
    "type": "object",
    "properties": {"kx": {"type": "string", "enum": ["tv-41", "tv-93"]}},
    "required": ["kx"],
    "additionalProperties": False,
}
QUESTIONS = ("What colour is the sky on a clear day?", "Name an animal that can swim.")


def requests() -> list[Request]:
    """Return what to ask."""
    return [
        Request((Message("user", question),), f"probe/{number}", SCHEMA, seed=number, max_tokens=64)
        for number, question in enumerate(QUESTIONS)
    ]


def passed(answers: Sequence[Answer | None]) -> bool:
    """Tell whether all answers follow the schema."""
    return all(answer is not None and _follows(answer) for answer in answers)


def _follows(answer: Answer) -> bool:
    try:
        return not answer.fault and not check_schema(read_json(answer.text), SCHEMA)
    except Unusable:
        return False
