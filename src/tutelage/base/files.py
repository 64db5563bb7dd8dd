"""Durable files: a reader sees the old content or the new, never a half-written one.

Every write goes to a temporary name in the same folder, is flushed to the disk and then renamed. A rename within a
folder is atomic on POSIX file systems; the folder is flushed too, so that the new name survives a power cut.

Temporary names are `.NAME.tmp-PID@HOST`, and `.NAME.old-PID@HOST` for a folder that is being replaced: they tell whose
they are, so that `sweep` can clean up after a process that was killed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import psutil
from safetensors import SafetensorError

from tutelage.base.errors import InUse, UserError
from tutelage.base.progress import console

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<process>\d{1,9})@(?P<host>.*)")


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
        raise UserError(f"the disk of {path} is full ({free:.0f} MiB free); what was saved before is intact: free some "
                        "space and run the same command again to continue") from error  # fmt: skip
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST) or (
        number == errno.ENOENT and not path.exists()  # /proc and its like take no folders
    ):
        remedy = "choose a folder you may write to (--runs PATH)"
        raise UserError(f"cannot write to {path}: {os.strerror(number)}; {remedy}") from error


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Flush every file below a folder to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path` atomically and durably."""
    _write(path, (data,))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replace the text of `path` by lines (each with its newline), one in memory at a time; see `write_text`."""
    _write(path, (line.encode("utf-8") for line in lines))


def _write(path: Path, parts: Iterable[bytes]) -> None:
    with explain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _sibling(path, "tmp")
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the text of `path` atomically and durably (UTF-8)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, compact: bool = False) -> None:
    """Replace `path` with `value` as JSON, indented or compact, atomically; NaN and infinities are refused."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, **layout) + "\n")


def read_json(path: Path, remedy: str = "delete it and run again to rebuild it") -> Any:
    """Read a JSON file written by `write_json`; the remedy is told where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Build a folder under a temporary name; it appears under `path` whole, or not at all.

    An existing `path` is renamed away once the new content is complete on disk, and removed when that has its name; a
    process killed between the renames leaves it to `sweep`, which is called here for the folders beside `path`.
    """
    temporary, old = _sibling(path, "tmp"), _sibling(path, "old")
    with explain_disk_errors(path.parent):
        sweep(path.parent)
        # Not of this process, whose number an earlier one may have had.
        shutil.rmtree(temporary, ignore_errors=True)
        _put_away(old, path)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        temporary.mkdir(parents=True)
        try:
            yield temporary
            sync_files(temporary)
            sync_folder(temporary)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            _put_away(old, path)
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clean up what processes of this host that are no more left half-done directly in `folder`.

    Temporary files and folders are removed. A folder that was renamed away for a new one gets its name back if the new
    one never came. What other hosts left is not touched: whether their processes live cannot be told from here.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or found["host"] != platform.node() or psutil.pid_exists(int(found["process"])):
            continue
        if found["kind"] == "old":
            _put_away(path, path.with_name(found["name"]))
        else:
            remove(path)


def _sibling(path: Path, kind: Literal["tmp", "old"]) -> Path:
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}@{platform.node()}")


def _put_away(old: Path, target: Path) -> None:
    """Remove a folder that was replaced; where nothing has taken its name, give it back."""
    if target.exists():
        remove(old)
    elif old.exists():
        # Another process may do the same at this moment.
        with suppress(OSError):
            old.rename(target)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def locked(file: Path, what: str, *, waiting: str | None = None) -> Iterator[None]:
    """Keep other processes out; the lock goes with the process, however it ends. Its file stays, and means nothing.

    Args:
        what: what is locked, as the message to the others names it.
        waiting: wait for the lock rather than refuse, and tell this meanwhile.

    Raises:
        InUse: another process has the lock.
        UserError: the file system has no locks.
    """
    with explain_disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+b", buffering=0)
    with handle:
        if not _lock(handle, file, fcntl.LOCK_NB):
            handle.seek(0)
            holder = handle.read().decode(errors="replace").strip() or "another process"
            if waiting is None:
                remedy = "wait for it, stop it, or give this run another name (name=...)"
                raise InUse(f"{what} is in use by {holder}; {remedy}")
            console.print(f"{waiting} ({holder})")
            _lock(handle, file, 0)
        with explain_disk_errors(file.parent):
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {platform.node()}".encode())
        yield


def _lock(handle: BinaryIO, file: Path, flags: int) -> bool:
    """Take the lock; return False if it must be waited for and `flags` forbid that."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | flags)
    except BlockingIOError:
        return False
    except OSError as error:
        remedy = "choose a folder on a file system with locks (--runs PATH)"
        raise UserError(f"cannot lock {file}: {error.strerror}; {remedy}") from error
    return True


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex digest of a JSON-like value; equal values give equal digests whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
