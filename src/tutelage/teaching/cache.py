"""Teachers whose output for a row is computed once, kept, and read from then on.

A cache is filled ahead of training, in one pass over the rows (`build`), or by the first student that meets a row.
Either way the live teachers run on the whole micro-batch when one of its rows is missing, and what the cache now holds
is returned: a resumed run reads the very numbers it had before. Teachers are released once no row is missing.

Rows that read alike in every epoch have one slot; rows that are shifted or masked differently in each epoch have one
for every epoch, which works because shifts and masks follow from (seed, epoch, row).

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

from tutelage.base.files import fingerprint, read_json, write_bytes, write_json
from tutelage.base.progress import console, progress
from tutelage.corpus.batches import Batch, BatchSource, keyed_generator, to_device
from tutelage.teaching.cache_store import SlotStore
from tutelage.teaching.encoding import Encoding
from tutelage.teaching.signal import DenseSignal, Heads, Signal
from tutelage.teaching.teachers import Ensemble

BUILD_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 16}
"""Tokens in a forward pass of the build; fixed, so that an interrupted build ends with the same bytes."""
SMALLER = "take `kind: sparse`, fewer draws or sets, or no cache, or raise cache.limit_gib"
HEADS = "heads.safetensors"


class TeacherCache:
    """The output of a stage's teachers, kept on disk; a `TeacherSource`.

    Args:
        caches: folder of all caches; each has a folder in it that is named after its key.
        key: everything else that decides its content: rows, teachers.
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
        self.key = {"format": 1, **key, "precision": precision, "content": encoding.key}
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
        if missing := self._missing(batch):
            self._fill(batch, missing)
        elif self._live is not None and self.store.filled.all():
            self._live = None
        return self._read(batch)

    def build(
        self, epochs: range, rank: int, size: int, stopped: Callable[[], bool], label: str, check: bool = False
    ) -> bool:
        """Fill every empty slot of some epochs; process `rank` of `size` takes its share of the batches.

        With `check`, what is filled is read too, and what is damaged mended. `stopped` is asked before every batch.

        Returns whether it came to its end rather than was stopped.
        """
        empty = sum(int(self.source.row_lengths[~self.store.filled[self._span(epoch)]].sum()) for epoch in epochs)
        tokens, rows = empty // size, max(1, BUILD_TOKENS[self.device.type] // self.source.row_length)
        began, before, finished = time.monotonic(), self.info().get("seconds", 0.0), True
        with progress(label, tokens, "tok") as bar:
            for number, batch in enumerate(self._batches(epochs, rows)):
                if number % size != rank or (self.filled(batch) and not check):
                    continue
                if stopped():
                    finished = False
                    break
                if missing := self._missing(batch):
                    self._fill(batch.to(self.device), missing)
                    bar.advance(batch.token_count)
        self.store.sync()
        if rank == 0 and tokens:
            self.note(seconds=before + time.monotonic() - began)
        return finished

    def complete(self, epochs: range) -> bool:
        """Tell whether every slot of some epochs is filled."""
        return all(self.store.filled[self._span(epoch)].all() for epoch in epochs)

    def damaged(self, stopped: Callable[[], bool]) -> list[tuple[int, int]]:
        """Read everything; return epoch and row of each slot that does not fit its checksum."""
        found, filled = [], self.store.filled.nonzero()[0].tolist()
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
        path = self.folder / "info.json"
        return dict(read_json(path)) if path.is_file() else {}

    def note(self, **facts: Any) -> None:
        """Add to what is noted about this cache."""
        write_json(self.folder / "info.json", self.info() | facts)

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
        return [self._span(epoch).start + row for row, epoch in pairs]

    def _span(self, epoch: int) -> slice:
        """Return the slots of an epoch."""
        first = epoch * self.store.rows if self.source.varies else 0
        return slice(first, first + self.store.rows)

    def _missing(self, batch: Batch) -> list[int]:
        """List the places in a batch whose slots are empty or damaged."""
        return [place for place, slot in enumerate(self._slots(batch)) if not self.store.has_valid(slot)]

    def _fill(self, batch: Batch, places: list[int]) -> None:
        """Run the teachers on a batch and write some of its rows."""
        if (damaged := self.store.damaged) and not self._told:
            self._told = True
            console.print(
                f"[bold red]{self.folder}: what was kept of row {min(damaged) % self.store.rows} does not fit its "
                "checksum; it is computed again, as will be any other such row"
            )
        slots, lengths, T = self._slots(batch), self._lengths(batch), batch.tokens_BT.shape[1]
        index = np.concatenate([np.arange(place * T, place * T + lengths[place]) for place in places])
        index_N = torch.from_numpy(index).to(batch.tokens_BT.device)
        epochs = batch.epochs_B.tolist() if self.source.varies else [0] * len(batch.rows_B)
        draws = [keyed_generator(self.seed, 5, epochs[p], int(batch.rows_B[p])).random(lengths[p]) for p in places]
        signal = self.live_signal(batch).at(index_N)
        uniforms_N = torch.from_numpy(np.concatenate(draws))
        kept = self.encoding.encode(signal, batch.targets_BT.flatten()[index_N], uniforms_N)
        stops = np.cumsum([lengths[place] for place in places])
        for place, stop in zip(places, stops, strict=True):
            part = slice(int(stop) - lengths[place], int(stop))
            self.store.write(slots[place], {name: array[part] for name, array in kept.items()})

    def _read(self, batch: Batch) -> Signal:
        epochs, lengths = batch.epochs_B.tolist(), self._lengths(batch)
        kept = self._blank(batch, epochs[0])
        for place, (slot, epoch) in enumerate(zip(self._slots(batch), epochs, strict=True)):
            for array_BTW, name in zip(kept, self.encoding.names(epoch), strict=True):
                array_BTW[place, : lengths[place]] = self.store.read(slot, name)
        return self._decode(kept)

    def _blank(self, batch: Batch, epoch: int) -> list[np.ndarray[Any, Any]]:
        fields = {field.name: field for field in self.encoding.fields}
        B, T = batch.tokens_BT.shape
        return [np.zeros((B, T, fields[n].width), fields[n].dtype) for n in self.encoding.names(epoch)]

    def _decode(self, kept: list[np.ndarray[Any, Any]]) -> Signal:
        # Unsigned numbers become signed ones of the same bits.
        tensors = [torch.from_numpy(array.view(array.dtype.str.replace("u", "i"))) for array in kept]
        return self.encoding.decode([to_device(tensor, self.device).flatten(0, 1) for tensor in tensors])

    def _lengths(self, batch: Batch) -> list[int]:
        return [int(length) for length in self.source.row_lengths[batch.rows_B.numpy()]]

    def _batches(self, epochs: range, rows: int) -> Iterator[Batch]:
        source = self.source.with_batch_rows(rows)
        for epoch in epochs:
            yield from source.once(epoch)

    def _teachers(self) -> Ensemble:
        if self._live is None:
            self._live = self._load().to(self.device)
        return self._live


def epochs_read(source: BatchSource, first: int, end: int) -> range:
    """Return the epochs whose slots the steps from `first` to before `end` read."""
    if not source.varies:
        return range(1)
    seen = source.batch(first).epochs_B, source.batch(end - 1).epochs_B
    return range(int(seen[0].min()), int(seen[1].max()) + 1)


def _save_heads(path: Path, heads: Heads) -> None:
    named = {f"{n}.{part}": t for n, head in enumerate(heads) for part, t in zip(("weight", "bias"), head, strict=True)}
    write_bytes(path, save({name: t.detach().cpu().contiguous() for name, t in named.items() if t is not None}))


def _load_heads(path: Path) -> Heads:
    tensors = load_file(path)
    count = sum(name.endswith(".weight") for name in tensors)
    return tuple((tensors[f"{number}.weight"], tensors.get(f"{number}.bias")) for number in range(count))
