"""Durable files: a reader sees the old content or the new, never a half-written one.

Every write goes to a temporary name in the same folder, is flushed to the disk and then renamed. A rename within a
folder is atomic on POSIX file systems; the folder is flushed too, so that the new name survives a power cut.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tutelage.errors import UserError


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        _explain(error, error.errno, path)
        raise
    except SafetensorError as error:
        # Written in Rust, it tells of a full disk in its own words: "I/O error: ... (os error 28)".
        number = re.search(r"os error (\d+)", str(error))
        _explain(error, int(number[1]) if number else None, path)
        raise


def _explain(error: Exception, number: int | None, path: Path) -> None:
    if number in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path if path.exists() else Path.cwd()).free / 2**20
        raise UserError(
            f"the disk of {path} is full ({free:.0f} MiB free); what was saved before is intact: "
            "free some space and run the same command again to continue"
        ) from error
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        raise UserError(
            f"cannot write to {path}: {os.strerror(number)}; choose a folder you may write to (--runs PATH)"
        ) from error


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path` atomically and durably."""
    with explain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the text of `path` atomically and durably (UTF-8)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as indented JSON, atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file written by `write_json`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run again to rebuild it") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Build a folder under a temporary name; it appears under `path` whole, or not at all.

    An existing `path` is replaced only once the new content is complete on disk.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with explain_disk_errors(path.parent):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            sync_folder(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex digest of a JSON-like value; equal values give equal digests whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
