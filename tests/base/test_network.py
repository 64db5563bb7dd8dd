"""Proxies, certificates and ports that cannot be used are told in one sentence that names the variable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tutelage.base import hub
from tutelage.base.errors import UserError
from tutelage.base.network import check_address, is_loopback, proxy_variable, through
from tutelage.corpus import huggingface
from tutelage.corpus.download import download
from tutelage.study.client.endpoint import Endpoint
from tutelage.study.settings import TeacherSettings

WEB = "https://example.org/file"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


WRONG = [
    (
        "ALL_PROXY",
        "socks5://localhost:1080",
        "ALL_PROXY names a socks5 proxy, for which the package socksio is missing",
    ),
    ("all_proxy", "socks5://localhost:1080", "all_proxy names a socks5 proxy"),
    ("HTTPS_PROXY", "http://me:secret@localhost:99999", "HTTPS_PROXY names a port that cannot be"),
    ("HTTPS_PROXY", "ftp://localhost", "HTTPS_PROXY names a ftp proxy"),
    ("SSL_CERT_FILE", "/no/such", "SSL_CERT_FILE=/no/such: there are no certificates there"),
    ("SSL_CERT_DIR", "/no/such", "SSL_CERT_DIR=/no/such: there are no certificates there"),
]


@pytest.mark.parametrize(("variable", "value", "message"), WRONG)
def test_a_wrong_environment_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, message: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    settings = TeacherSettings(endpoint="https://example.org/v1", model="m")
    for open_it in (
        lambda: check_address(WEB),
        lambda: Endpoint(settings),
        lambda: download(WEB, tmp_path / "file", sleep=lambda seconds: None),
        lambda: hub.check_hub("owner/name"),
        lambda: huggingface._revision("owner/name"),
    ):
        with pytest.raises(UserError, match=message) as told:
            open_it()
        assert "secret" not in str(told.value)
    check_address("http://127.0.0.1:8000/v1")
    Endpoint(TeacherSettings(endpoint="http://localhost:8000/v1", model="m"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "https://example.org:0/v1", "http://localhost:70000"])
def test_a_port_that_cannot_be_is_told_by_its_key(url: str) -> None:
    with pytest.raises(UserError, match=r"teacher.endpoint names a port that cannot be: ports are 1 to 65535"):
        Endpoint(TeacherSettings(endpoint=url, model="m"))


def test_certificates_are_only_asked_for_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such")
    check_address("http://example.org/v1")


def test_which_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_variable(WEB) is None
    monkeypatch.setenv("HTTP_PROXY", "http://localhost:1")
    assert proxy_variable(WEB) is None
    assert proxy_variable("http://example.org") == "HTTP_PROXY"
    assert through("http://example.org").startswith(" through the proxy that HTTP_PROXY names")
    monkeypatch.setenv("ALL_PROXY", "localhost:1")
    assert proxy_variable(WEB) == "ALL_PROXY"
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert proxy_variable(WEB) is None
    for url in ("http://localhost:1", "http://127.0.0.2", "http://[::1]:80", "http://a.localhost"):
        assert is_loopback(url)
        assert proxy_variable(url) is None


def test_a_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="through the proxy that HTTPS_PROXY names: correct or unset it"):
        download(WEB, tmp_path / "file", sleep=lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="hub through the proxy that HTTPS_PROXY names"):
        huggingface._revision("owner/name")


@pytest.fixture
def server() -> Iterator[str]:
    class Text(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"text")

        def log_message(self, *said: object) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Text)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}/file"
    made.shutdown()
    made.server_close()


def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such")
    assert download(server, tmp_path / "file").read_bytes() == b"text"
