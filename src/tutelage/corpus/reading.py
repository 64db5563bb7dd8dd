"""Bytes of a file in, sound text out, a block at a time.

Newlines become `\\n` whatever the file has, a byte-order mark is dropped, and what cannot be text is refused by file
and place: other encodings, binary files, lines of many megabytes, broken JSON lines. Memory stays bounded by the
longest line allowed.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.base.types import Json
from tutelage.corpus.encodings import MARKS, opened

BLOCK_BYTES = 1 << 20
MAX_LINE = 16 << 20  # characters; a longer line is a dump, not text: splitting and cleaning work by lines

_SURROGATE = re.compile("[\ud800-\udfff]")


def blocks(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the text of a file in blocks of about a megabyte, with universal newlines.

    Raises:
        UserError: unknown encoding, bytes that do not decode (with their position), NUL characters, an overlong line.
    """
    decoder, newlines = _decoder(encoding), io.IncrementalNewlineDecoder(None, translate=True)
    line, column, offset = 1, 0, 0
    with opened(path) as file:
        while True:
            raw = file.read(BLOCK_BYTES)
            if offset == 0 and _is_utf8(encoding):
                offset = _check_mark(path, raw)
                raw = raw[offset:]
            pending = len(decoder.getstate()[0])
            try:
                text = newlines.decode(decoder.decode(raw, final=not raw), final=not raw)
            except UnicodeError as error:
                # The error counts from bytes that an earlier block left undecoded.
                raise _undecodable(path, error, offset - pending, encoding) from error
            if "\0" in text:
                at = line + text[: text.index("\0")].count("\n")
                raise UserError(f"{path}, line {at}: a NUL character, so this is a binary file, not text; "
                                "take it out of the corpus folder")  # fmt: skip
            if text:
                first = text.find("\n")
                longest = column + (len(text) if first < 0 else first)
                if longest > MAX_LINE:
                    raise UserError(f"{path}, line {line}: longer than {MAX_LINE >> 20} MiB; text is read line by "
                                    "line, so break it into lines (at sentences or paragraphs) first")  # fmt: skip
                line += text.count("\n")
                column = column + len(text) if first < 0 else len(text) - 1 - text.rfind("\n")
                yield text
            if not raw:
                return
            offset += len(raw)


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a file with their newlines (the last one may have none); errors as `blocks`."""
    rest: list[str] = []
    for block in blocks(path, encoding):
        head, newline, tail = block.rpartition("\n")
        if newline:
            yield from split_lines("".join([*rest, head, newline]))
            rest = []
        rest.append(tail)
    if last := "".join(rest):
        yield last


def split_lines(text: str) -> list[str]:
    """Cut text after its newlines, and only there (`str.splitlines` also cuts at form feeds and others)."""
    *whole, rest = text.split("\n")
    return [line + "\n" for line in whole] + ([rest] if rest else [])


def unsound(text: str) -> str | None:
    """Name what JSON can write and no text file can hold: a NUL character, or half of a pair of surrogates."""
    if "\0" in text:
        return "a NUL character"
    found = _SURROGATE.search(text)
    return f"half of a character (\\u{ord(found[0]):04x})" if found else None


def json_records(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, Json]]:
    """Yield the line number and the object of each line of a JSON-lines file; blank lines are passed over."""
    for number, record in json_values(path, encoding):
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: a JSON {type(record).__name__}, not an object with fields")
        yield number, record


def json_values(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, Any]]:
    """Yield the line number and the value of each line of a JSON-lines file, an object or not."""
    for number, line in enumerate(lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise UserError(f"{path}, line {number}: not valid JSON ({reason}); mend or delete the line") from error
        yield number, record


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        # A byte-order mark is dropped here rather than by `utf-8-sig`, whose errors do not count it.
        return codecs.getincrementaldecoder("utf-8" if _is_utf8(encoding) else encoding)("strict")
    except LookupError as error:
        raise UserError(f"data.encoding: '{encoding}' is not an encoding Python knows; try utf-8") from error


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _check_mark(path: Path, raw: bytes) -> int:
    """Return the length of a UTF-8 byte-order mark; refuse those of other encodings."""
    for mark, name in MARKS:
        if raw.startswith(mark):
            raise UserError(f"{path}: begins with the byte-order mark of {name}; set data.encoding={name}")
    return len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0


def _undecodable(path: Path, error: UnicodeError, base: int, encoding: str) -> UserError:
    if not isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}: not {encoding} ({error}); set data.encoding to the encoding it has")
    at, byte = base + error.start, error.object[error.start]
    context = error.object[error.start : error.start + 64]
    controls = sum(value < 9 or 13 < value < 32 for value in context)
    where = f"{path}: byte {at} (0x{byte:02x})"
    if controls > len(context) // 8:
        return UserError(f"{where} and its neighbours are no text: a binary file; take it out of the corpus folder")
    return UserError(f"{where} is not {encoding} ({error.reason}); set data.encoding to the encoding the files have "
                     "(old Western texts are often cp1252 or latin-1), or convert them to UTF-8")  # fmt: skip
