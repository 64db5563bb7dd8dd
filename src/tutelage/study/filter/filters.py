"""What of a written and labelled corpus is kept: each text and each label is taken or goes into quarantine, once.

The order matters, since later filters look at what earlier ones left: characters, letters, length, equal texts, near
duplicates, language, overlap with evaluation sets; then the labels of the texts that stay, one by one. A text takes its
labels with it; a bad label goes alone. Nothing depends on anything but the order of the texts.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tutelage.corpus.examples import Example, Label
from tutelage.corpus.study_plan import StudyPlan, Task, TaskKind
from tutelage.study.filter.duplicates import near_duplicates
from tutelage.study.filter.overlap import SuiteOverlap, find_overlap
from tutelage.study.filter.quarantine import Refused, fault_of
from tutelage.study.filter.text import is_hidden, plain_words
from tutelage.study.settings import Filters

JOINERS = frozenset("\u200c\u200d\u200e\u200f\u061c")
"""Invisible, yet needed by many scripts; Latin text has no use for them."""
LATIN_EXTRAS = frozenset("ªºµ")
"""Letters of Latin text whose names do not say so."""
COMMON = 100
"""Words that are the commonest of a corpus: about half of any natural text is made of them."""
NATURAL = 0.3
"""Share of the commonest words below which a corpus is no natural text, and its language cannot be told by them."""
LONG = 20
"""Words from which a text shows its language."""

PlannedTasks = Mapping[str, tuple[TaskKind, Task]]
"""The tasks of a plan by name, with their kinds."""


@dataclass(frozen=True)
class Filtered:
    """A corpus and what was left out of it.

    Attributes:
        kept: the texts that stay, in their order, with the labels that are sound.
        overlap: what evaluation sets share with the texts that came to that filter.
    """

    kept: tuple[Example, ...]
    refused: tuple[Refused, ...]
    overlap: tuple[SuiteOverlap, ...] = ()

    @property
    def faults(self) -> Counter[str]:
        """Refusals by what was wrong, particulars left out."""
        return Counter(fault_of(item.reason) for item in self.refused)


def filter_examples(
    examples: Sequence[Example], plan: StudyPlan, settings: Filters, suites: Mapping[str, Sequence[str]] | None = None
) -> Filtered:
    """Sort examples into kept and refused; of duplicates the first is kept. `suites`: sentences to look for by name."""
    refused: list[Refused] = []

    def drop(found: Sequence[str | None], left: list[Example]) -> list[Example]:
        pairs = list(zip(left, found, strict=True))
        refused.extend(Refused(why, example.origin, example.record()) for example, why in pairs if why)
        return [example for example, why in pairs if not why]

    left = list(examples)
    checks: list[Callable[[Example], str | None]] = [
        lambda example: control_characters(example, joiners=settings.letters == "any"),
        lambda example: foreign_letters(example, settings.letters),
        lambda example: wrong_length(example, settings.min_words, settings.max_words),
    ]
    for check in checks:
        left = drop([check(example) for example in left], left)
    left = drop(_repeated(left), left)
    if settings.near_duplicates is not None:
        similar = near_duplicates([(example.text, example.text_pair) for example in left], settings.near_duplicates)
        told = [f"near duplicate: {s.similarity:.2f} of {left[s.of].id}" if s else None for s in similar]
        left = drop(told, left)
    if settings.common_words:
        left = drop(_foreign_language(left, settings.common_words), left)
    overlap: list[SuiteOverlap] = []
    if suites:
        hits, overlap = find_overlap([example.texts for example in left], suites, settings.overlap.ngram)
        if settings.overlap.drop:
            shared = [f"overlap: {', '.join(item[0].suites)}: {item[0].words}" if item else None for item in hits]
            left = drop(shared, left)
    tasks = {task.name: (lesson.kind, task) for lesson in plan.lessons for task in lesson.tasks}
    kept = [_sound_labels(example, tasks, refused) for example in left]
    return Filtered(tuple(kept), tuple(refused), tuple(overlap))


def control_characters(example: Example, joiners: bool = False) -> str | None:
    """Tell of a character that cannot be seen or is none: control, direction and tag characters, surrogates, U+FFFD.

    Newline, carriage return and tab are layout. `joiners` and direction marks, which some scripts need, may pass.
    """
    hidden = (one for one in _special(example) if is_hidden(one) and not (joiners and one in JOINERS))
    return next((f"control character: U+{ord(one):04X}" for one in hidden), None)


def foreign_letters(example: Example, letters: str) -> str | None:
    """Tell of a letter of another script than `ascii` or `latin`; `any` lets all pass."""
    if letters == "any":
        return None
    foreign = (one for one in _special(example) if _letter(one) and (letters == "ascii" or not _latin(one)))
    return next((f"letter: U+{ord(one):04X} {unicodedata.name(one, 'without a name')}" for one in foreign), None)


def wrong_length(example: Example, least: int, most: int) -> str | None:
    """Tell of too few or too many words, those of both texts of a pair together."""
    if (words := example.word_count) < least:
        return f"too short: {words} words"
    return f"too long: {words} words" if words > most else None


def _special(example: Example) -> list[str]:
    """The characters of a text that need a look, each once, in the order of their numbers."""
    found = set("".join(example.texts))
    return sorted(character for character in found if not " " <= character <= "~")


@lru_cache(maxsize=1 << 16)
def _letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


@lru_cache(maxsize=1 << 16)
def _latin(character: str) -> bool:
    name = unicodedata.name(character, "")
    # Variation selectors choose how an emoji is drawn.
    known = name.startswith(("LATIN ", "MODIFIER LETTER ", "COMBINING ", "VARIATION SELECTOR"))
    return known or character in LATIN_EXTRAS


def _repeated(examples: Sequence[Example]) -> list[str | None]:
    seen = set[str]()
    found = []
    for example in examples:
        found.append(f"duplicate: of {example.id}" if example.id in seen else None)
        seen.add(example.id)
    return found


def _foreign_language(examples: Sequence[Example], least: float) -> list[str | None]:
    """Tell of texts that hardly use the commonest words of the corpus, which are those of its language."""
    forms = [[form for text in example.texts for form in plain_words(text)] for example in examples]
    counts = Counter(form for words in forms for form in words)
    common = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COMMON])
    if sum(common.values()) < NATURAL * counts.total():
        return [None] * len(examples)
    found: list[str | None] = []
    for words in forms:
        share = sum(word in common for word in words) / max(1, len(words))
        odd = len(words) >= LONG and share < least
        found.append(f"language: {100 * share:.0f} % of its words are common in this corpus" if odd else None)
    return found


def _sound_labels(example: Example, tasks: PlannedTasks, refused: list[Refused]) -> Example:
    """An example with the labels that fit the plan; the others are added to `refused`."""
    bad = {task: why for task, label in example.labels.items() if (why := wrong_label(example, task, label, tasks))}
    if not bad and not (example.confidence.keys() | example.label_origins.keys()) - example.labels.keys():
        return example
    for task, why in bad.items():
        origins = example.label_origins.get(task, ())
        sure = {"confidence": example.confidence[task]} if task in example.confidence else {}
        content = {"id": example.id, "task": task, "label": example.labels[task], **sure}
        refused.append(Refused(why, origins[-1] if origins else "", content))
    kept = example.labels.keys() - bad.keys()
    return replace(
        example,
        labels={task: label for task, label in example.labels.items() if task in kept},
        confidence={task: sure for task, sure in example.confidence.items() if task in kept},
        label_origins={task: keys for task, keys in example.label_origins.items() if task in kept},
    )


def wrong_label(example: Example, task: str, label: Label, tasks: PlannedTasks) -> str | None:
    """Tell what is wrong with a label: its task, its form or the label itself."""
    if task not in tasks or tasks[task][0] == "generation":
        return f"label of no task: {task}"
    kind, known = tasks[task][0], tasks[task][1].labels
    if (kind == "pair_classification") != (example.text_pair is not None):
        return f"label of another kind of text: {task}"
    if (kind == "tagging") != isinstance(label, tuple):
        return f"label of the wrong form: {task}"
    if isinstance(label, tuple) and len(label) != len(example.words or ()):
        return f"tags of the wrong length: {task}: {len(label)} for {len(example.words or ())} words"
    outside = next((one for one in (label if isinstance(label, tuple) else (label,)) if one not in known), None)
    return None if outside is None else f"label outside the plan: {task}: {outside}"
