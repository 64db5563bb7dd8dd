"""Let the teacher write texts until the words or the texts for each task are reached (section 3.1 of the paper).

Work goes in waves. What a wave asks follows from the texts of the waves before alone: how many each task still needs,
and which words are rare so far. Its answers are taken in the order of the requests, so that the corpus does not depend
on which came first, and a study that was killed writes the same texts again from its store.

In a batch every text is taken or put into quarantine, once. Only what no later stage could use is refused here: empty
texts, control characters, texts that were there before, words outside a limited vocabulary, and what goes beyond the
words asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tutelage.base.errors import UserError
from tutelage.corpus.examples import Example
from tutelage.corpus.study_plan import StudyPlan, Task, TaskKind
from tutelage.study.client.asking import ask_json, check_any, list_of, question
from tutelage.study.client.client import Request, TeacherLLM
from tutelage.study.filter.quarantine import Refused
from tutelage.study.filter.text import word_forms
from tutelage.study.settings import Study
from tutelage.study.write.drafts import DraftText, drafts_of
from tutelage.study.write.prompting import TARGETS, Prompts, cycle, extensions, labels_text, rare_words
from tutelage.study.write.within import Within
from tutelage.study.write.word_ledger import WordLedger

PATIENCE = 5
"""Requests in a row that may bring (nearly) nothing new before a task counts as exhausted."""
EXPECTED: dict[TaskKind, int] = {"classification": 20, "pair_classification": 25, "tagging": 15, "generation": 300}
"""Words of a text of each kind before there is one to go by: only the size of waves depends on it."""


class Writer:
    """Writes the texts of a study.

    Attributes:
        ledger: words and texts by task, and why the writing ended.
        refused: what was not taken.
    """

    def __init__(self, teacher: TeacherLLM, study: Study, plan: StudyPlan) -> None:
        self._teacher, self._study, self._plan = teacher, study, plan
        self._prompts = Prompts(plan, study.prompts)
        kinds: tuple[TaskKind, ...] = () if study.writing.corpus == "multi_task" else ("generation",)
        self._tasks = {task.name: task for task in plan.tasks(*kinds)}
        if not self._tasks:
            raise UserError(f"writing.corpus: '{study.writing.corpus}' is written from generation tasks, and the plan "
                            "has none; plan some (`plan.kinds`), or write `corpus: multi_task`")  # fmt: skip
        self.ledger = WordLedger({name: plan.kind_of(name) for name in self._tasks})
        self.refused: list[Refused] = []
        self._counts: Counter[str] = Counter()
        self._seen: set[bytes] = set()
        self._waves = 0

    def examples(self) -> Iterator[Example]:
        """Write; yields the texts in their order, as waves are done."""
        words, vocabulary = self._study.writing.words, self._study.writing.vocabulary
        free = words if vocabulary is None else round(words * (1 - vocabulary.share))
        # What tokens are counted in, if nothing else is named.
        texts: list[str] = []
        for example in self._until(free, None):
            if vocabulary is not None and vocabulary.mode == "tokens" and vocabulary.words is None:
                texts.append(example.text)
            yield example
        if vocabulary is not None and free < words and self.ledger.ended != "budget":
            within = Within(self._teacher, self._study, self._prompts, self._counts, texts)
            yield from self._until(words, within)

    def _until(self, words: int, within: Within | None) -> Iterator[Example]:
        """Write wave after wave until so many words are there; within a vocabulary, if there is one."""
        while self.ledger.words < words:
            wave = self._wave(words, within)
            if not wave:
                self.ledger.ended = "exhausted" if self.ledger.exhausted(PATIENCE) else "texts"
                return
            label = f"writing, {self.ledger.words:,} of {self._study.writing.words:,} words"
            requests = [request for _, request in wave]
            batches: Iterable[list[DraftText] | None]
            if within is None:
                outcomes = ask_json(self._teacher, requests, check_any, self._study.teacher, label)
                # One by one: what is refused stands in the order of the requests.
                batches = (
                    None if outcome is None else drafts_of(outcome, request.purpose, self.refused)
                    for request, outcome in zip(requests, outcomes, strict=True)
                )
            else:
                batches = within.ask(requests, label, self.refused)
            for (task, _), batch in zip(wave, batches, strict=True):
                if batch is None:
                    self.ledger.ended = "budget"
                    return
                yield from self._take(task, batch, words)
            self._waves += 1
        self.ledger.ended = "words"

    def _wave(self, words: int, within: Within | None) -> list[tuple[Task, Request]]:
        """Choose what to ask next, as much as is expected to be needed, at most a wave; with the task of each."""
        writing, ledger = self._study.writing, self.ledger
        rare: list[str] = []
        if within is None and writing.rare_words:
            rare = rare_words(self._counts, TARGETS * writing.wave, self._study.seed, self._waves)
            rare = rare[: len(rare) // TARGETS * TARGETS]
        wave: list[tuple[Task, Request]] = []
        asked, pending = Counter[str](), Counter[str]()
        expected = float(ledger.words)
        while len(wave) < writing.wave and expected < words:
            chosen = ledger.next_task(writing.examples_per_task, pending, PATIENCE)
            if chosen is None:
                break
            task, kind = self._tasks[chosen], ledger.tasks[chosen].kind
            number = ledger.tasks[chosen].requests + asked[chosen]
            count = 1 if within is not None and within.one_by_one else self._count(chosen, kind, pending)
            if within is None:
                request = self._request(task, kind, number, count, rare[TARGETS * len(wave) :][:TARGETS])
            else:
                request = within.request(task, number, count)
            wave.append((task, request))
            asked[chosen] += 1
            pending[chosen] += count
            expected += count * ledger.words_of_text(chosen, EXPECTED[kind])
        return wave

    def _count(self, name: str, kind: TaskKind, pending: Counter[str]) -> int:
        """Return how many texts to ask for: no more than the task still needs."""
        writing = self._study.writing
        if kind == "generation":
            return writing.generation_per_request
        most, each = writing.examples_per_request, writing.examples_per_task
        return most if each is None else min(most, each - self.ledger.tasks[name].texts - pending[name])

    def _request(self, task: Task, kind: TaskKind, number: int, count: int, rare: Sequence[str]) -> Request:
        name = {"pair_classification": "write_pairs", "generation": "write_long"}.get(kind, "write_texts")
        messages = self._prompts.messages(
            name,
            count=count,
            prompt=cycle(task.prompts, number, self._study.seed, task.name, "prompt") if task.prompts else "",
            description=task.description,
            labels=labels_text(task.labels),
            extensions=extensions(self._study, self._prompts, task, kind, number, rare),
        )
        paired = kind == "pair_classification"
        schema = list_of("pairs", ("text", "text_pair"), count) if paired else list_of("texts", count=count)
        return question(self._study, f"write/{task.name}/{number}", messages, schema)

    def _take(self, task: Task, drafts: Sequence[DraftText], words: int) -> Iterator[Example]:
        """Take or refuse each text of an answer, and note both."""
        name, taken, beyond = task.name, 0, 0
        kind, most = self.ledger.tasks[name].kind, self._study.writing.examples_per_task
        for draft in drafts:
            fault = draft.fault()
            example = None if fault else draft.example(kind, name)
            self.ledger.written(name, example.word_count if example else 0)
            if example is not None and self.ledger.words >= words:
                fault, beyond = "beyond the words asked for", beyond + 1
            elif example and kind != "generation" and most is not None and self.ledger.tasks[name].texts >= most:
                fault, beyond = "beyond the texts asked for", beyond + 1
            elif example is not None:
                fault = self._known(example)
            if example is None or fault is not None:
                self.refused.append(Refused(fault or "", draft.origin, draft.content))
                continue
            taken += 1
            self.ledger.kept(name, example.word_count)
            self._counts.update(word_forms(f"{example.text} {example.text_pair or ''}"))
            yield example
        # What is not wanted any more says nothing about whether the teacher has something new.
        wanted = len(drafts) - beyond
        self.ledger.asked(name, unproductive=taken * 10 <= wanted and (wanted > 0 or not drafts))

    def _known(self, example: Example) -> str | None:
        """Refuse a text that was there before, but for case and spaces; remember it otherwise."""
        whole = f"{example.text}\0{example.text_pair or ''}".casefold()
        digest = hashlib.blake2b(whole.encode(), digest_size=16).digest()
        if digest in self._seen:
            return "duplicate: of an earlier text"
        self._seen.add(digest)
        return None
