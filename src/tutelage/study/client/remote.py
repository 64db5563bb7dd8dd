"""A teacher behind an OpenAI-compatible endpoint (vLLM, llama.cpp, Ollama, hosted).

Does the endpoint follow a JSON schema by force? Many answer as if they did, and do not. So it is asked, in a sentence
that has nothing to do with it, for an object that no model would write by itself. These questions are requests like all
others: stored, counted, and asked once in the life of a study.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tutelage.base.errors import Interrupted, UserError
from tutelage.base.progress import Tracker, progress
from tutelage.base.stopping import Stop, stop_flag
from tutelage.base.types import Json
from tutelage.study.client.answers import Unusable, check_schema, for_servers, read_json
from tutelage.study.client.asking import one_of, record
from tutelage.study.client.budget import Ledger
from tutelage.study.client.client import Answer, Message, Request
from tutelage.study.client.endpoint import Clients, Endpoint, Failed, NeverAnswered, Reply
from tutelage.study.client.sending import Wave
from tutelage.study.client.store import Store
from tutelage.study.settings import Study

STOPPING = "asking no more; waiting for the answers under way; once more to drop them"
SCHEMA = "Reply with JSON alone, following this schema:\n{schema}"
PROBE = record({"kx": one_of(["tv-41", "tv-93"])})
PROBE_QUESTIONS = ("What colour is the sky on a clear day?", "Name an animal that can swim.")


class RemoteTeacher:
    """Asks an endpoint; see `client.TeacherLLM`."""

    def __init__(self, study: Study, store: Store) -> None:
        self._settings, self._budget, self._store = study.teacher, study.budget, store
        self._endpoint = Endpoint(study.teacher)
        self._model = self._settings.model
        self._enforces: bool | None = None
        store.expect(self._identity())

    def ask(self, requests: Sequence[Request], label: str, spend: bool = True) -> list[Answer | None]:
        """Answer requests, in their order; see `client.TeacherLLM`."""
        if not spend:
            return self._stored(requests)
        if any(request.schema is not None and request.key not in self._store for request in requests):
            self.probe_schemas()
        return self._all(requests, label)

    def probe_schemas(self) -> bool:
        """Find out whether the endpoint follows schemas by force, once; where it does not, prompts tell them."""
        if self._enforces is None:
            texts = [(Message("user", text),) for text in PROBE_QUESTIONS]
            probes = [Request(asked, f"probe/{n}", PROBE, seed=n, max_tokens=64) for n, asked in enumerate(texts)]
            self._enforces = all(map(_follows_probe, self._all(probes, "looking whether schemas are enforced")))
        return self._enforces

    def _all(self, requests: Sequence[Request], label: str) -> list[Answer | None]:
        todo = list({request.key: request for request in requests if request.key not in self._store}.values())
        if todo:
            with stop_flag(STOPPING) as stop, progress(label, len(todo), "requests") as bar:
                _run(self._send_all(todo, stop, bar))
            if stop.number:
                raise Interrupted(stop.number)
        return self._stored(requests)

    def _stored(self, requests: Sequence[Request]) -> list[Answer | None]:
        return self._store.answers([request.key for request in requests])

    async def _send_all(self, requests: Sequence[Request], stop: Stop, bar: Tracker) -> None:
        async with self._endpoint.connected() as clients:
            if self._model is None:
                self._model = await self._only_model(clients)
            self._store.claim(self._identity())
            ledger = Ledger(self._budget, self._settings.prices, self._store.spent)

            async def send(request: Request, seed: int) -> Reply:
                return await self._endpoint.complete(clients, self._body(request, seed))

            await Wave(requests, send, self._store, ledger, self._settings, stop, bar).run()

    def _identity(self) -> Json:
        sampling = self._settings.sampling.model_dump(mode="json")
        return {"kind": "endpoint", "model": self._model, "sampling": sampling}

    async def _only_model(self, clients: Clients) -> str:
        """Return the name of the one model that the endpoint has."""
        remedy = "write its name as `teacher.model`"
        try:
            names = await self._endpoint.models(clients)
        except (Failed, NeverAnswered) as error:
            raise UserError(f"{self._endpoint.shown} does not tell which model it has: {error}; start the server if it "
                            "is not running, correct `teacher.endpoint` if this is not its address, or "
                            f"{remedy}") from error  # fmt: skip
        if len(names) != 1:
            shown = ", ".join(names[:20]) or "none"
            raise UserError(f"{self._endpoint.shown} has {len(names)} models ({shown}); choose one: {remedy}")
        return names[0]

    def _body(self, request: Request, seed: int) -> Json:
        """Return what is sent. Names of the penalty: vLLM's and llama.cpp's; each ignores the other."""
        sampling, messages = self._settings.sampling, request.messages
        penalty = sampling.repetition_penalty
        body: Json = {"model": self._model, "temperature": sampling.temperature, "top_p": sampling.top_p,
                      "max_tokens": request.max_tokens, "seed": seed, "stream": False}  # fmt: skip
        body |= {} if sampling.top_k is None else {"top_k": sampling.top_k}
        body |= {} if penalty is None else {"repetition_penalty": penalty, "repeat_penalty": penalty}
        if request.schema is not None:
            schema = for_servers(request.schema)
            answer = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
            if self._enforces is False:
                told = f"{messages[-1].content}\n\n{SCHEMA.format(schema=json.dumps(schema, ensure_ascii=False))}"
                messages = (*messages[:-1], replace(messages[-1], content=told))
        body["messages"] = [{"role": message.role, "content": message.content} for message in messages]
        return body


def _follows_probe(answer: Answer | None) -> bool:
    try:
        return answer is not None and not answer.fault and not check_schema(read_json(answer.text), PROBE)
    except Unusable:
        return False


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end; where a loop runs already, as in a notebook, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    under_way: list[asyncio.Task[Any]] = []

    async def noted() -> None:
        under_way.extend(asyncio.all_tasks())
        await work

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(asyncio.run, noted())
        try:
            done.result()
        except KeyboardInterrupt:
            # A second Ctrl-C drops what is under way; the signal came to this thread.
            for task in under_way:
                task.get_loop().call_soon_threadsafe(task.cancel)
            raise
