"""The settings of a recipe: typed, strict, documented field by field; and how it is read from YAML."""

from tutelage.recipe.data import Data, Rows, Tokenizer
from tutelage.recipe.evaluation import Compare, Evaluation
from tutelage.recipe.experiment import FlopsOf, Model, Recipe, ensemble_members, is_path
from tutelage.recipe.optim import Average, Optim
from tutelage.recipe.schedule import GateSettings, TemperatureScheduleSettings, read_length
from tutelage.recipe.stage import Cache, CustomObjective, Denoiser, Distill, Hybrid, Masked, ModelKind

from tutelage.recipe.stage import Objective, Objectives, Select, Stage, Tasks, Teacher, Ul2  # isort: skip

__all__ = ["Average", "Cache", "Compare", "CustomObjective", "Data", "Denoiser", "Distill", "Evaluation", "FlopsOf",
           "GateSettings", "Hybrid", "Masked", "Model", "ModelKind", "Objective", "Objectives", "Optim", "Recipe",
           "Rows", "Select", "Stage", "Tasks", "Teacher", "TemperatureScheduleSettings", "Tokenizer", "Ul2",
           "ensemble_members", "is_path", "read_length"]  # fmt: skip
