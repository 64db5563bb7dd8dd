"""The limited vocabulary of a `vocabulary` corpus: which words or tokens, and what of a text lies outside it.

Words are compared as forms: lower case, without punctuation. An inflected form is a word of its own, and so are names;
numbers in digits are no words and always outside.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from tutelage.base.errors import UserError
from tutelage.study.filter.text import word_forms

EXCERPT = 150
"""Words of the list that a prompt shows."""
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class WordList:
    """Words that may be used: forms, most frequent first."""

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
    found = dict.fromkeys(form for line in lines_of(path) for form in islice(word_forms(line), 1))
    if not found:
        raise UserError(f"writing.vocabulary.words: there are no words in {path}; it has a word a line")
    return WordList(tuple(found)[:size])


def frequent_words(counts: Counter[str], size: int) -> WordList:
    """Return the most frequent words; of equally frequent ones the first in the alphabet."""
    return WordList(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size]))


def frequent_tokens(weights: str, texts: Iterable[str], size: int) -> tuple[int, ...]:
    """Return the tokens that occur most often in texts (the paper counted them in Wikipedia).

    Raises:
        UserError: there is no model of this name (folder or hub id of the teacher), or none with a tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(weights, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; each means that there is no tokenizer to be had
        raise UserError(f"teacher.weights: cannot load the tokenizer of '{weights}', which `writing.vocabulary.mode: "
                        "tokens` counts by; name the folder or hub id of a model with its tokenizer: "
                        f"{error}") from error  # fmt: skip
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    return tuple(sorted(sorted(counts, key=lambda token: (-counts[token], token))[:size]))


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a file that the study names, one at a time: it may be all of Wikipedia."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\n")
    except FileNotFoundError as error:
        raise UserError(f"writing.vocabulary.words: {path} is not there; name a file of UTF-8 text") from error
    except UnicodeDecodeError as error:
        raise UserError(f"writing.vocabulary.words: {path} is not UTF-8 text: {error}") from error
    except OSError as error:
        why = "is a folder" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise UserError(f"writing.vocabulary.words: {path} {why}; name a file of UTF-8 text") from error
