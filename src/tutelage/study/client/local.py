"""A teacher that runs here: a causal model of `transformers`, in batches, bound by grammars where a request has any.

Batches are cut from the list of requests alone, and the draws of a batch follow from its requests. So a study that
resumes after a kill gets the answers that it would have got.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tutelage.base.errors import Interrupted, UserError
from tutelage.base.files import fingerprint
from tutelage.base.machine import set_up
from tutelage.base.progress import Tracker, console, human, progress
from tutelage.base.stopping import Stop, stop_flag
from tutelage.base.types import Json
from tutelage.study.client.budget import Ledger, Spending, worst_case
from tutelage.study.client.client import Answer, Request, taken_apart
from tutelage.study.client.grammar import AnswerRules, Rule, mask
from tutelage.study.client.store import Store, answer_line
from tutelage.study.settings import Sampling, Study

STOPPING = "stopping; the answers of this batch are dropped and will be written again"
UNBOUND_CONTEXT = 1 << 20
"""Tokens, of a model that does not say how many it reads."""


class LocalTeacher:
    """Asks a model in this process; see `client.TeacherLLM`."""

    def __init__(self, study: Study, store: Store) -> None:
        if importlib.util.find_spec("llguidance") is None:
            raise UserError("a teacher that runs here needs llguidance: pip install 'tutelage[local-teacher]'")
        self._settings, self._budget, self._store = study.teacher, study.budget, store
        sampling = self._settings.sampling.model_dump(mode="json")
        self._identity: Json = {"kind": "weights", "model": self._settings.weights, "sampling": sampling}
        self._writer: _Writer | None = None
        store.expect(self._identity)

    def ask(self, requests: Sequence[Request], label: str, spend: bool = True) -> list[Answer | None]:
        """Answer requests, in their order; see `client.TeacherLLM`."""
        unique = list({request.key: request for request in requests}.values())
        missing = sum(request.key not in self._store for request in unique)
        if missing and spend:
            with stop_flag(STOPPING) as stop, progress(label, missing, "requests") as bar:
                self._answer_all(unique, stop, bar)
        return self._store.answers([request.key for request in requests])

    def _answer_all(self, requests: Sequence[Request], stop: Stop, bar: Tracker) -> None:
        if self._writer is None:
            self._writer = _Writer(self._settings.weights or "", self._settings.sampling)
        self._store.claim(self._identity)
        ledger = Ledger(self._budget, self._settings.prices, self._store.spent)
        size = self._settings.concurrency
        for batch in (requests[start : start + size] for start in range(0, len(requests), size)):
            while any(request.key not in self._store for request in batch):
                admitted = self._admit(batch, ledger)
                if not admitted:
                    console.print("the budget is spent; raise `budget` in the study and run again to resume")
                    return
                self._answer(admitted, ledger, stop, bar)

    def _admit(self, batch: Sequence[Request], ledger: Ledger) -> list[Request]:
        """Return the first requests of a batch that the budget allows at once, those answered before included."""
        admitted = []
        for request in batch:
            if request.key not in self._store:
                if ledger.room(worst_case(request)) != "yes":
                    break
                ledger.reserve(worst_case(request))
            admitted.append(request)
        return admitted if any(request.key not in self._store for request in admitted) else []

    def _answer(self, batch: Sequence[Request], ledger: Ledger, stop: Stop, bar: Tracker) -> None:
        """Write the answers of a batch and store those that are missing."""
        assert self._writer is not None
        new = {request.key for request in batch if request.key not in self._store}
        # A batch that is never finished costs nothing, and does not count as requests either.
        asking = (self._store.asking(request, worst=[0, 0]) for request in batch if request.key in new)
        self._store.append([line for lines in asking for line in lines])
        answers = self._writer.write(batch, stop)
        if stop.number:
            raise Interrupted(stop.number)
        self._store.append([answer_line(answer) for answer in answers if answer.key in new])
        for request, answer in zip(batch, answers, strict=True):
            if answer.key in new:
                ledger.settle(worst_case(request), Spending(1, answer.read, answer.written))
                bar.advance(1, f"{human(ledger.spent.tokens)} tokens in all")


class _Writer:
    """A model (folder or hub id) with its tokenizer."""

    def __init__(self, weights: str, sampling: Sampling) -> None:
        set_up()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(weights, trust_remote_code=False)
            safe = {"use_safetensors": True, "trust_remote_code": False}
            self._model = AutoModelForCausalLM.from_pretrained(weights, dtype="auto", **safe)
        except Exception as error:  # transformers raises many kinds; each means that this source cannot be loaded
            raise UserError(f"teacher.weights: cannot load the model '{weights}': {error}") from error
        self._model = self._model.to(device).eval()
        told = (self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        ends = chain.from_iterable([one] if isinstance(one, int) else one or () for one in told)
        self._ends: list[int] = list(dict.fromkeys(ends))
        if not self._ends:
            raise UserError(f"teacher.weights: '{weights}' has no token that ends an answer (eos_token_id)")
        self._context = getattr(self._model.config, "max_position_embeddings", None) or UNBOUND_CONTEXT
        self._sampling = sampling
        added = self._tokenizer.added_tokens_decoder.values()
        control = sorted((str(token) for token in added if token.special), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)))
        self._rules = AnswerRules(self._tokenizer, self._ends, self._model.get_output_embeddings().weight.shape[0])

    def write(self, requests: Sequence[Request], stop: Stop) -> list[Answer]:
        """Answer a batch of requests, in parts within which each has all the room that its own prompt leaves it."""
        prompts = [self._encode(request) for request in requests]
        rows = {
            at: _Row(request, prompt, self._rules.rule(request), min(request.max_tokens, self._context - len(prompt)))
            for at, (request, prompt) in enumerate(zip(requests, prompts, strict=True))
            if len(prompt) < self._context
        }
        written: dict[int, list[int]] = {}
        for part in self._parts(rows):
            written |= zip(part, self._generate([rows[at] for at in part], stop), strict=True)
        return [
            self._decode(request, len(prompt), written[at])
            if at in written
            else Answer(request.key, "", f"the prompt has {len(prompt):,} tokens; the model reads {self._context:,}",
                        read=len(prompt))
            for at, (request, prompt) in enumerate(zip(requests, prompts, strict=True))
        ]  # fmt: skip

    def _parts(self, rows: Mapping[int, _Row]) -> list[list[int]]:
        """Part rows, given by their places, so that the longest prompt and the longest answer of a part fit together.

        They are written side by side, so a long prompt would otherwise cut the answers to all others.
        """
        parts: list[list[int]] = []
        room = 0
        for at in sorted(rows, key=lambda at: len(rows[at].prompt)):
            room = max(room, rows[at].room)
            if not parts or len(rows[at].prompt) + room > self._context:
                parts.append([])
                room = rows[at].room
            parts[-1].append(at)
        return [sorted(part) for part in parts]

    def _encode(self, request: Request) -> list[int]:
        """Return a prompt's tokens. Control tokens in texts are spaced out, so that no text passes for another role."""
        messages = [{"role": m.role, "content": taken_apart(m.content, self._control)} for m in request.messages]
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        else:
            text = "".join(f"{m['role']}: {m['content']}\n\n" for m in messages) + "assistant:"
        return list(self._tokenizer(text, add_special_tokens=not self._tokenizer.chat_template)["input_ids"])

    def _generate(self, rows: Sequence[_Row], stop: Stop) -> list[list[int]]:
        """Return the tokens that the model writes for each row, the one that ends an answer included."""
        longest = max(len(row.prompt) for row in rows)
        pad = self._ends[0]
        tokens_BT = torch.tensor([[pad] * (longest - len(row.prompt)) + row.prompt for row in rows])
        real_BT = torch.tensor([[0] * (longest - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        s = self._sampling
        config = GenerationConfig(
            do_sample=s.temperature > 0, temperature=s.temperature or None, top_p=s.top_p, top_k=s.top_k or 0,
            repetition_penalty=s.repetition_penalty or 1.0, max_new_tokens=max(row.room for row in rows),
            eos_token_id=self._ends, pad_token_id=pad,
        )  # fmt: skip
        device = self._model.device
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(int(fingerprint([row.request.key for row in rows])[:15], 16))
            out_BT = self._model.generate(
                input_ids=tokens_BT.to(device),
                attention_mask=real_BT.to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([_Bound([row.rule for row in rows], longest)]),
                stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
            )
        # Each row is cut after the token that ends it, or where its own room ends.
        written = [list(out[: row.room]) for row, out in zip(rows, out_BT[:, longest:].tolist(), strict=True)]
        ends = [next((at + 1 for at, token in enumerate(out) if token in self._ends), len(out)) for out in written]
        return [out[:end] for out, end in zip(written, ends, strict=True)]

    def _decode(self, request: Request, read: int, tokens: list[int]) -> Answer:
        ended = bool(tokens) and tokens[-1] in self._ends
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        if not ended and request.constraint is not None and request.constraint.words is not None:
            # The last word may be half a word.
            text = text.rpartition(" ")[0]
        finish = "stop" if ended else "length"
        return Answer(request.key, text, "" if text else "the answer is empty", finish, read, len(tokens))


@dataclass(frozen=True)
class _Row:
    """A request of a batch, its prompt's tokens, what binds its answer, and how many tokens that may have."""

    request: Request
    prompt: list[int]
    rule: Rule | None
    room: int


class _Bound(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row what its rule allows; comes before top-k and top-p, which choose among that."""

    def __init__(self, rules: Sequence[Rule | None], start: int) -> None:
        self._rules, self._start = rules, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = input_ids[:, -1].tolist() if input_ids.shape[1] > self._start else [None] * len(self._rules)
        rows = zip(self._rules, last, strict=True)
        return mask(scores, [None if rule is None else rule(token) for rule, token in rows])


class _Stopped(StoppingCriteria):  # type: ignore[misc]
    """Ends a batch when it was asked to stop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), bool(self._stop.number), device=input_ids.device)
