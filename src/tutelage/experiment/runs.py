"""Which runs a recipe asks for, and in which order: one run is one model with one seed.

A run is referred to as recipes do, by a `Teacher`: `student[0]`, or `student[0]@step-100` for one of its checkpoints.
"""

from __future__ import annotations

from tutelage.base.errors import UserError, nearest
from tutelage.recipe import Recipe, Teacher, ensemble_members


def in_order(recipe: Recipe, only: str | None = None) -> list[Teacher]:
    """List the runs, teachers before their students; of one model (`only`) and those it needs if it is named.

    Raises:
        UserError: an unknown model, a seed that a teacher is not trained with, or a circle of teachers.
    """
    if only is not None:
        _check_name(recipe, only)
    order: list[Teacher] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UserError(f"models teach each other in a circle: {' -> '.join((*path, name))}")
        model = recipe.models[name]
        for teacher in (t for stage in model.stages for t in stage.needs):
            if teacher.model in recipe.models:
                seed_of(recipe, teacher)
                visit(teacher.model, (*path, name))
        own = (Teacher(model=name, seed=seed) for seed in model.seed_list)
        order.extend(reference for reference in own if reference not in order)

    for name in [only] if only is not None else recipe.models:
        visit(name, ())
    return order


def seed_of(recipe: Recipe, teacher: Teacher) -> int:
    """Return the seed that a reference to a model of this recipe means: the first one unless it names one.

    Raises:
        UserError: an unknown model, or a seed that it is not trained with.
    """
    _check_name(recipe, teacher.model)
    seeds = recipe.models[teacher.model].seed_list
    seed = seeds[0] if teacher.seed is None else teacher.seed
    if seed not in seeds:
        raise UserError(f"'{teacher}' names seed {seed}, but {teacher.model} is trained with seeds {list(seeds)}")
    return seed


def _check_name(recipe: Recipe, name: str) -> None:
    if name not in (models := recipe.models):
        raise UserError(f"no model '{name}' in this recipe{nearest(name, models)} (models: {', '.join(models)})")


def references_to(recipe: Recipe, name: str) -> list[Teacher]:
    """Return where a model is named as a teacher, scorer or member of an ensemble, or to sort held-out text."""
    teachers = [t for model in recipe.models.values() for stage in model.stages for t in stage.needs]
    teachers += [recipe.evaluation.buckets.by] if recipe.evaluation.buckets else []
    members = (member for compared in recipe.compare.models for member in ensemble_members(compared))
    return [t for t in (*teachers, *map(Teacher.model_validate, members)) if t.model == name]
