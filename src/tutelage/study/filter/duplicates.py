"""Near duplicates, found exactly: texts whose sets of word triples have a Jaccard similarity above a threshold.

Whoever comes first is kept, so the result depends on nothing but the order of the texts. Two sets as similar as `t`
share an element among the rarest `(1 - t)` of each (prefix filtering: Chaudhuri et al. 2006; Bayardo et al. 2007), so
only those are looked up; most triples occur once and need no look at all. A million words take a few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from tutelage.study.filter.text import plain_words

Texts = tuple[str, str | None]
"""A text, and the second one of a pair."""
_Place = tuple[int, int, int]
"""Which text has a triple, where among its own, and how many it has."""

BITS = 20
"""Of a word's number. Past a million different words numbers repeat, and similarities become very slightly too high."""
CROWD = 200
"""So many kept texts at most are looked up by one triple: a flood made to share its rarest triples without being
similar would otherwise cost the square of its size."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A text that an earlier one stands for."""

    of: int
    """Place of the earlier text, which is kept."""
    similarity: float
    """Jaccard, 0 to 1; of a pair, that of the less similar texts."""


def near_duplicates(texts: Sequence[Texts], threshold: float) -> list[Duplicate | None]:
    """Find the texts that are as similar as `threshold` (above 0, up to 1) to an earlier one that is kept itself.

    Texts of fewer than three words have their words as one triple. Two pairs are as similar as their first texts or
    their second ones, whichever are less so; a pair and a single text are never similar.

    Returns:
        For each text the first kept one that it repeats, or None where it is kept.
    """
    triples, starts, common = _triple_sets(texts)
    found: list[Duplicate | None] = []
    lookup: dict[int, list[_Place]] = {}
    for place in range(len(texts)):
        own = triples[starts[place] : starts[place + 1]].tolist()
        # The rarest come first; those that a single text has lead nowhere.
        prefix = own[: len(own) - ceil(threshold * len(own) - _ROUNDING) + 1]
        shared = [(at, triple) for at, triple in enumerate(prefix) if triple >= common]
        match, whole = None, set(own)
        for other in _candidates(shared, len(own), lookup, threshold):
            theirs = triples[starts[other] : starts[other + 1]].tolist()
            # Of two pairs this lies between the similarities of their parts.
            if len(whole.intersection(theirs)) >= _needed(len(own), len(theirs), threshold):
                similarity = min(_similarity(own, theirs, part) for part in (0, 1))
                if similarity >= threshold - _ROUNDING:
                    match = Duplicate(other, similarity)
                    break
        found.append(match)
        if match is None:
            for at, triple in shared:
                kept = lookup.setdefault(triple, [])
                if len(kept) < CROWD:
                    kept.append((place, at, len(own)))
    return found


def _candidates(
    shared: Sequence[tuple[int, int]], size: int, lookup: Mapping[int, Sequence[_Place]], threshold: float
) -> list[int]:
    """Earlier texts that may be similar enough, in their order: those with enough triples left to share."""
    fits: dict[int, bool] = {}
    for at, triple in shared:
        for other, their_at, their_size in lookup.get(triple, ()):
            if other not in fits:
                most = min(size - at, their_size - their_at)
                fits[other] = most >= _needed(size, their_size, threshold)
    return sorted(other for other, fit in fits.items() if fit)


def _needed(size: int, other: int, threshold: float) -> float:
    """How many triples two texts of these sizes must share."""
    return (threshold - _ROUNDING) / (1 + threshold - _ROUNDING) * (size + other)


def _similarity(own: list[int], theirs: list[int], part: int) -> float:
    """The similarity of the first texts or of the second ones, whose triples have odd numbers."""
    first, second = ({triple for triple in triples if triple & 1 == part} for triples in (own, theirs))
    return len(first & second) / len(first | second) if first or second else 1.0


def _triple_sets(texts: Sequence[Texts]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The triples of all texts as numbers that rise with frequency, ascending and distinct in each text.

    Returns:
        The numbers end to end, where each text begins (with the end appended), and the first number of a triple that
        more than one text has.
    """
    numbers: dict[str, int] = {}
    codes: list[NDArray[np.int64]] = []
    owners: list[int] = []
    for text, pair in texts:
        size = 0
        for part, whole in enumerate((text, pair)):
            if whole is None:
                continue
            # Zero stands for the words that a short text lacks.
            words = [numbers.setdefault(word, len(numbers)) % ((1 << BITS) - 1) + 1 for word in plain_words(whole)]
            words += [0] * (3 - len(words))
            w = np.array(words, dtype=np.int64)
            triple = ((w[:-2] << BITS | w[1:-1]) << BITS | w[2:]) << 1 | part
            codes.append(triple)
            size += len(triple)
        owners.append(size)
    code = np.concatenate(codes) if codes else np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(texts)), owners)
    # A triple counts once for a text.
    distinct, at, inverse = _unique_pairs(owner, code)
    counts = np.bincount(inverse)
    order = np.lexsort((np.arange(len(counts)), counts))
    rank = np.empty(len(counts), np.int64)
    rank[order] = np.arange(len(counts))
    # The lowest bit still tells which text of a pair.
    number = rank[inverse] << 1 | distinct & 1
    number = number[np.lexsort((number, at))]
    starts = np.searchsorted(at, np.arange(len(texts) + 1))
    return number, starts, int((counts == 1).sum()) << 1


def _unique_pairs(
    owner: NDArray[np.int64], code: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Codes and owners without repeats, by owner, and the place of each code among all codes."""
    order = np.lexsort((code, owner))
    code, owner = code[order], owner[order]
    new = np.ones(len(code), bool)
    new[1:] = (code[1:] != code[:-1]) | (owner[1:] != owner[:-1])
    code, owner = code[new], owner[new]
    return code, owner, np.unique(code, return_inverse=True)[1]
