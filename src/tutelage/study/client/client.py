"""What is asked of a teacher LLM and what it answers, whoever it is.

A request is known by a digest of everything that shapes its answer. Every request and answer is in the study's store
before it is used (`store`), so a study that was killed resumes without asking, or paying, twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from tutelage.base.files import fingerprint


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Constraint:
    """What an answer may be made of, where the teacher decodes within a grammar: words or tokens.

    Words come in any order, with single spaces and plain punctuation between them. Tokens are ids of the teacher's
    vocabulary, to which the token that ends an answer is added.
    """

    words: tuple[str, ...] | None = None
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Request:
    """A question to the teacher: the conversation so far.

    Attributes:
        purpose: what it is for, such as `write/diary/12`: for people and displays, no part of the key.
        schema: JSON schema that the answer should follow; free text without.
        seed: of the teacher's draws; differs where the same question is asked again.
        max_tokens: longest answer.
    """

    messages: tuple[Message, ...]
    purpose: str
    schema: Mapping[str, Any] | None = None
    seed: int = 0
    max_tokens: int = 4096
    constraint: Constraint | None = None

    @cached_property
    def key(self) -> str:
        """Digest of all that shapes the answer."""
        shaping = {"schema": self.schema, "seed": self.seed, "max_tokens": self.max_tokens}
        messages = [[message.role, message.content] for message in self.messages]
        constraint = None if self.constraint is None else [self.constraint.words, self.constraint.tokens]
        return fingerprint({**shaping, "messages": messages, "constraint": constraint})


@dataclass(frozen=True)
class Answer:
    """What came back to the request with this key: the text as it came, empty where there is none.

    Attributes:
        fault: why there is no usable text (too large, too slow, refused, not UTF-8); empty if there is.
        finish: `stop`, or `length` where it was cut at `max_tokens`.
        read: tokens of the prompt, by the teacher's own count.
        written: tokens of the answer.
    """

    key: str
    text: str
    fault: str = ""
    finish: str = "stop"
    read: int = 0
    written: int = 0


class TeacherLLM(Protocol):
    """Anybody who answers requests; answers are stored before they are returned."""

    def ask(self, requests: Sequence[Request], label: str, spend: bool = True) -> list[Answer | None]:
        """Answer requests, in their order; those in the store at no cost, and the others only if told to `spend`.

        A request that occurs twice is answered once. None stands where the budget ended before there was an answer;
        what is stored behind its end is there. Progress bars say `label`.

        Raises:
            UserError: the endpoint cannot be reached or refuses everything.
            Interrupted: Ctrl-C or SIGTERM; whatever was answered is stored.
        """


_CONTROL = re.compile(
    r"<[|｜][^<>\n]{1,60}[|｜]>|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
"""Tokens by which the chat templates in use mark roles."""


def taken_apart(text: str, tokens: re.Pattern[str] = _CONTROL) -> str:
    """Space out the letters of control tokens, so that a text cannot pass for another role."""
    return tokens.sub(lambda found: " ".join(found[0]), text)
