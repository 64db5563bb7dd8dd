"""One sending to an OpenAI-compatible endpoint: out goes a chat request, back comes a reply or the reason why none did.

Nothing that an endpoint does takes more time or memory than was allowed, and nothing it says is trusted: replies are
read up to a size, decoded strictly, parsed within bounds. The key goes into one header, to one host: redirects are not
followed, and whatever is told about a failure has the key taken out.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2

from tutelage import __version__
from tutelage.base.errors import UserError
from tutelage.base.network import check_address, is_loopback, through
from tutelage.study.client.answers import Unusable, parse_json
from tutelage.study.client.budget import BYTES_A_TOKEN
from tutelage.study.settings import TeacherSettings

CONNECT_SECONDS = 30.0
TOKEN_BYTES, ENVELOPE_BYTES = 128, 64 << 10
"""No answer of so many tokens is larger: a token is some bytes, written as JSON a few times as many."""
LARGEST_COUNT = 10**9
"""Tokens of one answer; an endpoint that tells more is not believed."""
LIMITED = (429, 503, 529)
"""Too much was asked; the endpoint itself may be well."""
STOPPING = {
    401: "does not accept the key; set the environment variable {variable} to one that it accepts",
    402: "wants to be paid first",
    403: "forbids this; see whether the key in {variable} may use the model",
    404: "does not know this address or model; `teacher.endpoint` should be the part before /chat/completions, "
    "often ending in /v1, and `teacher.model` a name that the endpoint knows",
    405: "takes no chat requests at this address; `teacher.endpoint` is the part before /chat/completions",
    501: "has no chat completions; `teacher.endpoint` should be the address of a server that has",
}
_HALF = re.compile("[\ud800-\udfff]")
# What vLLM, llama.cpp, Ollama, SGLang, TGI and hosted services say of a request that the model cannot read whole.
_TOO_LONG = re.compile(
    r"context (?:length|size|window|limit)|(?:prompt|input|request) is (?:too long|longer)|too long to fit"
    r"|maximum (?:model|prompt) length|reduce the length|too many tokens|tokens exceed|token count.{0,60} exceeds"
    r"|max_new_tokens. must be"
)
SHORTEST_KEY = 8
"""Characters; what is shorter may stand in any text, and is no key that anybody was given."""


class Failed(Exception):
    """A sending came to nothing, and may go better another time.

    `pause` is in seconds, None if the endpoint does not say; `limited`: it only had too much to do; `billed`: the
    answer may have been written, and counted, all the same.
    """

    def __init__(self, why: str, pause: float | None = None, limited: bool = False, billed: bool = False) -> None:
        super().__init__(why)
        self.pause, self.limited, self.billed = pause, limited, billed


class NeverAnswered(Exception):
    """The endpoint will never answer this request, such as a prompt longer than the model's context."""


@dataclass(frozen=True)
class Reply:
    """A chat completion.

    The text is empty where `fault` says why it cannot be used; `finish` is `stop` or `length`; `read` and `written` are
    tokens of prompt and answer, None where the endpoint did not tell.
    """

    text: str
    fault: str = ""
    finish: str = "stop"
    read: int | None = None
    written: int | None = None


class Clients:
    """HTTP clients of one connection each: one with 64 would spend most of its time looking at all for each request."""

    def __init__(self, stack: AsyncExitStack, new: Callable[[], httpx2.AsyncClient]) -> None:
        self._stack, self._new = stack, new
        self._free: list[httpx2.AsyncClient] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Lend a client that nobody else uses."""
        client = self._free.pop() if self._free else await self._stack.enter_async_context(self._new())
        try:
            yield client
        finally:
            self._free.append(client)


class Endpoint:
    """The address of a teacher, its key and the limits of what is taken from it.

    `shown` is the address as it may be told; the settings let nothing secret into it.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        assert settings.endpoint is not None
        no_address = UserError("teacher.endpoint is no address of the web: write it as http://localhost:8000/v1")
        try:
            self._url = httpx2.URL(settings.endpoint)
        except httpx2.InvalidURL:
            check_address(settings.endpoint, "teacher.endpoint")
            raise no_address from None
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise no_address
        check_address(settings.endpoint, "teacher.endpoint")
        self.shown = str(self._url)
        base = self._url.path.rstrip("/")
        self._urls = {path: self._url.copy_with(path=f"{base}/{path}") for path in ("chat/completions", "models")}
        self._settings = settings
        self._key = os.environ.get(settings.key_variable, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise UserError(f"the environment variable {settings.key_variable} holds no key: it has odd characters")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Clients]:
        """Yield clients for one event loop."""
        headers = {"User-Agent": f"tutelage/{__version__}", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # The whole answer has its own limit of time; here, only connecting has one.
        timeout = httpx2.Timeout(None, connect=min(CONNECT_SECONDS, self._settings.timeout))
        verify = _system_certificates() if self._url.scheme == "https" else False
        trust = not is_loopback(str(self._url))
        async with AsyncExitStack() as stack:
            yield Clients(
                stack, lambda: httpx2.AsyncClient(headers=headers, timeout=timeout, verify=verify, trust_env=trust)
            )

    async def complete(self, clients: Clients, body: dict[str, Any]) -> Reply:
        """Send one chat request.

        Raises:
            Failed: no reply, or none that is a chat completion.
            NeverAnswered: the endpoint refuses this request for good.
            UserError: it refuses all requests.
        """
        return self._reply(await self._exchange(clients, "POST", "chat/completions", body))

    async def models(self, clients: Clients) -> list[str]:
        """Return the names of the models that the endpoint lists.

        Raises:
            Failed: it lists none.
            UserError: it refuses all requests.
        """
        raw = await self._exchange(clients, "GET", "models", None)
        try:
            names = [model["id"] for model in self._json(raw)["data"]]
        except (KeyError, TypeError) as error:
            raise Failed("it lists no models") from error
        return [self.hide(name) for name in names if isinstance(name, str)]

    def hide(self, text: str) -> str:
        """Return a text so that it may be told and stored: without the key and control characters, not too long."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]

    async def _exchange(self, clients: Clients, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        """Send a request and return the body of its response, read within the limits of time and size."""
        limit = int(self._settings.max_megabytes * 2**20)
        if body is not None:
            limit = min(limit, ENVELOPE_BYTES + TOKEN_BYTES * int(body["max_tokens"]))
        raw = bytearray()
        try:
            async with (
                asyncio.timeout(self._settings.timeout),
                clients.one() as client,
                client.stream(method, self._urls[path], json=body) as response,
            ):
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise Failed("it packed its answer, which it was told not to", billed=True)
                async for part in response.aiter_raw():
                    raw += part
                    if len(raw) > limit:
                        raise Failed(f"its answer is larger than {limit / 2**20:.3g} MiB", billed=True)
        except TimeoutError as error:
            raise Failed(f"no whole answer within {self._settings.timeout:g} s", billed=True) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Failed(f"no connection{through(str(self._url))} ({self.hide(str(error))})") from error
        except httpx2.ProxyError as error:
            raise Failed(f"no connection{through(str(self._url))} ({self.hide(str(error))})") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            why = self.hide(str(error)) or type(error).__name__
            raise Failed(f"the connection broke ({why})", billed=True) from error
        if response.status_code != 200:
            self._refuse(response.status_code, bytes(raw), response.headers)
        return bytes(raw)

    def _refuse(self, status: int, raw: bytes, headers: httpx2.Headers) -> None:
        """Raise what a status other than 200 means."""
        said = self.hide(_message(raw))
        told = f"HTTP {status}" + (f": {said}" if said else "")
        if status in LIMITED:
            raise Failed(told, _pause(headers), limited=True)
        if status in (408, 409, 425) or (status >= 500 and status not in STOPPING):
            raise Failed(told, _pause(headers))
        if 300 <= status < 400:
            place = self.hide(headers.get("Location", "elsewhere"))
            raise UserError(f"{self.shown} sends us on to {place}; redirects are not followed, since the key would go "
                            "with them: name the right address as `teacher.endpoint`")  # fmt: skip
        if status in STOPPING:
            raise UserError(f"{self.shown} {STOPPING[status].format(variable=self._settings.key_variable)} ({told})")
        if status == 413 or _TOO_LONG.search(said.lower()):
            raise NeverAnswered(told)
        raise UserError(f"{self.shown} does not take our requests ({told}). If it does not know a setting, take that "
                        "out: `teacher.sampling.top_k: null`, `teacher.sampling.repetition_penalty: null`")  # fmt: skip

    def _json(self, raw: bytes) -> Any:
        try:
            return parse_json(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Failed(f"its answer is not UTF-8 (byte {error.start})", billed=True) from error
        except Unusable as error:
            raise Failed(f"its answer is no chat completion: {error}", billed=True) from error

    def _reply(self, raw: bytes) -> Reply:
        """Make a reply of a body."""
        tree = self._json(raw)
        try:
            choice = tree["choices"][0]
            message, usage = choice["message"], tree.get("usage") or {}
            content, read, written = message.get("content"), usage.get("prompt_tokens"), usage.get("completion_tokens")
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            told = tree.get("error") if isinstance(tree, dict) else None
            said = f": {self.hide(str(told))}" if told else ""
            raise Failed(f"its answer is no chat completion{said}", billed=True) from error
        if content is not None and not isinstance(content, str):
            raise Failed("its answer is no chat completion: `content` is no text", billed=True)
        content, fault = content or "", ""
        if not content:
            refusal = self.hide(str(message.get("refusal") or ""))
            fault = f"the answer is empty: {refusal}" if refusal else "the answer is empty"
        elif len(self._key) >= SHORTEST_KEY and self._key in content:
            fault = "the answer has the key in it, and is not kept"
        elif _HALF.search(content):
            fault = "the answer has half of a surrogate pair, which is no character"
        # Some servers report 0 for whatever they do not count. No prompt has no tokens, and no text has.
        told = _count(written)
        if content and fault and not told:
            # The text is not kept, so nobody can guess by its length later.
            told = len(content.encode("utf-8", "replace")) // BYTES_A_TOKEN
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        written = None if content and not told else told
        return Reply("" if fault else content, fault, finish, _count(read) or None, written)


_system_certificates = cache(httpx2.create_ssl_context)
"""Reads the certificates that the system trusts, which takes a moment."""


def _count(value: Any) -> int | None:
    """Return a number of tokens if it can be one."""
    return value if type(value) is int and 0 <= value <= LARGEST_COUNT else None


def _message(raw: bytes) -> str:
    """Return what an error's body says, from the places where endpoints say it."""
    text = raw[:4000].decode("utf-8", "replace")
    if text.lstrip().startswith("<"):
        return "a web page"
    try:
        tree = parse_json(raw.decode("utf-8", "replace")) if len(raw) <= 4000 else None
    except Unusable:
        return text
    for key in ("error", "message", "detail"):
        if isinstance(tree, dict) and key in tree:
            tree = tree[key]
    return tree if isinstance(tree, str) else text


def _pause(headers: httpx2.Headers) -> float | None:
    """Read Retry-After, in seconds: a number or a date."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < 1e9 else 1e9
