"""What a model of a recipe will have cost, in floating-point operations, and lengths that are given by that.

Counted for one seed: own training, the forward passes of teachers as long as they teach, and the passes that score
rows for selections. One model's operations are those of `models.cost`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.experiment import caching, selections

if TYPE_CHECKING:
    from tutelage.experiment.setup import Experiment


def in_steps(experiment: Experiment, name: str) -> recipe.Model:
    """Return a model; where its length is another one's operations, as many whole steps as those pay for.

    Raises:
        UserError: the training of its teachers is to be counted, and one of them comes from elsewhere.
    """
    model = experiment.recipe.models[name]
    if model.flops_of is None:
        return model
    budget = flops(experiment, model.flops_of.model)
    if model.flops_of.teachers == "counted":
        for ancestor in experiment.recipe.ancestors_of(model.flops_of.model):
            if ancestor not in experiment.recipe.models:
                raise UserError(
                    f"models.{name}.flops_of: the training of '{ancestor}' happened elsewhere, and nobody counted "
                    "it; leave `teachers: counted` out"
                )
            budget += flops(experiment, ancestor)
    return model.model_copy(update={"steps": int(budget / _step_flops(experiment, name)), "flops_of": None})


def flops(experiment: Experiment, name: str, until: int | None = None) -> float:
    """Return all operations for one seed of a model up to a step; the last one unless given."""
    steps = experiment.plan_of(name).total if until is None else until
    trained = _step_flops(experiment, name) * steps + teacher_flops(experiment, name, until=until)
    return trained + selections.flops(experiment, name)


def teacher_flops(experiment: Experiment, name: str, live: bool = False, until: int | None = None) -> float:
    """Return the operations of the teachers for one seed of a model, as long as they teach.

    Args:
        experiment: the experiment.
        name: of the model.
        live: count as if there were no caches.
        until: count up to this step; the work of filling a cache counts whole once its stage has begun.
    """
    model, plan = experiment.recipe.models[name], experiment.plan_of(name)
    source = experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)
    total = 0.0
    for index, stage in enumerate(model.stages):
        start, end = plan.start_of(index), plan.taught_until(index)
        asked = (end if until is None else min(end, until)) - start
        if asked <= 0:
            break
        taught = stage.model_copy(update={"cache": None}) if live else stage
        costs = [experiment.cost_of(teacher, model.reads) for teacher in stage.teachers]
        read = asked * source.tokens_per_epoch / source.steps_per_epoch
        passed = float(source.tokens_per_epoch * len(caching.epochs_of(experiment, name, index)))
        total += caching.teaching_flops(taught, costs, len(experiment.data.tokenizer), read, passed)
    return total


def _step_flops(experiment: Experiment, name: str) -> float:
    """Return the operations of a model's own training in one step."""
    model = experiment.recipe.models[name]
    source = experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)
    cost = experiment.cost_of(recipe.Teacher(model=name), model.reads)
    return cost.training_flops * source.tokens_per_epoch / source.steps_per_epoch
