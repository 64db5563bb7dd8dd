"""Writing within a limited vocabulary, by the means that the teacher has.

A local teacher is held to it: by a grammar of words, or, as in the paper, by masking all but so many tokens. A remote
one is told some of the words; each of its texts is checked, one that strays is given back with the words outside, and
refused if it still strays after `teacher.repairs` more tries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tutelage.base.errors import UserError
from tutelage.corpus.study_plan import Task
from tutelage.study.client.asking import TEXT, Outcome, ask_json, check_any, list_of, question, record, seed_of
from tutelage.study.client.client import Answer, Constraint, Request, TeacherLLM
from tutelage.study.filter.quarantine import Refused
from tutelage.study.settings import Study
from tutelage.study.write.drafts import DraftText, drafts_of
from tutelage.study.write.prompting import Prompts, cycle, fenced
from tutelage.study.write.vocabulary import WordList, frequent_tokens, frequent_words, lines_of, read_words

MAX_NAMED = 50
"""Words outside the list that a text is given back with."""


class Within:
    """Asks for texts within a vocabulary: where no file is named, words of the counts, or tokens of the texts, so far.

    `one_by_one` tells whether a request is for one text (local teachers, whose answer is the text).
    """

    def __init__(
        self, teacher: TeacherLLM, study: Study, prompts: Prompts, counts: Counter[str], texts: Sequence[str]
    ) -> None:
        vocabulary = study.writing.vocabulary
        assert vocabulary is not None
        self._teacher, self._study, self._prompts = teacher, study, prompts
        self._list, self._constraint = WordList(()), None
        found: Sequence[object]
        if vocabulary.mode == "tokens":
            assert study.teacher.weights is not None
            counted = texts if vocabulary.words is None else lines_of(vocabulary.words)
            found = tokens = frequent_tokens(study.teacher.weights, counted, vocabulary.size)
            self._constraint = Constraint(tokens=tokens)
        else:
            file, size = vocabulary.words, vocabulary.size
            self._list = frequent_words(counts, size) if file is None else read_words(file, size)
            found = self._list.words
            if study.teacher.weights is not None:
                self._constraint = Constraint(words=self._list.words)
        if not found:
            raise UserError("writing.vocabulary: there is nothing to take the vocabulary from, since nothing is written"
                            " before it; name a file (`words`), or write less within it (`share`)")  # fmt: skip
        self.one_by_one = self._constraint is not None

    def request(self, task: Task, number: int, count: int) -> Request:
        """Return the request for a batch, or for one text where the teacher is held to the vocabulary."""
        study, purpose = self._study, f"write/{task.name}/within/{number}"
        prompt = cycle(task.prompts, number, study.seed, task.name, "prompt") if task.prompts else ""
        if self._constraint is not None:
            messages = self._prompts.messages("write_within", prompt=prompt, description=task.description)
            seed = seed_of(study.seed, purpose)
            return Request(messages, purpose, None, seed, study.teacher.max_tokens, self._constraint)
        excerpt = ", ".join(self._list.excerpt(seed_of(study.seed, purpose, "excerpt")))
        extension = self._prompts.fill("extend_vocabulary", words=excerpt, size=len(self._list.words))
        messages = self._prompts.messages(
            "write_long", count=count, prompt=prompt, description=task.description, extensions=extension
        )
        return question(study, purpose, messages, list_of("texts", count=count))

    def ask(self, requests: Sequence[Request], label: str, refused: list[Refused]) -> list[list[DraftText] | None]:
        """Ask for the texts of some requests; None from where the budget ended, and what strays goes to `refused`."""
        batches: list[list[DraftText]] = []
        answers: Sequence[Answer | Outcome | None]
        if self._constraint is None:
            answers = ask_json(self._teacher, requests, check_any, self._study.teacher, label)
        else:
            answers = self._teacher.ask(requests, label)
        for request, answer in zip(requests, answers, strict=True):
            # What is stored behind the budget's end waits: what it would follow is not known yet.
            if answer is None:
                break
            batches.append(
                self._constrained(answer, request, refused)
                if isinstance(answer, Answer)
                else drafts_of(answer, request.purpose, refused)
            )
        if self._constraint is None:
            batches = self._rewritten(requests, batches, label, refused)
        return [*batches, *[None] * (len(requests) - len(batches))]

    def _constrained(self, answer: Answer, request: Request, refused: list[Refused]) -> list[DraftText]:
        """Take the answer of a teacher that is held to the vocabulary: it is the text."""
        if answer.fault:
            refused.append(Refused(f"no answer: {answer.fault}", answer.key, request.purpose))
            return []
        text = answer.text
        if answer.finish == "length" and not self._list.words:
            # Tokens know no words: the last one of an answer that was cut may be a part.
            text = text.rstrip().rpartition(" ")[0]
        if self._list.words and (outside := self._list.outside(text)):
            refused.append(Refused(_strays(outside), answer.key, text))
            return []
        return [DraftText(text, None, answer.key)]

    def _rewritten(
        self, requests: Sequence[Request], batches: Sequence[list[DraftText]], label: str, refused: list[Refused]
    ) -> list[list[DraftText]]:
        """Give texts that stray back to be written again; those that still stray are refused."""
        straying = [
            (number, place, draft, outside)
            for number, batch in enumerate(batches)
            for place, draft in enumerate(batch)
            if draft.fault() is None and (outside := self._list.outside(draft.text))
        ]
        questions = []
        for number, place, draft, outside in straying:
            words = fenced(", ".join(outside[:MAX_NAMED]), "words")
            messages = self._prompts.messages("rewrite", text=fenced(draft.text), words=words)
            purpose = f"{requests[number].purpose}/rewrite/{place}"
            questions.append(question(self._study, purpose, messages, record({"text": TEXT})))
        outcomes = ask_json(self._teacher, questions, self._check, self._study.teacher, f"{label}, rewriting")
        mended: list[list[DraftText | None]] = [list(batch) for batch in batches]
        for (number, place, draft, outside), outcome in zip(straying, outcomes, strict=True):
            if outcome is None:
                mended = mended[:number]
                break
            mended[number][place] = None
            if outcome.value is None:
                refused.append(Refused(f"{_strays(outside)}; {outcome.fault}", outcome.origin, draft.text))
            else:
                mended[number][place] = DraftText(outcome.value["text"], None, outcome.origin)
        return [[draft for draft in batch if draft is not None] for batch in mended]

    def _check(self, value: Any, request: Request) -> str | None:
        outside = self._list.outside(value["text"])
        # Not in the text's order, and words alone: what a teacher wrote is no part of what it is told.
        named = sorted(word for word in outside if word.replace("'", "").isalpha())[:MAX_NAMED]
        told = f"it still has words that the learner does not know: {', '.join(named) or 'numbers'}"
        return told if outside else None


def _strays(outside: Sequence[str]) -> str:
    return f"words outside the vocabulary: {', '.join(outside[:MAX_NAMED])}"
