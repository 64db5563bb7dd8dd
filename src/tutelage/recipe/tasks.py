"""The part of a recipe that says how a study's labels are learned beside its text; see `recipe` for the whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tutelage.recipe.objective import Objective

Family = Literal["classification", "pair_classification", "tagging"]


class Tasks(Objective):
    """Labels of a study: cross-entropies of one head a task, on the same input as the text's own objective."""

    weight: Annotated[float, Field(gt=0)] = 0.5
    """Factor before the mean over tasks that classify texts and pairs."""
    tagging_weight: Annotated[float, Field(gt=0)] | None = None
    """Factor before the mean over tagging tasks; `weight` unless given."""
    families: Annotated[tuple[Family, ...], Field(min_length=1)] = ("classification", "pair_classification", "tagging")
    """Kinds of tasks that are learned; the paper's ablation learns one at a time."""
    only: tuple[str, ...] | None = None
    """Of these kinds, the tasks with these names; all unless given."""
    weighting: Literal["uniform", "uncertainty"] = "uniform"
    """`uniform`: all tasks of a mean count alike, as in the paper. `uncertainty`: each is divided by a variance that is
    learned with it (Kendall et al. 2018)."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Tasks weigh as much as their number of labels to the power of 1/temperature: at 1 in proportion to their labels,
    at large values alike; alike unless given."""
    confidence: bool = True
    """Labels weigh as much as the teacher was sure of them (votes); false counts all alike."""

    @model_validator(mode="after")
    def _names_once(self) -> Tasks:
        for key, names in (("families", self.families), ("only", self.only or ())):
            if len(set(names)) < len(names):
                raise ValueError(f"`{key}` names something twice: {', '.join(names)}")
        if self.only == ():
            raise ValueError("`only` names no task; leave it out to learn all")
        return self
