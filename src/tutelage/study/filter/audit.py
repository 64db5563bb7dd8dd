"""What a study corpus is like, in numbers: coverage of tasks, balance of labels, variety, certainty, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tutelage.corpus.examples import Example, Label
from tutelage.corpus.study_plan import StudyPlan, Task, TaskKind
from tutelage.study.filter.diversity import Diversity, diversity, vocabulary_growth
from tutelage.study.filter.duplicates import near_duplicates
from tutelage.study.filter.overlap import SuiteOverlap, find_overlap
from tutelage.study.filter.text import plain_words
from tutelage.study.settings import SIMILAR, Filters

SAMPLES = 3
"""Texts shown for each task."""
FEW = 30
"""Texts with labels of both tasks below which two tasks are not compared."""
CHANCE = 3
"""Standard deviations of chance that are taken off before pairs of tasks are put in order."""


@dataclass(frozen=True)
class StageCost:
    """What one stage asked of the teacher; `money` is None where no prices are known."""

    requests: int
    read: int
    written: int
    money: float | None = None


@dataclass(frozen=True)
class TaskAudit:
    """One task.

    Attributes:
        texts, words: written for it.
        could: texts that it could label: single texts, pairs, or for tagging single texts on one line, not too long.
        labelled: texts that have its label.
        labels: how often each label occurs, the plan's first and in its order; words for tagging, else texts.
        outside: labels that the plan does not have, in all.
        votes: texts whose label was asked for more than once, so far as their confidence is known.
        confidence: their mean confidence; None without any.
        sure: share of them that every vote agreed on.
    """

    kind: TaskKind
    texts: int
    words: int
    could: int
    labelled: int
    labels: Mapping[str, int]
    outside: int
    votes: int
    confidence: float | None
    sure: float | None

    @property
    def balance(self) -> float | None:
        """Entropy of the labels over that of equally frequent ones: 1 is balanced, 0 a single label."""
        counts = np.array(list(self.labels.values()), dtype=np.float64)
        if len(counts) < 2 or not counts.sum():
            return None
        shares = counts[counts > 0] / counts.sum()
        return abs(float(-(shares * np.log(shares)).sum() / np.log(len(counts))))

    @property
    def majority(self) -> float | None:
        """Share of the commonest label: what a model that knows nothing gets right."""
        total = sum(self.labels.values())
        return max(self.labels.values()) / total if total else None


@dataclass(frozen=True)
class Audit:
    """A corpus in numbers.

    Attributes:
        texts: examples; a pair is one.
        words: by white space, the words of budgets.
        types, once: different words, case and punctuation aside; of these, those that occur once.
        kinds: texts and words by kind of lesson.
        lengths: words of each text at the quantiles 0, 5, 25, 50, 75, 95, 100 %.
        histogram: texts by words: upper ends of bins, which grow by a factor, and counts.
        tasks: by name, in the plan's order.
        growth: different words against words read: the whole corpus (`all`) and each kind.
        duplicates: equal texts and near duplicates in the corpus itself.
        threshold: similarity from which texts are near duplicates.
        related: two classification tasks, Cramér's V of their labels, corrected for bias (Bergsma 2013), and texts that
            have both; the strongest first, by what chance can hardly account for.
        refused: by stage, what went into quarantine and how often.
        samples: by task, a few texts drawn at random.
    """

    title: str
    texts: int
    words: int
    types: int
    once: int
    kinds: Mapping[str, tuple[int, int]]
    lengths: tuple[int, ...]
    histogram: tuple[tuple[int, int], ...]
    tasks: Mapping[str, TaskAudit]
    growth: Mapping[str, list[tuple[int, int]]]
    variety: Diversity
    duplicates: Mapping[str, int]
    threshold: float
    related: tuple[tuple[str, str, float, int], ...]
    overlap: tuple[SuiteOverlap, ...] = ()
    refused: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    costs: Mapping[str, StageCost] = field(default_factory=dict)
    samples: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Audited:
    """An audit and where its page is."""

    audit: Audit
    page: Path


def audit_examples(
    examples: Sequence[Example],
    plan: StudyPlan,
    settings: Filters | None = None,
    suites: Mapping[str, Sequence[str]] | None = None,
    refused: Mapping[str, Mapping[str, int]] | None = None,
    costs: Mapping[str, StageCost] | None = None,
    tagged_words: int | None = None,
) -> Audit:
    """Measure a corpus.

    Args:
        settings: similarity of near duplicates and size of overlaps.
        suites: sentences of evaluation sets by name.
        refused: refusals by stage and fault.
        tagged_words: longest text whose words were to be labelled, where that is known.
    """
    settings = settings or Filters()
    threshold = settings.near_duplicates or SIMILAR
    # At random, yet the same each time: digests of texts are as good as draws.
    drawn = sorted(examples, key=lambda example: example.id)
    words = [[word for text in example.texts for word in plain_words(text)] for example in drawn]
    counts = Counter(chain.from_iterable(words))
    lengths = [example.word_count for example in drawn]
    takes = [example.takes(tagged_words) for example in examples]
    overlap = find_overlap([e.texts for e in examples], suites, settings.overlap.ngram)[1] if suites else []
    return Audit(
        title=plan.title,
        texts=len(examples),
        words=sum(lengths),
        types=len(counts),
        once=sum(count == 1 for count in counts.values()),
        **_by_kind(drawn, words),
        lengths=tuple(int(n) for n in np.quantile(lengths, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))) if lengths else (),
        histogram=_histogram(lengths),
        tasks={one.name: _task(one, lesson.kind, examples, takes) for lesson in plan.lessons for one in lesson.tasks},
        variety=diversity(words, ["\n".join(example.texts) for example in drawn]),
        duplicates=_duplicates(examples, threshold),
        threshold=threshold,
        related=_related(examples, plan),
        overlap=tuple(overlap),
        # Plain mappings: `asdict` cannot copy counters.
        refused={stage: dict(counts) for stage, counts in (refused or {}).items()},
        costs=costs or {},
        samples=_samples(drawn, plan),
    )


def _by_kind(drawn: Sequence[Example], words: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Sizes by kind of lesson, and the growth of the vocabulary of the whole corpus and of each kind."""
    places = {kind: [i for i, example in enumerate(drawn) if example.kind == kind] for kind in get_args(TaskKind)}
    places = {kind: own for kind, own in places.items() if own}
    growth = {kind: vocabulary_growth([words[i] for i in own]) for kind, own in places.items()}
    sizes = {kind: (len(own), sum(drawn[i].word_count for i in own)) for kind, own in places.items()}
    return {"kinds": sizes, "growth": {"all": vocabulary_growth(words), **growth}}


def _duplicates(examples: Sequence[Example], threshold: float) -> dict[str, int]:
    """How many texts are equal to an earlier one, and how many only similar."""
    equal = len(examples) - len({example.id for example in examples})
    similar = near_duplicates([(example.text, example.text_pair) for example in examples], threshold)
    return {"equal": equal, "near": sum(item is not None for item in similar) - equal}


def _histogram(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Texts by words, in bins whose ends double every second time: 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, ..."""
    ends = list(dict.fromkeys(round(2 ** (i / 2)) for i in range(60)))
    at = Counter(int(np.searchsorted(ends, length)) for length in lengths)
    return tuple((ends[i], at[i]) for i in range(min(at), max(at) + 1)) if at else ()


def _task(task: Task, kind: TaskKind, examples: Sequence[Example], takes: Sequence[Sequence[TaskKind]]) -> TaskAudit:
    own = [example for example in examples if example.task == task.name]
    labelled = [example for example in examples if task.name in example.labels]
    given = [example.labels[task.name] for example in labelled]
    found = Counter(chain.from_iterable([label] if isinstance(label, str) else label for label in given))
    sure = [example.confidence[task.name] for example in labelled if task.name in example.confidence]
    return TaskAudit(
        kind=kind,
        texts=len(own),
        words=sum(example.word_count for example in own),
        could=sum(kind in kinds or task.name in one.labels for one, kinds in zip(examples, takes, strict=True)),
        labelled=len(labelled),
        labels={label: found[label] for label in task.labels},
        outside=found.total() - sum(found[label] for label in task.labels),
        votes=len(sure),
        confidence=fmean(sure) if sure else None,
        sure=sum(value >= 1 for value in sure) / len(sure) if sure else None,
    )


def _related(examples: Sequence[Example], plan: StudyPlan) -> tuple[tuple[str, str, float, int], ...]:
    """How much one task's label tells of another's, for every two tasks that enough texts have both of."""
    codes = {
        task.name: _codes([example.labels.get(task.name) for example in examples])
        for task in plan.tasks("classification", "pair_classification")
    }
    found = []
    for (one, first_N), (other, second_N) in combinations(codes.items(), 2):
        both_N = (first_N >= 0) & (second_N >= 0)
        if both_N.sum() < FEW:
            continue
        rows, columns = first_N.max() + 1, second_N.max() + 1
        counts = np.bincount(first_N[both_N] * columns + second_N[both_N], minlength=rows * columns)
        strength, sure = cramers_v(counts.reshape(rows, columns))
        if strength is not None:
            found.append((sure, (one, other, strength, int(both_N.sum()))))
    return tuple(pair for _, pair in sorted(found, key=lambda item: (-item[0], -item[1][2], item[1][:2])))


def _codes(labels: Sequence[Label | None]) -> NDArray[np.int64]:
    """Labels as numbers, (N,); -1 for none, and for a label of the wrong form."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(label, len(numbers)) if isinstance(label, str) else -1 for label in labels]
    return np.array(codes, dtype=np.int64)


def cramers_v(counts_RC: NDArray[np.int64]) -> tuple[float | None, float]:
    """Cramér's V of a table of counts, corrected for bias, and what is left of it without `CHANCE`.

    Uncorrected, two tasks of ten labels that know nothing of each other come to 0.5 on thirty texts. The correction is
    that of Bergsma 2013 (A bias-correction for Cramér's V and Tschuprow's T): chi² less its expectation under
    independence, over a maximum that is corrected likewise. What chance adds varies the more, the fewer the texts; the
    second number leaves out what so many standard deviations of it could account for.

    Rows and columns of zeros do not count.

    Returns:
        V (0 independent, 1 one follows from the other) or None where one of the two never varies; and the lower one.
    """
    table = counts_RC[counts_RC.any(axis=1)][:, counts_RC.any(axis=0)].astype(np.float64)
    (rows, columns), total = table.shape, table.sum()
    if min(rows, columns) < 2:
        return None, 0.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / total
    chi2, freedom = float(((table - expected) ** 2 / expected).sum()), (rows - 1) * (columns - 1)
    most = min(size - 1 - (size - 1) ** 2 / (total - 1) for size in (rows, columns))
    if most <= 0:
        # Every text has a label of its own.
        return None, 0.0

    def strength(by_chance: float) -> float:
        return min(1.0, float(np.sqrt(max(0.0, chi2 - by_chance * total / (total - 1)) / total / most)))

    return strength(freedom), strength(freedom + CHANCE * np.sqrt(2 * freedom))


def _samples(drawn: Sequence[Example], plan: StudyPlan) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """A few texts for each task: those written for it, or, where none were, those that have its label."""
    found = {}
    for task in plan.tasks():
        own = [example for example in drawn if example.task == task.name]
        chosen = own or [example for example in drawn if task.name in example.labels]
        found[task.name] = tuple(example.record() for example in chosen[:SAMPLES])
    rest = [example for example in drawn if example.task not in found and not example.labels]
    found["(no task)"] = tuple(example.record() for example in rest[:SAMPLES])
    return {task: samples for task, samples in found.items() if samples}
