"""What would stop a training hours after it began, found before its first step."""

from __future__ import annotations

from tutelage.base.errors import UserError
from tutelage.base.progress import console
from tutelage.experiment import caches
from tutelage.experiment.exported import sound
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.loading import check_memory
from tutelage.experiment.plans import ModelPlan
from tutelage.experiment.runs import in_order
from tutelage.experiment.setup import Experiment
from tutelage.models.build import check_export
from tutelage.teaching import outside
from tutelage.training import execution


def checked(experiment: Experiment, only: str | None = None) -> list[TrainingRun]:
    """Return the runs in their order, of one model and those it needs if `only` names one, after checking them all.

    Raises:
        UserError: a shape, length or stage that cannot be, a cache beyond its limit, a selection of too few rows,
            an outside model that is missing or has another vocabulary, live teachers larger than memory, a folder
            that holds a run with other settings, or a finished model that is damaged and cannot be exported again.
    """
    order = in_order(experiment.recipe, only)
    for name in dict.fromkeys(reference.model for reference in order):
        plan = experiment.plans.of(name)
        if plan.model.weights is not None:
            outside.check_vocabulary(plan.model.weights, experiment.data.tokenizer)
        plan.plans.cost_of(plan.name, plan.model.reads)
        check_export(plan.model, experiment.data.tokenizer, experiment.recipe.data.rows.length)
        _check_teachers(experiment, plan)
        _check_selections(plan)
    runs = [experiment.run(reference) for reference in order]
    for run in runs:
        if not run.folder.is_finished:
            execution.check(run.name, run.model, experiment.group.size)
            for stage in run.model.stages:
                check_memory(experiment, stage.teachers if stage.cache is None else (), run.model.reads)
                for scorer in stage.select.scorers if stage.select else ():
                    check_memory(experiment, [scorer], run.model.reads)
        caches.check(run)
        if run.folder.matches(run.spec) and run.folder.is_finished and experiment.group.is_main:
            sound(experiment, run)
    experiment.group.barrier()
    return runs


def _check_teachers(experiment: Experiment, plan: ModelPlan) -> None:
    models = experiment.recipe.models
    for teacher in (t for stage in plan.model.stages for t in stage.needs):
        if teacher.model not in models:
            outside.check(teacher, experiment.data.tokenizer, models)
        elif plan.model.ul2 and plan.model.ul2.span and not models[teacher.model].ul2 and experiment.group.is_main:
            console.print(
                f"[yellow]{plan.name}: its teacher '{teacher}' has never read a row with sentinels, and is asked "
                "about such rows; give it the objective `ul2` too"
            )
        elif plan.model.hybrid and plan.model.hybrid.taught != "causal" and not models[teacher.model].hybrid:
            raise UserError(
                f"{plan.name}: its teacher '{teacher}' has never read a row whole, and is asked about such rows; give "
                "it the objective `hybrid` too, or set `hybrid.taught: causal`"
            )


def _check_selections(plan: ModelPlan) -> None:
    """Refuse rows that differ between epochs, and fewer selected rows than a batch has, before a scorer is trained."""
    source, model = plan.source, plan.model
    for index, stage in enumerate(model.stages):
        if stage.select is None:
            continue
        key = f"models.{plan.name}.stages.{index}.select"
        if source.shifts or model.hides is not None or model.reads == "masked":
            raise UserError(
                f"{key}: these rows differ between epochs, so that scores of one say nothing of the next; take "
                "data.rows.chunking=fixed, or a causal model"
            )
        if stage.select.by == "excess" and source.varies:
            raise UserError(
                f"{key}: `by: excess` selects targets of rows as they stand, but `ul2` rewrites them in every epoch; "
                "select rows (`by: salt_ds`), or learn from `next_token`"
            )
        wanted, batch = stage.select.count(source.count), model.optim.batch_rows
        if wanted > source.count:
            raise UserError(f"{key}: rows={wanted:,}, but the training split has only {source.count:,}; take fewer")
        if wanted < batch:
            few = f"{wanted:,} of {source.count:,} rows, fewer than a batch of {batch} (optim.batch_rows)"
            raise UserError(f"{key} leaves {few}: select more, or take smaller batches")
