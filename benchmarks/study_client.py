"""What does our client for teacher LLMs cost, beside a local server that it keeps busy?

    python benchmarks/study_client.py        # an idle machine of two cores; `pip install xllamacpp gguf`

64 requests are under way at once. Two servers, each in a process of its own: llama.cpp with a tiny model of random
weights, which one thread of arithmetic saturates; and a server that does nothing but wait, 64 places of 100 ms, which
answers faster than any model. Two clients, in turn: `bare` sends the same bodies over 64 open connections and throws
the answers away; ours checks, counts and stores each request before it is sent and each answer before it is used, on
the disk. Overhead is the share of the bare client's requests per second that ours does not reach. Writes
`study_client.json` and `study_client.md` here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
AT_ONCE, ROUNDS = 64, 5
WAIT = 0.1
SIZES = {"llama.cpp": (512, 64), "waiting": (3200, 64)}
"""Requests in a round, and longest answer in tokens."""
TEXT = "The cat sat on the mat and looked at the dog. " * 12


def content_length(head: bytes) -> int:
    """What the head of an HTTP message says of its body."""
    return next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))


# --- servers


def serve_llama() -> None:
    """Run llama.cpp with the model of its test; print the address."""
    import xllamacpp

    test = HERE.parent / "tests" / "study" / "client" / "test_llama_cpp.py"
    spec = importlib.util.spec_from_file_location("test_llama_cpp", test)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        module.write_model(path)
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.warmup = 512 * AT_ONCE, AT_ONCE, False
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.use_jinja = False
        settings.hostnames, settings.port = ["127.0.0.1"], 0
        server = xllamacpp.Server(settings)
        print(f"{server.listening_address}/v1", flush=True)
        sys.stdin.read()


def serve_waiting() -> None:
    """Answer each request after a while, as many at once as there are places; print the address."""
    places = asyncio.Semaphore(AT_ONCE)
    body = {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 30, "completion_tokens": 120}}  # fmt: skip
    raw = json.dumps(body).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(content_length(head))
                async with places:
                    await asyncio.sleep(WAIT)
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=256)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(serve())


# --- clients


def prompts(count: int, tokens: int, seed: int) -> list[Any]:
    """Requests that no round before had."""
    from tutelage.study.client.client import Message, Request

    return [
        Request((Message("user", f"{TEXT[:200]} ({seed}/{n})"),), f"write/{n}", seed=n, max_tokens=tokens)
        for n in range(count)
    ]


def study(address: str) -> Any:
    """Settings of ours."""
    from tutelage.study.settings import Study

    teacher = {"endpoint": address, "model": "tiny", "concurrency": AT_ONCE}
    return Study.model_validate({"name": "benchmark", "teacher": teacher})


def bare(address: str, requests: list[Any]) -> None:
    """Send what ours would send, and read what comes."""
    from tutelage.study.client.remote import RemoteTeacher
    from tutelage.study.client.store import open_store

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "requests.jsonl") as store:
        teacher = RemoteTeacher(study(address), store)
        bodies = [json.dumps(teacher._body(request, request.seed)).encode() for request in requests]
    host, port = address.split("/")[2].split(":")

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while bodies:
            body = bodies.pop()
            head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
            try:
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                # Servers close connections now and then.
                bodies.append(body)
                reader, writer = await asyncio.open_connection(host, int(port))
                continue
            assert b" 200 " in answer.split(b"\r\n")[0]
            await reader.readexactly(content_length(answer))
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    asyncio.run(all_of_them())


def ours(address: str, requests: list[Any]) -> None:
    """Ask as a study does."""
    from tutelage.study.client.remote import RemoteTeacher
    from tutelage.study.client.store import open_store

    with tempfile.TemporaryDirectory(dir=HERE) as folder, open_store(Path(folder) / "requests.jsonl") as store:
        answers = RemoteTeacher(study(address), store).ask(requests, "asking")
    assert all(answer is not None and answer.read and answer.written for answer in answers)


# --- measuring


def measure(kind: str) -> dict[str, Any]:
    """Requests per second of both clients, and processor time of ours, rounds in turn."""
    count, tokens = SIZES[kind]
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    busy: list[float] = []
    command = [sys.executable, __file__, "--serve", kind]
    for number in range(ROUNDS):
        for name, client in (("bare", bare), ("ours", ours)):
            # A server of its own for each: llama.cpp gets slower with the prompts it has seen.
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert server.stdout is not None
            assert server.stdin is not None
            try:
                address = server.stdout.readline().decode().strip()
                client(address, prompts(AT_ONCE, tokens, -1))
                requests = prompts(count, tokens, number)
                began, used = time.perf_counter(), time.process_time()
                client(address, requests)
                rates[name].append(count / (time.perf_counter() - began))
                if name == "ours":
                    busy.append(1000 * (time.process_time() - used) / count)
            finally:
                server.stdin.close()
                server.wait(30)
    per_second = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "server": kind,
        "requests": count,
        "per_second": per_second,
        "all": rates,
        "overhead_percent": 100 * (1 - per_second["ours"] / per_second["bare"]),
        "milliseconds_of_processor": statistics.median(busy),
    }


def main() -> None:
    """Measure and write down."""
    from tutelage.base.machine import environment

    found = [measure(kind) for kind in SIZES]
    machine = environment()
    (HERE / "study_client.json").write_text(json.dumps({"machine": machine, "found": found}, indent=2) + "\n")
    rows = [
        f"| {one['server']} | {one['per_second']['bare']:,.1f} | {one['per_second']['ours']:,.1f} | "
        f"{one['overhead_percent']:.1f} % | {one['milliseconds_of_processor']:.2f} ms |"
        for one in found
    ]
    text = "\n".join(
        [
            "# What the client for teacher LLMs costs",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {date.today().isoformat()}; requests a "
            f"second with {AT_ONCE} under way at once, medians of {ROUNDS} interleaved rounds.",
            "",
            "    python benchmarks/study_client.py",
            "",
            "| server | bare client | ours | overhead | processor time of ours, a request |",
            "|:--|--:|--:|--:|--:|",
            *rows,
            "",
        ]
    )
    (HERE / "study_client.md").write_text(text)
    print(text)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        {"llama.cpp": serve_llama, "waiting": serve_waiting}[sys.argv[-1]]()
    else:
        main()
