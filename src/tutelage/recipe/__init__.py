"""The settings of a recipe: typed, strict, documented field by field; and how it is read from YAML."""

from tutelage.recipe.data import Data as Data
from tutelage.recipe.data import Rows as Rows
from tutelage.recipe.data import Tokenizer as Tokenizer
from tutelage.recipe.evaluation import Compare as Compare
from tutelage.recipe.evaluation import Evaluation as Evaluation
from tutelage.recipe.experiment import FlopsOf as FlopsOf
from tutelage.recipe.experiment import Model as Model
from tutelage.recipe.experiment import Optim as Optim
from tutelage.recipe.experiment import Recipe as Recipe
from tutelage.recipe.experiment import ensemble_members as ensemble_members
from tutelage.recipe.experiment import is_path as is_path
from tutelage.recipe.schedule import Gate as Gate
from tutelage.recipe.schedule import TemperatureSchedule as TemperatureSchedule
from tutelage.recipe.schedule import read_length as read_length
from tutelage.recipe.stage import Cache as Cache
from tutelage.recipe.stage import Denoiser as Denoiser
from tutelage.recipe.stage import Distill as Distill
from tutelage.recipe.stage import Masked as Masked
from tutelage.recipe.stage import ModelKind as ModelKind
from tutelage.recipe.stage import Objective as Objective
from tutelage.recipe.stage import Objectives as Objectives
from tutelage.recipe.stage import Select as Select
from tutelage.recipe.stage import Stage as Stage
from tutelage.recipe.stage import Tasks as Tasks
from tutelage.recipe.stage import Teacher as Teacher
from tutelage.recipe.stage import Ul2 as Ul2
