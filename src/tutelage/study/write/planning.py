"""Let the teacher plan: lessons -> tasks -> labels of each task -> prompts for each task (section 3.1 of the paper).

Three waves of questions, each after the answers of the one before. What is malformed is asked for again; a task whose
labels stay malformed is left out and put into quarantine, and one without prompts is written from its description.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import partial
from typing import Any

from tutelage.base.errors import UserError
from tutelage.corpus.study_plan import ANNOTATED, MAX_LABELS, Lesson, StudyPlan, Task, TaskKind
from tutelage.study.client.asking import Check, Outcome, ask_json, list_of, question
from tutelage.study.client.client import Request, TeacherLLM
from tutelage.study.filter.quarantine import Refused
from tutelage.study.settings import Planning, Study
from tutelage.study.write.prompting import GIVES, TAKES, Prompts, labels_text

MAX_LINE = 2000
"""Characters of a description, definition or prompt."""
MANY = 4
"""Times what was asked for: an answer with more tasks or prompts is no plan but a flood."""
TASKS = list_of("tasks", ("name", "description"))
LABELS = list_of("labels", ("label", "definition"))
PROMPTS = list_of("prompts")

_KindAndTask = tuple[TaskKind, Task]


class Planner:
    """Asks a teacher for a plan: for another one, with other seeds, at another `attempt` than 0.

    Attributes:
        kinds: of the lessons that are asked for.
        refused: what was left out.
    """

    def __init__(self, teacher: TeacherLLM, study: Study, attempt: int = 0) -> None:
        self._teacher, self._study, self._attempt = teacher, study, attempt
        self._asked_for = study.plan if isinstance(study.plan, Planning) else Planning()
        self._prompts = Prompts(self._asked_for, study.prompts)
        self._topics = study.writing.corpus != "multi_task"
        self.kinds: tuple[TaskKind, ...] = ("generation",) if self._topics else self._asked_for.kinds
        self.refused: list[Refused] = []

    def plan(self) -> StudyPlan:
        """Return the whole plan; what was left out stands in `refused`.

        Raises:
            UserError: the budget ended, or no lesson came to anything.
        """
        tasks = self._with_prompts(self._with_labels(self._tasks()))
        lessons = [
            Lesson(kind=kind, tasks=own)
            for kind in dict.fromkeys(self.kinds)
            if (own := tuple(task for task_kind, task in tasks if task_kind == kind))
        ]
        if not lessons:
            first = f": {self.refused[0].reason}" if self.refused else ""
            raise UserError(f"the teacher planned nothing that could be used{first}; try another model, or see its "
                            "answers in requests.jsonl")  # fmt: skip
        title, language, audience = self._asked_for.title, self._asked_for.language, self._asked_for.audience
        return StudyPlan(title=title, language=language, audience=audience, lessons=tuple(lessons))

    def _tasks(self) -> list[_KindAndTask]:
        """First wave: what each lesson's tasks are.

        A name that an earlier lesson has gets its kind behind it; of two in one lesson the second is refused.
        """
        prompt, count = "plan_topics" if self._topics else "plan_tasks", self._asked_for.tasks
        requests = [
            self._question(prompt, f"plan/{kind}", TASKS, takes=TAKES[kind], gives=GIVES[kind], count=count)
            for kind in self.kinds
        ]
        outcomes = self._ask(requests, partial(_check_tasks, count=count), "planning tasks")
        names = set[str]()
        found: list[_KindAndTask] = []
        for kind, outcome in zip(self.kinds, outcomes, strict=True):
            own = set[str]()
            for number, item in enumerate(self._value(outcome, f"plan/{kind}").get("tasks", ()), 1):
                name = _task_name(item["name"]) or f"{kind}_{number}"
                unique = name if name not in names or name in own else f"{name[:40]}_{kind}"
                if unique in names:
                    self.refused.append(Refused(f"two tasks have this name: {name}", outcome.origin, item))
                    continue
                own.add(name)
                names.add(unique)
                found.append((kind, Task(name=unique, description=_one_line(item["description"]))))
        return found

    def _with_labels(self, tasks: Sequence[_KindAndTask]) -> list[_KindAndTask]:
        """Second wave: the labels of tasks that have some; a task that gets none is left out."""
        asked = [(kind, task) for kind, task in tasks if kind in ANNOTATED]
        requests = [
            self._question("plan_labels", f"plan/{task.name}/labels", LABELS, task=task.name,
                           description=task.description, takes=TAKES[kind], gives=GIVES[kind])
            for kind, task in asked
        ]  # fmt: skip
        outcomes = self._ask(requests, _check_labels, "planning labels")
        labels = {
            task.name: self._value(outcome, f"{task.name}: its labels").get("labels")
            for (_, task), outcome in zip(asked, outcomes, strict=True)
        }
        return [
            (kind, _with(task, labels={_label(item["label"]): _one_line(item["definition"]) for item in found}))
            for kind, task in tasks
            if (found := labels.get(task.name, [])) is not None
        ]

    def _with_prompts(self, tasks: Sequence[_KindAndTask]) -> list[_KindAndTask]:
        """Third wave: what texts are written from."""
        count = self._asked_for.prompts
        requests = [
            self._question("plan_prompts", f"plan/{task.name}/prompts", PROMPTS, task=task.name,
                           description=task.description, labels=labels_text(task.labels), count=count)
            for _, task in tasks
        ]  # fmt: skip
        outcomes = self._ask(requests, partial(_check_prompts, count=count), "planning prompts")
        found = []
        for (kind, task), outcome in zip(tasks, outcomes, strict=True):
            prompts = self._value(outcome, f"{task.name}: its prompts").get("prompts", ())
            found.append((kind, _with(task, prompts=tuple(dict.fromkeys(map(_one_line, prompts))))))
        return found

    def _question(self, prompt: str, purpose: str, schema: dict[str, Any], **values: object) -> Request:
        return question(self._study, self._purpose(purpose), self._prompts.messages(prompt, **values), schema)

    def _purpose(self, purpose: str) -> str:
        return purpose.replace("plan/", f"plan/again-{self._attempt}/", 1) if self._attempt else purpose

    def _ask(self, requests: Sequence[Request], check: Check, label: str) -> list[Outcome]:
        outcomes = ask_json(self._teacher, requests, check, self._study.teacher, label)
        got = [outcome for outcome in outcomes if outcome is not None]
        if len(got) < len(requests):
            raise UserError("the budget ended before the plan was finished; raise `budget`, and give the same command "
                            "again: what was answered is kept")  # fmt: skip
        return got

    def _value(self, outcome: Outcome, what: str) -> dict[str, Any]:
        """Return what was answered; nothing where it stayed malformed, which is noted."""
        if outcome.value is None:
            content = self._purpose(what)
            self.refused.append(Refused(f"malformed answer: {outcome.fault}", outcome.origin, content))
        return outcome.value or {}


def _with(task: Task, **values: Any) -> Task:
    return Task(**{**task.model_dump(), **values})


def _check_tasks(value: Any, request: Request, count: int) -> str | None:
    if fault := _check_count(value["tasks"], "tasks", count):
        return fault
    for number, task in enumerate(value["tasks"], 1):
        if not any(map(str.isalpha, task["name"])):
            return f"the name of task {number} has no letters"
    return _check_lines([task["description"] for task in value["tasks"]], "description")


def _check_labels(value: Any, request: Request) -> str | None:
    labels = [_label(item["label"]) for item in value["labels"]]
    if not 2 <= len(labels) <= MAX_LABELS:
        return f"{len(labels)} labels; a task has at least 2, and {MAX_LABELS} at most"
    if len({label.casefold() for label in labels}) < len(labels):
        return "two labels are the same"
    lines = [item["definition"] for item in value["labels"]]
    return _check_lines(labels, "label", 60) or _check_lines(lines, "definition")


def _check_prompts(value: Any, request: Request, count: int) -> str | None:
    return _check_count(value["prompts"], "prompts", count) or _check_lines(value["prompts"], "prompt")


def _check_count(items: Sequence[object], what: str, count: int) -> str | None:
    if not items:
        return f"the list of {what} is empty"
    return f"{len(items)} {what}, far more than the {count} asked for" if len(items) > MANY * count else None


def _check_lines(lines: Sequence[str], what: str, longest: int = MAX_LINE) -> str | None:
    # By number: what a teacher wrote is not repeated in what it is told.
    for number, line in enumerate(lines, 1):
        if not 1 <= len(_one_line(line)) <= longest:
            return f"{what} {number} is empty or longer than {longest} characters"
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _label(text: str) -> str:
    """Make a label one word: those of words stand in rows, parted by spaces."""
    return "_".join(text.split())


def _task_name(name: str) -> str:
    """Make what the teacher calls a task the name of files and heads; empty where nothing is left, as of Cyrillic."""
    # Letters without their accents, and ligatures in parts.
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_0123456789")[:50].rstrip("_")
