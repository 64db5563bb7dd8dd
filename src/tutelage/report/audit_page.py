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
from tutelage.report.tables import Table, cell
from tutelage.study.filter.audit import Audit
from tutelage.study.filter.text import visible

LONGEST, LABELS, REASONS, RELATED = 400, 40, 30, 10
"""Shown at most: characters of a sample, labels of a task, reasons of refusal a stage, pairs of related tasks."""


def audit_page(audit: Audit, name: str = "") -> str:
    """Write the page; whatever a teacher wrote is escaped, and characters that cannot be seen are written out.

    `name` is that of the study, or the folder of the corpus.
    """
    title = f"{visible(audit.title)}: what the corpus is like"
    made = f"{visible(name or audit.title)}: {audit.texts:,} texts, {audit.words:,} words; tutelage {__version__}"
    drawings = {plot.name: plot for plot in draw_audit(audit)}
    parts = [
        size_table(audit), tasks_table(audit), drawings.get("labels"), labels_table(audit), certainty_table(audit),
        drawings.get("related"), related_table(audit), variety_table(audit), drawings.get("growth"),
        drawings.get("lengths"), openings_table(audit), overlap_table(audit), refused_table(audit), cost_table(audit),
        samples_table(audit),
    ]  # fmt: skip
    return page(title, made, [part for part in parts if part is not None], remarks(audit))


def remarks(audit: Audit) -> list[tuple[str, str]]:
    """What a reader should know before training on the corpus: a sentence each, and what to do."""
    found = []
    if not audit.texts:
        return [("The corpus is empty.", "Look into the quarantine for what became of the texts.")]
    if empty := [name for name, task in audit.tasks.items() if task.labels and not task.labelled]:
        have = f"{len(empty)} tasks have" if len(empty) > 1 else "One task has"
        found.append((f"{have} no label at all: {_names(empty)}.", "Their heads would learn nothing."))
    labelled = {name: task.labels.items() for name, task in audit.tasks.items() if task.labelled}
    unused = {name: [label for label, count in labels if not count] for name, labels in labelled.items()}
    if some := [f"{visible(name)} ({_names(labels)})" for name, labels in unused.items() if labels]:
        found.append((f"Labels that never occur: {'; '.join(some[:5])}.", "Merge them in the plan, or ask for them."))
    if lone := [name for name, task in audit.tasks.items() if (task.majority or 0) > 0.9]:
        found.append((f"One label makes up more than 90 %: {_names(lone)}.", "Accuracy will say little there."))
    if doubled := sum(audit.duplicates.values()):
        repeat = f"{doubled:,} texts ({_percent(doubled / audit.texts)}) repeat others."
        found.append((repeat, "`tutelage study filter` takes them out."))
    if leaks := [suite for suite in audit.overlap if suite.found]:
        told = ", ".join(f"{s.found:,} of {s.sentences:,} of {visible(s.suite)}" for s in leaks)
        more = "Many of them would make scores too good; look at the examples, since stock phrases count too."
        found.append((f"Evaluation sentences stand in the corpus: {told}.", more))
    if audit.refused.get("filter") and not found:
        found.append(("Nothing conspicuous.", "The samples below are still worth reading."))
    return found


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
         "same teach little more than one.", plot_audit.related_tasks),
        ("growth", "New words", "A curve that flattens early shows a small vocabulary, or texts that repeat.",
         plot_audit.vocabulary_growth),
        ("lengths", "Lengths of texts", "Each bar holds the texts longer than the bar before; a pair counts as one.",
         plot_audit.text_lengths),
    ]  # fmt: skip
    with drawing():
        drawn = [(name, title, caption, draw(audit)) for name, title, caption, draw in plans]
    return [Plot(*plot) for plot in drawn if plot[-1] is not None]


def size_table(audit: Audit) -> Table:
    """Texts and words by kind of lesson."""
    counts = [(kind.replace("_", " "), *found) for kind, found in audit.kinds.items()]
    counts += [("all", audit.texts, audit.words)] if audit.texts else []
    rows = [(kind, f"{texts:,}", f"{words:,}", f"{words / texts:.1f}") for kind, texts, words in counts]
    spread = ", ".join(f"{n:,}" for n in audit.lengths)
    note = f"Words of a text at 0, 5, 25, 50, 75, 95 and 100 %: {spread}. " if spread else ""
    return Table("Size", ("kind", "texts", "words", "words a text"), rows, f"{note}A pair is one text.")


def tasks_table(audit: Audit) -> Table:
    """One row a task: texts written for it, texts labelled, balance."""
    rows = [
        (
            visible(name),
            task.kind.replace("_", " "),
            f"{task.texts:,}" if task.texts else MISSING,
            f"{task.words:,}" if task.texts else MISSING,
            f"{task.labelled:,}" if task.labels else MISSING,
            _percent(task.labelled / task.could if task.could else None),
            str(len(task.labels)) if task.labels else MISSING,
            cell(task.balance, "{:.2f}".format),
            _percent(task.majority),
        )
        for name, task in audit.tasks.items()
    ]
    header = ("task", "kind", "written for it", "words", "labelled", "of those it could", "labels", "balance",
              "commonest label")  # fmt: skip
    note = (
        "Of those it could: share of all single texts or pairs; for tagging of the single texts on one line that "
        "are short enough (`labelling.tagged_words`), tagged or not. Balance: entropy of the labels over that of equal "
        "shares (1 is even). The commonest label's share is what guessing gets right."
    )
    return Table("Tasks", header, rows, note, left=2)


def labels_table(audit: Audit) -> Table:
    """One row a task: how often each label occurs."""
    rows = []
    for name, task in audit.tasks.items():
        counts = sorted(task.labels.items(), key=lambda item: -item[1])
        told = ", ".join(f"{visible(label)} {count:,}" for label, count in counts[:LABELS])
        told += f", and {len(counts) - LABELS} more" if len(counts) > LABELS else ""
        told += f"; outside the plan: {task.outside:,}" if task.outside else ""
        rows += [(visible(name), told)] if counts else []
    return Table("Labels", ("task", "label and count"), rows, left=2)


def certainty_table(audit: Audit) -> Table:
    """One row a task whose labels were asked for more than once."""
    rows = [
        (visible(name), f"{task.votes:,}", _percent(task.confidence or 0), _percent(task.sure))
        for name, task in audit.tasks.items()
        if task.votes
    ]
    note = (
        "Votes of one teacher: they show where it is unsure, not where it is wrong. A vote that came to nothing, "
        "since its answer stayed malformed or the budget ended, counts as one against."
    )
    return Table("Agreement of votes", ("task", "texts", "mean share of the majority", "unanimous"), rows, note)


def related_table(audit: Audit) -> Table:
    """The tasks whose labels tell most of each other's; nothing where the plot shows all there are."""
    if 3 <= len({name for one, other, *_ in audit.related for name in (one, other)}) <= plot_audit.RELATED:
        return Table("", (), ())
    rows = [(visible(a), visible(b), f"{strength:.2f}", f"{n:,}") for a, b, strength, n in audit.related[:RELATED]]
    note = "Corrected for bias (Bergsma 2013), and in the order of what chance can hardly account for."
    return Table("Most related tasks", ("task", "and", "Cramér's V", "texts with both"), rows, note, left=2)


def variety_table(audit: Audit) -> Table:
    """How varied the texts are."""
    found = audit.variety
    rows = [
        ("different words", f"{audit.types:,}"),
        ("of these, occurring once", f"{audit.once:,}"),
        *((f"distinct {f'{n}-grams' if n > 1 else 'words'}", _percent(d)) for n, d in enumerate(found.distinct, 1)),
        ("size over compressed size", f"{found.compression:.2f}"),
        ("similarity of two texts", f"{found.similarity:.3f}"),
        ("similarity to the nearest text", f"{found.nearest:.3f}"),
        ("equal texts", f"{audit.duplicates['equal']:,}"),
        ("near duplicates", f"{audit.duplicates['near']:,}"),
    ]
    note = (
        f"Distinct: in windows of {found.window:,} words, so that corpora of different sizes can be compared. "
        f"Similarity: Jaccard, of the word sets of {found.compared:,} texts drawn at random. Near duplicates: "
        f"{audit.threshold:g} or more, of word triples. All by words without case and punctuation."
    )
    return Table("Variety", ("measure", "value"), rows if audit.texts else (), note)


def openings_table(audit: Audit) -> Table:
    """The commonest first words of texts."""
    opened = max(1, audit.variety.opened)
    rows = [(visible(words), f"{count:,}", f"{100 * count / opened:.2f} %") for words, count in audit.variety.openings]
    return Table("Commonest openings", ("first words", "texts", "of all"), rows)


def overlap_table(audit: Audit) -> Table:
    """One row an evaluation set: how much of it stands in the corpus."""
    rows = [
        (
            visible(suite.suite),
            "; ".join(f"“{visible(words)}”" for words in suite.examples) or MISSING,
            *(f"{count:,}" for count in (suite.sentences, suite.compared, suite.found, suite.texts)),
        )
        for suite in audit.overlap
    ]
    header = ("set", "for example", "sentences", "compared", "found", "texts that have them")
    note = (
        "So many words in a row as `filters.overlap.ngram` says, or whole sentences of five words and more; "
        "shorter ones are not compared."
    )
    return Table("Overlap with evaluation sets", header, rows, note, left=2)


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
    return Table("Quarantine", ("stage", "reason", "items"), rows, note, left=2)


def cost_table(audit: Audit) -> Table:
    """What each stage asked of the teacher."""
    money = any(cost.money is not None for cost in audit.costs.values())
    rows = [
        (visible(stage), f"{cost.requests:,}", human(cost.read), human(cost.written), cell(cost.money, "{:.2f}".format))
        for stage, cost in audit.costs.items()
    ]
    header = ("stage", "requests", "tokens read", "tokens written", "money")
    note = "Repeats included; money by `teacher.prices`, if given."
    return Table("Cost", header if money else header[:-1], rows if money else [row[:-1] for row in rows], note)


def samples_table(audit: Audit) -> Table:
    """A few texts for each task, drawn at random, with their labels."""
    rows = [(visible(task), _sample(one), _labels(one)) for task, found in audit.samples.items() for one in found]
    note = "Drawn at random: what was written for the task, or has its label. Long texts are cut."
    return Table("Samples", ("task", "text", "labels"), rows, note, left=3)


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
