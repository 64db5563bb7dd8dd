"""A real server on this machine that answers as it likes."""

import asyncio
import email.utils
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.stored import entries

from tutelage.api.studies import open_teacher
from tutelage.base.errors import Interrupted, UserError
from tutelage.study.client import sending
from tutelage.study.client.budget import Spending, worst_case
from tutelage.study.client.client import Message, Request
from tutelage.study.client.remote import RemoteTeacher
from tutelage.study.client.store import open_store
from tutelage.study.settings import Study

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"]}


def completion(text="yes", finish="stop", **more):
    return {"choices": [{"message": {"content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5}, **more}  # fmt: skip


def http(status, body=b"", **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} x",
        f"Content-Length: {len(body)}",
        *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Server:
    """Calls `say(body, number)` for each chat request: it returns an object (200), bytes (sent as they are) or a
    coroutine function that writes to the connection itself."""

    def __init__(self, say, models=("tiny",)):
        self.say, self.models = say, models
        self.asked, self.headers, self.times = [], [], []

    def texts(self):
        return [body["messages"][-1]["content"].split("\n")[0] for body in self.asked]

    async def handle(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                fields = {key.lower(): value for key, value in fields.items()}
                raw = await reader.readexactly(int(fields.get("content-length", 0)))
                self.headers.append(fields)
                if head.startswith("GET"):
                    said = {"data": [{"id": name} for name in self.models]}
                else:
                    body = json.loads(raw)
                    self.asked.append(body)
                    self.times.append(time.monotonic())
                    said = self.say(body, len(self.asked))
                if asyncio.iscoroutine(said):
                    said = await said
                if callable(said):
                    await said(writer)
                    break
                writer.write(said if isinstance(said, bytes) else http(200, said))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @contextmanager
    def running(self):
        started, ending = threading.Event(), asyncio.Event()

        async def serve():
            server = await asyncio.start_server(self.handle, "127.0.0.1", 0, limit=1 << 24, backlog=256)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            self.loop = asyncio.get_running_loop()
            started.set()
            await ending.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self.loop.call_soon_threadsafe(ending.set)
            thread.join()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.02)


def study(url, budget=None, **teacher):
    settings = {"endpoint": url, "model": "tiny", "concurrency": 4, "tries": 3, "timeout": 20, **teacher}
    return Study.model_validate({"name": "s", "teacher": settings, "budget": budget or {}})


def questions(count, **more):
    more = {"max_tokens": 50, **more}
    return [Request((Message("user", f"question {n}"),), f"label/{n}", seed=n, **more) for n in range(count)]


def ask(server, path, requests, budget=None, **teacher):
    with open_store(path) as store:
        return RemoteTeacher(study(server.url, budget, **teacher), store).ask(requests, "asking")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "requests.jsonl"


def test_answers_come_in_order_and_once(path) -> None:
    async def late(body):
        await asyncio.sleep(random.Random(body["seed"]).random() / 20)
        return completion(f"answer to {body['messages'][-1]['content']}")

    asked = questions(20)
    with Server(lambda body, number: late(body)).running() as server:
        found = ask(server, path, [*asked, *asked[:3]])
        again = ask(server, path, [*reversed(asked)])
    assert [answer.text for answer in found] == [f"answer to question {n}" for n in [*range(20), 0, 1, 2]]
    assert again == found[19::-1]
    assert Counter(server.texts()) == {f"question {n}": 1 for n in range(20)}
    assert [(answer.read, answer.written, answer.finish) for answer in found] == [(10, 5, "stop")] * 23


def test_a_request_is_stored_before_it_is_sent_and_an_answer_before_it_is_used(path) -> None:
    def say(body, number):
        assert any(line.get("seed") == body["seed"] for line in entries(path) if "request" in line)
        return completion()

    with Server(say).running() as server:
        ask(server, path, questions(8))
    assert sum("answer" in line for line in entries(path)) == 8


def test_what_is_sent(path, monkeypatch) -> None:
    monkeypatch.setenv("TUTELAGE_TEACHER_KEY", "sk-secret")
    request = Request((Message("system", "be brief"), Message("user", "hi")), "p", SCHEMA, seed=7, max_tokens=99)

    def say(body, number):
        return completion('{"kx": "tv-41"}' if "kx" in json.dumps(body) else '{"a": "b"}')

    with Server(say).running() as server:
        ask(server, path, [request])
    body = server.asked[-1]
    schema = body["response_format"]["json_schema"]["schema"]
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert schema == {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    wanted = {"model": "tiny", "seed": 7, "max_tokens": 99, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    assert wanted.items() <= body.items()
    assert server.headers[-1]["authorization"] == "Bearer sk-secret"
    with Server(say).running() as server:
        ask(server, path.with_name("b"), [request], sampling={"top_k": None, "repetition_penalty": None})
    assert not {"top_k", "repetition_penalty", "repeat_penalty"} & server.asked[-1].keys()


def test_a_server_that_ignores_schemas_is_found_out_once_and_told_in_words(path) -> None:
    with Server(lambda body, number: completion("blue")).running() as server:
        with open_store(path) as store:
            teacher = RemoteTeacher(study(server.url), store)
            teacher.ask(questions(2, schema=SCHEMA), "asking")
            assert not teacher.probe_schemas()
        assert all('"a"' in body["messages"][-1]["content"] for body in server.asked[-2:])
        assert all("kx" not in body["messages"][-1]["content"] for body in server.asked)
        assert len(server.asked) == 4
        with open_store(path) as store:
            teacher = RemoteTeacher(study(server.url), store)
            assert not teacher.probe_schemas()
            teacher.ask(questions(3, schema=SCHEMA), "asking")
        assert len(server.asked) == 5
    # Everything is in the store now: no server is needed.
    with open_store(path) as store:
        found = RemoteTeacher(study(server.url), store).ask(questions(3, schema=SCHEMA), "asking")
    assert [answer.text for answer in found] == ["blue"] * 3


@pytest.mark.parametrize("date", [False, True])
def test_a_busy_server_is_given_the_time_it_asks_for(path, date) -> None:
    def limited():
        wait = email.utils.formatdate(time.time() + 2, usegmt=True) if date else "1"
        return http(429, {"error": {"message": "slow down"}}, Retry_After=wait)

    with Server(lambda body, number: limited() if number <= 4 else completion()).running() as server:
        found = ask(server, path, questions(12))
    assert all(answer.text == "yes" for answer in found)
    assert server.times[4] - server.times[0] >= 0.9
    failed = [line for line in entries(path) if "failed" in line]
    assert len(failed) == 4
    assert all(line["why"] == "HTTP 429: slow down" and line["written"] == 0 for line in failed)


def test_a_server_that_is_too_busy_for_all_is_no_fault_of_any(path) -> None:
    with Server(lambda body, number: http(503) if number % 3 else completion()).running() as server:
        found = ask(server, path, questions(12), concurrency=16, tries=4)
    assert all(answer.text == "yes" for answer in found)
    assert len(server.asked) > 24


async def hang_up(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-")
    await writer.drain()


@pytest.mark.parametrize("bad", [http(500, b"boom"), http(429), http(502), hang_up], ids=["500", "429", "502", "cut"])
def test_a_storm_stops_and_the_next_run_goes_on(path, bad) -> None:
    ill = True

    def say(body, number):
        return bad if ill and number > 6 else completion()

    with Server(say).running() as server:
        with pytest.raises(UserError, match=r"3 failures in a row.*run the same command again"):
            ask(server, path, questions(30))
        assert len(server.asked) <= 6 + (4 + 2) * (3 + 1)
        answered = {line["answer"] for line in entries(path) if "answer" in line}
        assert len(answered) == 6
        ill = False
        server.asked.clear()
        found = ask(server, path, questions(30))
    assert all(answer.text == "yes" for answer in found)
    assert len(server.asked) == 24


def test_a_failed_sending_goes_again_with_another_seed(path) -> None:
    with Server(
        lambda body, number: completion(str(body["seed"])) if body["seed"] > 99 else http(500)
    ).running() as server:
        found = ask(server, path, questions(5))
    assert len({answer.text for answer in found}) == 5
    assert {line["seed"] for line in entries(path) if "again" in line} == {int(answer.text) for answer in found}


async def drip(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(200):
        writer.write(b"{")
        await writer.drain()
        await asyncio.sleep(0.05)


async def gigabyte(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    for _ in range(1024):
        writer.write(b"x" * (1 << 20))
        await writer.drain()


def raw(text):
    return http(200, text if isinstance(text, bytes) else text.encode())


HOSTILE = {
    "slow drip": drip,
    "a gigabyte": gigabyte,
    "packed": http(200, b"\x1f\x8b" + b"x" * 50, Content_Encoding="gzip"),
    "no JSON": raw("<html>log in first</html>"),
    "half of JSON": raw('{"choices": [{"message": {"content": "y'),
    "deep JSON": raw('{"choices":' + "[" * 100_000),
    "deep objects": raw('{"a":' * 100_000),
    "not UTF-8": raw(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "a list": raw("[]"),
    "no choices": raw('{"choices": []}'),
    "no text": raw('{"choices": [{"message": {"content": {"a": 1}}}]}'),
    "an error in disguise": raw('{"error": {"message": "overloaded"}}'),
    "nothing": raw(""),
    "thoughts alone": raw("<think>" + " " * 50_000),
    "no HTTP": b"hello\r\n\r\n",
    "a server error": http(500, b"\x1b[31m\xff" * 1000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_replies_cost_bounded_time_and_memory_and_one_request(path, what) -> None:
    def say(body, number):
        return HOSTILE[what] if body["messages"][-1]["content"] == "question 1" else completion()

    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Server(say).running() as server:
        found = ask(server, path, questions(9), tries=2, timeout=1.5, max_megabytes=1)
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert [bool(answer.fault) for answer in found] == [n == 1 for n in range(9)]
    assert found[1].fault.startswith("given up after 2 failures")
    assert found[1].fault.isprintable()
    assert found[1].text == ""
    stored = Counter(
        line["answer"] for line in entries(path) if "answer" in line and line["text"] + line.get("fault", "")
    )
    assert all(stored[request.key] == 1 for request in questions(9))


def test_an_answer_is_no_larger_than_its_tokens(path) -> None:
    long = "word " * 50_000

    def say(body, number):
        return completion(long if "question" in body["messages"][-1]["content"] else "yes")

    with Server(say).running() as server:
        few, many = ask(server, path, [*questions(1, max_tokens=100), *questions(1, max_tokens=4096)], tries=1)
    assert "larger than" in few.fault
    assert many.text == long


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (completion(None), "the answer is empty"),
        (completion(""), "the answer is empty"),
        (raw('{"choices": [{"message": {"content": "half \\ud800"}}]}'), "half of a surrogate"),
        (raw('{"choices": [{"message": {"refusal": "I will not"}}]}'), "I will not"),
    ],
)
def test_answers_without_a_text_are_faults_not_failures(path, reply, fault) -> None:
    with Server(lambda body, number: reply).running() as server:
        found = ask(server, path, questions(2))
    assert len(server.asked) == 2
    import re

    assert all(re.search(fault, answer.fault) and not answer.text for answer in found)


def test_a_request_that_always_fails_is_told_from_a_server_that_is_down(path) -> None:
    # It is the only one, so that nobody else's answers tell; the server is asked something short.
    def say(body, number):
        return completion() if body["messages"][-1]["content"] == "Say yes." else http(500)

    with Server(say).running() as server:
        (found,) = ask(server, path, questions(1))
        assert "given up after 3 failures" in found.fault
        ask(server, path, questions(1))
    assert len(server.asked) == 4


def test_a_prompt_that_is_too_long_is_a_fault_at_once(path) -> None:
    long = http(400, {"error": {"message": "the request exceeds the available context size (512 tokens)"}})
    with Server(lambda body, number: long if body["seed"] == 1 else completion()).running() as server:
        found = ask(server, path, questions(3))
    assert "context size" in found[1].fault
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (http(401, {"error": "bad key"}), "TUTELAGE_TEACHER_KEY"),
        (http(403), "TUTELAGE_TEACHER_KEY"),
        (http(404), "teacher.endpoint"),
        (http(302, Location="http://elsewhere/v1"), "sends us on to http://elsewhere/v1"),
        (http(400, {"error": {"message": "Unrecognized request argument: top_k"}}), "sampling.top_k: null"),
        (http(400, {"error": "top_k is not supported in this context"}), "sampling.top_k: null"),
        (
            http(400, {"error": "string too long: messages.0.name has a maximum length of 64"}),
            "does not take our requests",
        ),
        (http(429, b"", Retry_After="90000"), "asks to wait 25 h"),
        (http(501, b"<!DOCTYPE html><p>Unsupported method"), r"has no chat completions.*HTTP 501: a web page\)$"),
    ],
)
def test_what_no_repeating_mends_stops_at_once(path, reply, told) -> None:
    with Server(lambda body, number: reply).running() as server:
        with pytest.raises(UserError, match=told):
            ask(server, path, questions(50))
        assert len(server.asked) <= 4
        assert not [line for line in entries(path) if "answer" in line]


def test_the_key_is_never_told(path, monkeypatch, capfd) -> None:
    key = "-".join(["sk", "9f8e7d6c5b4a"])  # so that tracebacks, which show these lines, do not show it
    monkeypatch.setenv("OTHER_KEY", key)
    for status in (401, 500, 302, 400):
        echo = http(status, {"error": {"message": f"Bearer {key} is bad"}}, Location=f"http://x/?{key}")
        with Server(lambda body, number, echo=echo: echo).running() as server:
            with pytest.raises(UserError) as error:
                ask(server, path, questions(2), key_variable="OTHER_KEY")
            assert server.headers[0]["authorization"] == f"Bearer {key}"
        assert key not in str(error.value)
        assert key not in repr(error.getrepr(showlocals=False))
    assert key not in path.read_text()
    assert key not in "".join(capfd.readouterr())


def test_an_answer_with_the_key_in_it_is_not_kept(path, monkeypatch) -> None:
    key = "-".join(["sk", "9f8e7d6c5b4a"])
    monkeypatch.setenv("TUTELAGE_TEACHER_KEY", key)
    with Server(lambda body, number: completion(f"You sent {key}!" if body["seed"] else "yes")).running() as server:
        found = ask(server, path, questions(2))
    assert [bool(answer.fault) for answer in found] == [False, True]
    assert "has the key in it" in found[1].fault
    assert found[1].written == 5
    assert key not in path.read_text()
    # What it cost is counted all the same.
    unsaid = completion(f"{'word ' * 20}{key}") | {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    with Server(lambda body, number: unsaid).running() as server:
        (found,) = ask(server, path.with_name("c"), questions(1))
    assert found.written == (100 + len(key)) // 2
    # So short a key stands in many texts.
    monkeypatch.setenv("TUTELAGE_TEACHER_KEY", "none")
    with Server(lambda body, number: completion("none of it")).running() as server:
        assert ask(server, path.with_name("b"), questions(1))[0].text == "none of it"


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (904 in the messages)",
        "request (1407 tokens) exceeds the available context size (256 tokens), try increasing it",
        "The prompt (total length 25938) is too long to fit into the model (context length 4096)",
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096",
        "the input length exceeds the context length",
        "Requested tokens (2285) exceed context window of 2048",
        "Input tokens exceed the configured limit of 272000 tokens",
        "prompt is too long: 205000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575)",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
        "Please reduce the length of the messages or completion.",
    ],
)
def test_words_for_a_prompt_that_is_too_long(path, said) -> None:
    long = http(400, {"error": {"message": said}})
    with Server(lambda body, number: long if body["seed"] == 1 else completion()).running() as server:
        found = ask(server, path, questions(2))
    assert [bool(answer.fault) for answer in found] == [False, True]


def test_faults_are_asked_again_where_the_study_says_so(path) -> None:
    long = http(400, {"error": {"message": "maximum context length is 9 tokens"}})
    small = True
    with Server(lambda body, number: long if small and body["seed"] == 1 else completion()).running() as server:
        ask(server, path, questions(3))
        small = False
        with open_store(path) as store:
            teacher = open_teacher(study(server.url), store)
            assert teacher.ask(questions(3), "asking")[1].fault
        with open_store(path) as store:
            teacher = open_teacher(study(server.url, faults="again"), store)
            assert [answer.text for answer in teacher.ask(questions(3), "asking")] == ["yes"] * 3
        assert len(server.asked) == 4
        assert ask(server, path, questions(3))[1].text == "yes"
    assert len(server.asked) == 4


def test_asking_where_a_loop_runs_already(path) -> None:
    async def cell():
        return ask(server, path, questions(3))

    with Server(lambda body, number: completion()).running() as server:
        assert [answer.text for answer in asyncio.run(cell())] == ["yes"] * 3
        dead = study("http://127.0.0.1:9/v1", tries=1)

        async def failing():
            with open_store(path.with_name("b")) as store:
                RemoteTeacher(dead, store).ask(questions(1), "asking")

        with pytest.raises(UserError, match="no connection"):
            asyncio.run(failing())


def test_ctrl_c_where_a_loop_runs_already(path) -> None:
    answered = []

    async def slow(body, number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(9)
        answered.append(number)
        return completion()

    async def cell():
        ask(server, path, questions(20))

    with Server(lambda body, number: slow(body, number)).running() as server:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(cell())
        assert answered == []  # it did not wait for the answers under way
    assert len(server.asked) == 4


def test_the_key_stays_with_its_host(path, monkeypatch) -> None:
    monkeypatch.setenv("TUTELAGE_TEACHER_KEY", "sk-1")
    with Server(lambda body, number: completion()).running() as other:
        moved = http(307, b"", Location=f"{other.url}/chat/completions")
        with Server(lambda body, number: moved).running() as server, pytest.raises(UserError, match="redirects"):
            ask(server, path, questions(1))
    assert other.headers == []


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://x/v1", "http://"])
def test_addresses_that_cannot_be(path, url) -> None:
    with open_store(path) as store, pytest.raises(UserError, match=r"teacher\.endpoint"):
        RemoteTeacher(study(url), store)


def test_nobody_there(path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    told = rf"the teacher at {re.escape(url)} does not answer: .*no connection.*see whether it runs"
    with open_store(path) as store, pytest.raises(UserError, match=told):
        RemoteTeacher(study(url), store).ask(questions(3), "asking")
    told = r"no connection.*start the server if it is not running, correct `teacher\.endpoint`.*teacher\.model"
    with open_store(path) as store, pytest.raises(UserError, match=told):
        RemoteTeacher(study(url, model=None), store).ask(questions(3), "asking")


def test_the_only_model_is_found_by_itself(path) -> None:
    with Server(lambda body, number: completion()).running() as server:
        ask(server, path, questions(1), model=None)
        assert server.asked[0]["model"] == "tiny"
        server.models = ("another",)
        with pytest.raises(UserError, match="model: 'tiny' there, 'another' now"):
            ask(server, path, questions(2), model=None)
        server.models = ("one", "two")
        with pytest.raises(UserError, match=r"2 models \(one, two\)"):
            ask(server, path.with_name("b"), questions(1), model=None)


def test_requests_are_never_more_than_the_budget(path) -> None:
    # Every third fails, and succeeds the second time, with another seed.
    def say(body, number):
        return http(500) if body["seed"] % 3 == 0 and body["seed"] < 50 else completion()

    with Server(say).running() as server:
        found = ask(server, path, questions(50), {"requests": 20}, concurrency=8)
        assert len(server.asked) <= 20
        ended = found.index(None)
        assert all(answer is not None for answer in found[:ended])
        # The repeat of one that failed may find no room, while one behind it has its answer.
        assert found[ended + 8 :] == [None] * (42 - ended)
        assert 12 <= ended <= 15
        ask(server, path, questions(50), {"requests": 20}, concurrency=8)
        assert len(server.asked) <= 20
        more = ask(server, path, questions(50), {"requests": 100}, concurrency=8)
        assert None not in more
        assert more[:ended] == found[:ended]


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_the_budget_ends_at_the_same_request_however_fast_answers_come(path, concurrency) -> None:
    def cost(seed):
        return random.Random(seed).randrange(50)

    async def late(body):
        await asyncio.sleep(random.random() / 50)
        usage = {"prompt_tokens": 3, "completion_tokens": cost(body["seed"])}
        return completion() | {"usage": usage}

    asked, spent, expected = questions(60), Spending(), 0
    while (spent + worst_case(asked[expected])).tokens <= 900:
        spent += Spending(1, 3, cost(expected))
        expected += 1
    with Server(lambda body, number: late(body)).running() as server:
        found = ask(server, path, asked, {"tokens": 900}, concurrency=concurrency)
    assert sum(answer is not None for answer in found) == expected
    assert len(server.asked) == expected


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        {"prompt_tokens": "many"},
        {"prompt_tokens": -5, "completion_tokens": 1e30},
        {"prompt_tokens": 0, "completion_tokens": 0},
    ],
)
def test_costs_that_are_not_told_are_guessed(path, usage) -> None:
    with Server(lambda body, number: completion("yes " * 10) | {"usage": usage}).running() as server:
        (found,) = ask(server, path, questions(1))
    assert found.read == worst_case(questions(1)[0]).read
    assert found.written == 20


def test_ctrl_c_waits_for_what_is_under_way_and_sends_no_more(path) -> None:
    async def slow(body, number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.3)
        return completion()

    with Server(lambda body, number: slow(body, number)).running() as server:
        with pytest.raises(Interrupted):
            ask(server, path, questions(20))
        assert len(server.asked) == 4
        assert sum("answer" in line for line in entries(path)) == 4
        ask(server, path, questions(20))
    assert Counter(server.texts()) == {f"question {n}": 1 for n in range(20)}


CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_remote import questions, study
from tutelage.study.client.remote import RemoteTeacher
from tutelage.study.client.store import open_store
with open_store(Path(sys.argv[3])) as store:
    RemoteTeacher(study(sys.argv[2]), store).ask(questions(120), "asking")
"""


def test_a_kill_loses_nothing_and_nothing_answered_is_asked_again(path) -> None:
    async def late(body):
        await asyncio.sleep(random.Random(body["seed"]).random() / 50)
        return completion(f"answer {body['seed']}")

    draw, kills = random.Random(0), 0
    with Server(lambda body, number: late(body)).running() as server:
        for _ in range(30):
            answered = {line["answer"] for line in entries(path) if "answer" in line} if path.exists() else set()
            begin = len(server.asked)
            folder = str(Path(__file__).parent)
            client = subprocess.Popen([sys.executable, "-c", CLIENT, folder, server.url, str(path)])
            limit = time.monotonic() + 60
            wait_for = begin + draw.randrange(1, 40)
            while client.poll() is None and len(server.asked) < wait_for and time.monotonic() < limit:
                time.sleep(0.002)
            time.sleep(draw.random() / 100)
            client.kill()
            again = {f"question {n}" for n, one in enumerate(questions(120)) if one.key in answered}
            assert not again & set(server.texts()[begin:])
            if client.wait() == 0:
                break
            kills += 1
        found = ask(server, path, questions(120))
    assert kills >= 3
    assert [answer.text for answer in found] == [f"answer {n}" for n in range(120)]
    # All that the server was asked is in the store.
    sendings = Counter(
        line.get("request") or line["again"] for line in entries(path) if {"request", "again"} & line.keys()
    )
    for request in questions(120):
        assert server.texts().count(request.messages[0].content) <= sendings[request.key]
