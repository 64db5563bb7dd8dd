"""Checksums that tell whether files still are what was written: of folders of files, and inside JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json, sha256, write_json
from tutelage.base.types import Json

FREE = ("README.md",)
"""Files that a user may change: a model card wants a licence."""
KEY = "checksum"


@dataclass(frozen=True)
class FileDigest:
    """A file as it was written: its size in bytes, and the sha256 of its content in hexadecimal."""

    size: int
    sha256: str


def digests(folder: Path, *names: str) -> dict[str, FileDigest]:
    """Return the digests of some files of a folder by name; a folder among the names stands for all files in it."""
    paths = [path for name in names for path in ((folder / name), *sorted((folder / name).rglob("*")))]
    files = [path for path in paths if path.is_file() and path.name not in FREE]
    return {path.relative_to(folder).as_posix(): FileDigest(path.stat().st_size, sha256_once(path)) for path in files}


def damage(folder: Path, files: Mapping[str, FileDigest], below: str = "") -> str | None:
    """Say in a few words which file of a folder is not what was written; None where all are.

    Only files whose names begin with `below` are looked at. Sizes are compared each time, contents once per process and
    change of a file.
    """
    for name, digest in files.items():
        if not name.startswith(below):
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != digest.size:
            return f"{name} has {size:,} bytes instead of {digest.size:,}"
        if sha256_once(path) != digest.sha256:
            return f"{name} does not match its checksum"
    return None


def sha256_once(path: Path) -> str:
    """Return the hex digest of a file's content, which is read once per process as long as the file is not changed."""
    now = path.stat()
    return _sha256(path.absolute(), now.st_mtime_ns, now.st_size, now.st_ino)


@lru_cache(maxsize=1024)
def _sha256(path: Path, *_: int) -> str:
    return sha256(path)


def write_checked(path: Path, value: Json) -> None:
    """Write a mapping as `write_json` does, with a checksum of it under the key `checksum`."""
    # As it will be read: keys are text there, and tuples lists.
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, value | {KEY: fingerprint(plain)})


def read_checked(path: Path, remedy: str = "delete it and run again to rebuild it") -> Json:
    """Read a mapping that `write_checked` wrote; one of an earlier version, which has no checksum, is taken as it is.

    Raises:
        UserError: there is no such file, it is no JSON mapping, or not what was written.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}")
    value: Any = read_json(path, remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no mapping of keys to values: {remedy}")
    if (checksum := value.pop(KEY, None)) is not None and checksum != fingerprint(value):
        raise UserError(f"{path} is not what was written (its checksum differs): {remedy}")
    return value
