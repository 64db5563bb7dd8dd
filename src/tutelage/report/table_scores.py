"""Tables of evaluations: every score of every model, and what others published."""

from __future__ import annotations

from statistics import fmean

from tutelage.compare.metrics import (
    FEW,
    MISSING,
    UNITS,
    evaluations_of,
    facts_of,
    items_of,
    measured_of,
    notes_of,
    spread,
    values_of,
)
from tutelage.compare.summary import ModelSummary, Summary
from tutelage.evaluation.baselines import Published, relevant, wanted
from tutelage.report.tables import Table


def evaluations_table(summary: Summary, brief: bool = False, always: bool = False) -> Table:
    """One row a measure, one column a model; mean ± standard deviation over seeds, the best mean of a row in bold.

    Empty, unless `always`, where the table of models has everything: few evaluations, all of them suites. `brief`
    keeps headlines only.
    """
    names = evaluations_of(summary)
    rows: list[tuple[str, ...]] = []
    bold: set[tuple[int, int]] = set()
    if always or len(names) > FEW or any(measured_of(model) for model in summary.models.values()):
        for name in names:
            for metric in _metrics(summary, name, brief):
                bold |= {(len(rows), 3 + i) for i in _best(summary, metric)}
                rows.append(_row(summary, name, metric))
    return Table(
        title="Evaluations",
        header=("evaluation", "measure", "items", *summary.models),
        rows=tuple(rows),
        left=2,
        note=_note(summary, names, brief),
        bold=frozenset(bold),
        parts=True,
    )


def how_scored(summary: Summary) -> str:
    """Say by whose rules models from elsewhere were scored, and fine-tuned where they were."""
    settings = summary.resolved_recipe
    said = f"Convention of {settings['evaluation']['convention']}, arithmetic in {settings['precision']}."
    if any(name.partition(":")[0] == "glue" for name in settings["evaluate"]):
        rules = settings["evaluation"]["finetune"]["rules"]
        whose = (
            "tutelage's own settings (--convention YEAR takes a year's)"
            if rules == "tutelage"
            else f"the settings of {rules}"
        )
        said += f" Fine-tuned by {whose}."
    return said


def published_table(summary: Summary, brief: bool = False) -> Table:
    """What others published on the evaluations that were made here, each with its year's convention.

    `brief` leaves out where the numbers stand.
    """
    evaluations = evaluations_of(summary)
    systems = relevant(evaluations)
    names = [name for name in wanted(evaluations) if any(name in system.scores for system in systems)]
    rows = tuple(
        (
            system.name,
            system.words,
            system.convention,
            *(() if brief else (system.cited,)),
            *(f"{system.scores[name]:.1f}" if name in system.scores else MISSING for name in names),
        )
        for system in systems
    )
    return Table(
        title="Published by others",
        header=("system", "words", "rules of", *(() if brief else ("source",)), *(f"{name} %" for name in names)),
        rows=rows,
        left=3 if brief else 4,
        note=_published_note(systems, brief),
    )


def _published_note(systems: list[Published], brief: bool) -> str:
    if not systems:
        return ""
    notes = dict.fromkeys(f"{system.name}: {system.note}." for system in systems if system.note and not brief)
    return " ".join(
        [
            "Not measured here, and part of no comparison: other corpora, other lengths of training, and where the "
            "convention is another, other rules of scoring.",
            *notes,
        ]
    )


def _metrics(summary: Summary, name: str, brief: bool) -> list[str]:
    """The measures of an evaluation, its headline first."""
    measured = [m for model in summary.models.values() if (m := measured_of(model).get(name)) is not None]
    if not measured:
        strict = not brief and any(_ties(model, name) for model in summary.models.values())
        return [f"{name}.accuracy", *([f"{name}.strict"] if strict else [])]
    keys = dict.fromkeys(key for one in measured for key in (one.headline, *one.values))
    return [f"{name}.{key}" for key in keys if not brief or key in {one.headline for one in measured}]


def _ties(model: ModelSummary, suite: str) -> bool:
    """Whether strict accuracy, where a tie is wrong, is another number once it is written down."""
    scores = [run.suites[suite] for run in model.seeds.values() if suite in run.suites]
    return any(s.strict is not None and abs(s.accuracy - s.strict) >= 0.0005 for s in scores)


def _row(summary: Summary, name: str, metric: str) -> tuple[str, ...]:
    models = summary.models.values()
    unit, better = next((unit, better) for model in models for unit, better, _ in facts_of(model, metric))
    shown = UNITS[unit]
    words = f"{metric.rpartition('.')[2].replace('_', ' ')} {f'({shown.sign})' if shown.sign else ''}".strip()
    count = max(items_of(model, metric) for model in models)
    cells = (spread(values_of(model, metric).values(), shown.digits, shown.scale) for model in models)
    return name, words + (" ↓" if better == "lower" else ""), f"{count:,}" if count else MISSING, *cells


def _best(summary: Summary, metric: str) -> list[int]:
    """The models with the best mean, as it is written; none where fewer than two were measured, or all are equal."""
    facts = {fact for model in summary.models.values() for fact in facts_of(model, metric)}
    if len(facts) != 1:
        return []  # measured under different rules
    unit, better, _ = next(iter(facts))
    means = {}
    for i, model in enumerate(summary.models.values()):
        if values := values_of(model, metric):
            means[i] = round(fmean(values.values()) * UNITS[unit].scale, UNITS[unit].digits)
    if len(set(means.values())) < 2:
        return []
    best = min(means.values()) if better == "lower" else max(means.values())
    return [i for i, mean in means.items() if mean == best]


def _note(summary: Summary, names: list[str], brief: bool) -> str:
    several = any(len(model.seeds) > 1 for model in summary.models.values())
    parts = ["Mean ± standard deviation over seeds." if several else ""]
    parts.append("The best of a row in bold, which is no test." if len(summary.models) > 1 else "")
    parts.append("Higher is better, but where ↓ stands.")
    remarks: dict[str, list[str]] = {}
    for name in names:
        for metric in _metrics(summary, name, brief):
            for model_name, model in summary.models.items():
                for note in notes_of(model, metric):
                    remarks.setdefault(f"{metric}: {note}", []).append(model_name)
    for text, who in remarks.items():
        whose = "" if len(who) == len(summary.models) else f" ({', '.join(who)})"
        parts.append(f"{text}{whose}.")
    years = {suite.convention for m in summary.models.values() for r in m.seeds.values() for suite in r.suites.values()}
    years |= {one.convention for model in summary.models.values() for one in measured_of(model).values()}
    parts.append(f"Convention: {', '.join(sorted(years))}." if years else "")
    return " ".join(part for part in parts if part)
