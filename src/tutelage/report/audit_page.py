"""The page of `tutelage study audit`: what a study corpus is like, with tables, plots and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage import __version__
from tutelage.base.progress import human
from tutelage.compare.metrics import MISSING
from tutelage.report import plot_audit
from tutelage.report.html import page
from tutelage.report.plot_style import drawing
from tutelage.report.plots import Plot
from tutelage.report.tables import Table
from tutelage.study.filter.audit import Audit
from tutelage.study.filter.text import visible

LONGEST = 400
"""Characters of a sample that are shown."""
LABELS = 40
"""Labels of a task that the table lists."""
REASONS = 30
"""Reasons of refusal that are listed for each stage."""
RELATED = 10


def audit_page(audit: Audit, name: str = "") -> str:
    """Write the page; whatever a teacher wrote is escaped, and characters that cannot be seen are written out.

    Args:
        audit: what was found.
        name: of the study, or folder of the corpus.
    """
    title = f"{visible(audit.title)}: what the corpus is like"
    made = f"{visible(name or audit.title)}: {audit.texts:,} texts, {audit.words:,} words; tutelage {__version__}"
    drawings = {plot.name: plot for plot in draw_audit(audit)}
    parts = [
        size_table(audit),
        tasks_table(audit),
        drawings.get("labels"),
        labels_table(audit),
        certainty_table(audit),
        drawings.get("related"),
        related_table(audit),
        variety_table(audit),
        drawings.get("growth"),
        drawings.get("lengths"),
        openings_table(audit),
        overlap_table(audit),
        refused_table(audit),
        cost_table(audit),
        samples_table(audit),
    ]
    return page(title, made, [part for part in parts if part is not None], remarks(audit))


def remarks(audit: Audit) -> list[tuple[str, str]]:
    """What a reader should know before training on the corpus: a sentence each, and what to do."""
    found = []
    if not audit.texts:
        return [("The corpus is empty.", "Look into the quarantine for what became of the texts.")]
    empty = [name for name, task in audit.tasks.items() if task.labels and not task.labelled]
    if empty:
        found.append((f"{_tasks(len(empty))} no label at all: {_names(empty)}.", "Their heads would learn nothing."))
    unused = {
        name: [label for label, count in task.labels.items() if not count]
        for name, task in audit.tasks.items()
        if task.labelled
    }
    if some := [f"{visible(name)} ({_names(labels)})" for name, labels in unused.items() if labels]:
        found.append((f"Labels that never occur: {'; '.join(some[:5])}.", "Merge them in the plan, or ask for them."))
    lone = [name for name, task in audit.tasks.items() if (task.majority or 0) > 0.9]
    if lone:
        found.append((f"One label makes up more than 90 %: {_names(lone)}.", "Accuracy will say little there."))
    doubled = sum(audit.duplicates.values())
    if doubled:
        share = 100 * doubled / audit.texts
        found.append((f"{doubled:,} texts ({share:.1f} %) repeat others.", "`tutelage study filter` takes them out."))
    leaks = [suite for suite in audit.overlap if suite.found]
    if leaks:
        told = ", ".join(f"{s.found:,} of {s.sentences:,} of {visible(s.suite)}" for s in leaks)
        more = "Many of them would make scores too good; look at the examples, since stock phrases count too."
        found.append((f"Evaluation sentences stand in the corpus: {told}.", more))
    if audit.refused.get("filter") and not found:
        found.append(("Nothing conspicuous.", "The samples below are still worth reading."))
    return found


def _tasks(count: int) -> str:
    return f"{count} tasks have" if count > 1 else "One task has"


def _names(names: list[str]) -> str:
    told = ", ".join(visible(name) for name in names[:6])
    return told + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def draw_audit(audit: Audit) -> list[Plot]:
    """Draw every plot that the audit has material for."""
    plans = [
        ("labels", "Coverage and balance of labels", "Left: share of the texts a task could label that have a label. "
         "Right: each bar is a task, cut by the shares of its labels (of words, for tagging); grey: all after the "
         f"{plot_audit.SEGMENTS}th.", plot_audit.label_balance),
        ("related", "How much labels tell of each other", "Cramér's V of the labels of two tasks on the same texts, "
         "corrected for bias (Bergsma 2013): 0 independent, 1 one follows from the other. Tasks that say nearly the "
         "same teach little more than one.",
         plot_audit.related_tasks),
        ("growth", "New words", "A curve that flattens early shows a small vocabulary, or texts that repeat.",
         plot_audit.vocabulary_growth),
        ("lengths", "Lengths of texts", "Each bar holds the texts longer than the bar before; a pair counts as one.",
         plot_audit.text_lengths),
    ]  # fmt: skip
    with drawing():
        drawn = [(name, title, caption, draw(audit)) for name, title, caption, draw in plans]
    return [Plot(name, title, caption, found) for name, title, caption, found in drawn if found is not None]


def size_table(audit: Audit) -> Table:
    """Texts and words by kind of lesson."""
    rows = [
        (kind.replace("_", " "), f"{texts:,}", f"{words:,}", f"{words / texts:.1f}")
        for kind, (texts, words) in audit.kinds.items()
    ]
    if audit.texts:
        rows.append(("all", f"{audit.texts:,}", f"{audit.words:,}", f"{audit.words / audit.texts:.1f}"))
    spread = ", ".join(f"{n:,}" for n in audit.lengths)
    note = f"Words of a text at 0, 5, 25, 50, 75, 95 and 100 %: {spread}. " if spread else ""
    header = ("kind", "texts", "words", "words a text")
    return Table(title="Size", header=header, rows=tuple(rows), note=f"{note}A pair is one text.")


def tasks_table(audit: Audit) -> Table:
    """One row a task: texts written for it, texts labelled, balance."""
    rows = tuple(
        (
            visible(name),
            task.kind.replace("_", " "),
            f"{task.texts:,}" if task.texts else MISSING,
            f"{task.words:,}" if task.texts else MISSING,
            f"{task.labelled:,}" if task.labels else MISSING,
            _percent(task.labelled / task.could if task.could else None),
            str(len(task.labels)) if task.labels else MISSING,
            MISSING if task.balance is None else f"{task.balance:.2f}",
            _percent(task.majority),
        )
        for name, task in audit.tasks.items()
    )
    return Table(
        title="Tasks",
        header=(
            "task", "kind", "written for it", "words", "labelled", "of those it could", "labels", "balance",
            "commonest label",
        ),
        rows=rows,
        left=2,
        note="Of those it could: share of all single texts or pairs; for tagging of the single texts on one line that "
        "are short enough (`labelling.tagged_words`), tagged or not. Balance: entropy of the labels over that of equal "
        "shares (1 is even). The commonest label's share is what guessing gets right.",
    )  # fmt: skip


def labels_table(audit: Audit) -> Table:
    """One row a task: how often each label occurs."""
    rows = []
    for name, task in audit.tasks.items():
        counts = sorted(task.labels.items(), key=lambda item: -item[1])
        told = ", ".join(f"{visible(label)} {count:,}" for label, count in counts[:LABELS])
        if len(counts) > LABELS:
            told += f", and {len(counts) - LABELS} more"
        if task.outside:
            told += f"; outside the plan: {task.outside:,}"
        if counts:
            rows.append((visible(name), told))
    return Table(title="Labels", header=("task", "label and count"), rows=tuple(rows), left=2)


def certainty_table(audit: Audit) -> Table:
    """One row a task whose labels were asked for more than once."""
    rows = tuple(
        (visible(name), f"{task.votes:,}", f"{100 * (task.confidence or 0):.1f} %", _percent(task.sure))
        for name, task in audit.tasks.items()
        if task.votes
    )
    return Table(
        title="Agreement of votes",
        header=("task", "texts", "mean share of the majority", "unanimous"),
        rows=rows,
        note="Votes of one teacher: they show where it is unsure, not where it is wrong. A vote that came to nothing, "
        "since its answer stayed malformed or the budget ended, counts as one against.",
    )


def related_table(audit: Audit) -> Table:
    """The tasks whose labels tell most of each other's; nothing where the plot shows all there are."""
    if 3 <= len({name for one, other, *_ in audit.related for name in (one, other)}) <= plot_audit.RELATED:
        return Table(title="", header=(), rows=())
    rows = tuple(
        (visible(one), visible(other), f"{strength:.2f}", f"{texts:,}")
        for one, other, strength, texts in audit.related[:RELATED]
    )
    header = ("task", "and", "Cramér's V", "texts with both")
    note = "Corrected for bias (Bergsma 2013), and in the order of what chance can hardly account for."
    return Table(title="Most related tasks", header=header, rows=rows, left=2, note=note)


def variety_table(audit: Audit) -> Table:
    """How varied the texts are."""
    found = audit.variety
    if not audit.texts:
        return Table(title="Variety", header=(), rows=())
    rows = [
        ("different words", f"{audit.types:,}"),
        ("of these, occurring once", f"{audit.once:,}"),
        *(
            (f"distinct {'words' if n == 1 else f'{n}-grams'}", _percent(share))
            for n, share in enumerate(found.distinct, 1)
        ),
        ("size over compressed size", f"{found.compression:.2f}"),
        ("similarity of two texts", f"{found.similarity:.3f}"),
        ("similarity to the nearest text", f"{found.nearest:.3f}"),
        ("equal texts", f"{audit.duplicates['equal']:,}"),
        ("near duplicates", f"{audit.duplicates['near']:,}"),
    ]
    return Table(
        title="Variety",
        header=("measure", "value"),
        rows=tuple(rows),
        note=f"Distinct: in windows of {found.window:,} words, so that corpora of different sizes can be compared. "
        f"Similarity: Jaccard, of the word sets of {found.compared:,} texts drawn at random. Near duplicates: "
        f"{audit.threshold:g} or more, of word triples. All by words without case and punctuation.",
    )


def openings_table(audit: Audit) -> Table:
    """The commonest first words of texts."""
    opened = max(1, audit.variety.opened)
    rows = tuple(
        (visible(opening), f"{count:,}", f"{100 * count / opened:.2f} %") for opening, count in audit.variety.openings
    )
    return Table(title="Commonest openings", header=("first words", "texts", "of all"), rows=rows)


def overlap_table(audit: Audit) -> Table:
    """One row an evaluation set: how much of it stands in the corpus."""
    rows = tuple(
        (
            visible(suite.suite),
            "; ".join(f"“{visible(words)}”" for words in suite.examples) or MISSING,
            f"{suite.sentences:,}",
            f"{suite.compared:,}",
            f"{suite.found:,}",
            f"{suite.texts:,}",
        )
        for suite in audit.overlap
    )
    return Table(
        title="Overlap with evaluation sets",
        header=("set", "for example", "sentences", "compared", "found", "texts that have them"),
        rows=rows,
        left=2,
        note="So many words in a row as `filters.overlap.ngram` says, or whole sentences of five words and more; "
        "shorter ones are not compared.",
    )


def refused_table(audit: Audit) -> Table:
    """What went into quarantine, by stage and reason."""
    rows = []
    for stage, counts in audit.refused.items():
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        rows += [(visible(stage), visible(reason[:200]), f"{count:,}") for reason, count in ordered[:REASONS]]
        if len(ordered) > REASONS:
            rest = sum(count for _, count in ordered[REASONS:])
            rows.append((visible(stage), f"{len(ordered) - REASONS} other reasons", f"{rest:,}"))
    note = "Texts and labels that were not taken; each stands in `quarantine/` with its origin."
    return Table(title="Quarantine", header=("stage", "reason", "items"), rows=tuple(rows), left=2, note=note)


def cost_table(audit: Audit) -> Table:
    """What each stage asked of the teacher."""
    money = any(cost.money is not None for cost in audit.costs.values())
    rows = [
        (
            visible(stage),
            f"{cost.requests:,}",
            human(cost.read),
            human(cost.written),
            *([_money(cost.money)] if money else []),
        )
        for stage, cost in audit.costs.items()
    ]
    header = ("stage", "requests", "tokens read", "tokens written", *(["money"] if money else []))
    note = "Repeats included; money by `teacher.prices`, if given."
    return Table(title="Cost", header=header, rows=tuple(rows), note=note)


def samples_table(audit: Audit) -> Table:
    """A few texts for each task, drawn at random, with their labels."""
    rows = tuple(
        (visible(task), _sample(record), _labels(record))
        for task, samples in audit.samples.items()
        for record in samples
    )
    note = "Drawn at random: what was written for the task, or has its label. Long texts are cut."
    return Table(title="Samples", header=("task", "text", "labels"), rows=rows, left=3, note=note)


def _sample(record: Mapping[str, Any]) -> str:
    texts = [" ".join(record["words"]) if "words" in record else record["text"], record.get("text_pair")]
    return " ⏐ ".join(visible(text[:LONGEST]) + ("…" if len(text) > LONGEST else "") for text in texts if text)


def _labels(record: Mapping[str, Any]) -> str:
    sure = record.get("confidence", {})
    told = []
    for task, label in record.get("labels", {}).items():
        name = visible(label if isinstance(label, str) else " ".join(label[:40]) + ("…" if len(label) > 40 else ""))
        told.append(f"{visible(task)}: {name}" + (f" ({100 * sure[task]:.0f} %)" if task in sure else ""))
    return "; ".join(told) or MISSING


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f} %"


def _money(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
