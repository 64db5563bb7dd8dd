"""What is added to a prompt so that batches differ: difficulty, one label, rare words (section 3.1 of the paper).

Everything here follows from the study's seed, the number of the request and, for rare words, the counts at the
beginning of a wave; never from which answer came first.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from tutelage.corpus.study_plan import Task, TaskKind
from tutelage.study.client.asking import seed_of
from tutelage.study.settings import Study
from tutelage.study.write.prompting import Prompts

DIFFICULTIES = ("easy", "neither easy nor hard", "hard")
TARGETS = 5
"""Rare words that a batch is asked for."""
SEEN = 3
"""Words seen less often may be misspellings."""

T = TypeVar("T")


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
    known = (word for word, count in counts.items() if count >= SEEN and len(word) <= 30)
    return heapq.nsmallest(how_many, known, key=lambda word: (counts[word], seed_of(*seed, word), word))


def extensions(study: Study, prompts: Prompts, task: Task, kind: TaskKind, number: int, rare: Sequence[str]) -> str:
    """Return the sentences that are added to a prompt.

    Args:
        study: says which extenders are in use.
        prompts: their texts.
        task: what is written for.
        kind: of its lesson.
        number: of the request among the task's.
        rare: target words of this request; none, unless there are some.
    """
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
