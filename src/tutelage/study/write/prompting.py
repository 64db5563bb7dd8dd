"""What the teacher is told: text files that users may replace, filled in with the matter at hand.

The files are `prompts/*.txt`. Lines at a file's head that begin with `#` are remarks; `$name` stands for a value.

Texts that a teacher wrote never become instructions. Wherever one is shown to a teacher it is fenced: it stands between
marks that it cannot contain, since they are made of its own digest, and every conversation opens by saying what the
marks mean (`system.txt`).

What is added so that batches differ (difficulty, one label, rare words: section 3.1 of the paper) follows from the
study's seed, the number of the request and the counts at the beginning of a wave, never from which answer came first.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from itertools import dropwhile
from pathlib import Path
from string import Template
from typing import TypeVar

from tutelage.base.errors import UserError, nearest
from tutelage.corpus.study_plan import StudyPlan, Task, TaskKind
from tutelage.study.client.asking import seed_of
from tutelage.study.client.client import Message, taken_apart
from tutelage.study.settings import Planning, Study

SUFFIX = ".txt"
NEEDED = {"text", "text_pair", "words", "tasks"}
"""Values without which a prompt would ask about nothing; the rest may be left out of a file of one's own."""

TAKES: dict[TaskKind, str] = {
    "classification": "one text of one or a few sentences",
    "pair_classification": "two texts, a first and a second, of one or a few sentences each",
    "tagging": "one text, cut into its words",
    "generation": "a topic or a form of text",
}
GIVES: dict[TaskKind, str] = {
    "classification": "exactly one label out of a fixed list",
    "pair_classification": "exactly one label out of a fixed list, on how the two belong together",
    "tagging": "a label for every single word, out of a fixed list",
    "generation": "a text of its own",
}
LANGUAGES = {"cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian",
             "ja": "Japanese", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "zh": "Chinese"}  # fmt: skip
"""Codes that plans use, as a prompt says them; others are said as they are written."""
DIFFICULTIES = ("easy", "neither easy nor hard", "hard")
TARGETS = 5
"""Rare words that a batch is asked for."""

T = TypeVar("T")


def fenced(text: str, what: str = "text") -> str:
    """Put material between marks that name its digest, so that no text can close its own fence."""
    text = taken_apart(text)
    mark = f"{what}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"
    return f"<{mark}>\n{text}\n</{mark}>"


def labels_text(labels: dict[str, str], title: str = "Its labels:") -> str:
    """Write labels with their definitions, one a line; nothing where there are none."""
    return "\n".join([title, *(f"- {label}: {definition}" for label, definition in labels.items())]) if labels else ""


def tasks_text(tasks: Sequence[Task]) -> str:
    """Describe tasks with their labels."""
    return "\n\n".join(labels_text(task.labels, f"Task {task.name}: {task.description}") for task in tasks)


class Prompts:
    """The shipped prompts, some perhaps replaced by a folder's files of the same names.

    The plan says in which language texts are, and whom they are for.

    Raises:
        UserError: no such folder, a file of an unknown name, or one with values that its prompt does not have.
    """

    def __init__(self, plan: StudyPlan | Planning, folder: Path | None = None) -> None:
        shipped = _shipped()
        self._templates = {name: _template(text) for name, text in shipped.items()}
        self._values = {
            "language": LANGUAGES.get(plan.language, plan.language),
            "audience": plan.audience.rstrip(". ") or "a small language model",
        }
        if folder is not None and not folder.is_dir():
            raise UserError(f"prompts: {folder} is no folder; `tutelage study prompts {folder}` makes one to edit")
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder is not None else ():
            if path.name not in shipped:
                known = ", ".join(sorted(shipped))
                raise UserError(f"{path} replaces no prompt{nearest(path.name, shipped)} ({known})")
            self._templates[path.name] = _checked(path, self._templates[path.name])

    def fill(self, name: str, **values: object) -> str:
        """Return a prompt with its values; lines that stay empty are drawn together."""
        filled = self._templates[name + SUFFIX].substitute(self._values | {key: str(v) for key, v in values.items()})
        return re.sub(r"\n{3,}", "\n\n", filled).strip()

    def messages(self, name: str, **values: object) -> tuple[Message, ...]:
        """Return the beginning of a conversation: who the teacher is, and what is asked."""
        return (Message("system", self.fill("system")), Message("user", self.fill(name, **values)))


def _shipped() -> dict[str, str]:
    """Return the texts of the shipped prompts by the names of their files."""
    entries = (resources.files(__package__) / "prompts").iterdir()
    return {entry.name: entry.read_text(encoding="utf-8") for entry in entries if entry.name.endswith(SUFFIX)}


def _template(text: str) -> Template:
    return Template("\n".join(dropwhile(lambda line: line.startswith("#"), text.splitlines())))


def _checked(path: Path, shipped: Template) -> Template:
    try:
        own = _template(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    if not own.is_valid():
        raise UserError(f"{path}: a `$` that begins no name; write `$$` for a dollar sign")
    known = {*shipped.get_identifiers(), "language", "audience"}
    if unknown := sorted(set(own.get_identifiers()) - known):
        meant = f"{nearest(unknown[0], known)} ({', '.join(sorted(known))})"
        raise UserError(f"{path}: there is no ${unknown[0]} here{meant}")
    if missing := sorted((set(shipped.get_identifiers()) & NEEDED) - set(own.get_identifiers())):
        raise UserError(f"{path}: ${missing[0]} is missing, so the teacher would be asked about nothing")
    return own


def copy_prompts(folder: Path) -> list[Path]:
    """Copy the shipped prompts to a folder, to be edited; what stands there stays. Returns the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / name: text for name, text in sorted(_shipped().items())}
    written = [path for path in texts if not path.exists()]
    for path in written:
        path.write_text(texts[path], encoding="utf-8")
    return written


def cycle(items: Sequence[T], number: int, *seed: object) -> T:
    """Return item `number` of an endless row in which every item comes once before any comes again, in changing order.

    Several such rows with other seeds are independent of each other: label, difficulty and prompt of a task's requests
    meet in all combinations.
    """
    turn, place = divmod(number, len(items))
    order = list(range(len(items)))
    random.Random(seed_of(*seed, turn)).shuffle(order)
    return items[order[place]]


def rare_words(counts: Counter[str], how_many: int, *seed: object) -> list[str]:
    """Return the rarest words seen three times or more, rarest first, equals in an order drawn by the seed."""
    # Words seen less often may be misspellings.
    known = (word for word, count in counts.items() if count >= 3 and len(word) <= 30)
    return heapq.nsmallest(how_many, known, key=lambda word: (counts[word], seed_of(*seed, word), word))


def extensions(study: Study, prompts: Prompts, task: Task, kind: TaskKind, number: int, rare: Sequence[str]) -> str:
    """Return the sentences that are added to a prompt; those with the `rare` words only if there are some."""
    writing, added = study.writing, []
    if writing.difficulty and task.labels:
        difficulty = cycle(DIFFICULTIES, number, study.seed, task.name, "difficulty")
        added.append(prompts.fill("extend_difficulty", difficulty=difficulty))
    if writing.one_label and task.labels:
        label = cycle(list(task.labels), number, study.seed, task.name, "label")
        name = "extend_tag" if kind == "tagging" else "extend_label"
        added.append(prompts.fill(name, label=label, definition=task.labels[label].rstrip(".")))
    if writing.rare_words and rare:
        added.append(prompts.fill("extend_words", words=", ".join(rare)))
    return "\n".join(added)
