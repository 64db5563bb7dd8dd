"""The study plan: lessons, their tasks, the labels of each task and the prompts its texts are written from.

One YAML (or JSON) file, made to be read and edited. The plan of the starter corpus is an example of it. Four kinds of
lesson, as in the paper (section 3.1): one text with one label, two texts with one label, a label for every word, and
plain writing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from tutelage import starter
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import write_text
from tutelage.recipe.data import Section
from tutelage.recipe.load import explain
from tutelage.recipe.yaml import MAX_CHARACTERS, dump, parse, parse_json

TaskKind = Literal["classification", "pair_classification", "tagging", "generation"]
"""What a lesson's tasks take and give: a text, two texts or the words of a text, and labels; or writing alone."""
ANNOTATED: tuple[TaskKind, ...] = ("classification", "pair_classification", "tagging")  # kinds whose tasks have labels
MAX_LABELS = 500  # a head with more labels than this is no classification that anybody planned
SCALE = 32  # how many times as large as a recipe a plan may be: 800 tasks with 200 prompts each are


def _is_a_name(value: str) -> str:
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,63}", value):
        raise ValueError("a name has letters, digits, _ and -, begins with a letter, and is no longer than 64")
    return value


Name = Annotated[str, AfterValidator(_is_a_name)]
"""Of a task: it becomes a key of files and the name of a head."""
ShortText = Annotated[str, Field(min_length=1, max_length=2000)]


class Task(Section):
    """One task of a lesson."""

    name: Name
    """Unique in the plan."""
    description: ShortText
    """What is asked, in a sentence or two; the teacher reads it when it writes and labels."""
    labels: dict[str, ShortText] = Field(default_factory=dict)
    """Each label and its definition; none for writing."""
    prompts: tuple[ShortText, ...] = ()
    """Each would make a teacher write a batch of texts; the description serves where none is given."""

    @field_validator("labels", mode="after")
    @classmethod
    def _labels_can_be_told_apart(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > MAX_LABELS:
            raise ValueError(f"{len(value)} labels; a task has {MAX_LABELS} at most")
        seen: dict[str, str] = {}
        for label in value:
            if not label.strip() or label != label.strip():
                raise ValueError(f"the label {label!r} is empty or has space around it")
            other = seen.setdefault(label.casefold(), label)
            if other != label:
                raise ValueError(f"the labels '{other}' and '{label}' differ in case alone")
        return value


class Lesson(Section):
    """Tasks of one kind."""

    kind: TaskKind
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _labels_go_with_the_kind(self) -> Lesson:
        for task in self.tasks:
            if self.kind == "generation" and task.labels:
                raise ValueError(f"task '{task.name}' is writing and has no labels; move it to another lesson")
            if self.kind != "generation" and len(task.labels) < 2:
                raise ValueError(f"task '{task.name}' needs two labels or more, each with its definition")
        return self


class StudyPlan(Section):
    """A whole study plan."""

    title: str = "A study plan"
    language: str = "en"
    """Of the texts, as a two-letter code or in words."""
    audience: str = ""
    """Whom the teacher is told to write for."""
    lessons: Annotated[tuple[Lesson, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _tasks_have_names_of_their_own(self) -> StudyPlan:
        seen = set[str]()
        for task in self.tasks():
            if task.name in seen:
                raise ValueError(f"two tasks are called '{task.name}'; names are unique in a plan")
            seen.add(task.name)
        return self

    def tasks(self, *kinds: TaskKind) -> list[Task]:
        """Return the tasks in the plan's order: of some kinds, or all."""
        return [task for lesson in self.lessons if not kinds or lesson.kind in kinds for task in lesson.tasks]

    def kind_of(self, task: str) -> TaskKind:
        """Return the kind of the lesson that a task belongs to."""
        kinds = {known.name: lesson.kind for lesson in self.lessons for known in lesson.tasks}
        if task not in kinds:
            raise UserError(f"the plan has no task '{task}'{nearest(task, kinds)}")
        return kinds[task]


def read_plan(path: Path) -> StudyPlan:
    """Read a plan from YAML or JSON.

    Raises:
        UserError: no such file, not YAML, unknown keys, or a plan that cannot be, with the line of the fault (YAML).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; `tutelage study plan` writes one") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name the file of a plan") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error
    if path.suffix == ".json":
        return check_plan(parse_json(text, str(path), SCALE), str(path))
    # Labels may be called as they like, `password_reset` too.
    tree, lines = parse(text, str(path), SCALE, secrets=False)
    return check_plan(tree, str(path), lines)


def check_plan(tree: Any, name: str, lines: Mapping[tuple[str | int, ...], int] | None = None) -> StudyPlan:
    """Make a plan of a tree of mappings and lists; errors tell its `name`, and `lines` where they are known.

    Raises:
        UserError: unknown keys, or a plan that cannot be.
    """
    try:
        return StudyPlan.model_validate(tree)
    except ValidationError as error:
        raise UserError(explain(error, tree, dict(lines or {}), name, StudyPlan)) from error


def write_plan(plan: StudyPlan, path: Path) -> None:
    """Write a plan as YAML, keys in the order in which one reads it; one larger than `read_plan` reads is refused."""
    text = dump(plan.model_dump(mode="json", exclude_defaults=True))
    if len(text) > MAX_CHARACTERS * SCALE:
        raise UserError(f"{path}: the plan is larger than {MAX_CHARACTERS * SCALE >> 20} MiB; ask for fewer tasks and "
                        "prompts (`plan.tasks`, `plan.prompts`)")  # fmt: skip
    write_text(path, text)


def starter_plan() -> StudyPlan:
    """Return the plan that the starter corpus was written from."""
    return read_plan(starter.plan_file())
