"""Text that also stands in evaluation sets: so many words in a row, or a whole shorter sentence.

What is compared are words without case and punctuation (`plain_words`). A sentence of at least `SHORTEST` words but
fewer than the n-gram counts where it stands whole within a text; still shorter ones, which anybody may write by
chance, are not compared, and counted as that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tutelage.study.filter.text import plain_words

SHORTEST = 5
"""Words of the shortest sentence that is looked for."""


@dataclass(frozen=True, slots=True)
class SuiteOverlap:
    """How much of an evaluation set stands in a corpus.

    Attributes:
        sentences: of the set.
        compared: those long enough to be looked for.
        found: those of which so many words in a row stand in some text.
        texts: of the corpus that have such words.
        examples: a few of the word rows, in the order of the texts.
    """

    suite: str
    sentences: int
    compared: int
    found: int
    texts: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """Words in a row that a text shares with evaluation sets."""

    words: str
    suites: tuple[str, ...]


def find_overlap(
    texts: Sequence[Sequence[str]], suites: Mapping[str, Sequence[str]], ngram: int, shown: int = 5
) -> tuple[list[tuple[Hit, ...]], list[SuiteOverlap]]:
    """Compare a corpus with evaluation sets by their sentences, by rows of `ngram` words.

    Each item of the corpus has one text or more; words in a row never run from one into the next.

    Returns:
        What each item shares with the sets, by its first place; and a summary of each set, with `shown` examples.
    """
    grams: dict[str, int] = {}
    forms = {suite: map(plain_words, sentences) for suite, sentences in suites.items()}
    # Those long enough to be compared.
    long = {suite: [words for words in own if len(words) >= min(SHORTEST, ngram)] for suite, own in forms.items()}
    for number, sentences in enumerate(long.values()):
        for gram in (gram for words in sentences for gram in _rows(words, min(ngram, len(words)))):
            grams[gram] = grams.get(gram, 0) | 1 << number
    lengths = sorted({gram.count(" ") + 1 for gram in grams})
    hits, seen = [], set[str]()
    names = list(suites)
    for parts in texts:
        # A dict keeps the first place of each row of words and the order.
        plain = [plain_words(text) for text in parts]
        grown = (gram for words in plain for length in lengths for gram in _rows(words, length))
        rows = dict.fromkeys(gram for gram in grown if gram in grams)
        seen.update(rows)
        hits.append(tuple(Hit(row, tuple(n for i, n in enumerate(names) if grams[row] >> i & 1)) for row in rows))
    found = []
    for suite, compared in long.items():
        own = [[hit.words for hit in item if suite in hit.suites] for item in hits]
        found.append(SuiteOverlap(
            suite=suite, sentences=len(suites[suite]), compared=len(compared),
            found=sum(any(gram in seen for gram in _rows(words, min(ngram, len(words)))) for words in compared),
            texts=sum(map(bool, own)), examples=tuple(dict.fromkeys(chain.from_iterable(own)))[:shown],
        ))  # fmt: skip
    return hits, found


def _rows(words: list[str], length: int) -> Iterator[str]:
    return (" ".join(words[i : i + length]) for i in range(len(words) - length + 1))
