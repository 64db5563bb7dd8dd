"""Teachers whose words are kept: what they say of a row is computed once and read from then on.

A cache is filled ahead of training, in one pass over the rows (`build`), or by the first student that meets a row.
Both go the same way: `say` runs the live teachers on the whole micro-batch when one of its rows is missing, writes the
missing rows, and returns what the cache now holds, so that a run that was interrupted and goes on reads the very
numbers it had before. Teachers are loaded when a row is missing, and released once none is.

Rows that read alike in every epoch have one slot; rows that are shifted or masked anew in each epoch have one for every
epoch, which works because shifts and masks follow from (seed, epoch, row).

Shapes: B rows, T tokens, N = B * T positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from tutelage.base.files import fingerprint, read_json, write_bytes, write_json
from tutelage.base.progress import console, progress
from tutelage.corpus.batches import Batch, BatchSource, keyed_generator, to_device
from tutelage.teaching.cache_store import SlotStore
from tutelage.teaching.encoding import Encoding
from tutelage.teaching.signal import DenseSignal, Heads, Signal
from tutelage.teaching.teachers import Ensemble

FORMAT = 1
BUILD_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens in a forward pass of the build; fixed, so that an interrupted build ends with the same bytes."""
SMALLER = "take `kind: sparse`, fewer draws or sets, or no cache, or raise cache.limit_gib"
HEADS = "heads.safetensors"
INFO = "info.json"


class TeacherCache:
    """What the teachers of a stage say, kept on disk; a `TeacherSource`.

    Args:
        caches: folder of all caches; each has a folder in it that is named after its key.
        key: everything else that decides its content: rows, teachers, precision.
        encoding: what is kept.
        source: the training rows, in batches of any size.
        live: loads the teachers.
        precision: in which they run.
        seed: of the draws.
    """

    def __init__(
        self,
        caches: Path,
        key: dict[str, Any],
        encoding: Encoding,
        source: BatchSource,
        live: Callable[[], Ensemble],
        precision: str,
        seed: int,
    ) -> None:
        self.encoding, self.source, self.precision, self.seed = encoding, source, precision, seed
        self.key = {"format": FORMAT, **key, "precision": precision, "content": encoding.key}
        self.folder = caches / fingerprint(self.key)[:16]
        self.store = SlotStore(self.folder, source.row_lengths, encoding.fields)
        self.device = torch.device("cpu")
        self._load = live
        self._live: Ensemble | None = None
        self._told = False

    # --- life

    def create(self, epochs: range, limit: float) -> None:
        """Make the files, or check them; only one process may do so at a time. See `SlotStore.create`."""
        self.store.create(self.key, epochs.stop, limit, SMALLER)
        if self.encoding.keeps_heads and not self.store.has(HEADS):
            _save_heads(self.folder / HEADS, self._teachers().heads)
            self.store.seal(HEADS)

    def open(self, writable: bool = True) -> None:
        """Open the files; every process does, once they are made."""
        self.store.open(writable)
        if self.encoding.keeps_heads:
            self.encoding = self.encoding.with_heads(_load_heads(self.folder / HEADS), self.precision)

    def close(self) -> None:
        """Flush what was written, let files and teachers go."""
        self.store.close()
        self._live = None

    def to(self, device: torch.device) -> TeacherCache:
        """Compute on a device from now on."""
        self.device = device
        self.encoding = self.encoding.to(device)
        if self._live is not None:
            self._live.to(device)
        return self

    # --- teaching

    def signal(self, batch: Batch, precision: str) -> Signal:
        """Return the teachers' distributions at every position of a batch; see `TeacherSource`."""
        if precision != self.precision:
            raise ValueError(f"this cache holds {self.precision}, not {precision}")
        if batch.silent:
            return self._decode(self._blank(batch, 0))
        missing = self._missing(batch)
        if missing:
            self._fill(batch, missing)
        elif self._live is not None and self.store.filled.all():
            self._live = None
        return self._read(batch)

    def build(
        self, epochs: range, rank: int, size: int, stopped: Callable[[], bool], label: str, check: bool = False
    ) -> bool:
        """Fill every empty slot of some epochs; of several processes, each takes its share of the batches.

        Args:
            epochs: which.
            rank: number of this process.
            size: how many there are.
            stopped: asked before every batch.
            label: for the progress bar.
            check: also read what is filled, and mend what is damaged.

        Returns:
            Whether it came to its end rather than was stopped.
        """
        empty = sum(
            int(self.source.row_lengths[~self.store.filled[slice(*self._span(epoch))]].sum()) for epoch in epochs
        )
        tokens, rows = empty // size, max(1, BUILD_TOKENS[self.device.type] // self.source.row_length)
        began, before, finished = time.monotonic(), self.info().get("seconds", 0.0), True
        with progress(label, tokens, "tok") as bar:
            for number, batch in enumerate(self._batches(epochs, rows)):
                if number % size != rank or (self.filled(batch) and not check):
                    continue
                if stopped():
                    finished = False
                    break
                missing = self._missing(batch)
                if missing:
                    self._fill(batch.to(self.device), missing)
                    bar.advance(batch.token_count)
        self.store.sync()
        if rank == 0 and tokens:
            self.note(seconds=before + time.monotonic() - began)
        return finished

    def complete(self, epochs: range) -> bool:
        """Tell whether every slot of some epochs is filled."""
        return all(self.store.filled[slice(*self._span(epoch))].all() for epoch in epochs)

    def damaged(self, stopped: Callable[[], bool]) -> list[tuple[int, int]]:
        """Read everything; return epoch and row of each slot that does not fit its checksum."""
        found = []
        filled = self.store.filled.nonzero()[0].tolist()
        with progress("cache verify", len(filled), "row") as bar:
            for slot in filled:
                if stopped():
                    break
                if not self.store.fits_checksum(slot):
                    found.append(divmod(slot, self.store.rows))
                bar.advance(1)
        return found

    def info(self) -> dict[str, Any]:
        """Read what is noted about this cache."""
        path = self.folder / INFO
        return dict(read_json(path)) if path.is_file() else {}

    def note(self, **facts: Any) -> None:
        """Add to what is noted about this cache."""
        write_json(self.folder / INFO, self.info() | facts)

    def sample(self, epochs: range, rows: int, tokens: int) -> Iterator[Batch]:
        """Yield evenly spaced filled batches of so many rows, about `tokens` in all."""
        every = max(1, self.source.tokens_per_epoch // tokens)
        for number, batch in enumerate(self._batches(epochs[:1], rows)):
            if number % every == 0 and self.filled(batch):
                yield batch.to(self.device)

    def filled(self, batch: Batch) -> bool:
        """Tell whether every row of a batch is there, without reading it."""
        return bool(self.store.filled[self._slots(batch)].all())

    def release(self) -> None:
        """Let the live teachers go; they are loaded again when they are needed."""
        self._live = None

    def live_signal(self, batch: Batch) -> DenseSignal:
        """Return the live teachers' distributions."""
        return self._teachers().signal(batch, self.precision)

    # --- one micro-batch

    def _slots(self, batch: Batch) -> list[int]:
        pairs = zip(batch.rows_B.tolist(), batch.epochs_B.tolist(), strict=True)
        return [self._span(epoch)[0] + row for row, epoch in pairs]

    def _span(self, epoch: int) -> tuple[int, int]:
        """Return the first slot of an epoch and the one after its last."""
        first = epoch * self.store.rows if self.source.varies else 0
        return first, first + self.store.rows

    def _missing(self, batch: Batch) -> list[int]:
        """List the places in a batch whose slots are empty or damaged."""
        return [place for place, slot in enumerate(self._slots(batch)) if not self.store.has_valid(slot)]

    def _fill(self, batch: Batch, places: list[int]) -> None:
        """Run the teachers on a batch and write some of its rows."""
        self._tell_damage()
        slots, lengths = self._slots(batch), self._lengths(batch)
        T = batch.tokens_BT.shape[1]
        index = np.concatenate([np.arange(place * T, place * T + lengths[place]) for place in places])
        index_N = torch.from_numpy(index).to(batch.tokens_BT.device)
        uniforms_N = torch.from_numpy(
            np.concatenate([self._uniforms(int(batch.rows_B[p]), int(batch.epochs_B[p]), lengths[p]) for p in places])
        )
        signal = self.live_signal(batch).at(index_N)
        kept = self.encoding.encode(signal, batch.targets_BT.flatten()[index_N], uniforms_N)
        stops = np.cumsum([lengths[place] for place in places])
        for place, stop in zip(places, stops, strict=True):
            part = slice(int(stop) - lengths[place], int(stop))
            self.store.write(slots[place], {name: array[part] for name, array in kept.items()})

    def _read(self, batch: Batch) -> Signal:
        epochs = batch.epochs_B.tolist()
        kept = self._blank(batch, epochs[0])
        lengths = self._lengths(batch)
        for place, (slot, epoch) in enumerate(zip(self._slots(batch), epochs, strict=True)):
            for array_BTW, name in zip(kept, self.encoding.names(epoch), strict=True):
                array_BTW[place, : lengths[place]] = self.store.read(slot, name)
        return self._decode(kept)

    def _blank(self, batch: Batch, epoch: int) -> list[np.ndarray[Any, Any]]:
        fields = {field.name: field for field in self.encoding.fields}
        B, T = batch.tokens_BT.shape
        return [np.zeros((B, T, fields[n].width), fields[n].dtype) for n in self.encoding.names(epoch)]

    def _decode(self, kept: list[np.ndarray[Any, Any]]) -> Signal:
        return self.encoding.decode([_tensor(array, self.device).flatten(0, 1) for array in kept])

    def _lengths(self, batch: Batch) -> list[int]:
        return [int(length) for length in self.source.row_lengths[batch.rows_B.numpy()]]

    def _uniforms(self, row: int, epoch: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return keyed_generator(self.seed, 5, epoch if self.source.varies else 0, row).random(count)

    def _batches(self, epochs: range, rows: int) -> Iterator[Batch]:
        source = self.source.with_batch_rows(rows)
        for epoch in epochs:
            yield from source.once(epoch)

    def _teachers(self) -> Ensemble:
        if self._live is None:
            self._live = self._load().to(self.device)
        return self._live

    def _tell_damage(self) -> None:
        damaged = self.store.damaged
        if damaged and not self._told:
            self._told = True
            console.print(
                f"[bold red]{self.folder}: what was kept of row {min(damaged) % self.store.rows} does not fit its "
                "checksum; it is computed again, as will be any other such row"
            )


def epochs_read(source: BatchSource, first: int, end: int) -> range:
    """Return the epochs whose slots the steps from `first` to before `end` read."""
    if not source.varies:
        return range(1)
    seen = source.batch(first).epochs_B, source.batch(end - 1).epochs_B
    return range(int(seen[0].min()), int(seen[1].max()) + 1)


def _tensor(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy an array to a device; unsigned numbers become signed ones of the same bits."""
    return to_device(torch.from_numpy(array.view(array.dtype.str.replace("u", "i"))), device)


def _save_heads(path: Path, heads: Heads) -> None:
    tensors = {}
    for number, (weight_VD, bias_V) in enumerate(heads):
        tensors[f"{number}.weight"] = weight_VD.detach().cpu().contiguous()
        if bias_V is not None:
            tensors[f"{number}.bias"] = bias_V.detach().cpu().contiguous()
    write_bytes(path, save(tensors))


def _load_heads(path: Path) -> Heads:
    tensors = load_file(path)
    count = sum(name.endswith(".weight") for name in tensors)
    return tuple((tensors[f"{number}.weight"], tensors.get(f"{number}.bias")) for number in range(count))
