"""Downloads against a real server on this machine that breaks off, lies, forgets ranges or has nothing."""

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tutelage.base.errors import UserError
from tutelage.corpus import download as module
from tutelage.corpus.download import download

CONTENT = bytes(i * i % 251 for i in range(300_000))
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; what goes wrong is set by the test."""

    daemon_threads = True
    content, etag = CONTENT, '"v1"'
    ranges = True
    break_after: list[int] = []
    statuses: list[int] = []

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.break_after, self.statuses = [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/corpus.zip"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        range_, if_range = self.headers.get("Range"), self.headers.get("If-Range")
        server.requests.append((range_, if_range))
        if server.statuses:
            status = server.statuses.pop(0)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://example.com/corpus.zip")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if server.ranges and range_ and if_range == server.etag:
            start = int(range_.removeprefix("bytes=").removesuffix("-"))
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_after:
            body = body[: server.break_after.pop(0)]
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def fetch(server, tmp_path, waits):
    return lambda **options: download(server.url, tmp_path / "cache" / "corpus.zip", sleep=waits.append, **options)


def test_whole_file(server, fetch, tmp_path):
    assert fetch(sha256=DIGEST, size=len(CONTENT)).read_bytes() == CONTENT
    fetch(sha256=DIGEST)
    assert len(server.requests) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["corpus.zip", "corpus.zip.sha256"]


def test_broken_connection_is_continued(server, fetch, waits):
    server.break_after = [100_000, 50_000]
    assert fetch(sha256=DIGEST).read_bytes() == CONTENT
    assert server.requests == [(None, None), ("bytes=100000-", '"v1"'), ("bytes=150000-", '"v1"')]
    assert len(waits) == 2


def test_later_run_continues(server, fetch):
    server.break_after = [100_000] + [0] * 10
    with pytest.raises(UserError, match=r"100kB are kept.*run again to continue"):
        fetch(sha256=DIGEST)
    server.break_after = []
    assert fetch(sha256=DIGEST).read_bytes() == CONTENT
    assert server.requests[-1] == ("bytes=100000-", '"v1"')


def test_changed_file_starts_anew(server, fetch):
    server.break_after = [100_000] + [0] * 10
    with pytest.raises(UserError):
        fetch()
    server.break_after, server.content, server.etag = [], CONTENT[::-1], '"v2"'
    assert fetch().read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"v1"'), (True, None), (True, 'W/"v1"')])
def test_server_that_cannot_continue(server, fetch, ranges, etag):
    server.ranges, server.etag, server.break_after = ranges, etag, [100_000]
    assert fetch(sha256=DIGEST).read_bytes() == CONTENT


def test_416_starts_anew(server, fetch, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "corpus.zip.part").write_bytes(CONTENT + b"too long")
    (tmp_path / "cache" / "corpus.zip.part.etag").write_text('"v1"')
    server.statuses = [416]
    assert fetch(sha256=DIGEST).read_bytes() == CONTENT
    assert [range_ for range_, _ in server.requests] == [f"bytes={len(CONTENT) + 8}-", None]


def test_wrong_content_is_thrown_away(server, fetch, tmp_path):
    with pytest.raises(UserError, match=r"expected sha256 00.*thrown away"):
        fetch(sha256="00" * 32)
    with pytest.raises(UserError, match="expected 7 bytes"):
        fetch(size=7)
    assert list((tmp_path / "cache").iterdir()) == []


def test_first_download_pins_the_digest(server, fetch, tmp_path):
    fetch().unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(UserError, match=f"expected sha256 {DIGEST}"):
        fetch()


def test_damaged_file_in_the_cache(fetch):
    fetch().write_bytes(b"other")
    with pytest.raises(UserError, match="delete it and run again"):
        fetch(sha256=DIGEST)


@pytest.mark.parametrize(("status", "message"), [(404, "does not exist"), (403, "by hand"), (418, "HTTP 418")])
def test_final_answers(server, fetch, waits, status, message):
    server.statuses = [status]
    with pytest.raises(UserError, match=message):
        fetch()
    assert waits == []


def test_passing_answers_are_waited_out(server, fetch, waits):
    server.statuses = [503, 429, 500]
    assert fetch().read_bytes() == CONTENT
    assert waits == [1, 2, 4]


def test_unsafe_addresses(server, fetch, tmp_path):
    for url in ("http://example.com/x", "ftp://127.0.0.1/x", "file:///etc/passwd"):
        with pytest.raises(UserError, match="refusing"):
            download(url, tmp_path / "x")
    server.statuses = [302]
    with pytest.raises(UserError, match=r"refusing to download http://example\.com"):
        fetch()


def test_full_disk_is_noticed_before(fetch, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match=r"needs 300kB.*TUTELAGE_CACHE"):
        fetch()
