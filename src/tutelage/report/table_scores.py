"""Tables of evaluations: every score of every model, and what others published."""

from __future__ import annotations

from statistics import fmean

from tutelage.compare import metrics
from tutelage.compare.metrics import MISSING, UNITS, evaluations_of, facts_of, measured_of, values_of
from tutelage.compare.summary import Summary
from tutelage.evaluation.baselines import relevant, wanted
from tutelage.report.tables import Table, cell


def evaluations_table(summary: Summary, brief: bool = False, always: bool = False) -> Table:
    """One row a measure, one column a model; mean ± standard deviation over seeds, the best mean of a row in bold.

    Empty, unless `always`, where the table of models has everything: few evaluations, all of them suites. `brief`
    keeps headlines only.
    """
    names = evaluations_of(summary)
    rows: list[tuple[str, ...]] = []
    bold: set[tuple[int, int]] = set()
    if always or len(names) > metrics.FEW or any(measured_of(model) for model in summary.models.values()):
        for name in names:
            for metric in _metrics(summary, name, brief):
                bold |= {(len(rows), 3 + i) for i in _best(summary, metric)}
                rows.append(_row(summary, name, metric))
    header = ("evaluation", "measure", "items", *summary.models)
    return Table("Evaluations", header, rows, _note(summary, names, brief), left=2, bold=bold, parts=True)


def how_scored(summary: Summary) -> str:
    """Say by whose rules models from elsewhere were scored, and fine-tuned where they were."""
    settings = summary.resolved_recipe
    said = f"Convention of {settings['evaluation']['convention']}, arithmetic in {settings['precision']}."
    if any(name.partition(":")[0] == "glue" for name in settings["evaluate"]):
        rules = settings["evaluation"]["finetune"]["rules"]
        own = "tutelage's own settings (--convention YEAR takes a year's)"
        said += f" Fine-tuned by {own if rules == 'tutelage' else f'the settings of {rules}'}."
    return said


def published_table(summary: Summary, brief: bool = False) -> Table:
    """What others published on the evaluations that were made here, each with its year's convention.

    `brief` leaves out where the numbers stand.
    """
    evaluations = evaluations_of(summary)
    systems = relevant(evaluations)
    names = [name for name in wanted(evaluations) if any(name in system.scores for system in systems)]
    left = 3 if brief else 4
    rows = [
        (
            *(system.name, system.words, system.convention, system.cited)[:left],
            *(cell(system.scores.get(name), "{:.1f}".format) for name in names),
        )
        for system in systems
    ]
    header = (*("system", "words", "rules of", "source")[:left], *(f"{name} %" for name in names))
    note = (
        "Not measured here, and part of no comparison: other corpora, other lengths of training, and where the "
        "convention is another, other rules of scoring."
    )
    notes = dict.fromkeys(f"{system.name}: {system.note}." for system in systems if system.note and not brief)
    return Table("Published by others", header, rows, " ".join([note, *notes]) if systems else "", left)


def _metrics(summary: Summary, name: str, brief: bool) -> list[str]:
    """The measures of an evaluation, its headline first."""
    models = summary.models.values()
    if measured := [m for model in models if (m := measured_of(model).get(name)) is not None]:
        keys = dict.fromkeys(key for one in measured for key in (one.headline, *one.values))
        return [f"{name}.{key}" for key in keys if not brief or key in {one.headline for one in measured}]
    # Strict accuracy, where a tie is wrong, is shown where it is another number once it is written down.
    scores = [run.suites[name] for model in models for run in model.seeds.values() if name in run.suites]
    strict = any(s.strict is not None and abs(s.accuracy - s.strict) >= 0.0005 for s in scores)
    return [f"{name}.accuracy", *([f"{name}.strict"] if strict and not brief else [])]


def _row(summary: Summary, name: str, metric: str) -> tuple[str, ...]:
    models = summary.models.values()
    unit, better = next((unit, better) for model in models for unit, better, _ in facts_of(model, metric))
    shown = UNITS[unit]
    words = f"{metric.rpartition('.')[2].replace('_', ' ')} {f'({shown.sign})' if shown.sign else ''}".strip()
    count = max(metrics.items_of(model, metric) for model in models)
    cells = (metrics.spread(values_of(model, metric).values(), shown.digits, shown.scale) for model in models)
    return name, words + (" ↓" if better == "lower" else ""), f"{count:,}" if count else MISSING, *cells


def _best(summary: Summary, metric: str) -> list[int]:
    """The models with the best mean, as it is written; none where fewer than two were measured, or all are equal."""
    facts = {fact for model in summary.models.values() for fact in facts_of(model, metric)}
    if len(facts) != 1:
        return []  # measured under different rules
    unit, better, _ = next(iter(facts))
    values = {i: found for i, model in enumerate(summary.models.values()) if (found := values_of(model, metric))}
    shown = UNITS[unit]
    means = {i: round(fmean(found.values()) * shown.scale, shown.digits) for i, found in values.items()}
    best = (min if better == "lower" else max)(means.values(), default=None)
    return [i for i, mean in means.items() if mean == best] if len(set(means.values())) > 1 else []


def _note(summary: Summary, names: list[str], brief: bool) -> str:
    models = summary.models
    several = any(len(model.seeds) > 1 for model in models.values())
    parts = ["Mean ± standard deviation over seeds."] if several else []
    parts += ["The best of a row in bold, which is no test."] if len(models) > 1 else []
    parts.append("Higher is better, but where ↓ stands.")
    remarks: dict[str, list[str]] = {}
    for metric in (metric for name in names for metric in _metrics(summary, name, brief)):
        for model_name, model in models.items():
            for note in metrics.notes_of(model, metric):
                remarks.setdefault(f"{metric}: {note}", []).append(model_name)
    parts += [text + (f" ({', '.join(who)})." if len(who) < len(models) else ".") for text, who in remarks.items()]
    years = {one.convention for model in models.values() for run in model.seeds.values() for one in run.suites.values()}
    years |= {one.convention for model in models.values() for one in measured_of(model).values()}
    parts += [f"Convention: {', '.join(sorted(years))}."] if years else []
    return " ".join(parts)
