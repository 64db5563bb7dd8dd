"""What budgets and reports count of a text: words between blanks, characters, or bytes by the length of English words.

Scripts written without spaces have no words between blanks; there a recipe names another unit (`data.unit`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tutelage import recipe

UnitName = Literal["words", "characters", "bytes"]

BYTES_OF_A_WORD = 5.43
"""UTF-8 bytes of English for each word: BabyLM 2026's multilingual corpora hold 54.3 MB for ten million words, times
the byte premium (`src/pad_utils.py` of babylm-org/multilingual-babylm)."""

# Kana, Han, Bopomofo; Thai and Lao; Tibetan; Burmese; Khmer. Korean and Vietnamese are written with spaces.
_UNSPACED = re.compile("[\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
                       "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]")  # fmt: skip
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class Unit:
    """A unit of text. Sums are taken of `measure`, and become units by `of`, so that nothing is lost by rounding."""

    name: UnitName
    measure: Callable[[str], int]  # of any part of a text; that of two parts is the sum of both
    size: float = 1.0  # of one unit, as `measure` counts

    def of(self, text: str) -> int:
        """Return how many units a text has."""
        return round(self.measure(text) / self.size)


def _words(text: str) -> int:
    return len(text.split())


def _characters(text: str) -> int:
    return sum(map(len, text.split()))


def _bytes(text: str) -> int:
    return len(text.encode())


WORDS = Unit("words", _words)


def unit_of(data: recipe.Data) -> Unit:
    """Return the unit that a recipe counts its corpus in."""
    if data.unit == "bytes":
        return Unit("bytes", _bytes, BYTES_OF_A_WORD * data.premium)
    return Unit("characters", _characters) if data.unit == "characters" else WORDS


def label(unit: str) -> str:
    """Name what was counted, for tables: words by bytes stand for words of English."""
    return "words by bytes" if unit == "bytes" else unit


def unspaced_share(texts: Iterable[str]) -> float:
    """Return the share of the letters of texts that are of scripts written without spaces."""
    letters = unspaced = 0
    for text in texts:
        letters += len(_LETTER.findall(text))
        unspaced += len(_UNSPACED.findall(text))
    return unspaced / max(letters, unspaced, 1)
