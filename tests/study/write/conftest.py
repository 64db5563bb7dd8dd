"""A scripted teacher with known labels: in this process, and behind a real HTTP server that speaks as endpoints do."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tutelage.corpus.study_plan import Lesson, StudyPlan, Task
from tutelage.study.client.client import Answer, Request
from tutelage.study.settings import Study

NOUNS = (
    "fox",
    "river",
    "teacher",
    "garden",
    "letter",
    "baker",
    "storm",
    "bicycle",
    "window",
    "sister",
    "engine",
    "market",
    "island",
    "lamp",
    "story",
    "horse",
)
VERBS = ("finds", "paints", "carries", "forgets", "repairs", "follows", "watches", "sells", "hides", "remembers")
PLACES = ("home", "school", "town", "night", "last", "breakfast", "sea", "work")
FENCE = re.compile(r"<(\w+)-([0-9a-f]{10})>\n(.*?)\n</\1-\2>", re.DOTALL)


def number(*parts: object) -> int:
    """A number that depends on its parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def label_of(text: str, task: str, labels: Sequence[str]) -> str:
    """The label that the scripted teacher gives; what tests compare with."""
    return list(labels)[number(text, task) % len(labels)]


def sentence(draw: random.Random) -> str:
    who, does, what, where = (draw.choice(words) for words in (NOUNS, VERBS, NOUNS, PLACES))
    return f"The {who} {does} a {what} number {draw.randrange(9999)} at {where}."


def fences(text: str) -> dict[str, str]:
    """The material of a prompt, by what the marks call it."""
    return {what: content for what, _, content in FENCE.findall(text)}


class Brain:
    """What the scripted teacher says: a pure function of conversation, schema and seed.

    `hook` may change an answer: it gets the purpose-like first words, the value and the seed.
    """

    def __init__(self) -> None:
        self.hook: Callable[[str, Any, int], Any] = lambda kind, value, seed: value

    def text(self, messages: Sequence[tuple[str, str]], schema: Any, seed: int) -> str:
        """The answer: JSON where the schema is given or asked for in words, else free text that can be turned to it."""
        asked = next(content for role, content in messages if role == "user")
        free = next((content for role, content in messages if role == "assistant"), None)
        if free is not None:
            return free.removeprefix("Here it is. ")
        value = self.hook(self.kind(asked), self.value(asked, seed), seed)
        whole = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return whole if schema is not None else f"Here it is. {whole}"

    @staticmethod
    def kind(asked: str) -> str:
        marks = {"plan the lesson": "tasks", "Make a list of about": "topics", "needs its labels": "labels",
                 "will be given to a writer": "prompts", "Write it again": "rewrite", "list of": "tag_list",
                 "Label every word": "tag_pairs", "Label": "label", "pairs of texts": "pairs",
                 "Write": "texts"}  # fmt: skip
        if "Label every word" in asked and "For each task give a list" not in asked:
            return "tag_pairs"
        if "will be given to a writer" in asked:
            return "prompts"
        return next(kind for mark, kind in marks.items() if mark in asked)

    def value(self, asked: str, seed: int) -> Any:
        draw, kind = random.Random(number(asked, seed)), self.kind(asked)
        if kind in ("tasks", "topics"):
            word = (
                "topic"
                if kind == "topics"
                else "pair"
                if "two texts" in asked
                else "tag"
                if "words" in asked.split("The learner")[0]
                else "skill"
            )
            if "a text of its own" in asked:
                word = "story"
            return {
                "tasks": [{"name": f"{word} {letter}", "description": f"About {word} {letter}."} for letter in "ab"]
            }
        if kind == "labels":
            return {"labels": [{"label": name, "definition": f"It is {name}."} for name in ("yes", "no", "maybe")]}
        if kind == "prompts":
            return {"prompts": [f"Think of {noun}s." for noun in draw.sample(NOUNS, 4)]}
        if kind in ("pairs", "texts"):
            count = int(re.search(r"Write (\d+)", asked)[1]) if re.search(r"Write (\d+)", asked) else 1
            if kind == "pairs":
                return {"pairs": [{"text": sentence(draw), "text_pair": sentence(draw)} for _ in range(count)]}
            return {"texts": [sentence(draw) for _ in range(count)]}
        material = fences(asked)
        tasks = {name: re.findall(r"^- (.+?): ", block, re.MULTILINE)
                 for name, block in re.findall(r"^Task (\w+): .*\n((?:- .*\n?)+)", asked, re.MULTILINE)}  # fmt: skip
        if kind == "label":
            text = material["text"] + material.get("second", "")
            return {name: label_of(text, name, labels) for name, labels in tasks.items()}
        words = material["words"].split("\n")
        if kind == "tag_pairs":
            return {"words": [{"_word": word, **{name: label_of(word, name, labels) for name, labels in tasks.items()}}
                              for word in words]}  # fmt: skip
        if kind == "tag_list":
            return {name: [label_of(word, name, labels) for word in words] for name, labels in tasks.items()}
        assert kind == "rewrite"
        known = [
            word for word in material["text"].split() if word.strip(".").lower() not in material["words"].split(", ")
        ]
        return {"text": " ".join(known)}


class Scripted:
    """The scripted teacher in this process; see `TeacherLLM`."""

    def __init__(self, brain: Brain, limit: int | None = None) -> None:
        self.brain, self.limit = brain, limit
        self.asked: dict[str, Request] = {}

    def ask(self, requests: Sequence[Request], label: str, spend: bool = True) -> list[Answer | None]:
        answers: list[Answer | None] = []
        ended = not spend
        for request in requests:
            ended = ended or (request.key not in self.asked and len(self.asked) == self.limit)
            if ended and request.key not in self.asked:
                answers.append(None)
                continue
            self.asked[request.key] = request
            messages = [(message.role, message.content) for message in request.messages]
            answers.append(Answer(request.key, self.brain.text(messages, request.schema, request.seed)))
        return answers


class Server(ThreadingHTTPServer):
    """The scripted teacher as an endpoint.

    Attributes:
        sent: how often each body arrived.
        delay: seconds before an answer, for each.
        enforces: whether it takes notice of schemas.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, brain: Brain) -> None:
        self.brain, self.delay, self.enforces = brain, 0.0, True
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "scripted"}]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        with self.server.lock:
            self.server.sent[json.dumps(body, sort_keys=True)] += 1
        time.sleep(self.server.delay)
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        schema = schema if self.server.enforces else None
        messages = [(message["role"], message["content"]) for message in body["messages"]]
        try:
            text = self.server.brain.text(messages, schema, body.get("seed", 0))
        except StopIteration:
            # A question of the client's own, such as whether schemas are enforced.
            text = "I would rather not say." if schema is None else example_of(schema)
        self.reply({
            "model": "scripted",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(raw) // 4, "completion_tokens": len(text) // 4 + 1},
        })  # fmt: skip


def example_of(schema: Any) -> str:
    """Some JSON that follows a small schema."""

    def value(part: Any) -> Any:
        if "const" in part:
            return part["const"]
        if "enum" in part:
            return part["enum"][0]
        kind = part.get("type")
        if kind == "object":
            return {key: value(inner) for key, inner in part.get("properties", {}).items()}
        if kind == "array":
            return [value(part["items"])] * max(1, part.get("minItems", 1))
        return {"string": "x", "integer": part.get("minimum", 1), "number": 1.5, "boolean": True}.get(kind)

    return json.dumps(value(schema))


@pytest.fixture
def brain() -> Brain:
    return Brain()


@pytest.fixture
def server(brain: Brain) -> Iterator[Server]:
    with Server(brain) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def small_study(**changes: Any) -> Study:
    """A study of a few hundred words; `changes` are merged section by section."""
    tree: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "teacher": {"endpoint": "http://127.0.0.1:9/v1", "two_steps": False, "concurrency": 4},
        "plan": {"tasks": 2, "prompts": 4},
        "writing": {
            "words": 600,
            "examples_per_task": 6,
            "examples_per_request": 3,
            "generation_per_request": 2,
            "wave": 4,
        },
    }
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return Study.model_validate(tree)


@pytest.fixture
def study() -> Callable[..., Study]:
    return small_study


@pytest.fixture
def plan() -> StudyPlan:
    """A plan of four lessons, with two tagging tasks."""
    labels = {"yes": "It is.", "no": "It is not.", "maybe": "Nobody knows."}

    def task(name: str, **more: Any) -> Task:
        return Task(name=name, description=f"About {name}.", **more)

    def annotated(name: str, **more: Any) -> Task:
        return task(name, labels=labels, **more)

    return StudyPlan(
        lessons=(
            Lesson(kind="classification", tasks=(annotated("mood"), annotated("topic", prompts=("Go.", "Run.")))),
            Lesson(kind="pair_classification", tasks=(annotated("follows"),)),
            Lesson(kind="tagging", tasks=(annotated("pos"), annotated("ner"))),
            Lesson(kind="generation", tasks=(task("tale"), task("talk"))),
        )
    )


@pytest.fixture
def helpers() -> Any:
    """What tests use of this file."""

    class Helpers:
        label_of = staticmethod(label_of)
        Scripted = Scripted
        Brain = Brain
        number = staticmethod(number)
        fences = staticmethod(fences)

    return Helpers


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
