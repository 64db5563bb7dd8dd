"""A text as the teacher gave it, and what becomes of it: an example, or a reason why not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tutelage.corpus.examples import Example
from tutelage.corpus.study_plan import Kind
from tutelage.study.client.answers import unsound
from tutelage.study.client.asking import Outcome
from tutelage.study.client.teacher_llm import Request


@dataclass(frozen=True)
class Piece:
    """A text or pair, and the key of the request that it answers."""

    text: str
    pair: str | None
    origin: str

    @property
    def content(self) -> str | list[str]:
        """What the quarantine shows."""
        return self.text if self.pair is None else [self.text, self.pair]

    def fault(self) -> str | None:
        """Say why no example can be made of it; None if one can."""
        if found := unsound(f"{self.text}{self.pair or ''}"):
            return f"control character: {found}"
        if not self.text.strip() or (self.pair is not None and not self.pair.strip()):
            return "no text"
        return None

    def example(self, kind: Kind, task: str) -> Example:
        """Make an example: short texts on one line, the words of tagging texts parted at its spaces."""
        text, pair = " ".join(self.text.split()), self.pair
        if kind == "generation":
            lines = (" ".join(line.split()) for line in self.text.strip().splitlines())
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
        return Example(
            kind=kind,
            text=text,
            text_pair=None if pair is None else " ".join(pair.split()),
            words=tuple(text.split()) if kind == "tagging" else None,
            task=task,
            origin=self.origin,
        )


def check_any(value: Any, request: Request) -> str | None:
    """Ask again where an answer of the right form holds nothing."""
    return None if any(value.values()) else "the list is empty"


def origin_of(outcome: Outcome) -> str:
    """Return the key of the request whose answer counted; empty if nothing was asked."""
    return outcome.keys[-1] if outcome.keys else ""
