"""Let the teacher label every text for every task of its kind (section 3.1 of the paper).

A text gets a label for each classification task and, word by word, for each tagging task; a pair for each pair task.
It does not matter what it was written for, so a text carries many labels.

The words of a text are what its spaces part, punctuation attached: " ".join(words) is the text, so nothing is lost by
tagging. Texts of several lines, and long ones, are not tagged.

When the budget ends, every text still gets the labels whose answers are stored, whatever they were asked for and when.

An answer for several tasks that stays malformed is asked for again task by task; a label that stays malformed is
missing, the text is kept, and the pair of both goes into quarantine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tutelage.base.errors import UserError, nearest
from tutelage.corpus.examples import Example, Label
from tutelage.corpus.study_plan import ANNOTATED, StudyPlan, Task, TaskKind
from tutelage.study.client.asking import TEXT, ask_json, one_of, question, record
from tutelage.study.client.budget import budget_ended
from tutelage.study.client.client import Request, TeacherLLM
from tutelage.study.filter.quarantine import Refused
from tutelage.study.settings import Study
from tutelage.study.write.prompting import Prompts, fenced, tasks_text

WORD = "_word"
"""Key of the word in a pair of word and tag; no task can have this name."""
PART = 2048
"""Texts whose questions are under way together."""


@dataclass(frozen=True)
class LabelQuestion:
    """A question about one text: its number in the part, the tasks asked for, and which vote it is."""

    number: int
    kind: TaskKind
    tasks: tuple[Task, ...]
    vote: int


@dataclass(frozen=True)
class Labelled:
    """What labelling came to.

    Attributes:
        texts: all of them, those without any label included.
        labels: by task, how many texts have a label.
        could: by task, how many texts could have one: pairs, single texts, or such of one line.
        refused: labels that did not come to anything.
        budget_ended: whether labels are missing because the budget ended.
    """

    texts: int
    labels: dict[str, int]
    could: dict[str, int]
    refused: int
    budget_ended: bool

    def check_budget(self) -> None:
        """Raise a UserError if texts were left without labels because the budget ended."""
        if self.budget_ended:
            raise budget_ended(f"{sum(self.labels.values()):,} of {sum(self.could.values()):,} labels came")


_Votes = dict[str, list[tuple[Label, str]]]
"""By task, the labels that a text was given and the keys of the requests that gave them."""


class Labeller:
    """Labels the texts of a study.

    Attributes:
        refused: labels that did not come to anything: reason, key of the request, `{id, task}`.
        labels, could, budget_ended: as in `Labelled`, so far.

    Raises:
        UserError: as `check_labelling` says.
    """

    def __init__(self, teacher: TeacherLLM, study: Study, plan: StudyPlan) -> None:
        self._teacher, self._study = teacher, study
        self._prompts = Prompts(plan, study.prompts)
        check_labelling(study, plan)
        wanted = study.labelling.tasks
        asked = {task.name for task in plan.tasks(*ANNOTATED) if wanted is None or task.name in wanted}
        self._tasks = {kind: tuple(task for task in plan.tasks(kind) if task.name in asked) for kind in ANNOTATED}
        self.refused: list[Refused] = []
        self.labels: Counter[str] = Counter({task.name: 0 for tasks in self._tasks.values() for task in tasks})
        self.could = self.labels.copy()
        self.budget_ended = False

    def examples(self, texts: Iterable[Example], total: int | None = None) -> Iterator[Example]:
        """Label texts; yields them in their order, all of them, with the labels that came in place of any earlier ones.

        `total` tells how many there are, for the display.
        """
        rest, done = iter(texts), 0
        while part := list(islice(rest, PART)):
            label = "labelling" if total is not None and total <= PART else f"labelling from text {done + 1:,}"
            yield from self._part(part, label)
            done += len(part)

    def _part(self, part: Sequence[Example], label: str) -> list[Example]:
        votes: list[_Votes] = [defaultdict(list) for _ in part]
        failed = self._ask(part, self._questions(part), votes, label)
        single = [replace(one, tasks=(task,)) for one in failed for task in one.tasks if len(one.tasks) > 1]
        self._ask(part, single, votes, f"{label}, task by task")
        return [self._labelled(example, found) for example, found in zip(part, votes, strict=True)]

    def _questions(self, part: Sequence[Example]) -> list[LabelQuestion]:
        """List what is asked about each text: all tasks of a kind at once, or each by itself; once for each vote."""
        settings = self._study.labelling
        return [
            LabelQuestion(number, kind, group, vote)
            for number, example in enumerate(part)
            for kind in example.takes(settings.tagged_words)
            for group in ([self._tasks[kind]] if settings.ask == "family" else [(task,) for task in self._tasks[kind]])
            if group
            for vote in range(settings.votes)
        ]

    def _ask(
        self, part: Sequence[Example], questions: Sequence[LabelQuestion], votes: Sequence[_Votes], label: str
    ) -> list[LabelQuestion]:
        """Ask, and put the labels to the votes; returns the questions about several tasks that came to nothing."""
        requests = [self._request(part[one.number], one) for one in questions]
        tagged = [(request.key, one) for one, request in zip(questions, requests, strict=True) if one.kind == "tagging"]
        words = {key: tuple(part[one.number].text.split()) for key, one in tagged}

        def check(value: Any, request: Request) -> str | None:
            found = self._tags(value, words[request.key]) if request.key in words else None
            return found if isinstance(found, str) else None

        failed, spend = [], not self.budget_ended
        outcomes = ask_json(self._teacher, requests, check, self._study.teacher, label, spend)
        for one, request, outcome in zip(questions, requests, outcomes, strict=True):
            if outcome is None:
                self.budget_ended = True
            elif outcome.value is not None:
                found: Any = outcome.value if one.kind != "tagging" else self._tags(outcome.value, words[request.key])
                for task in one.tasks:
                    votes[one.number][task.name].append((found[task.name], outcome.origin))
            elif len(one.tasks) > 1:
                failed.append(one)
            else:
                content = {"id": part[one.number].id, "task": one.tasks[0].name}
                self.refused.append(Refused(f"malformed label: {outcome.fault}", outcome.origin, content))
        return failed

    def _tags(self, value: Any, words: tuple[str, ...]) -> dict[str, Label] | str:
        """Return the tags of an answer by task, or what is wrong with it."""
        return tags_of_pairs(value, words) if self._study.labelling.tags == "pairs" else tags_of_list(value, words)

    def _request(self, example: Example, one: LabelQuestion) -> Request:
        names = one.tasks[0].name if len(one.tasks) == 1 else one.kind
        purpose = f"label/{example.id}/{names}/{one.vote}"
        labels = {task.name: one_of(tuple(task.labels)) for task in one.tasks}
        tasks = tasks_text(one.tasks)
        if one.kind != "tagging":
            name = "label_text" if example.text_pair is None else "label_pair"
            pair = fenced(example.text_pair or "", "second")
            messages = self._prompts.messages(name, tasks=tasks, text=fenced(example.text), text_pair=pair)
            return question(self._study, purpose, messages, record(labels))
        words = example.text.split()
        pairs = self._study.labelling.tags == "pairs"
        messages = self._prompts.messages(
            "tag_pairs" if pairs else "tag_list", tasks=tasks, words=fenced("\n".join(words), "words"), count=len(words)
        )
        listed = {name: {"type": "array", "items": tag} for name, tag in labels.items()}
        schema = record({"words": {"type": "array", "items": record({WORD: TEXT, **labels})}} if pairs else listed)
        return question(self._study, purpose, messages, schema)

    def _labelled(self, example: Example, votes: _Votes) -> Example:
        """Return an example with the labels that won, and the words that tags belong to."""
        asked = self._study.labelling.votes
        decided = {name: majority([label for label, _ in given], asked) for name, given in votes.items()}
        self.labels.update(decided.keys())
        takes = example.takes(self._study.labelling.tagged_words)
        self.could.update(task.name for kind in takes for task in self._tasks[kind])
        tagged = any(isinstance(label, tuple) for label, _ in decided.values())
        return replace(
            example,
            words=tuple(example.text.split()) if tagged else example.words,
            labels={name: label for name, (label, _) in decided.items()},
            confidence={name: sure for name, (_, sure) in decided.items()} if asked > 1 else {},
            label_origins={name: tuple(dict.fromkeys(key for _, key in given)) for name, given in votes.items()},
        )


def check_labelling(study: Study, plan: StudyPlan) -> None:
    """Refuse a study that labels what the plan does not have, or that words cannot be tagged with.

    Raises:
        UserError: `labelling.tasks` names what is no task with labels, or a label of words has a space.
    """
    wanted, known = study.labelling.tasks, [task.name for task in plan.tasks(*ANNOTATED)]
    for name in wanted or ():
        if name not in known:
            raise UserError(f"labelling.tasks: the plan has no task '{name}' with labels{nearest(name, known)}")
    for task in plan.tasks("tagging"):
        spaced = next((label for label in task.labels if len(label.split()) > 1), None)
        if spaced and (wanted is None or task.name in wanted):
            raise UserError(f"the label '{spaced}' of the tagging task '{task.name}' has a space; write it with _")


def majority(given: Sequence[Label], asked: int) -> tuple[Label, float]:
    """Return the label that most votes gave, and its share of the votes asked for.

    Of equally frequent labels the one given first wins. Tags are decided word by word; their share is the mean. A vote
    that was asked for and came to nothing counts against the label.
    """
    if isinstance(given[0], tuple):
        words = [majority(tags, asked) for tags in zip(*given, strict=True)]
        return tuple(str(tag) for tag, _ in words), sum(sure for _, sure in words) / len(words)
    label, count = Counter(given).most_common(1)[0]
    return label, count / asked


def tags_of_pairs(value: Any, words: Sequence[str]) -> dict[str, Label] | str:
    """Return the tags by task of `{"words": [{"_word": ..., TASK: ...}, ...]}`, or what is wrong with it."""
    rows: list[dict[str, str]] = []
    for row in value["words"]:
        word, bare = row[WORD].strip(), _bare(row[WORD])
        # A word of punctuation alone has nothing else to be known by.
        if len(rows) < len(words) and (word == words[len(rows)] or (bare and bare == _bare(words[len(rows)]))):
            rows.append(row)
        elif bare:
            place = f"word {len(rows) + 1} of the text"
            return f"{place} does not stand at its place; repeat all {len(words)} words in order"
    if len(rows) < len(words):
        return f"only the first {len(rows)} of the {len(words)} words are there"
    return {task: tuple(row[task] for row in rows) for task in rows[0] if task != WORD}


def tags_of_list(value: Any, words: Sequence[str]) -> dict[str, Label] | str:
    """Return the tags by task of `{TASK: [...], ...}`, or what is wrong with it; see `tags_of_pairs`."""
    for task, tags in value.items():
        if len(tags) != len(words):
            return f"{len(tags)} labels for {task}, but the text has {len(words)} words"
    return {task: tuple(tags) for task, tags in value.items()}


def _bare(word: str) -> str:
    """Return a word's letters and digits in lower case."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())
