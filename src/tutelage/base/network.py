"""What of the environment decides how an address is reached: proxies and certificates, checked before they are used."""

from __future__ import annotations

import importlib.util
import os
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from tutelage.base.errors import UserError

PORTS = 65_535


def check_address(url: str, key: str = "") -> None:
    """Refuse an address, and an environment in which it cannot be asked for; `key` names where the address stands.

    Raises:
        UserError: a port that cannot be, a proxy that cannot be used, certificates that are not there; the sentence
            names the variable.
    """
    _check_port(url, key or url)
    if is_loopback(url):
        return
    if (variable := proxy_variable(url)) is not None:
        _check_proxy(variable, os.environ[variable])
    if urlsplit(url).scheme == "https":
        for variable, there in (("SSL_CERT_FILE", Path.is_file), ("SSL_CERT_DIR", Path.is_dir)):
            if (place := os.environ.get(variable)) and not there(Path(place)):
                remedy = "correct the environment variable, or unset it"
                raise UserError(f"{variable}={place}: there are no certificates there; {remedy}")


def is_loopback(url: str) -> bool:
    """Tell whether an address is this machine's own, which no proxy stands before."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_variable(url: str) -> str | None:
    """Name the environment variable whose proxy is used for an address; None where none is."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    names = (f"{parts.scheme}_proxy", "all_proxy")
    return next((name for low in names for name in (low, low.upper()) if os.environ.get(name)), None)


def through(url: str) -> str:
    """Say for a message through which proxy an address is asked for; nothing where through none."""
    variable = proxy_variable(url)
    return "" if variable is None else f" through the proxy that {variable} names: correct or unset it, or start it"


def _check_proxy(variable: str, value: str) -> None:
    # The value may hold a password, and is not told.
    scheme = value.partition("://")[0].lower() if "://" in value else "http"
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UserError(f"{variable} names a {scheme} proxy, for which the package socksio is missing: "
                        "`pip install socksio`, or unset the variable")  # fmt: skip
    if scheme not in ("http", "https", "socks5", "socks5h"):
        raise UserError(
            f"{variable} names a {scheme} proxy, and http, https and socks5 can be used: correct or unset it"
        )
    _check_port(value if "://" in value else f"http://{value}", variable)


def _check_port(url: str, key: str) -> None:
    try:
        port = urlsplit(url).port
    except ValueError:
        port = PORTS + 1
    if port == 0 or (port is not None and port > PORTS):
        raise UserError(f"{key} names a port that cannot be: ports are 1 to {PORTS}")
