"""Which text goes where: train, val and test, and word budgets nested in each other.

A file is a row of *passages*: consecutive lines of one document, closed at the document's end or once they hold
`PASSAGE_WORDS` words; together they tile the file. Documents are separated by blank lines (JSON lines: one a record).
Passages are described by numbers alone, so a file of any size is cut with a few bytes a passage in memory.

Splits follow BabyLlama-2: the last lines of each training file are held out. Subsets take passages in an order that
depends on nothing but the file's name and the passage's number, so that 1M words lie inside 10M inside 100M.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from tutelage.base.types import Bools, Ints
from tutelage.corpus.reading import split_lines

PASSAGE_WORDS = 500  # words after which a passage is closed at the next line's end

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass
class Passages:
    """The passages of one cleaned file, in order; parallel arrays."""

    bytes: Ints  # length of each, its newlines and the blank lines after it included
    lines: Ints  # lines of each, blank ones included
    words: Ints  # whitespace words of each
    documents: Ints  # which document each belongs to

    def __len__(self) -> int:
        return len(self.bytes)

    @property
    def starts(self) -> Ints:
        """Byte at which each begins."""
        return np.cumsum(self.bytes) - self.bytes


@dataclass
class Indexer:
    """Collects passages while lines go by."""

    _columns: tuple[array[int], array[int], array[int], array[int]] = field(
        default_factory=lambda: (array("q"), array("q"), array("q"), array("q"))
    )
    _open: list[int] = field(default_factory=lambda: [0, 0, 0])
    _document: int = 0
    _blank: bool = False

    def line(self, line: str, size: int | None = None) -> None:
        """Take the next line of text; blank lines end a document."""
        words = len(line.split())
        if words and (self._blank or self._open[2] >= PASSAGE_WORDS):
            self._close()
            self._document += self._blank
            self._blank = False
        self._add(len(line.encode()) if size is None else size, words)
        # Blank lines before a file's first words belong to its first document.
        self._blank = self._blank or (not words and self._open[2] > 0)

    def record(self, text: str, whole: bool = False) -> None:
        """Take a whole document, blank lines and all; `whole` makes it one passage, however long."""
        for line in split_lines(text):
            words = len(line.split())
            if words and self._open[2] >= PASSAGE_WORDS and not whole:
                self._close()
            self._add(len(line.encode()), words)
        self._close()
        self._document += 1

    def passages(self) -> Passages:
        """Return what was collected."""
        self._close()
        return Passages(*(np.frombuffer(column, dtype=np.int64).copy() for column in self._columns))

    def _add(self, size: int, words: int) -> None:
        self._open[0] += size
        self._open[1] += 1
        self._open[2] += words

    def _close(self) -> None:
        if self._open[1]:
            for column, value in zip(self._columns, (*self._open, self._document), strict=True):
                column.append(value)
            self._open = [0, 0, 0]


def tail_cuts(lines: int, val_share: float, test_share: float) -> tuple[int, int]:
    """Return the line at which val begins and the one at which test begins.

    Without a test share this is BabyLlama-2's split: the first `round((1 - val_share) * lines)` lines are for training.
    """
    return round((1 - val_share - test_share) * lines), round((1 - test_share) * lines)


def cut_at_lines(passages: Passages, file: BinaryIO, cuts: Iterable[int]) -> Passages:
    """Cut the passages that lie across these line numbers in two; `file` is the cleaned file."""
    for cut in sorted(set(cuts)):
        ends = np.cumsum(passages.lines)
        at = int(np.searchsorted(ends, cut, side="right"))
        if at == len(passages) or cut == ends[at] - passages.lines[at]:
            continue
        inside = cut - int(ends[at] - passages.lines[at])
        file.seek(int(passages.starts[at]))
        head = [file.readline() for _ in range(inside)]
        size, words = sum(map(len, head)), sum(len(line.decode().split()) for line in head)
        passages = Passages(
            _divide(passages.bytes, at, size),
            _divide(passages.lines, at, inside),
            _divide(passages.words, at, words),
            np.insert(passages.documents, at, passages.documents[at]),
        )
    return passages


def _divide(column: Ints, at: int, first: int) -> Ints:
    divided = np.insert(column, at, first)
    divided[at + 1] -= first
    return divided


def split_by_tail(passages: Passages, cuts: tuple[int, int]) -> npt.NDArray[np.int8]:
    """Return for each passage the index of its split in `SPLITS`; passages must be cut at `cuts` already."""
    first_lines = np.cumsum(passages.lines) - passages.lines
    return np.searchsorted(np.asarray(cuts), first_lines, side="right").astype(np.int8)


def split_by_hash(
    name: str, passages: Passages, val_share: float, test_share: float, digests: Sequence[str] | None = None
) -> npt.NDArray[np.int8]:
    """Return for each passage the index of its split: whole documents, drawn by hash, by words.

    For files whose end differs from their beginning (the starter corpus goes from theme to theme and kind to kind).
    With `digests` of the documents' texts, these decide: texts stay where they are when others come or go, and equal
    texts of two files go the same way, but for some at the border. Else the documents' numbers and the file's name do.
    """
    counts = np.bincount(passages.documents, weights=passages.words).astype(np.int64)
    by_number = digests is None
    order = (
        hash_order(f"{name}/documents", len(counts)) if by_number else np.argsort(np.asarray(digests), kind="stable")
    )
    before = np.cumsum(counts[order]) - counts[order]
    splits = np.zeros(len(counts), dtype=np.int8)
    splits[order[before < (test_share + val_share) * counts.sum()]] = SPLITS.index("val")
    splits[order[before < test_share * counts.sum()]] = SPLITS.index("test")
    return splits[passages.documents]


def hash_order(name: str, count: int) -> Ints:
    """Return 0..count-1 in an order that depends on `name` and each number alone (keyed BLAKE2)."""
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    keys = (hashlib.blake2b(b"%d" % i, digest_size=8, key=key).digest() for i in range(count))
    return np.argsort(np.fromiter((int.from_bytes(k) for k in keys), dtype=np.uint64, count=count), kind="stable")


def subset(name: str, words: Ints, share: float) -> Bools:
    """Choose passages of a file, by the words of each, in hash order keyed by `name` (file and split), while they are
    under `share` words; larger shares hold smaller ones.
    """
    order = hash_order(name, len(words))
    before = np.cumsum(words[order]) - words[order]
    chosen = np.zeros(len(words), dtype=np.bool_)
    chosen[order[before < share]] = True
    return chosen


def runs(chosen: Bools, documents: Ints | None = None) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each longest run of chosen neighbours, within one document each if `documents` is given."""
    breaks = np.diff(chosen.astype(np.int8), prepend=0) != 0
    if documents is not None:
        breaks |= np.diff(documents, prepend=-1) != 0
    starts = np.flatnonzero(breaks & chosen)
    all_breaks = np.append(np.flatnonzero(breaks), len(chosen))
    ends = all_breaks[np.searchsorted(all_breaks, starts, side="right")]
    yield from zip(starts.tolist(), ends.tolist(), strict=True)
