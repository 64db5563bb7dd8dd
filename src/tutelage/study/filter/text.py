"""What a word is, everywhere in studies: letters and the marks that belong to them, in one form and lower case.

Marks are accents that no letter has built in, and the vowel signs of many scripts: without them हिन्दी would be three
words of a consonant each. Texts are compared by `plain_words`, numbers included; vocabularies and rare words go by
`word_forms`, letters alone. Characters that cannot be seen, or that turn the text around them, are refused in corpora
and written out where shown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache


def _marks() -> str:
    """Return all combining marks, and the two joiners that stand within words, as ranges of a character class."""
    places = [*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)]
    marks = [place for place in places if unicodedata.category(chr(place))[0] == "M" or place in (0x200C, 0x200D)]
    known = set(marks)
    first = [place for place in marks if place - 1 not in known]
    last = [place for place in marks if place + 1 not in known]
    return "".join(f"{chr(begin)}-{chr(end)}" for begin, end in zip(first, last, strict=True))


def _word(letter: str) -> re.Pattern[str]:
    """Return the pattern of a word of such letters, each with its marks, and of apostrophes within."""
    # Nothing of ASCII is a mark, which is told sooner than by a look through hundreds of ranges.
    part = rf"{letter}+(?:(?=[^\x00-\x7f])[{_MARKS}]{letter}*)*"
    return re.compile(f"{part}(?:'{part})*")


_MARKS = _marks()
_PLAIN = _word(r"\w")
_LETTERS = _word(r"[^\W\d_]")


def plain_words(text: str) -> list[str]:
    """Return the words of a text in order, numbers included, so that `Don’t!` and `don't` are one."""
    return _PLAIN.findall(_composed(text))


def word_forms(text: str) -> Iterator[str]:
    """Yield the words of a text, letters alone, so that they can be shown to a teacher without a fence.

    Numbers are none, and a hyphen or digit parts words.
    """
    for found in _LETTERS.finditer(_composed(text)):
        yield found[0]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold()).replace("’", "'")


LAYOUT = frozenset("\n\r\t")


@lru_cache(maxsize=1 << 16)
def is_hidden(character: str) -> bool:
    """Tell of control, format and direction characters, surrogates, private use, unassigned ones, and U+FFFD.

    Newline, carriage return and tab are layout.
    """
    category = unicodedata.category(character)
    # Line and paragraph separators (Zl, Zp) break lines unseen.
    return character not in LAYOUT and (category[0] == "C" or category in ("Zl", "Zp") or character == "\ufffd")


def visible(text: str) -> str:
    """Return a text with hidden characters written out, as in `[U+202E]`, so that it is safe to show.

    So is the carriage return, behind which a terminal writes over the line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"[U+{ord(c):04X}]" if is_hidden(c) or c == "\r" else c for c in text)
