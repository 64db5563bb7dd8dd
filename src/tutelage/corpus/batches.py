"""From a step's number to its batch, without a history.

Order and randomness are pure functions of integers: rows are permuted by (data seed, epoch), chunk offsets and masks
drawn by (seed, epoch, row). Nothing depends on the number of processes, the micro-batch or what ran before, so a
resumed run needs no more than the number of its step.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.types import Bools, Ints
from tutelage.corpus.labels import IGNORE as IGNORE
from tutelage.corpus.labels import LabelReader, RowSpan
from tutelage.corpus.masking import Hybrid as Hybrid
from tutelage.corpus.masking import Masking as Masking
from tutelage.corpus.masking import keyed_generator as keyed_generator
from tutelage.corpus.masking import next_tokens
from tutelage.corpus.ul2 import Mixture

Optional_ = TypeVar("Optional_", Tensor, Tensor | None)


class Tokens(Protocol):
    """What batches need of a token store."""

    @property
    def tokens(self) -> npt.NDArray[np.unsignedinteger]: ...

    @property
    def document_starts(self) -> Ints: ...


@dataclass(frozen=True)
class Batch:
    """Rows of tokens and their targets."""

    rows_B: Tensor  # which rows of the store these are
    epochs_B: Tensor  # in which pass over the store each row is read; offsets and masks depend on it
    tokens_BT: Tensor  # what the model reads
    targets_BT: Tensor  # the token to predict at each position; `IGNORE` where there is no loss
    lengths_B: Tensor | None  # tokens before the padding of each row; None where no row is padded
    labels: dict[str, Tensor]  # of `LabelReader.read`, with B as first dimension; empty where none are learned
    masked: bool = False  # whether tokens were hidden, for a masked model; else the batch is for a causal one
    rewritten: bool = False  # whether a mixture of denoisers rewrote the rows; it asks at some positions only
    whole_B: Tensor | None = None  # rows that a causal model reads whole, as booleans; None where there are none
    taught_B: Tensor | None = None  # rows in which teachers count, as booleans; all where None
    silent: bool = False  # a stand-in without any loss, for a process that has no rows of a small batch

    def part(self, rows: slice) -> Batch:
        """Return some of the rows."""
        rows_B, epochs_B = self.rows_B[rows], self.epochs_B[rows]
        return replace(self._each(lambda tensor: tensor[rows]), rows_B=rows_B, epochs_B=epochs_B)

    def split(self, rows: int) -> Iterator[Batch]:
        """Cut into micro-batches of at most `rows` rows."""
        for start in range(0, len(self.rows_B), rows):
            yield self.part(slice(start, start + rows))

    def silenced(self) -> Batch:
        """Return the same rows without any loss."""
        labels = {name: torch.full_like(self.labels[name], IGNORE) for name in ("classes", "tags") if self.labels}
        targets = torch.full_like(self.targets_BT, IGNORE)
        return replace(self, targets_BT=targets, labels=self.labels | labels, silent=True)

    def to(self, device: torch.device) -> Batch:
        """Copy to a device; row and epoch numbers stay."""
        return self._each(lambda tensor: to_device(tensor, device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        lengths = None if self.lengths_B is None else change(self.lengths_B)
        labels = {task: change(labels) for task, labels in self.labels.items()}
        whole, taught = (None if some is None else change(some) for some in (self.whole_B, self.taught_B))
        tokens, targets = change(self.tokens_BT), change(self.targets_BT)
        return replace(self, tokens_BT=tokens, targets_BT=targets, lengths_B=lengths, labels=labels, whole_B=whole,
                       taught_B=taught)  # fmt: skip

    @property
    def real_BT(self) -> Tensor:
        """Which positions hold tokens rather than padding, as booleans."""
        B, T = self.tokens_BT.shape
        if self.lengths_B is None:
            return torch.ones(B, T, dtype=torch.bool, device=self.tokens_BT.device)
        return torch.arange(T, device=self.tokens_BT.device) < self.lengths_B[:, None]

    @property
    def token_count(self) -> int:
        """Tokens that are not padding."""
        return self.tokens_BT.numel() if self.lengths_B is None else int(self.lengths_B.sum())


def to_device(tensor: Optional_, device: torch.device) -> Optional_:
    """Copy a tensor, if there is one; to a GPU from pinned memory, so that nobody waits for the copy."""
    if tensor is None or device.type == "cpu":
        return tensor
    if device.type != "cuda":
        return tensor.to(device)
    # Every n-th row of a batch, as several processes take them, would go through a copy that is not pinned.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


class Chunks:
    """Rows of exactly `length` tokens of running text."""

    def __init__(self, store: Tokens, length: int, chunking: str, seed: int) -> None:
        self.tokens, self.length, self.chunking, self.seed = store.tokens, length, chunking, seed
        size = len(store.tokens)
        # Room for the largest offset, so that every epoch has the same rows.
        rows = {"fixed": size // length, "epoch_offset": (size - length + 1) // length, "random": size // length - 1}
        self.count = rows[chunking]
        if self.count < 1:
            raise UserError(f"the corpus has {size} tokens, too few for one row of {length}: take a larger corpus or "
                            "a smaller data.rows.length")  # fmt: skip

    def row(self, row: int, epoch: int) -> Ints:
        """Return the tokens of one row."""
        start = row * self.length
        if self.chunking == "epoch_offset":
            start += int(keyed_generator(self.seed, 1, epoch).integers(self.length))
        elif self.chunking == "random":
            start += int(keyed_generator(self.seed, 2, epoch, row).integers(self.length))
        return self.tokens[start : start + self.length].astype(np.int64)


class Examples:
    """One text a row, in static length buckets; longer texts continue on further rows.

    Args:
        frame: tokens that every row begins and ends with, where every text of the store does; without it, a text that
            continues on further rows has them at its own ends alone.
    """

    def __init__(self, store: Tokens, length: int, buckets: tuple[int, ...],
                 frame: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.tokens, self.frame = store.tokens, frame
        ends = 1 if frame else 0
        starts = np.asarray(store.document_starts, dtype=np.int64) + ends
        documents = np.arange(len(starts))
        lengths = np.diff(np.append(starts - ends, len(store.tokens))) - 2 * ends
        room = length - 2 * ends
        parts = np.maximum(1, -(-lengths // room))
        offset = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        self.starts: Ints = np.repeat(starts, parts) + offset * room  # first token of a row in the store
        self.lengths: Ints = np.minimum(room, np.repeat(lengths, parts) - offset * room) + 2 * ends
        # A row of one token, or of the frame alone, has nothing to predict.
        kept = self.lengths > max(1, 2 * ends)
        self.starts, self.lengths = self.starts[kept], self.lengths[kept]
        self.documents: Ints = np.repeat(documents, parts)[kept]
        self.opens: Bools = (offset == 0)[kept]
        self.count = len(self.starts)
        if self.count < 1:
            raise UserError("the corpus holds no text of two tokens or more")
        self.sizes: Ints = np.array(sorted({b for b in buckets if b < length} | {length}), dtype=np.int64)
        self.bucket: Ints = np.searchsorted(self.sizes, self.lengths)

    def place(self, row: int) -> RowSpan:
        """Return where one row lies."""
        document, start, length = (int(column[row]) for column in (self.documents, self.starts, self.lengths))
        framed = self.frame is not None
        return RowSpan(document, start, length - 2 * framed, bool(self.opens[row]), framed)

    def row(self, row: int, epoch: int) -> Ints:
        """Return the tokens of one row, without padding."""
        place = self.place(row)
        text = self.tokens[place.start : place.start + place.length].astype(np.int64)
        return text if self.frame is None else np.concatenate([self.frame[:1], text, self.frame[1:]])


class BatchSource:
    """The batches of a token store: `source.batch(step)` for any step, in any order.

    Args:
        seed: of order and offsets.
        pad_id: fills up rows of examples.
        masking: hides tokens for a masked model; without it, targets are the next tokens.
        shuffle: permute rows in each epoch; off for evaluation.
        mixture: rewrites the rows of a causal model.
        hybrid: has a causal model read some rows whole.
        labels: reads the labels of rows of examples, where they are learned.
        frame: tokens at both ends of every row of examples.
    """

    def __init__(
        self,
        store: Tokens,
        rows: recipe.Rows,
        batch_rows: int,
        seed: int,
        pad_id: int = 0,
        masking: Masking | None = None,
        shuffle: bool = True,
        mixture: Mixture | None = None,
        labels: LabelReader | None = None,
        frame: tuple[int, int] | None = None,
        hybrid: Hybrid | None = None,
    ) -> None:
        self.rows: Chunks | Examples = (
            Chunks(store, rows.length, rows.chunking if shuffle else "fixed", seed)
            if rows.kind == "chunks"
            else Examples(store, rows.length, rows.buckets, frame)
        )
        self.row_length = rows.length
        self.only: Ints | None = None
        self.targets: Bools | None = None
        self.batch_rows, self.seed, self.pad_id, self.masking, self.shuffle = batch_rows, seed, pad_id, masking, shuffle
        self.mixture, self.labels, self.hybrid = mixture, labels, hybrid
        self.tokens_per_epoch = int(self.row_lengths.sum())
        self._remember()

    def _remember(self) -> None:
        """Keep the order of two epochs."""
        self._epoch_batches = lru_cache(maxsize=2)(self._example_batches)
        self._permutation = lru_cache(maxsize=2)(self._permute)

    @property
    def steps_per_epoch(self) -> float:
        """Batches in a pass over the rows; a fraction for chunks, whose batches run on over the end of an epoch."""
        if isinstance(self.rows, Chunks):
            return self.count / self.batch_rows
        return len(self._epoch_batches(0))

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over the whole run."""
        if isinstance(self.rows, Chunks):
            places = (
                divmod(index, self.count) for index in range(step * self.batch_rows, (step + 1) * self.batch_rows)
            )
            rows = [(int(self._permutation(epoch)[place]), epoch) for epoch, place in places]
        else:
            epoch, place = divmod(step, len(self._epoch_batches(0)))
            rows = [(int(row), epoch) for row in self._epoch_batches(epoch)[place]]
        return self._collate(rows)

    def step_at(self, tokens: float) -> int:
        """Return how many steps it takes to read at least so many tokens, padding left out."""
        if isinstance(self.rows, Chunks):
            return math.ceil(tokens / (self.batch_rows * self.row_length))
        epoch = int(tokens // self.tokens_per_epoch)
        batches = self._epoch_batches(epoch)
        read = np.cumsum([self.rows.lengths[batch].sum() for batch in batches])
        rest = tokens - epoch * self.tokens_per_epoch
        return epoch * len(batches) + (int(np.searchsorted(read, rest)) + 1 if rest > 0 else 0)

    def with_batch_rows(self, batch_rows: int) -> BatchSource:
        """Return the same rows in batches of another size."""
        other = copy(self)
        other.batch_rows = batch_rows
        other._remember()
        return other

    def with_rows(self, only: Ints, targets: Bools | None = None) -> BatchSource:
        """Return a source of some of the rows, permuted again in each epoch as all of them would be.

        Args:
            only: which, in rising order.
            targets: which positions of all rows, one row after another, keep their target; all unless given.

        Raises:
            ValueError: no rows, repeated ones or unknown ones, or targets of other rows.
        """
        if not len(only) or only[0] < 0 or only[-1] >= self.rows.count or (np.diff(only) <= 0).any():
            raise ValueError("a selection has rows of the source, at least one, in rising order, none twice")
        if targets is not None and len(targets) != self.row_lengths.sum():
            raise ValueError(f"{len(targets)} targets do not fit rows of {self.row_lengths.sum()} tokens")
        other = self.with_batch_rows(self.batch_rows)
        other.only, other.targets = only, targets
        other.tokens_per_epoch = int(self.row_lengths[only].sum())
        return other

    @property
    def count(self) -> int:
        """Rows in an epoch."""
        return self.rows.count if self.only is None else len(self.only)

    @cached_property
    def row_lengths(self) -> Ints:
        """Tokens of each row, padding left out."""
        return self.rows.lengths if isinstance(self.rows, Examples) else np.full(self.rows.count, self.rows.length)

    @cached_property
    def _row_ends(self) -> Ints:
        return np.cumsum(self.row_lengths)

    @property
    def shifts(self) -> bool:
        """Whether a row holds other text in every epoch."""
        return isinstance(self.rows, Chunks) and self.rows.chunking != "fixed"

    @property
    def varies(self) -> bool:
        """Whether a row reads differently in every epoch: shifted, rewritten, or with other tokens hidden."""
        return self.shifts or any(part is not None for part in (self.masking, self.mixture, self.hybrid))

    def once(self, epoch: int = 0) -> Iterator[Batch]:
        """Go through every row of an epoch once, in order; the last batch may be smaller."""
        if isinstance(self.rows, Chunks):
            rows = np.arange(self.rows.count) if self.only is None else self.only
            for start in range(0, self.count, self.batch_rows):
                yield self._collate([(int(row), epoch) for row in rows[start : start + self.batch_rows]])
        else:
            for rows in self._epoch_batches(epoch):
                yield self._collate([(int(row), epoch) for row in rows])

    def _permute(self, epoch: int) -> Ints:
        order = keyed_generator(self.seed, 0, epoch).permutation(self.count) if self.shuffle else np.arange(self.count)
        return order if self.only is None else self.only[order]

    def _example_batches(self, epoch: int) -> list[Ints]:
        """Cut an epoch's permutation into batches of one bucket each, and mix these."""
        assert isinstance(self.rows, Examples)
        order = self._permute(epoch)
        batches = []
        for bucket in range(len(self.rows.sizes)):
            inside = order[self.rows.bucket[order] == bucket]
            batches += [inside[i : i + self.batch_rows] for i in range(0, len(inside), self.batch_rows)]
        if not self.shuffle:
            return batches
        return [batches[i] for i in keyed_generator(self.seed, 4, epoch).permutation(len(batches))]

    def _collate(self, rows: list[tuple[int, int]]) -> Batch:
        texts = [self.rows.row(row, epoch) for row, epoch in rows]
        asked_from, lengths = None, None
        if self.mixture is not None:
            pairs = [self.mixture.rewrite(text, epoch, row) for text, (row, epoch) in zip(texts, rows, strict=True)]
            texts, asked_from = [text for text, _ in pairs], torch.tensor([place for _, place in pairs])
        if isinstance(self.rows, Examples):
            width = int(self.rows.sizes[self.rows.bucket[rows[0][0]]])
            lengths = torch.tensor([len(text) for text in texts])
            texts = [np.pad(text, (0, width - len(text)), constant_values=self.pad_id) for text in texts]
        whole_B, taught_B = None, None
        if self.hybrid is not None:
            read = [self.hybrid.read(text, epoch, row) for text, (row, epoch) in zip(texts, rows, strict=True)]
            sides = [(tokens, targets) for tokens, targets, _ in read]
            whole_B = torch.tensor([whole for *_, whole in read])
            causal, whole = self.hybrid.taught
            taught_B = torch.where(whole_B, whole, causal)
        elif self.masking is not None:
            sides = [self.masking.hide(text, epoch, row) for text, (row, epoch) in zip(texts, rows, strict=True)]
        else:
            sides = [(text, next_tokens(text)) for text in texts]
        tokens, targets = (torch.from_numpy(np.stack(side)) for side in zip(*sides, strict=True))
        if asked_from is not None:
            targets[torch.arange(targets.shape[1]) < asked_from[:, None] - 1] = IGNORE
        if lengths is not None:
            # Padding is never a target: the last real token of a causal row has no next one.
            last = lengths - 1 if self.masking is None else lengths
            targets[torch.arange(tokens.shape[1]) >= last[:, None]] = IGNORE
        if self.targets is not None:
            for place, (row, _) in enumerate(rows):
                length, end = int(self.row_lengths[row]), int(self._row_ends[row])
                targets[place, :length][torch.from_numpy(~self.targets[end - length : end])] = IGNORE
        labels = {}
        if self.labels is not None and isinstance(self.rows, Examples):
            labels = self.labels.read([self.rows.place(row) for row, _ in rows])
        rows_B, epochs_B = torch.tensor(rows).T
        masked, rewritten = self.masking is not None, self.mixture is not None
        return Batch(rows_B, epochs_B, tokens, targets, lengths, labels, masked, rewritten, whole_B=whole_B,
                     taught_B=taught_B)  # fmt: skip
