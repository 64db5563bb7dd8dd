"""Which text goes where: train, val and test, and word budgets nested in each other.

A file is a row of *passages*: consecutive lines of one document, closed at the document's end or once they hold
`PASSAGE_WORDS` words; together they tile the file. Documents are separated by blank lines (JSON lines: one a record).
Passages are described by numbers alone, so a file of any size is cut with a few bytes a passage in memory.

Held-out text is whole documents from the ends of the files, whole examples by hash, or, as in BabyLlama-2, the last
lines of each file. Subsets take passages in an order that depends on nothing but the files' names and the passages'
numbers, so that 1M words lie inside 10M inside 100M.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from tutelage.base.types import Bools, Ints
from tutelage.corpus.counting import WORDS, Unit
from tutelage.corpus.reading import split_lines

PASSAGE_WORDS = 500  # words, or what else is counted, after which a passage is closed at the next line's end

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass
class Passages:
    """The passages of one cleaned file, in order; parallel arrays."""

    bytes: Ints  # length of each, its newlines and the blank lines after it included
    lines: Ints  # lines of each, blank ones included
    words: Ints  # words of each, or what else is counted (`counting`)
    documents: Ints  # which document each belongs to
    digests: npt.NDArray[np.uint64]  # of each document's text, without the blanks around its lines

    def __len__(self) -> int:
        return len(self.bytes)

    @property
    def starts(self) -> Ints:
        """Byte at which each begins."""
        return np.cumsum(self.bytes) - self.bytes

    @property
    def document_words(self) -> Ints:
        """Words of each document."""
        return np.bincount(self.documents, weights=self.words, minlength=len(self.digests)).astype(np.int64)


@dataclass
class Indexer:
    """Collects passages while lines go by."""

    unit: Unit = WORDS
    _columns: tuple[array[int], array[int], array[int], array[int]] = field(
        default_factory=lambda: (array("q"), array("q"), array("q"), array("q"))
    )
    _open: list[int] = field(default_factory=lambda: [0, 0, 0])
    _digests: array[int] = field(default_factory=lambda: array("Q"))
    _digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    _blank: bool = False
    _begun: bool = False  # whether the open passage has something visible

    def line(self, line: str) -> None:
        """Take the next line of text; blank lines end a document."""
        visible = bool(line.strip())
        if visible and (self._blank or self._is_full):
            self._close()
            if self._blank:
                self._end_document()
            self._blank = False
        self._add(line)
        # Blank lines before a file's first words belong to its first document.
        self._blank = self._blank or (not visible and self._begun)

    def record(self, text: str, whole: bool = False) -> None:
        """Take a whole document, blank lines and all; `whole` makes it one passage, however long."""
        for line in split_lines(text):
            if line.strip() and self._is_full and not whole:
                self._close()
            self._add(line)
        self._close()
        self._end_document()

    def passages(self) -> Passages:
        """Return what was collected."""
        self._close()
        sizes, lines, measured, documents = (np.array(column, dtype=np.int64) for column in self._columns)
        # Rounded together, so that the sum is right.
        words: Ints = np.diff(np.rint(np.append(0, np.cumsum(measured)) / self.unit.size)).astype(np.int64)
        if len(documents) and documents[-1] == len(self._digests):
            self._end_document()
        return Passages(sizes, lines, words, documents, np.array(self._digests, dtype=np.uint64))

    @property
    def _is_full(self) -> bool:
        return self._open[2] >= PASSAGE_WORDS * self.unit.size

    def _add(self, line: str) -> None:
        self._open[0] += len(line.encode())
        self._open[1] += 1
        if text := line.strip():
            self._begun = True
            self._open[2] += self.unit.measure(line)
            self._digest.update(text.encode() + b"\n")

    def _close(self) -> None:
        if self._open[1]:
            for column, value in zip(self._columns, (*self._open, len(self._digests)), strict=True):
                column.append(value)
            self._open, self._begun = [0, 0, 0], False

    def _end_document(self) -> None:
        self._digests.append(int.from_bytes(self._digest.digest()))
        self._digest = hashlib.blake2b(digest_size=8)


def tail_cuts(lines: int, val_share: float, test_share: float) -> tuple[int, int]:
    """Return the line at which val begins and the one at which test begins.

    Without a test share this is BabyLlama-2's split: the first `round((1 - val_share) * lines)` lines are for training.
    """
    return round((1 - val_share - test_share) * lines), round((1 - test_share) * lines)


def cut_at_lines(passages: Passages, file: BinaryIO, cuts: Iterable[int], unit: Unit = WORDS) -> Passages:
    """Cut the passages that lie across these line numbers in two; `file` is the cleaned file."""
    for cut in sorted(set(cuts)):
        ends = np.cumsum(passages.lines)
        at = int(np.searchsorted(ends, cut, side="right"))
        if at == len(passages) or cut == ends[at] - passages.lines[at]:
            continue
        inside = cut - int(ends[at] - passages.lines[at])
        file.seek(int(passages.starts[at]))
        head = [file.readline() for _ in range(inside)]
        size = sum(map(len, head))
        words = min(unit.of("".join(line.decode() for line in head if line.strip())), int(passages.words[at]))
        passages = replace(
            passages,
            bytes=_divide(passages.bytes, at, size),
            lines=_divide(passages.lines, at, inside),
            words=_divide(passages.words, at, words),
            documents=np.insert(passages.documents, at, passages.documents[at]),
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
    counts = passages.document_words
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


def interleaved(names: Sequence[str], words: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Put the pieces of several files into one row in which every file goes forward at its own share.

    Args:
        names: of the files; they decide which of two files goes first.
        words: of each file's pieces, in the order in which they are to be taken.

    Returns:
        For each place of the row the number of its file, and of the piece in that file.
    """
    keys = [np.zeros(0)]
    for name, words_N in zip(names, words, strict=True):
        # Where in a piece it counts as taken: files of one piece each come in a random order, not in that of names.
        place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
        keys.append((np.cumsum(words_N) - words_N + place * words_N) / max(words_N.sum(), 1))
    order = np.argsort(np.concatenate(keys), kind="stable")
    counts = [len(words_N) for words_N in words]
    files = np.repeat(np.arange(len(counts)), counts)
    pieces = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(count) for count in counts)])
    return files[order], pieces[order]


def subset(names: Sequence[str], words: Sequence[Ints], budget: float) -> list[Bools]:
    """Choose passages of several files: as many as fit into `budget` words, one after another; at least one.

    They are taken in hash order keyed by `names` (file and split), in proportion to the files' words. Less than the
    next passage is missing from the budget; larger budgets hold smaller ones.
    """
    orders = [hash_order(name, len(words_N)) for name, words_N in zip(names, words, strict=True)]
    files, places = interleaved(names, [words_N[order] for words_N, order in zip(words, orders, strict=True)])
    chosen = [np.zeros(len(words_N), dtype=np.bool_) for words_N in words]
    taken = 0
    for file, place in zip(files.tolist(), places.tolist(), strict=True):
        passage = orders[file][place]
        size = int(words[file][passage])
        if taken and taken + size > budget:
            break
        chosen[file][passage] = True
        taken += size
    return chosen


def split_by_documents(
    names: Sequence[str], passages: Sequence[Passages], val_share: float, test_share: float
) -> list[npt.NDArray[np.int8]] | None:
    """Return for each passage of several files the index of its split: whole documents, from the ends of the files.

    As many documents as fit into a split's share of all words, at least one. Documents that are longer than this share
    alone are left to train on. None if less than half of the words would be left for that.
    """
    words = [one.document_words[::-1] for one in passages]
    files, places = interleaved(names, words)
    sizes = np.array([words[file][place] for file, place in zip(files, places, strict=True)], dtype=np.int64)
    member = np.zeros(len(sizes), dtype=np.int8)
    shares: dict[Split, float] = {"test": test_share, "val": val_share}
    for split, share in shares.items():
        free = (member == 0) & (sizes > 0)
        if not share or not free.any():
            continue
        budget = share * sizes.sum()
        fitting = free & (sizes <= budget)
        taken = fitting & (np.cumsum(np.where(fitting, sizes, 0)) <= budget)
        if not taken.any():
            taken[np.flatnonzero(free)[np.argmin(sizes[free])]] = True
        member[taken] = SPLITS.index(split)
    if 2 * sizes[member == 0].sum() < sizes.sum():
        return None
    found = []
    for number, one in enumerate(passages):
        mine = files == number
        of_document = np.zeros(len(one.digests), dtype=np.int8)
        of_document[len(one.digests) - 1 - places[mine]] = member[mine]
        found.append(of_document[one.documents])
    return found


def runs(chosen: Bools, documents: Ints | None = None) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each longest run of chosen neighbours, within one document each if `documents` is given."""
    breaks = np.diff(chosen.astype(np.int8), prepend=0) != 0
    if documents is not None:
        breaks |= np.diff(documents, prepend=-1) != 0
    starts = np.flatnonzero(breaks & chosen)
    all_breaks = np.append(np.flatnonzero(breaks), len(chosen))
    ends = all_breaks[np.searchsorted(all_breaks, starts, side="right")]
    yield from zip(starts.tolist(), ends.tolist(), strict=True)
