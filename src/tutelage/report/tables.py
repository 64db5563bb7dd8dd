"""The report's tables as plain text cells, made once; terminal, Markdown and HTML only dress them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tutelage.base.progress import duration, human
from tutelage.compare.cost import cost_of, mean_of
from tutelage.compare.metrics import MISSING, UNITS, headlines_of, main_evaluations, measure_name, spread, values_of
from tutelage.compare.summary import Summary
from tutelage.compare.summary_pairs import Comparison, CurveDifference, Reached

T = TypeVar("T")
WIDE = 3
"""More measures than this become rows rather than columns."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first `left` columns are words, the rest are numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    left: int = 1
    bold: Collection[tuple[int, int]] = ()
    """Cells that stand out: row, column."""
    green: Collection[tuple[int, int]] = ()
    """Cells that say what was shown, likewise."""
    parts: bool = False
    """Whether columns of numbers may go to a further table below, where a page is too narrow for all."""


def models_table(summary: Summary) -> Table:
    """One row a model: size, held-out loss, scores and length; mean ± standard deviation over its seeds.

    Of many evaluations the first few have a column here; `evaluations_table` has them all.
    """
    tested = {
        "test loss": ("test.loss", 3, 1.0),
        "perplexity": ("test.perplexity", 1, 1.0),
        "bits/byte": ("test.bits_per_byte", 3, 1.0),
    }
    # Where nothing was measured on the test split, validation is better than an empty column, under its own name.
    validated = {"val loss": ("val.loss", 3, 1.0), "val perplexity": ("val.perplexity", 1, 1.0)}
    measures = tested if any(values_of(model, "test.loss") for model in summary.models.values()) else validated
    for name in main_evaluations(summary):
        metric, unit = headlines_of(summary)[name]
        measures[f"{name} {UNITS[unit].sign}".strip()] = metric, UNITS[unit].digits, UNITS[unit].scale
    rows = [
        (
            name,
            model.role,
            cell(model.parameters, human),
            str(len(model.seeds)),
            *(spread(values_of(model, metric).values(), digits, scale) for metric, digits, scale in measures.values()),
            cell(mean_of(run.words for run in model.seeds.values()), human),
            cell(mean_of(run.seconds for run in model.seeds.values()), duration),
        )
        for name, model in summary.models.items()
    ]
    header = ("model", "role", "params", "seeds", *measures, f"{summary.data.unit} seen", "time")
    note = (
        f"Mean ± standard deviation over seeds. Loss in nats per token. {summary.data.unit.capitalize()} (repeats "
        "counted) and training time are of one seed."
    )
    return Table("Models", header, rows, note, left=2)


def comparisons_table(summary: Summary, brief: bool = False) -> Table:
    """One row a comparison of paired seeds: the difference, its interval, p-value and what may be said.

    `brief` leaves out measures that say nearly the same twice (bits per byte, strict accuracy) and, where evaluations
    are many, all but the first few and those that showed something.
    """
    entries = [entry for entry in _briefly(summary, brief) if entry.pairs]
    left_out = sum(bool(entry.pairs) for entry in summary.comparisons) - len(entries)
    rows = [
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
    ]
    header = ("difference", "measure", "mean", f"{levels(entries)} interval", "p", "seed pairs", "verdict")
    methods = sorted({entry.method for entry in entries if entry.interval is not None})
    notes = [f"Method: {', '.join(methods)}."] if methods else []
    notes.append(
        "“Not shown” is no proof of equality: effects below the ± given would mostly go unseen with so few seeds. "
        "Each interval stands alone, uncorrected for the number of rows."
    )
    notes += dict.fromkeys(f"{entry.note[0].upper()}{entry.note[1:]}." for entry in entries if entry.note)
    notes += [f"{left_out} more stand in the report."] if left_out else []
    green = {(row, 6) for row, entry in enumerate(entries) if entry.verdict.startswith("shown:")}
    return Table("Comparisons, paired by seed", header, rows, " ".join(notes), left=2, green=green)


def described_table(summary: Summary, brief: bool = False) -> Table:
    """One row a pair of models whose seeds do not pair: differences of means, by measure, without a test."""
    entries = [entry for entry in _briefly(summary, brief) if not entry.pairs]
    names = {entry.metric: measure_name(entry.metric, entry.unit) for entry in entries}
    pairs = list(dict.fromkeys((entry.a, entry.b) for entry in entries))
    cells = {(entry.a, entry.b, entry.metric): difference(entry) for entry in entries}
    title = "Differences without a test"
    note = "One side has too few seeds to pair: these are differences of means, and may be chance."
    if len(names) > WIDE:
        across = [(name, *(cells.get((*pair, metric), MISSING) for pair in pairs)) for metric, name in names.items()]
        return Table(title, ("measure", *(f"{a} − {b}" for a, b in pairs)), across, note, parts=True)
    rows = [(f"{a} − {b}", *(cells.get((a, b, metric), MISSING) for metric in names)) for a, b in pairs]
    return Table(title, ("difference", *names.values()), rows, note)


def _briefly(summary: Summary, brief: bool) -> list[Comparison]:
    if not brief:
        said = {(e.a, e.b, e.metric, difference(e), interval(e)) for e in summary.comparisons}
        # Where no item is tied, strict accuracy says nothing anew.
        return [
            e
            for e in summary.comparisons
            if not e.metric.endswith(".strict")
            or (e.a, e.b, f"{e.metric.removesuffix('.strict')}.accuracy", difference(e), interval(e)) not in said
        ]
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
    rows = [
        (
            name,
            cell(cost.flops, flops_text),
            cell(cost.teacher_flops or None, flops_text),
            *([cell(cost.scoring_flops or None, flops_text)] if scores else []),
            cell(cost.teachers_training_flops or None, flops_text)
            + (f" + {', '.join(cost.uncounted)} (trained elsewhere)" if cost.uncounted else ""),
            cell(cost.total_flops, flops_text),
            cell(cost.seconds, duration),
            cell(cost.seconds_teaching or None, duration),
            cell(cost.total_seconds, duration),
        )
        for name, cost in costs.items()
    ]
    scoring = ("scoring rows",) if scores else ()
    times = ("time", "of it teaching", "time with teachers")
    header = ("model", "own FLOPs", "teachers' forward", *scoring, "teachers' training", "total FLOPs", *times)
    note = "Of one seed; a teacher's training counts once and whole, though all students and seeds share it."
    note += " So does that of a scorer; the time has the scoring in it." if scores else ""
    return Table("Cost", header, rows, note)


def settings_tables(summary: Summary) -> list[Table]:
    """For each pair of models, the settings in which they differ."""
    tables = []
    for entry in summary.differences:
        rows = [(key, _setting(left), _setting(right)) for key, left, right in entry.keys]
        title = f"Settings that differ: {entry.a} and {entry.b}"
        tables.append(Table(title, ("setting", entry.a, entry.b), rows, left=3))
    return tables


def data_table(summary: Summary) -> Table:
    """Words and tokens of each split."""
    data = summary.data
    splits, counts = dict.fromkeys([*data.words, *data.tokens]), (data.words, data.tokens)
    rows = [(split, *(cell(count.get(split), "{:,}".format) for count in counts)) for split in splits]
    facts = [f"Corpus: {data.corpus}."] if data.corpus else []
    facts += [f"Vocabulary: {data.vocab_size:,}."] if data.vocab_size else []
    facts += [f"Bytes per token on {split}: {value:.2f}." for split, value in data.bytes_per_token.items()]
    return Table("Data", ("split", data.unit, "tokens"), rows, " ".join(facts))


def origin_table(summary: Summary) -> Table:
    """Versions and machine."""
    machine = {key.replace("_", " "): value for key, value in summary.machine.items()}
    facts = [("tutelage", summary.tutelage), ("made", summary.created), *summary.versions.items(), *machine.items()]
    return Table("Where it ran", ("what", "value"), [(key, cell(value)) for key, value in facts], left=2)


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
    return MISSING if p is None else "<0.0001" if p < 1e-4 else f"{p:.2g}"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus, and no negative zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def flops_text(value: float) -> str:
    """FLOPs with three digits: 2.23e15."""
    return f"{value:.3g}".replace("e+", "e")


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else cell(value, partial(json.dumps, ensure_ascii=False))
