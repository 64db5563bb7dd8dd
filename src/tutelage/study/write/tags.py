"""Labels of words out of an answer: whether they belong to the words that were asked about.

Word/tag pairs are laid beside the text's words one by one, so that a tag can never slip to a neighbour. What a teacher
does to a word by the way is forgiven: case, and punctuation dropped, or put on a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.corpus.examples import Label

WORD = "_word"
"""Key of the word in a pair; no task can have this name."""


def tags_of_pairs(value: Any, words: Sequence[str]) -> dict[str, Label] | str:
    """Return the tags by task of `{"words": [{"_word": ..., TASK: ...}, ...]}`, or what is wrong with it.

    Args:
        value: an answer that follows its schema.
        words: of the text.
    """
    rows: list[dict[str, str]] = []
    for row in value["words"]:
        word = row[WORD].strip()
        if len(rows) < len(words) and _same(word, words[len(rows)]):
            rows.append(row)
        elif _bare(word):
            return (
                f"word {len(rows) + 1} of the text does not stand at its place; repeat all {len(words)} words in order"
            )
    if len(rows) < len(words):
        return f"only the first {len(rows)} of the {len(words)} words are there"
    return {task: tuple(row[task] for row in rows) for task in rows[0] if task != WORD}


def tags_of_list(value: Any, words: Sequence[str]) -> dict[str, Label] | str:
    """Return the tags by task of `{TASK: [...], ...}`, or what is wrong with it; see `tags_of_pairs`."""
    for task, tags in value.items():
        if len(tags) != len(words):
            return f"{len(tags)} labels for {task}, but the text has {len(words)} words"
    return {task: tuple(tags) for task, tags in value.items()}


def _same(given: str, word: str) -> bool:
    bare = _bare(word)
    # A word of punctuation alone has nothing else to be known by.
    return given == word or (bool(bare) and _bare(given) == bare)


def _bare(word: str) -> str:
    """Return a word's letters and digits in lower case."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())
