"""The limited vocabulary of a `vocabulary` corpus: which words or tokens, and what of a text lies outside it.

Words are compared as forms: lower case, without punctuation. An inflected form is a word of its own, and so are names;
numbers in digits are no words and always outside.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tutelage.errors import UserError
from tutelage.study.plain_words import word_forms

EXCERPT = 150
"""Words of the list that a prompt shows."""
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class WordList:
    """Words that may be used.

    Attributes:
        words: forms, most frequent first.
    """

    words: tuple[str, ...]

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.words)

    def outside(self, text: str) -> list[str]:
        """Return the forms and numbers of a text that are not on the list, each once, in the text's order."""
        return list(dict.fromkeys([*(word for word in word_forms(text) if word not in self._known),
                                   *_DIGITS.findall(text)]))  # fmt: skip

    def excerpt(self, seed: int) -> list[str]:
        """Return some of the words, drawn by a seed, in the alphabet's order."""
        return sorted(random.Random(seed).sample(self.words, min(EXCERPT, len(self.words))))


def read_words(path: Path, size: int) -> WordList:
    """Read a list with a word a line, most frequent first; what stands behind a word, such as its count, is not read.

    Raises:
        UserError: no such file, not UTF-8, or no words in it.
    """
    found = dict.fromkeys(form for line in _text(path).splitlines() for form in list(word_forms(line))[:1])
    if not found:
        raise UserError(f"writing.vocabulary.words: there are no words in {path}; it has a word a line")
    return WordList(tuple(found)[:size])


def frequent_words(counts: Counter[str], size: int) -> WordList:
    """Return the most frequent words; of equally frequent ones the first in the alphabet."""
    return WordList(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size]))


def frequent_tokens(weights: str, texts: Iterable[str], size: int) -> tuple[int, ...]:
    """Return the tokens of a teacher that occur most often in texts (the paper counted them in Wikipedia).

    Args:
        weights: folder or hub id of the teacher, for its tokenizer.
        texts: to count in.
        size: tokens.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights)
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    return tuple(sorted(sorted(counts, key=lambda token: (-counts[token], token))[:size]))


def text_to_count(path: Path | None, texts: Sequence[str]) -> Sequence[str]:
    """Return what tokens are counted in: a file's lines, or what was written so far."""
    return texts if path is None else _text(path).splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"writing.vocabulary.words: {path} is not there") from error
    except UnicodeDecodeError as error:
        raise UserError(f"writing.vocabulary.words: {path} is not UTF-8 text (byte {error.start})") from error
