"""Words as texts are compared by: without case and punctuation, numbers included, so that `Don’t!` and `don't` are one.

(Vocabularies and rare words go by `word_forms`, which leaves numbers out.)
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+(?:'\w+)*")


def plain_words(text: str) -> list[str]:
    """Return the words of a text in order; apostrophes within a word belong to it."""
    return _WORD.findall(text.casefold().replace("’", "'"))
