"""Characters that cannot be seen, or that turn the text around them: refused in corpora, written out where shown."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

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
