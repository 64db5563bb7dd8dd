"""`glue` and `glue:TASK` as recipes name them: fine-tuned on the recipe's tasks and seeds, means over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from tutelage import recipe
from tutelage.base.files import sha256
from tutelage.base.types import Json
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult
from tutelage.evaluation.finetune.run import finetune_together, glue_average
from tutelage.evaluation.finetune.tasks import files_of, trained_together


def _glue(context: Context) -> MeasuredResult:
    """Fine-tune on one task or on all that the recipe names; means over the seeds of fine-tuning."""
    settings = context.settings.finetune
    tasks = (context.argument,) if context.argument else settings.tasks
    by_seed: list[dict[str, MeasuredResult]] = []
    for seed in settings.seed_list:
        results: dict[str, MeasuredResult] = {}
        for group in trained_together(tasks):
            kept = context.part(f"{'+'.join(group)}-{seed}", partial(_tuned, context, group, seed))
            results |= {
                name: MeasuredResult.from_json(name, found, found["predictions"]) for name, found in kept.items()
            }
        by_seed.append(results)
    means = {name: _mean([results[name] for results in by_seed]) for name in tasks}
    predictions = {name: {"predictions": by_seed[0][name].predictions} for name in tasks}
    if context.argument:
        only = means[context.argument]
        return MeasuredResult(context.name, settings.rules, only.headline, only.values, predictions)
    values = {"average": glue_average(means, settings.rules)}
    values |= {name: result.values[result.headline] for name, result in means.items()}
    # Publications differ in what they count of MRPC and QQP: F1, or the plain accuracy.
    plain = {name: one.values["accuracy"] for name, one in means.items() if one.headline != "accuracy"}
    if plain:
        values |= {plain_key("average"): glue_average(means, settings.rules, "accuracy")}
        values |= {plain_key(name): value for name, value in plain.items()}
    return MeasuredResult(context.name, settings.rules, "average", values, predictions)


def plain_key(task: str) -> str:
    """Return what `glue` calls the plain accuracy of a task (or of the `average`) whose headline is another score."""
    return f"{task}:accuracy"


def _tuned(context: Context, group: tuple[str, ...], seed: int) -> Json:
    settings = context.settings.finetune
    found = finetune_together(context.fresh(), context.tokenizer, group, settings, seed, label=context.label)
    return {name: result.to_json() | {"predictions": result.predictions} for name, result in found.items()}


def _mean(results: Sequence[MeasuredResult]) -> MeasuredResult:
    """Average a task's values over seeds of fine-tuning."""
    first = results[0]
    if len(results) == 1:
        return first
    values = {}
    for key, value in first.values.items():
        found = [result.values[key].value for result in results]
        known = [number for number in found if number is not None]
        note = f"mean of {len(results)} fine-tunings; {value.note}".rstrip("; ")
        mean = fmean(known) if len(known) == len(found) else None
        values[key] = replace(value, value=mean, note=note)
    return MeasuredResult(first.name, first.convention, first.headline, values, first.predictions)


def _glue_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    chosen = settings.finetune
    tasks = (argument,) if argument else chosen.tasks
    files = {name: [sha256(path) for path in files_of(name)] for name in tasks}
    # What counts for a task, whatever way the recipe says it; settings of later versions only if set, or older scores
    # would be measured again.
    settings_of = {name: chosen.of(name) for name in tasks}
    written = {
        name: one.model_dump(mode="json", exclude={"evaluate_end"} if one.evaluate_end else None)
        for name, one in settings_of.items()
    }
    return {"files": files, "rules": chosen.rules, "seeds": list(chosen.seed_list), "settings": written}


GLUE = Measurement(_glue, _glue_inputs)
