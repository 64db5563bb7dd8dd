"""Text that also stands in evaluation sets: so many words in a row, or a whole shorter sentence.

What is compared are words without case and punctuation (`plain_words`). A sentence of at least `SHORTEST` words but
fewer than the n-gram counts where it stands whole within a text; still shorter ones, which anybody may write by
chance, are not compared, and counted as that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tutelage.study.filter.text import plain_words

SHORTEST = 5
"""Words of the shortest sentence that is looked for."""


@dataclass(frozen=True, slots=True)
class SuiteOverlap:
    """How much of an evaluation set stands in a corpus.

    Attributes:
        suite: its name.
        sentences: it has.
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
    """Compare a corpus with evaluation sets.

    Args:
        texts: of each item of the corpus its texts; words in a row never run from one into the next.
        suites: the sentences of each set, by its name.
        ngram: words in a row that count.
        shown: examples for each set.

    Returns:
        What each item shares with the sets, by its first place; and a summary of each set.
    """
    grams: dict[str, int] = {}
    forms = {suite: [plain_words(sentence) for sentence in sentences] for suite, sentences in suites.items()}
    shortest = min(SHORTEST, ngram)
    for number, sentences in enumerate(forms.values()):
        for words in sentences:
            if len(words) >= shortest:
                for gram in _rows(words, min(ngram, len(words))):
                    grams[gram] = grams.get(gram, 0) | 1 << number
    lengths = sorted({gram.count(" ") + 1 for gram in grams})
    hits, seen = [], set[str]()
    names = list(suites)
    for parts in texts:
        # A dict keeps the first place of each row of words and the order.
        rows = dict.fromkeys(gram for text in parts for gram in _found(plain_words(text), lengths, grams))
        seen.update(rows)
        hits.append(tuple(Hit(row, tuple(n for i, n in enumerate(names) if grams[row] >> i & 1)) for row in rows))
    return hits, [_summary(suite, forms[suite], seen, hits, ngram, shortest, shown) for suite in suites]


def _found(words: list[str], lengths: Iterable[int], grams: Mapping[str, int]) -> Iterator[str]:
    for length in lengths:
        yield from (gram for gram in _rows(words, length) if gram in grams)


def _rows(words: list[str], length: int) -> Iterator[str]:
    return (" ".join(words[i : i + length]) for i in range(len(words) - length + 1))


def _summary(
    suite: str,
    sentences: list[list[str]],
    seen: set[str],
    hits: list[tuple[Hit, ...]],
    ngram: int,
    shortest: int,
    shown: int,
) -> SuiteOverlap:
    compared = [words for words in sentences if len(words) >= shortest]
    found = sum(any(gram in seen for gram in _rows(words, min(ngram, len(words)))) for words in compared)
    own = [[hit.words for hit in item if suite in hit.suites] for item in hits]
    examples = dict.fromkeys(row for rows in own for row in rows)
    return SuiteOverlap(
        suite=suite,
        sentences=len(sentences),
        compared=len(compared),
        found=found,
        texts=sum(map(bool, own)),
        examples=tuple(examples)[:shown],
    )
