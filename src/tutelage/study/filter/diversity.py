"""How varied a corpus is: new words, repeated phrases, texts that resemble or begin like others.

Numbers that depend on the size of a corpus are taken from windows and samples of a fixed size, so that corpora of
different sizes can be compared.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

WINDOW = 10_000
"""Words in which distinct n-grams are counted."""
SAMPLE = 1000
"""Texts that are compared with each other."""
POINTS = 60
"""Of the curve of new words."""
COMPRESSED = 1 << 20
"""Bytes that are compressed at once."""
OPENING = 3
"""Words that open a text."""
SHOWN = 10
"""Openings that are listed."""


@dataclass(frozen=True)
class Diversity:
    """How varied texts are.

    Attributes:
        distinct: share of n-grams that are distinct, by n of 1 to 3, in windows of `window` words, averaged (distinct-n
            of Li et al. 2016).
        window: words of a window; all words where there are fewer.
        compression: bytes of the texts over their bytes compressed (Shaib et al. 2024); higher is more repetitive.
        similarity: mean Jaccard similarity of the word sets of two texts.
        nearest: mean similarity of a text to the one most like it.
        compared: texts drawn for these two.
        openings: the commonest first words of texts, and how many texts begin so.
        opened: texts long enough to have such an opening.
    """

    distinct: tuple[float, ...]
    window: int
    compression: float
    similarity: float
    nearest: float
    compared: int
    openings: tuple[tuple[str, int], ...]
    opened: int


def diversity(words: Sequence[Sequence[str]], texts: Sequence[str]) -> Diversity:
    """Measure how varied texts are, by the plain words of each and by the texts as written.

    They come in random order: the first ones are compared with each other.
    """
    flat = list(chain.from_iterable(words))
    window = min(WINDOW, len(flat))
    sample = [set(text) for text in words if text][:SAMPLE]
    similarity, nearest = _self_similarity(sample)
    openings = Counter(" ".join(text[:OPENING]) for text in words if len(text) >= OPENING)
    common = sorted(openings.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    return Diversity(
        distinct=tuple(_distinct(flat, n, window) for n in (1, 2, 3)),
        window=window,
        compression=_compression("\n".join(texts).encode("utf-8", "surrogatepass")),
        similarity=similarity,
        nearest=nearest,
        compared=len(sample),
        openings=tuple((opening, count) for opening, count in common if count > 1),
        opened=openings.total(),
    )


def vocabulary_growth(words: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Return points of the curve of different words against words read, texts in their order; the last is the end."""
    first: dict[str, int] = {}
    for place, word in enumerate(flat := list(chain.from_iterable(words))):
        first.setdefault(word, place)
    new = np.zeros(len(flat), dtype=bool)
    new[list(first.values())] = True
    if not len(new):
        return []
    types = np.cumsum(new)
    at = np.unique(np.linspace(0, len(new), POINTS + 1).round().astype(int)[1:])
    return [(int(n), int(types[n - 1])) for n in at[at > 0]]


def _distinct(flat: Sequence[str], n: int, window: int) -> float:
    """Distinct over all n-grams, averaged over whole windows."""
    if window < n:
        return 0.0
    parts = [flat[start : start + window] for start in range(0, len(flat) - window + 1, window)]
    distinct = [len(set(zip(*(part[i:] for i in range(n)), strict=False))) for part in parts]
    return float(np.mean([count / (window - n + 1) for count in distinct]))


def _compression(text: bytes) -> float:
    """Size over compressed size, block by block, so that the size of the corpus does not matter."""
    if not text:
        return 0.0
    blocks = range(0, len(text), COMPRESSED)
    return len(text) / sum(len(zlib.compress(text[start : start + COMPRESSED])) for start in blocks)


def _self_similarity(sets: Sequence[set[str]]) -> tuple[float, float]:
    """Mean Jaccard similarity of two sets, and of each to its nearest."""
    if len(sets) < 2:
        return 0.0, 0.0
    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(word, len(numbers)) for words in sets for word in sorted(words)]
    sizes = np.array([len(words) for words in sets])
    rows = np.repeat(np.arange(len(sets)), sizes)
    incidence = csr_matrix((np.ones(len(columns), np.int32), (rows, columns)))
    both: NDArray[np.int64] = (incidence @ incidence.T).toarray()
    jaccard = both / (sizes[:, None] + sizes[None, :] - both)
    np.fill_diagonal(jaccard, 0)
    return float(jaccard.sum() / (len(sets) * (len(sets) - 1))), float(jaccard.max(axis=1).mean())
