"""The report's tables as plain text cells, made once; terminal, Markdown and HTML only dress them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tutelage.compare.comparisons import suites_of, values_of
from tutelage.compare.cost import cost_of, mean_of
from tutelage.compare.summary import Comparison, Summary
from tutelage.progress import duration, human

MISSING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text; the first `left` columns are words, the rest are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""


def models_table(summary: Summary) -> Table:
    """One row a model: size, held-out loss, scores and length; mean ± standard deviation over its seeds."""
    suites = list(dict.fromkeys(suite for model in summary.models.values() for suite in suites_of(model)))
    measures = {
        "test loss": ("test.loss", 3, 1),
        "perplexity": ("test.perplexity", 1, 1),
        "bits/byte": ("test.bits_per_byte", 3, 1),
        **{f"{suite} %": (f"{suite}.accuracy", 1, 100) for suite in suites},
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
                MISSING if model.parameters is None else human(model.parameters),
                str(len(model.seeds)),
                *(spread(values_of(model, metric), digits, scale) for metric, digits, scale in measures.values()),
                MISSING if words is None else human(words),
                MISSING if seconds is None else duration(seconds),
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

    `brief` leaves out measures that say nearly the same twice: bits per byte and strict accuracy.
    """
    entries = [entry for entry in _briefly(summary, brief) if entry.pairs]
    rows = tuple(
        (
            f"{entry.a} − {entry.b}",
            measure_name(entry.metric),
            difference(entry),
            interval(entry),
            p_value(entry.p) + (f" (flips {p_value(entry.permutation_p)})" if entry.permutation_p is not None else ""),
            str(entry.n),
            verdict(entry),
        )
        for entry in entries
    )
    levels = {f"{100 * entry.level:g} %" for entry in entries} or {"95 %"}
    return Table(
        title="Comparisons, paired by seed",
        header=("difference", "measure", "mean", f"{'/'.join(sorted(levels))} interval", "p", "seed pairs", "verdict"),
        rows=rows,
        left=2,
        note=_comparisons_note(entries),
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
    metrics = list(dict.fromkeys(entry.metric for entry in entries))
    pairs = list(dict.fromkeys((entry.a, entry.b) for entry in entries))
    cells = {(entry.a, entry.b, entry.metric): difference(entry) for entry in entries}
    return Table(
        title="Differences without a test",
        header=("difference", *(measure_name(metric) for metric in metrics)),
        rows=tuple((f"{a} − {b}", *(cells.get((a, b, metric), MISSING) for metric in metrics)) for a, b in pairs),
        note="One side has too few seeds to pair: these are differences of means, and may be chance.",
    )


def _briefly(summary: Summary, brief: bool) -> list[Comparison]:
    return [entry for entry in summary.comparisons if not brief or entry.metric.endswith((".loss", ".accuracy"))]


def cost_table(summary: Summary) -> Table:
    """What each model cost: its own training, its teachers' forward passes, and its teachers' training."""
    rows = []
    for name in summary.models:
        cost = cost_of(summary.models, name)
        outside = f" + {', '.join(cost.uncounted)} (trained elsewhere)" if cost.uncounted else ""
        rows.append(
            (
                name,
                _count(cost.flops),
                _count(cost.teacher_flops or None),
                _count(cost.teachers_training_flops or None) + outside,
                _count(cost.total_flops),
                _time(cost.seconds),
                _time(cost.seconds_teaching or None),
                _time(cost.total_seconds),
            )
        )
    return Table(
        title="Cost",
        header=(
            "model",
            "own FLOPs",
            "teachers' forward",
            "teachers' training",
            "total FLOPs",
            "time",
            "of it teaching",
            "time with teachers",
        ),
        rows=tuple(rows),
        note="Of one seed; a teacher's training counts once and whole, though all students and seeds share it.",
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
    rows = tuple((split, _exact(data.words.get(split)), _exact(data.tokens.get(split))) for split in splits)
    facts = [f"Corpus: {data.corpus}." if data.corpus else ""]
    facts.append(f"Vocabulary: {data.vocab_size:,}." if data.vocab_size else "")
    facts += [f"Bytes per token on {split}: {value:.2f}." for split, value in data.bytes_per_token.items()]
    return Table(
        title="Data", header=("split", "words", "tokens"), rows=rows, note=" ".join(fact for fact in facts if fact)
    )


def origin_table(summary: Summary) -> Table:
    """Versions and machine."""
    rows = [("tutelage", summary.tutelage), ("made", summary.created)]
    rows += [(key, MISSING if value is None else str(value)) for key, value in summary.versions.items()]
    rows += [
        (key.replace("_", " "), MISSING if value is None else str(value)) for key, value in summary.machine.items()
    ]
    return Table(title="Where it ran", header=("what", "value"), rows=tuple(rows), left=2)


def measure_name(metric: str) -> str:
    """A measure in words, with its unit."""
    source, _, name = metric.rpartition(".")
    if name == "loss":
        return "test loss (nats/token)"
    if name == "bits_per_byte":
        return "test bits/byte"
    return f"{source} {'strict' if name == 'strict' else 'accuracy'} (points)"


def scale_of(entry: Comparison) -> tuple[float, int]:
    """Factor and decimals for showing a comparison: accuracies in points, losses as they are."""
    return (100.0, 2) if entry.unit == "accuracy" else (1.0, 4)


def difference(entry: Comparison) -> str:
    """The mean difference with its sign."""
    scale, digits = scale_of(entry)
    return signed(entry.mean * scale, digits)


def interval(entry: Comparison) -> str:
    """The interval, or a dash where there is none."""
    if entry.interval is None:
        return MISSING
    scale, digits = scale_of(entry)
    low, high = (signed(end * scale, digits) for end in entry.interval)
    return f"{low} to {high}"


def verdict(entry: Comparison) -> str:
    """The verdict; where nothing was shown, with the size of effect that could have been."""
    if entry.verdict != "not shown" or entry.detectable is None:
        return entry.verdict
    scale, digits = scale_of(entry)
    return f"not shown (± {entry.detectable * scale:.{digits}f})"


def p_value(p: float | None) -> str:
    """A p-value with two significant digits."""
    if p is None:
        return MISSING
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus, and no negative zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def spread(values: dict[str, float], digits: int, scale: float = 1) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one seed."""
    scaled = [value * scale for value in values.values()]
    if not scaled:
        return MISSING
    around = f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{fmean(scaled):.{digits}f}{around}"


def flops_text(value: float) -> str:
    """FLOPs with three digits: 2.23e15."""
    return f"{value:.3g}".replace("e+", "e")


def _count(value: float | None) -> str:
    return MISSING if value is None else flops_text(value)


def _time(seconds: float | None) -> str:
    return MISSING if seconds is None else duration(seconds)


def _exact(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _setting(value: Any) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
