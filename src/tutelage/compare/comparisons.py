"""From models and their seeds to comparisons: which pairs, on which measures, tested how.

Differences are a minus b, paired by seed, because a student and its control of the same seed share initial weights and
row order. Where one side has a single seed (teachers, ensembles) the difference is described, not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tutelage.base.errors import UserError, nearest
from tutelage.compare.cost import is_labelled, sources_of
from tutelage.compare.items import item_differences, macro_groups, read_margins, tie_credit
from tutelage.compare.metrics import conventions, facts_of, metrics_of, suites_of, values_of
from tutelage.compare.over_training import curve_difference, reached
from tutelage.compare.statistics import Estimate, holm, paired_t, seeds_and_items, sign_flip_p
from tutelage.compare.summary import Models, ModelSummary, Summary, base_name, read_models, read_summary
from tutelage.compare.summary_pairs import Comparison, ParadigmDifferences, ParadigmRow

LEVEL = 0.95
_MARGIN_TOLERANCE = 0.005
"""Margins that miss an accuracy by more belong to another evaluation; random ties move it less."""


def compare(
    models: Summary | Mapping[str, Any],
    a: str,
    b: str,
    metrics: Sequence[str] | None = None,
    level: float = LEVEL,
    items_folder: Path | None = None,
    every: bool = False,
) -> list[dict[str, Any]]:
    """Compare two models on every measure both have; returns entries for the summary's `comparisons`.

    `models` is the summary's `models`. `metrics` are names such as `test.loss`, `blimp.accuracy`, `blimp.strict` and
    `reading.eye_tracking`; without them evaluations of several values are compared on their headline, or with `every`
    on each value. Accuracies of suites are bootstrapped over seeds and items where the seeds name a file of item
    margins (`suite_items`, looked for in `items_folder` when relative), else they get the paired t-interval over seeds.
    """
    known = read_models(models)
    one, two = _find(known, a), _find(known, b)
    both = [metric for metric in metrics_of(one, every=True) if metric in metrics_of(two, every=True)]
    for metric in metrics or ():
        if metric not in both:
            raise UserError(
                f"{a!r} and {b!r} do not both have the measure {metric!r}{nearest(metric, both)}; "
                f"they share: {', '.join(both) or 'none'}"
            )
    shown = [metric for metric in both if metric in metrics_of(one, every)]
    wanted = shown if metrics is None else metrics
    return [_compare_metric(known, a, b, metric, level, items_folder).model_dump(mode="json") for metric in wanted]


def paradigm_differences(
    models: Models, a: str, b: str, suite: str, level: float = LEVEL, items_folder: Path | None = None
) -> ParadigmDifferences | None:
    """Difference on each paradigm of a suite, Holm-corrected.

    None where the two models share no seed or no paradigm of that suite, or were scored under different conventions.
    """
    one, two = _find(models, a), _find(models, b)
    seeds = [
        seed
        for seed in one.seeds
        if seed in two.seeds and suite in one.seeds[seed].suites and suite in two.seeds[seed].suites
    ]
    if not seeds or conventions(one, suite) != conventions(two, suite):
        return None
    scores = [(one.seeds[seed].suites[suite].paradigms, two.seeds[seed].suites[suite].paradigms) for seed in seeds]
    names = [name for name in scores[0][0] if all(name in left and name in right for left, right in scores)]
    if not names:
        return None
    margins = read_margins(one, two, seeds, suite, names, items_folder)
    estimates = []
    for name in names:
        estimate = paired_t([left[name].accuracy - right[name].accuracy for left, right in scores], level)
        if margins is not None:
            items = seeds_and_items([item_differences(margins[name], tie_credit(one, suite))], level)
            # A paradigm whose margins say something else keeps the accuracies that were published.
            estimate = items if abs(items.mean - estimate.mean) <= _MARGIN_TOLERANCE else estimate
        estimates.append(estimate)
    corrected = holm([estimate.p for estimate in estimates])
    rows = [
        ParadigmRow(
            paradigm=name,
            field=scores[0][0][name].field,
            phenomenon=scores[0][0][name].phenomenon,
            mean=estimate.mean,
            interval=estimate.interval,
            p=estimate.p,
            p_holm=p_holm,
        )
        for name, estimate, p_holm in zip(names, estimates, corrected, strict=True)
    ]
    methods = [estimate.method for estimate in estimates]
    method = max(set(methods), key=methods.count)
    return ParadigmDifferences(a=a, b=b, suite=suite, n=len(seeds), level=level, method=method, rows=rows)


def pairs_to_compare(models: Summary | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs a report should show: each student with its controls, then with its teachers and their ensembles."""
    known = read_models(models)
    pairs = list(student_and_control(known))
    for student, model in known.items():
        if model.role != "student":
            continue
        teachers = {base_name(teacher) for teacher in model.teachers}
        pairs += [(student, name) for name in known if name in teachers]
        pairs += [(student, name) for name, other in known.items() if other.role == "ensemble" and other.members]
    return list(dict.fromkeys(pairs))


def student_and_control(models: Models) -> Iterator[tuple[str, str]]:
    """Each student with each of its controls: the same model without teachers, of any length.

    Where several models are one another's `like`, all of the student's shape that learn from text alone are controls,
    also those that teach it: seeds of a model may teach a student of its own shape and training. A model as long as
    another one's FLOPs is the control of that one only.
    """
    students = [name for name, model in models.items() if model.role == "student"]
    for student in students:
        baseline = _baseline(models, student)
        for name, model in models.items():
            if model.role == "control" and (model.like or model.flops_of) is None and model.same_settings is None:
                # A control that does not say whose it is belongs to the only student there is.
                own = len(students) == 1
            else:
                own = model.role == "control" and model.like == student
            flops = model.flops_of == student and _alike(model, models[student])
            if own or flops or name == baseline or _is_kin(models, student, name):
                yield student, name


def _baseline(models: Models, student: str) -> str | None:
    """Return the first model without teachers and labels that a student is like, perhaps by way of other students."""
    for name in _chain(models, student)[1:]:
        if name in models and _is_plain(models[name]):
            return name if _alike(models[name], models[student]) else None
    return None


def _is_kin(models: Models, student: str, name: str) -> bool:
    """Tell whether a model is the student without its teachers, with other settings at most."""
    one, two = models[name], models[student]
    if not _is_plain(one) or one.scorers or one.selections or one.flops_of is not None or not _alike(one, two):
        return False
    ends = _chain(models, name)[-1], _chain(models, student)[-1]
    return student in (one.same_settings or ()) or ("" not in ends and ends[0] == ends[1])


def _chain(models: Models, name: str) -> list[str]:
    """A model, the one it is like, and so on; a circle ends in an empty name."""
    chain = [name]
    while chain[-1] in models and (like := models[chain[-1]].like) is not None:
        chain.append("" if like in chain else like)
    return chain


def _is_plain(model: ModelSummary) -> bool:
    """Tell whether a model learned from text alone."""
    return model.role != "ensemble" and not sources_of(model) and not is_labelled(model)


def _alike(one: ModelSummary, two: ModelSummary) -> bool:
    """Tell whether two models have the same shape, as far as is known."""
    return (one.architecture, one.parameters) == (two.architecture, two.parameters)


def with_comparisons(
    summary: Summary | Mapping[str, Any], level: float = LEVEL, items_folder: Path | None = None
) -> dict[str, Any]:
    """Return the summary (JSON) with its differences between models filled in where they were empty."""
    checked = read_summary(summary)
    models, pairs = checked.models, list(student_and_control(checked.models))
    measures: dict[str, Callable[[], list[Any]]] = {
        "comparisons": lambda: [
            _compare_metric(models, a, b, metric, level, items_folder)
            for a, b in pairs_to_compare(checked)
            for metric in metrics_of(models[a])
            if metric in metrics_of(models[b], every=True)
        ],
        "paradigm_differences": lambda: [
            paradigm_differences(models, a, b, suite, level, items_folder)
            for a, b in pairs
            for suite in suites_of(models[a])
        ],
        "reached": lambda: [reached(models, a, b, level) for a, b in pairs],
        "curve_differences": lambda: [curve_difference(models, a, b, level) for a, b in pairs],
    }
    added = {
        key: [entry.model_dump(mode="json") for entry in measure() if entry is not None]
        for key, measure in measures.items()
        if not getattr(checked, key)
    }
    return read_summary(checked.as_json() | added).as_json()


def _find(models: Models, name: str) -> ModelSummary:
    if name not in models:
        raise UserError(f"no model {name!r} to compare{nearest(name, models)}; there are: {', '.join(models)}")
    return models[name]


def _compare_metric(models: Models, a: str, b: str, metric: str, level: float, folder: Path | None) -> Comparison:
    one, two = values_of(models[a], metric), values_of(models[b], metric)
    seeds = [seed for seed in one if seed in two]
    facts = facts_of(models[a], metric)
    unit, better, _ = next(iter(facts))
    # One seed against several is a fixed model against a distribution: pairing would throw seeds away.
    paired = bool(seeds) and not (len(one) != len(two) and 1 in (len(one), len(two)))
    estimate, flips, note = _describe(one, two, a, b)
    if len(facts | facts_of(models[b], metric)) > 1:
        verdict, note = "not comparable", "scored under different conventions; evaluate both again under one"
    else:
        if paired:
            estimate, flips, note = _estimate(models[a], models[b], seeds, metric, level, folder)
        verdict = _verdict(estimate, a, b, better)
    return Comparison(
        a=a,
        b=b,
        metric=metric,
        unit=unit,
        better=better,
        pairs=[(int(seed), one[seed], two[seed]) for seed in seeds] if paired else [],
        **asdict(estimate),
        level=level,
        verdict=verdict,
        permutation_p=flips,
        detectable=estimate.half_width,
        note=note,
    )


def _describe(one: Mapping[str, float], two: Mapping[str, float], a: str, b: str) -> tuple[Estimate, None, str]:
    """The difference of the two means, without a test."""
    mean = fmean(one.values()) - fmean(two.values())
    note = f"unpaired: {a} has {_seed_count(one)}, {b} has {_seed_count(two)}"
    return Estimate(n=0, mean=mean, interval=None, p=None, method="difference of means"), None, note


def _estimate(
    a: ModelSummary, b: ModelSummary, seeds: Sequence[str], metric: str, level: float, folder: Path | None
) -> tuple[Estimate, float | None, str]:
    """The paired difference, its sign-flip p-value (from six seeds on) and a remark."""
    one, two = values_of(a, metric), values_of(b, metric)
    differences = [one[seed] - two[seed] for seed in seeds]
    estimate, notes = paired_t(differences, level), []
    if left_out := sorted({*one, *two} - set(seeds), key=int):
        notes.append(f"seeds without a partner left out: {', '.join(left_out)}")
    if metric.rpartition(".")[0] in suites_of(a) and len(seeds) > 1:
        estimate, remark = _with_items(a, b, seeds, metric, estimate, level, folder)
        notes += [remark] if remark else []
    return estimate, sign_flip_p(differences), "; ".join(notes)


def _verdict(estimate: Estimate, a: str, b: str, better: str) -> str:
    if estimate.interval is None:
        reasons = {
            "one seed": "one seed: not tested",
            "identical differences": "no spread between seeds: not tested",
            "difference of means": "too few seeds: not tested",
        }
        return reasons.get(estimate.method, "not tested")
    if not estimate.shown:
        return "not shown"
    return f"shown: {a if (estimate.mean > 0) == (better == 'higher') else b} better"


def _with_items(
    a: ModelSummary,
    b: ModelSummary,
    seeds: Sequence[str],
    metric: str,
    over_seeds: Estimate,
    level: float,
    folder: Path | None,
) -> tuple[Estimate, str]:
    """Widen an accuracy's interval by the items' own chance, where margins were kept; else return it as it is."""
    suite, _, measure = metric.rpartition(".")
    paradigms = a.seeds[seeds[0]].suites[suite].paradigms
    margins = read_margins(a, b, seeds, suite, list(paradigms), folder)
    if margins is None:
        return over_seeds, ""
    ties = 0.0 if measure == "strict" else tie_credit(a, suite)
    groups = [
        np.concatenate([item_differences(margins[name], ties) for name in names], axis=1)
        for names in macro_groups(a.seeds[seeds[0]].suites[suite])
    ]
    estimate = seeds_and_items(groups, level)
    if abs(estimate.mean - over_seeds.mean) > _MARGIN_TOLERANCE:
        return over_seeds, "the item margins do not reproduce the accuracies and were left out"
    return estimate, ""


def _seed_count(values: Mapping[str, float]) -> str:
    return f"{len(values)} seed{'s' if len(values) != 1 else ''}"
