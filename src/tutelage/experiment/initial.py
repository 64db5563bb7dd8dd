"""Models of an experiment with the weights that their training begins from."""

from __future__ import annotations

from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.setup import Experiment
from tutelage.models.build import build
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel
from tutelage.training.objectives import Learner


def new_model(experiment: Experiment, run: TrainingRun) -> LanguageModel:
    """Make a run's model with its initial weights."""
    return build(run.model, experiment.data.tokenizer, experiment.recipe.data.rows.length, run.initial_seed)


def new_learner(experiment: Experiment, run: TrainingRun) -> Learner:
    """Make a run's model, and heads for its tasks, whose initial weights leave the model's as they are."""
    model, tasks = new_model(experiment, run), experiment.rows.tasks_of(run.model)
    uncertain = any(what.weighting == "uncertainty" for what in run.model.tasks)
    return Learner(model, TaskHeads(tasks, model.weight_VD.shape[1], run.initial_seed, uncertain) if tasks else None)
