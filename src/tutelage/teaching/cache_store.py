"""Slots of bytes on disk, each with a checksum that also says whether it is filled.

<folder>/
    manifest.json         what decides the content, and the digests of the files kept beside it
    signal.bin            the slots, one after another; holes until they are filled
    checksums.bin         CRC32 of each slot, 0 while it is empty
    heads.safetensors     (`hidden`) the teachers' output layers
    info.json             seconds spent, size, error
    lock                  held by the processes that fill

A slot is a row of one epoch. Its bytes are written before its checksum, by plain writes at their place: whoever kills
the process loses at most the slot at hand, a full disk is an error rather than a broken memory map, and processes that
fill other slots do not disturb. After a power cut a checksum may have survived its slot; it will not fit then, and the
slot is computed again. Slots are read through a memory map and checked when a process first reads them.
"""

from __future__ import annotations

import mmap
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tutelage.base.errors import UserError
from tutelage.base.files import explain_disk_errors, read_json, sha256, sync_folder, write_json
from tutelage.base.progress import human
from tutelage.base.run_folder import differences
from tutelage.base.types import Array
from tutelage.teaching.encoding import Field

MANIFEST = "manifest.json"
SYNC_BYTES = 256 << 20
"""Written bytes after which everything is flushed to the disk."""


class SlotStore:
    """The slots of one cache: for each row and epoch the fields of every token. Messages call it `what`."""

    def __init__(
        self, folder: Path, lengths_R: npt.NDArray[np.int64], fields: Sequence[Field], what: str = "teacher cache"
    ) -> None:
        self.folder, self.what = folder, what
        self.rows = len(lengths_R)
        self.bytes_per_token = sum(field.bytes for field in fields)
        self._lengths, self._fields = lengths_R, tuple(fields)
        self._starts = np.append(0, np.cumsum(lengths_R)) * self.bytes_per_token
        self._data, self._sums = folder / "signal.bin", folder / "checksums.bin"
        self._unsynced = 0
        self._damaged: set[int] = set()

    # --- the files

    def size(self, epochs: int) -> int:
        """Return the bytes that the slots of some epochs take."""
        return epochs * int(self._starts[-1])

    def create(self, key: Mapping[str, Any], epochs: int, limit: float, remedy: str) -> None:
        """Make the files with room for some epochs, or check them, and make room where it is missing.

        Only one process may do so at a time. `key` is everything that decides the content; `epochs` is 1 where rows
        are the same in all.

        Raises:
            UserError: the folder holds something else or something damaged, or the cache exceeds its limit in bytes or
                the free space; the message ends with the remedy.
        """
        size = self.size(epochs)
        check_size(size, limit, remedy)
        with explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = not (self.folder / MANIFEST).is_file()
            if fresh:
                for path in (self._data, self._sums):
                    path.unlink(missing_ok=True)
                    path.touch()
            else:
                self.check(key)
            present = 0 if fresh else self._epochs()
            free = shutil.disk_usage(self.folder).free
            # Not by the blocks of the file, which some file systems compress.
            missing = size * (1 - np.count_nonzero(np.fromfile(self._sums, "<u4")) / (epochs * self.rows))
            if missing > free:
                raise UserError(
                    f"the {self.what} in {self.folder} needs {human(missing)}B more, the disk has {human(free)}B: "
                    f"free some space, or {remedy}"
                )
            if epochs > present:
                # The data first: a process killed between the two finds room, not slots without room.
                os.truncate(self._data, size)
                os.truncate(self._sums, epochs * self.rows * 4)
                sync_folder(self.folder)
        if fresh:
            write_json(self.folder / MANIFEST, {"key": dict(key), "sha256": {}})

    def check(self, key: Mapping[str, Any]) -> None:
        """Make sure that the folder holds a cache of this content, with whole files; else say what differs."""
        manifest = read_json(self.folder / MANIFEST)
        if changes := differences(manifest["key"], dict(key)):
            shown = "\n".join(f"  {place}: {old!r} there, {new!r} now" for place, old, new in changes[:12])
            raise UserError(f"{self.folder} holds a {self.what} of another content:\n{shown}\nDelete that folder")
        for name, digest in manifest["sha256"].items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != digest:
                raise self._broken(f"{name} is missing or not what was written")
        self._epochs()

    def seal(self, name: str) -> None:
        """Note the digest of a file that was added to the folder."""
        manifest = read_json(self.folder / MANIFEST)
        manifest["sha256"][name] = sha256(self.folder / name)
        write_json(self.folder / MANIFEST, manifest)

    def has(self, name: str) -> bool:
        """Tell whether a file was added whole."""
        return name in read_json(self.folder / MANIFEST)["sha256"]

    def open(self, writable: bool = True) -> None:
        """Map the files; every process does, once they are made."""
        epochs = self._epochs()
        flags = os.O_RDWR if writable else os.O_RDONLY
        with explain_disk_errors(self.folder):
            self._data_file, self._sums_file = os.open(self._data, flags), os.open(self._sums, flags)
            data = mmap.mmap(self._data_file, self.size(epochs), access=mmap.ACCESS_READ)
            sums = mmap.mmap(self._sums_file, epochs * self.rows * 4, access=mmap.ACCESS_READ)
        self.slots = epochs * self.rows
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        self._checksums = np.frombuffer(sums, dtype="<u4")
        self._checked = np.zeros(self.slots, dtype=bool)

    def close(self) -> None:
        """Flush what was written and let the files go."""
        self.sync()
        del self._bytes, self._checksums
        os.close(self._data_file)
        os.close(self._sums_file)

    # --- the slots

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """Which slots are filled, by any process."""
        filled: npt.NDArray[np.bool_] = self._checksums != 0
        return filled

    def has_valid(self, slot: int) -> bool:
        """Tell whether a slot is filled and sound; a damaged one counts as empty from then on."""
        if self._checked[slot]:
            return True
        if slot in self._damaged or self._checksums[slot] == 0:
            return False
        self._checked[slot] = self.fits_checksum(slot)
        if not self._checked[slot]:
            self._damaged.add(slot)
        return bool(self._checked[slot])

    def fits_checksum(self, slot: int) -> bool:
        """Tell whether a filled slot's bytes fit its checksum."""
        return _checksum(self._bytes[slice(*self._place(slot))].data) == int(self._checksums[slot])

    @property
    def damaged(self) -> frozenset[int]:
        """Slots found damaged and not written again since."""
        return frozenset(self._damaged)

    def write(self, slot: int, arrays: Mapping[str, Array]) -> None:
        """Fill a slot: for each field an array `(tokens of the row, width)`."""
        data = b"".join(np.ascontiguousarray(arrays[f.name], dtype=f.dtype).tobytes() for f in self._fields)
        start, stop = self._place(slot)
        if len(data) != stop - start:
            raise ValueError(f"slot {slot} has {stop - start} bytes, not {len(data)}")
        with explain_disk_errors(self.folder):
            _write_at(self._data_file, data, start)
            _write_at(self._sums_file, np.array(_checksum(data), dtype="<u4").tobytes(), slot * 4)
        self._checked[slot] = True
        self._damaged.discard(slot)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self.sync()

    def read(self, slot: int, name: str) -> Array:
        """Return a field of a filled slot, `(tokens of the row, width)`, as a view of the file."""
        tokens, before = int(self._lengths[slot % self.rows]), 0
        for field in self._fields:
            if field.name == name:
                start = self._place(slot)[0] + before * tokens
                flat = self._bytes[start : start + field.bytes * tokens].view(field.dtype)
                return flat.reshape(tokens, field.width)
            before += field.bytes
        raise KeyError(name)

    def sync(self) -> None:
        """Flush to the disk: slots, then checksums."""
        if self._unsynced:
            with explain_disk_errors(self.folder):
                os.fsync(self._data_file)
                os.fsync(self._sums_file)
            self._unsynced = 0

    def _place(self, slot: int) -> tuple[int, int]:
        epoch, row = divmod(slot, self.rows)
        first = epoch * int(self._starts[-1])
        return first + int(self._starts[row]), first + int(self._starts[row + 1])

    def _epochs(self) -> int:
        """Return for how many epochs there is room; refuse files that were cut."""
        sizes = [path.stat().st_size if path.is_file() else -1 for path in (self._sums, self._data)]
        epochs, rest = divmod(sizes[0], self.rows * 4)
        if rest or epochs < 0 or sizes[1] < self.size(epochs):
            rows = f"{self.rows} rows of {self.bytes_per_token} bytes a token"
            raise self._broken(f"its files have {sizes[0]} and {sizes[1]} bytes, which do not fit {rows}")
        return epochs

    def _broken(self, what: str) -> UserError:
        return UserError(f"the {self.what} in {self.folder} is broken: {what}; delete that folder to build it anew")


def check_size(size: float, limit: float, remedy: str) -> None:
    """Refuse a cache of more bytes than it may have."""
    if size > limit:
        raise UserError(f"the teacher cache would take {human(size)}B, the limit is {human(limit)}B: {remedy}")


def _checksum(data: bytes | memoryview) -> int:
    return zlib.crc32(data) or 1


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
