"""Downloads that survive a bad line: resumed, checked, and in place only when whole.

Bytes go to `<name>.part`; a note beside it keeps the server's ETag, so that a later run continues only if the file is
still the same one (`If-Range`). The finished file is checked, flushed and renamed. `<name>.sha256` pins a file whose
digest nobody published: a later download must give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.network import check_address, is_loopback, through
from tutelage.base.progress import human, progress

ATTEMPTS = 5
"""Tries in a row without a new byte before giving up; waits double from one second."""
TIMEOUT = httpx2.Timeout(30.0)
MAX_BYTES = 20 << 30  # no corpus of this kind is larger; a server that sends more is stopped


class _Passing(Exception):
    """A fault that another try may not meet."""


@dataclass
class _State:
    """What is known of a download between tries."""

    part: Path
    note: Path
    etag: str | None

    @property
    def done(self) -> int:
        return self.part.stat().st_size if self.part.exists() and self.etag else 0

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.etag = None


def download(url: str, target: Path, *, sha256: str | None = None, size: int | None = None,
             sleep: Callable[[float], None] = time.sleep) -> Path:  # fmt: skip
    """Download `url` to `target` unless it is there already; continue what an earlier try left.

    Args:
        url: `https://`, or `http://` on this machine only.
        sha256: expected digest; without it the digest of the first download is pinned in `<target>.sha256`.
        size: expected bytes, if known.
        sleep: waits between tries (replaced in tests).

    Raises:
        UserError: refused address, no such file, no connection after several tries, wrong content, no room on disk.
    """
    _check_address(url)
    pin = target.with_name(target.name + ".sha256")
    if sha256 is None and pin.exists():
        sha256 = pin.read_text(encoding="ascii").strip()
    if target.exists():
        if sha256 is not None and files.sha256(target) != sha256:
            raise UserError(f"{target} is not what it should be (expected sha256 {sha256}); delete it and run again")
        return target
    with files.explain_disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        part, note = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.etag")
        state = _State(part, note, note.read_text(encoding="utf-8") if note.exists() else None)
        _fetch_with_retries(url, state, size, sleep)
        _check_content(url, state, sha256, size)
        digest = files.sha256(state.part)
        files.write_text(pin, digest + "\n")
        with state.part.open("rb+") as file:
            os.fsync(file.fileno())
        state.part.replace(target)
        files.sync_folder(target.parent)
        state.note.unlink(missing_ok=True)
    return target


def _check_address(url: str) -> None:
    check_address(url)
    address = httpx2.URL(url)
    local = address.scheme == "http" and address.host in ("localhost", "127.0.0.1", "::1")
    if address.scheme != "https" and not local:
        raise UserError(f"refusing to download {url}: only https:// addresses are safe from tampering on the way")


def _fetch_with_retries(url: str, state: _State, size: int | None, sleep: Callable[[float], None]) -> None:
    failures = 0
    while True:
        before = state.done
        try:
            _fetch(url, state, size)
            return
        except (_Passing, httpx2.TransportError) as error:
            failures = 0 if state.done > before else failures + 1
            if failures >= ATTEMPTS:
                kept = f"{human(state.done)}B are kept in {state.part}: run again to continue"
                said = f"could not download {url}{through(url)}: {error or type(error).__name__}"
                raise UserError(f"{said}; {kept}, or put the file at "
                                f"{state.part.with_suffix('')} by hand") from error  # fmt: skip
            sleep(2.0 ** max(failures - 1, 0))


@contextmanager
def _request(url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    def check(request: httpx2.Request) -> None:
        # Called before every request, those that follow a redirection included.
        _check_address(str(request.url))

    with (
        httpx2.Client(
            follow_redirects=True, timeout=TIMEOUT, event_hooks={"request": [check]}, trust_env=not is_loopback(url)
        ) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        yield response


def _fetch(url: str, state: _State, size: int | None) -> None:
    """Make one request and write what comes; return when the file is whole."""
    done = state.done
    # Compressed transfer would make Content-Length and ranges count other bytes than the file's.
    headers = {"Accept-Encoding": "identity", "User-Agent": "tutelage"}
    if done and state.etag:
        headers |= {"Range": f"bytes={done}-", "If-Range": state.etag}
    with _request(url, headers) as response:
        status = response.status_code
        if status == 416:
            # The part is as long as the file, or longer: start again, the check of the content decides.
            state.forget()
            raise _Passing("the server refused to continue (416)")
        if status in (404, 410):
            raise UserError(f"{url} does not exist (HTTP {status}); see whether the corpus has moved")
        if status in (401, 403):
            raise UserError(f"{url} is not open to the public (HTTP {status}); download it by hand and pass its folder")
        if status in (408, 425, 429) or status >= 500:
            raise _Passing(f"HTTP {status}")
        if status not in (200, 206):
            raise UserError(f"{url} answered HTTP {status}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UserError(f"{url} came compressed although plain bytes were asked for; download it by hand")
        if status == 206 and not response.headers.get("content-range", "").startswith(f"bytes {done}-"):
            state.forget()
            raise _Passing("the server continued at another place")
        _receive(url, response, state, done if status == 206 else 0, size)


def _receive(url: str, response: httpx2.Response, state: _State, done: int, size: int | None) -> None:
    length = response.headers.get("content-length")
    total = done + int(length) if length is not None else size
    free, needed = shutil.disk_usage(state.part.parent).free, (total or 0) - done
    if needed > free:
        raise UserError(f"{url} needs {human(needed)}B, but {state.part.parent} has {human(free)}B left: free some "
                        "space, or set TUTELAGE_CACHE to a folder on a larger disk")  # fmt: skip
    etag = response.headers.get("etag")
    # A weak ETag promises the same meaning, not the same bytes; nothing may be continued on its word.
    state.etag = etag if etag and not etag.startswith("W/") else None
    if state.etag:
        files.write_text(state.note, state.etag)
    else:
        state.note.unlink(missing_ok=True)
    received = done
    with (
        state.part.open("ab" if done else "wb") as file,
        progress(f"download {state.part.stem}", total, "B", done) as bar,
    ):
        # Raw and as it arrives: what came before a break in the line is kept.
        for block in response.iter_raw():
            received += len(block)
            if received > MAX_BYTES:
                raise UserError(f"{url} is larger than {human(MAX_BYTES)}B; that is no corpus of this kind")
            file.write(block)
            bar.advance(len(block))
    if total is not None and received < total:
        raise _Passing(f"the connection broke after {human(received)}B of {human(total)}B")


def _check_content(url: str, state: _State, sha256: str | None, size: int | None) -> None:
    found_size, found = state.part.stat().st_size, files.sha256(state.part)
    if (size is None or found_size == size) and (sha256 is None or found == sha256):
        return
    state.forget()
    expected = f"sha256 {sha256}" if sha256 else f"{size} bytes"
    raise UserError(f"{url} does not hold what it should (expected {expected}, found sha256 {found}, {found_size} "
                    "bytes); the file was thrown away. Run again; if it happens again, the publisher has changed it "
                    "or something stands in between")  # fmt: skip
