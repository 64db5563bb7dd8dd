"""Which bytes a file of text holds: compressed or not, and in which encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from tutelage.base.errors import UserError

OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""By the end of a compressed file's name."""
SAMPLE = 1 << 18
"""Bytes by which an encoding is guessed, from the first that is not UTF-8."""
BEFORE = 1 << 10
GUESSED = ("cp1252", "iso8859_2", "cp1250", "cp1251", "koi8_r", "cp1254", "cp1253", "cp1255", "cp1256", "cp874",
           "cp932", "euc_jp", "gb18030", "big5", "euc_kr")  # fmt: skip
"""Encodings that old texts have; rarer ones are named by hand (data.encoding)."""
NEAR = 0.01
"""Scores of charset-normalizer that differ by less decide nothing."""
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file's bytes, decompressed where its name says that they are compressed.

    Raises:
        UserError: compressed data that are damaged or cut.
    """
    opener = OPENERS.get(path.suffix.lower(), open)
    with cast(BinaryIO, opener(path, "rb")) as file:
        try:
            yield file
        except (gzip.BadGzipFile, EOFError, lzma.LZMAError, OSError) as error:
            if opener is open:
                raise
            raise UserError(f"{path} is no whole {path.suffix} file ({error}): fetch or compress it again") from error


def encoding_of(path: Path, asked: str) -> str:
    """Return the encoding of a file: the one asked for, or with `auto` the one that it has.

    That is UTF-8 where all of it decodes so, else what its byte-order mark says, else the guess of charset-normalizer.
    Binary data and what nothing decodes stay UTF-8, so that reading them tells the place.
    """
    if asked != "auto":
        return asked
    decoder, before = codecs.getincrementaldecoder("utf-8")("strict"), b""
    with opened(path) as file:
        while raw := file.read(SAMPLE):
            if not before and (mark := next((name for mark, name in MARKS if raw.startswith(mark)), None)):
                return mark
            try:
                decoder.decode(raw)
            except UnicodeDecodeError as error:
                start = max(0, error.start - BEFORE)
                return _guess((before + raw)[len(before) + start :] + file.read(SAMPLE))
            before = raw[-BEFORE:]
    return "utf-8"


def _guess(sample: bytes) -> str:
    """Return the likeliest of some encodings; of those about as likely, the first in their order."""
    from charset_normalizer import from_bytes

    found = None if b"\0" in sample else from_bytes(sample, cp_isolation=list(GUESSED), preemptive_behaviour=True)
    if not found or (best := found.best()) is None:
        return "utf-8"
    near = {
        match.encoding
        for match in found
        if match.chaos <= best.chaos + NEAR and match.coherence >= best.coherence - 2 * NEAR
    }
    return next((name for name in GUESSED if name in near), best.encoding)
