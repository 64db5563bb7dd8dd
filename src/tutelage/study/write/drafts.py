"""A text as the teacher gave it, and what becomes of it: an example, or a reason why not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tutelage.corpus.examples import Example
from tutelage.corpus.study_plan import TaskKind
from tutelage.study.client.answers import unsound
from tutelage.study.client.asking import Outcome
from tutelage.study.filter.quarantine import Refused


@dataclass(frozen=True)
class DraftText:
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

    def example(self, kind: TaskKind, task: str) -> Example:
        """Make an example: short texts on one line, the words of tagging texts parted at its spaces."""
        text = " ".join(self.text.split())
        if kind == "generation":
            lines = (" ".join(line.split()) for line in self.text.strip().splitlines())
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
        pair = None if self.pair is None else " ".join(self.pair.split())
        words = tuple(text.split()) if kind == "tagging" else None
        return Example(kind=kind, text=text, text_pair=pair, words=words, task=task, origin=self.origin)


def drafts_of(outcome: Outcome, purpose: str, refused: list[Refused]) -> list[DraftText]:
    """Return the texts or pairs of an answer; none where it stayed malformed, which is added to `refused`."""
    if outcome.value is None:
        refused.append(Refused(f"malformed answer: {outcome.fault}", outcome.origin, purpose))
        return []
    (items,) = outcome.value.values()
    texts = [(item, None) if isinstance(item, str) else (item["text"], item["text_pair"]) for item in items]
    return [DraftText(text, pair, outcome.origin) for text, pair in texts]
