"""Documents that a corpus holds more than once, word for word: within its files, and across its splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tutelage.base.types import Bools
from tutelage.corpus.cleaned import CleanedFile
from tutelage.corpus.splits import Split

PAIRS: tuple[tuple[Split, Split], ...] = (("val", "train"), ("test", "train"), ("test", "val"))


def repeats_of(cleaned: Sequence[CleanedFile]) -> list[int]:
    """Return for each file how many of its documents stand in a file before it, or before in the same one."""
    seen = set[int]()
    counts = []
    for file in cleaned:
        mine = file.passages.digests[file.passages.document_words > 0].tolist()
        before = len(seen)
        seen.update(mine)
        counts.append(len(mine) - (len(seen) - before))
    return counts


def shared_documents(cleaned: Sequence[CleanedFile]) -> list[str]:
    """Tell for each two splits how many documents of the held-out one stand in the other, if any do."""
    told = []
    for held, other in PAIRS:
        there, seen = _digests(cleaned, held), _digests(cleaned, other)
        if shared := int(np.isin(there, seen).sum()):
            told.append(f"{held}: {shared:,} of {len(there):,} documents stand in {other} too, word for word")
    return told


def _digests(cleaned: Sequence[CleanedFile], split: Split) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the digests of the documents that lie in a split as a whole."""
    found = [file.passages.digests[_whole(file, split)] for file in cleaned]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *found])


def _whole(file: CleanedFile, split: Split) -> Bools:
    passages, chosen = file.passages, file.chosen[split]
    inside = np.bincount(passages.documents[chosen], weights=passages.words[chosen], minlength=len(passages.digests))
    whole: Bools = (inside > 0) & (inside == passages.document_words)
    return whole
