"""The report's tables as plain text cells, made once; terminal, Markdown and HTML only dress them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tutelage.base.progress import duration, human
from tutelage.compare.cost import cost_of, mean_of
from tutelage.compare.metrics import (
    MISSING,
    UNITS,
    headlines_of,
    main_evaluations,
    measure_name,
    spread,
    values_of,
)
from tutelage.compare.summary import Summary
from tutelage.compare.summary_pairs import Comparison, CurveDifference, Reached

T = TypeVar("T")
WIDE = 3
"""More measures than this become rows rather than columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text; the first `left` columns are words, the rest are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()
    """Cells that stand out: row, column."""
    green: frozenset[tuple[int, int]] = frozenset()
    """Cells that say what was shown, likewise."""
    parts: bool = False
    """Whether columns of numbers may go to a further table below, where a page is too narrow for all."""


def models_table(summary: Summary) -> Table:
    """One row a model: size, held-out loss, scores and length; mean ± standard deviation over its seeds.

    Of many evaluations the first few have a column here; `evaluations_table` has them all.
    """
    headlines = headlines_of(summary)
    measures = {
        "test loss": ("test.loss", 3, 1),
        "perplexity": ("test.perplexity", 1, 1),
        "bits/byte": ("test.bits_per_byte", 3, 1),
        **{
            f"{name} {UNITS[unit].sign}".strip(): (metric, UNITS[unit].digits, UNITS[unit].scale)
            for name, (metric, unit) in headlines.items()
            if name in main_evaluations(summary)
        },
    }
    # Where nothing was measured on the test split, validation is better than an empty column, under its own name.
    if not any(values_of(model, "test.loss") for model in summary.models.values()):
        measures = {
            "val loss": ("val.loss", 3, 1),
            "val perplexity": ("val.perplexity", 1, 1),
            **{key: value for key, value in measures.items() if not value[0].startswith("test.")},
        }
    rows = []
    for name, model in summary.models.items():
        runs = model.seeds.values()
        words, seconds = mean_of(run.words for run in runs), mean_of(run.seconds for run in runs)
        rows.append(
            (
                name,
                model.role,
                cell(model.parameters, human),
                str(len(model.seeds)),
                *(
                    spread(values_of(model, metric).values(), digits, scale)
                    for metric, digits, scale in measures.values()
                ),
                cell(words, human),
                cell(seconds, duration),
            )
        )
    return Table(
        title="Models",
        header=("model", "role", "params", "seeds", *measures, "words seen", "time"),
        rows=tuple(rows),
        left=2,
        note="Mean ± standard deviation over seeds. Loss in nats per token. Words (repeats counted) and training time "
        "are of one seed.",
    )


def comparisons_table(summary: Summary, brief: bool = False) -> Table:
    """One row a comparison of paired seeds: the difference, its interval, p-value and what may be said.

    `brief` leaves out measures that say nearly the same twice (bits per byte, strict accuracy) and, where evaluations
    are many, all but the first few and those that showed something.
    """
    entries = [entry for entry in _briefly(summary, brief) if entry.pairs]
    left_out = sum(bool(entry.pairs) for entry in summary.comparisons) - len(entries)
    rows = tuple(
        (
            f"{entry.a} − {entry.b}",
            measure_name(entry.metric, entry.unit),
            difference(entry),
            interval(entry),
            p_value(entry.p) + (f" (flips {p_value(entry.permutation_p)})" if entry.permutation_p is not None else ""),
            str(entry.n),
            verdict_cell(entry),
        )
        for entry in entries
    )
    return Table(
        title="Comparisons, paired by seed",
        header=("difference", "measure", "mean", f"{levels(entries)} interval", "p", "seed pairs", "verdict"),
        rows=rows,
        left=2,
        green=frozenset((row, 6) for row, entry in enumerate(entries) if entry.verdict.startswith("shown:")),
        note=_comparisons_note(entries) + (f" {left_out} more stand in the report." if left_out else ""),
    )


def _comparisons_note(entries: Sequence[Comparison]) -> str:
    methods = sorted({entry.method for entry in entries if entry.interval is not None})
    notes = list(dict.fromkeys(entry.note for entry in entries if entry.note and entry.pairs))
    parts = [f"Method: {', '.join(methods)}." if methods else ""]
    parts.append(
        "“Not shown” is no proof of equality: effects below the ± given would mostly go unseen with so few seeds. "
        "Each interval stands alone, uncorrected for the number of rows."
    )
    parts += [f"{note[0].upper()}{note[1:]}." for note in notes]
    return " ".join(part for part in parts if part)


def described_table(summary: Summary, brief: bool = False) -> Table:
    """One row a pair of models whose seeds do not pair: differences of means, by measure, without a test."""
    entries = [entry for entry in _briefly(summary, brief) if not entry.pairs]
    names = {entry.metric: measure_name(entry.metric, entry.unit) for entry in entries}
    pairs = list(dict.fromkeys((entry.a, entry.b) for entry in entries))
    cells = {(entry.a, entry.b, entry.metric): difference(entry) for entry in entries}
    title = "Differences without a test"
    note = "One side has too few seeds to pair: these are differences of means, and may be chance."
    if len(names) > WIDE:
        across = tuple(
            (name, *(cells.get((a, b, metric), MISSING) for a, b in pairs)) for metric, name in names.items()
        )
        header = ("measure", *(f"{a} − {b}" for a, b in pairs))
        return Table(title=title, header=header, rows=across, note=note, parts=True)
    rows = tuple((f"{a} − {b}", *(cells.get((a, b, metric), MISSING) for metric in names)) for a, b in pairs)
    return Table(title=title, header=("difference", *names.values()), rows=rows, note=note)


def _briefly(summary: Summary, brief: bool) -> list[Comparison]:
    if not brief:
        return summary.comparisons
    main = {"test", *main_evaluations(summary)}
    return [
        entry
        for entry in summary.comparisons
        if entry.metric != "test.bits_per_byte"
        and not entry.metric.endswith(".strict")
        and (entry.metric.rpartition(".")[0] in main or entry.verdict.startswith("shown"))
    ]


def cost_table(summary: Summary) -> Table:
    """What each model cost: its own training, teachers' forward passes and scoring, and its teachers' training."""
    costs = {name: cost_of(summary.models, name) for name in summary.models}
    scores = any(cost.scoring_flops for cost in costs.values())
    rows = []
    for name, cost in costs.items():
        outside = f" + {', '.join(cost.uncounted)} (trained elsewhere)" if cost.uncounted else ""
        rows.append(
            (
                name,
                cell(cost.flops, flops_text),
                cell(cost.teacher_flops or None, flops_text),
                *([cell(cost.scoring_flops or None, flops_text)] if scores else []),
                cell(cost.teachers_training_flops or None, flops_text) + outside,
                cell(cost.total_flops, flops_text),
                cell(cost.seconds, duration),
                cell(cost.seconds_teaching or None, duration),
                cell(cost.total_seconds, duration),
            )
        )
    return Table(
        title="Cost",
        header=(
            "model",
            "own FLOPs",
            "teachers' forward",
            *(["scoring rows"] if scores else []),
            "teachers' training",
            "total FLOPs",
            "time",
            "of it teaching",
            "time with teachers",
        ),
        rows=tuple(rows),
        note="Of one seed; a teacher's training counts once and whole, though all students and seeds share it."
        + (" So does that of a scorer; the time has the scoring in it." if scores else ""),
    )


def settings_tables(summary: Summary) -> list[Table]:
    """For each pair of models, the settings in which they differ."""
    return [
        Table(
            title=f"Settings that differ: {entry.a} and {entry.b}",
            header=("setting", entry.a, entry.b),
            rows=tuple((key, _setting(left), _setting(right)) for key, left, right in entry.keys),
            left=3,
        )
        for entry in summary.differences
    ]


def data_table(summary: Summary) -> Table:
    """Words and tokens of each split."""
    data = summary.data
    splits = list(dict.fromkeys([*data.words, *data.tokens]))
    counts = (data.words, data.tokens)
    rows = tuple((split, *(cell(count.get(split), "{:,}".format) for count in counts)) for split in splits)
    facts = [f"Corpus: {data.corpus}." if data.corpus else ""]
    facts.append(f"Vocabulary: {data.vocab_size:,}." if data.vocab_size else "")
    facts += [f"Bytes per token on {split}: {value:.2f}." for split, value in data.bytes_per_token.items()]
    return Table(
        title="Data", header=("split", "words", "tokens"), rows=rows, note=" ".join(fact for fact in facts if fact)
    )


def origin_table(summary: Summary) -> Table:
    """Versions and machine."""
    rows = [("tutelage", summary.tutelage), ("made", summary.created)]
    rows += [(key, cell(value)) for key, value in summary.versions.items()]
    rows += [(key.replace("_", " "), cell(value)) for key, value in summary.machine.items()]
    return Table(title="Where it ran", header=("what", "value"), rows=tuple(rows), left=2)


def amount(entry: Comparison, value: float, sign: bool = False) -> str:
    """A number of a comparison as it is shown: accuracies in points, losses as they are."""
    shown = UNITS[entry.unit]
    return signed(value * shown.scale, shown.finer) if sign else f"{value * shown.scale:.{shown.finer}f}"


def difference(entry: Comparison) -> str:
    """The mean difference with its sign."""
    return amount(entry, entry.mean, sign=True)


def interval(entry: Comparison) -> str:
    """The interval, or a dash where there is none."""
    return " to ".join(amount(entry, end, sign=True) for end in entry.interval or ()) or MISSING


def verdict_cell(entry: Comparison) -> str:
    """The verdict; where nothing was shown, with the size of effect that could have been."""
    if entry.verdict != "not shown" or entry.detectable is None:
        return entry.verdict
    return f"not shown (± {amount(entry, entry.detectable)})"


def cell(value: T | None, form: Callable[[T], str] = str) -> str:
    """A value in some form, or a dash where it is missing."""
    return MISSING if value is None else form(value)


def levels(entries: Iterable[Comparison | CurveDifference | Reached]) -> str:
    """The levels of intervals, in percent: one, unless somebody asked for others."""
    return "/".join(sorted({f"{100 * entry.level:g} %" for entry in entries} or {"95 %"}))


def p_value(p: float | None) -> str:
    """A p-value with two significant digits."""
    if p is None:
        return MISSING
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus, and no negative zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def flops_text(value: float) -> str:
    """FLOPs with three digits: 2.23e15."""
    return f"{value:.3g}".replace("e+", "e")


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else cell(value, partial(json.dumps, ensure_ascii=False))
