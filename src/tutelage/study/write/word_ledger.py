"""How many words and texts were written and kept, by task: what steers the writing, and what is shown afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tutelage.corpus.study_plan import ANNOTATED, TaskKind
from tutelage.study.client.budget import budget_ended

Ended = Literal["", "words", "texts", "budget", "exhausted"]
WHY: dict[Ended, str] = {
    "": "it was interrupted",
    "words": "all words are written",
    "texts": "every task has its texts, and the plan has no writing tasks for the rest of the words",
    "budget": "the budget is used up",
    "exhausted": "the teacher brought nothing new",
}


@dataclass
class TaskLedger:
    """What was written for one task.

    Attributes:
        requests: answered so far.
        unproductive: of these, how many in a row brought (nearly) nothing new.
        texts, words: kept; a pair is one text, words go by white space.
        written_texts, written_words: refused ones included.
    """

    kind: TaskKind
    requests: int = 0
    unproductive: int = 0
    texts: int = 0
    words: int = 0
    written_texts: int = 0
    written_words: int = 0


class WordLedger:
    """Counts by task, for tasks in the plan's order with the kinds of their lessons; `words` are all that were kept."""

    def __init__(self, kinds: Mapping[str, TaskKind]) -> None:
        self.tasks = {name: TaskLedger(kind) for name, kind in kinds.items()}
        self.ended: Ended = ""
        self.words = 0

    def written(self, task: str, words: int) -> None:
        """Note a text, whatever becomes of it."""
        self.tasks[task].written_texts += 1
        self.tasks[task].written_words += words

    def kept(self, task: str, words: int) -> None:
        """Note that the text just written is kept."""
        self.tasks[task].texts += 1
        self.tasks[task].words += words
        self.words += words

    def asked(self, task: str, unproductive: bool) -> None:
        """Note an answered request, and whether it brought next to nothing."""
        found = self.tasks[task]
        found.requests += 1
        found.unproductive = found.unproductive + 1 if unproductive else 0

    def words_of_text(self, task: str, unknown: int) -> float:
        """Return the mean words of a task's texts; a guess where there are none."""
        found = self.tasks[task]
        return found.words / found.texts if found.texts else unknown

    def next_task(self, texts: int | None, pending: Counter[str], patience: int) -> str | None:
        """Choose the least served task with labels, then the least served writing task; None if nothing is left to do.

        Args:
            texts: for each task with labels; None treats all tasks alike.
            pending: texts of each task that are on their way.
            patience: unproductive requests in a row after which a task is left alone.
        """
        open_tasks = {name: task for name, task in self.tasks.items() if task.unproductive < patience}
        if texts is not None:
            labelled = {name: task for name, task in open_tasks.items() if task.kind in ANNOTATED}
            wanting = [name for name, task in labelled.items() if task.texts + pending[name] < texts]
            open_tasks = {name: open_tasks[name] for name in wanting or open_tasks.keys() - labelled.keys()}
        order = list(self.tasks)
        served = {name: (self.tasks[name].texts + pending[name], order.index(name)) for name in open_tasks}
        return min(served, key=served.__getitem__, default=None)

    def exhausted(self, patience: int) -> bool:
        """Tell whether some task was left alone because nothing new came."""
        return any(task.unproductive >= patience for task in self.tasks.values())

    def check_budget(self) -> None:
        """Raise a UserError if the end of the budget cut the writing off."""
        if self.ended == "budget":
            raise budget_ended(f"{self.words:,} words were written")

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return {"words": self.words, "texts": sum(task.texts for task in self.tasks.values()), "ended": self.ended,
                "tasks": {name: asdict(task) for name, task in self.tasks.items()}}  # fmt: skip
