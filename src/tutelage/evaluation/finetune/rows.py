"""Texts as token rows, and batches of them with little padding or none.

A batch holds the rows that a shuffled order gives it, whatever their lengths. It is computed in *parts*; since losses
are sums, the gradient is that of the whole batch. A model that can (see `attention`) reads the rows of a part in a
line, one after the other. Others get rows of similar length, padded to the longest of the part: that saves as much
padding as batches of similar rows would, and leaves the order random.

Shapes: N rows of a file, B rows of a part, T tokens. A line is a part with one row of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tutelage.base.errors import UserError
from tutelage.base.types import Ints
from tutelage.corpus.batches import keyed_generator, to_device
from tutelage.evaluation.finetune.attention import RowGroup, groups_of
from tutelage.evaluation.finetune.tasks import LabelledText

PART_COST = {"cpu": 128, "cuda": 16384}
"""What another part of a batch costs, in tokens: on a CPU adding up its gradients, on a GPU also launching kernels."""
PART_TOKENS = {"cpu": 1024, "cuda": 65536}
"""Most tokens in a part, padding included; on a CPU, what stays in its caches."""
MULTIPLE = {"cpu": 1, "cuda": 8}
"""Parts are padded to multiples of this: a GPU's products like even shapes, a CPU only pays for them."""
LINE_TOKENS = 4096
"""Most tokens in a line."""
SCORED_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Tokens scored at once; smaller batches stay in a CPU's caches."""
ENCODED = 1000
"""Texts tokenized at once: what a tokenizer keeps of a text, pieces that were cut off included, takes far more memory
than its ids (10 GiB for all of MultiRC)."""
SPLIT, SUBSET, ORDER = 10, 11, 12
"""Apart from the keys of `corpus.batches`."""


@dataclass(frozen=True)
class TextRows:
    """Encoded texts with their gold labels."""

    tokens: list[Ints]
    """Ids of each row, without padding."""
    types: list[Ints] | None
    """For each token whether it belongs to the second text, where the model's tokenizer tells; else None."""
    labels_N: Ints
    cut: int = 0
    """How many texts were too long and lost their end."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths_N(self) -> Ints:
        """Tokens of each row."""
        return np.array([len(row) for row in self.tokens])

    def take(self, index_N: Ints) -> TextRows:
        """Return some rows, in the order of their indices."""
        types = None if self.types is None else [self.types[i] for i in index_N]
        return TextRows([self.tokens[i] for i in index_N], types, self.labels_N[index_N], self.cut)


@dataclass(frozen=True)
class MicroBatch:
    """Rows of similar length, padded to one; or any rows in a line, `(1, T)`."""

    tokens_BT: Tensor
    lengths_B: Tensor | None
    """Tokens of each row; None where none is padded."""
    types_BT: Tensor | None
    """Whether a token belongs to the second text, where that is told."""
    labels_B: Tensor
    left: bool = False
    """Whether padding stands before the text."""
    groups: tuple[RowGroup, ...] = ()
    """Of a line, which rows are attended together."""

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.labels_B)

    def starts_and_ends(self) -> tuple[Tensor, Tensor]:
        """Return where each row's first and last token stand, `(B,)`, counted through all of `tokens_BT`."""
        T, device = self.tokens_BT.shape[1], self.tokens_BT.device
        lengths_B = torch.full((self.rows,), T, device=device) if self.lengths_B is None else self.lengths_B
        if self.groups:
            return lengths_B.cumsum(0) - lengths_B, lengths_B.cumsum(0) - 1
        starts_B = torch.arange(self.rows, device=device) * T + (T - lengths_B if self.left else 0)
        return starts_B, starts_B + lengths_B - 1

    def to(self, device: torch.device) -> MicroBatch:
        """Copy to a device."""
        return MicroBatch(
            to_device(self.tokens_BT, device),
            to_device(self.lengths_B, device),
            to_device(self.types_BT, device),
            to_device(self.labels_B, device),
            self.left,
            self.groups,
        )


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[LabelledText], max_length: int, name: str
) -> TextRows:
    """Turn texts into ids as the tokenizer does it: pairs by its template, or just one after the other.

    Rows longer than `max_length`, special tokens included, are cut at the end, the longer text of a pair first. `name`
    is that of the file.

    Raises:
        UserError: a text of which nothing is left, or no room beside the special tokens.
    """
    paired = examples[0].second is not None
    texts = [[example.first for example in examples]]
    if paired:
        texts.append([str(example.second) for example in examples])
    room = max_length - tokenizer.num_special_tokens_to_add(pair=paired)
    if room < len(texts):
        raise UserError(f"max_length={max_length} leaves no room for text beside the special tokens; raise it")
    types = "token_type_ids" in tokenizer.model_input_names
    tokens, kinds, cut = list[Ints](), list[Ints](), 0
    for begin in range(0, len(examples), ENCODED):
        some = [texts_N[begin : begin + ENCODED] for texts_N in texts]
        found = tokenizer(*some, return_attention_mask=False, return_token_type_ids=False)
        too_long = sum(len(row) > max_length for row in found["input_ids"])
        if too_long or types:
            found = tokenizer(*some, truncation=True, max_length=max_length, return_attention_mask=False,
                              return_token_type_ids=types)  # fmt: skip
        cut += too_long
        tokens += [np.asarray(row, dtype=np.int64) for row in found["input_ids"]]
        kinds += [np.asarray(row, dtype=np.int64) for row in found["token_type_ids"]] if types else []
    for number, row in enumerate(tokens):
        if not len(row):
            raise UserError(f"{name}: row {number} ({examples[number].first[:60]!r}) has no token; the tokenizer knows "
                            "none of its characters")  # fmt: skip
    return TextRows(tokens, kinds if types else None, np.array([example.label for example in examples]), cut)


def subset(rows: TextRows, count: int | None) -> TextRows:
    """Draw some rows; the same ones for every model and seed."""
    if count is None or count >= len(rows):
        return rows
    return rows.take(np.sort(keyed_generator(SUBSET, len(rows)).permutation(len(rows))[:count]))


def split(rows: TextRows, share: float) -> tuple[TextRows, TextRows]:
    """Take a share of the rows away to choose by; the same ones for every model and seed."""
    order = keyed_generator(SPLIT, len(rows)).permutation(len(rows))
    held = max(1, round(share * len(rows)))
    return rows.take(np.sort(order[held:])), rows.take(np.sort(order[:held]))


def order(count: int, seed: int, epoch: int) -> Ints:
    """Return an epoch's permutation of the rows."""
    return keyed_generator(seed, ORDER, epoch).permutation(count)


def parts(lengths_N: Ints, device: str) -> list[Ints]:
    """Cut a batch, of rows of some lengths, into parts so that padding and the cost of parts are least together.

    Returns indices of the rows of each part.
    """
    order_N = np.argsort(lengths_N, kind="stable")
    cost, largest, multiple = (_of(table, device) for table in (PART_COST, PART_TOKENS, MULTIPLE))
    widths = [-(-int(length) // multiple) * multiple for length in lengths_N[order_N]]
    # best[j]: least cost of the j shortest rows; the part that ends there begins at begin[j].
    best, begin = [0], [0]
    for j, width in enumerate(widths, start=1):
        # One row may always be a part of its own.
        first = max(0, min(j - 1, j - largest // width))
        candidates = [best[i] + (j - i) * width + cost for i in range(first, j)]
        best.append(min(candidates))
        begin.append(first + candidates.index(best[-1]))
    found, stop = [], len(widths)
    while stop:
        found.append(order_N[begin[stop] : stop])
        stop = begin[stop]
    return found


def collate(
    rows: TextRows, index_B: Ints, pad_id: int, side: Literal["right", "left"], limit: int, device: torch.device
) -> MicroBatch:
    """Pad rows to the length of the longest, or the next multiple that the device likes, but not beyond `limit`."""
    lengths, multiple = [len(rows.tokens[i]) for i in index_B], _of(MULTIPLE, device.type)
    width = min(-(-max(lengths) // multiple) * multiple, max(limit, max(lengths)))

    def block(values: list[Ints], filler: int) -> Tensor:
        filled = np.full((len(index_B), width), filler, dtype=np.int64)
        for place, (i, length) in enumerate(zip(index_B, lengths, strict=True)):
            filled[place, slice(width - length, width) if side == "left" else slice(length)] = values[i]
        return torch.from_numpy(filled)

    part = MicroBatch(
        block(rows.tokens, pad_id),
        torch.tensor(lengths) if min(lengths) < width else None,
        None if rows.types is None else block(rows.types, 0),
        torch.from_numpy(rows.labels_N[index_B]),
        side == "left",
    )
    return part.to(device)


def lines(lengths_N: Ints) -> list[Ints]:
    """Cut a batch into parts to be read in a line, about as many tokens in each; a part's rows are sorted by length."""
    order_N = np.argsort(lengths_N, kind="stable")
    total_N = lengths_N[order_N].cumsum()
    count = -(-int(total_N[-1]) // LINE_TOKENS)
    cuts = np.searchsorted(total_N, [total_N[-1] * cut / count for cut in range(1, count)])
    return [rows_B for rows_B in np.split(order_N, cuts) if len(rows_B)]


def line_up(rows: TextRows, index_B: Ints) -> MicroBatch:
    """Set rows one after the other."""
    lengths_B = np.array([len(rows.tokens[i]) for i in index_B])
    types = None if rows.types is None else torch.from_numpy(np.concatenate([rows.types[i] for i in index_B]))
    return MicroBatch(
        torch.from_numpy(np.concatenate([rows.tokens[i] for i in index_B]))[None],
        torch.from_numpy(lengths_B),
        None if types is None else types[None],
        torch.from_numpy(rows.labels_N[index_B]),
        groups=groups_of(lengths_B),
    )


def scored_batches(lengths_N: Ints, device: str) -> Iterator[Ints]:
    """Go through all rows, the longest first (what does not fit in memory fails at once), in batches of like length."""
    order_N = np.argsort(-lengths_N, kind="stable")
    size, start = _of(SCORED_TOKENS, device), 0
    while start < len(order_N):
        stop = start + max(1, size // int(lengths_N[order_N[start]]))
        yield order_N[start:stop]
        start = stop


def _of(table: dict[str, int], device: str) -> int:
    """What a table says of a kind of device; others are taken for GPUs."""
    return table.get(device, table["cuda"])
