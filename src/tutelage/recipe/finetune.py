"""Settings: how models are fine-tuned on classification tasks; see `recipe` for the whole.

Each year's BabyLM evaluation has its settings (`_YEARS`), and some tasks of a year their own. From weakest to
strongest: the defaults here, the year's, the year's for the task, the recipe's for all tasks, its for the task.

The years' numbers were read in the published pipelines: github.com/babylm/evaluation-pipeline-2023
(`finetune_model.sh`, `finetune_classification.py`), -2024, -2025 (`eval_finetuning.sh`) and
github.com/babylm-org/babylm-eval (2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from tutelage.base.errors import nearest
from tutelage.recipe.data import Count, Section, Share, check_seeds, seed_list

FinetuneRules = Literal["2023", "2024", "2025", "2026", "tutelage"]
Rate = Annotated[float, Field(gt=0)]

# The tasks of 2023 and 2024, and those of 2025 and 2026.
GLUE_11 = ("cola", "sst2", "mrpc", "qqp", "mnli", "mnli-mm", "qnli", "rte", "boolq", "multirc", "wsc")
GLUE_7 = ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")
MSGS = ("main_verb_control", "control_raising_control", "syntactic_category_control", "lexical_content_the_control",
        "relative_position_control", "main_verb_lexical_content_the", "main_verb_relative_token_position",
        "syntactic_category_lexical_content_the", "syntactic_category_relative_position",
        "control_raising_lexical_content_the", "control_raising_relative_token_position")  # fmt: skip
"""MSGS (Warstadt et al. 2020) as BabyLM 2023 took it: five controls, then six tasks whose training rows can be told
apart by a linguistic or a surface feature; the sign of the correlation says which of them was learned."""


class Adapters(Section):
    """Low-rank adapters (LoRA) instead of all weights; needs `pip install 'tutelage[finetune]'`."""

    rank: Count = 8
    """Inner width of an adapter."""
    alpha: Count = 16
    """An adapter's product is multiplied by `alpha / rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before an adapter."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get one (`[q_proj, v_proj]`); peft's choice for the architecture unless given."""


class Grid(Section):
    """Settings to try, all with all; the best on held-out rows is scored."""

    lr: tuple[Rate, ...] = ()
    """Learning rates."""
    batch_rows: tuple[Count, ...] = ()
    """Batch sizes."""
    epochs: tuple[Count, ...] = ()
    """Lengths."""

    @model_validator(mode="after")
    def _not_empty(self) -> Grid:
        if not (self.lr or self.batch_rows or self.epochs):
            raise ValueError("name values of `lr`, `batch_rows` or `epochs` to try, or leave the sweep out")
        return self


class TaskFinetuning(Section):
    """How a model is fine-tuned on one task."""

    lr: Rate = 1e-4
    """Peak learning rate of AdamW."""
    batch_rows: Count = 32
    """Rows in a step."""
    epochs: Count = 10
    """Passes over the training rows, at most."""
    evaluate_every: Count | None = None
    """Steps between evaluations; once after each epoch unless given."""
    evaluate_end: bool = True
    """Evaluate after the last step, also where it is no multiple of `evaluate_every`; without it, only where nothing
    was evaluated before, as in 2023."""
    patience: Count | None = 3
    """Evaluations without a better score after which training stops early; null: never."""
    min_gain: Annotated[float, Field(ge=0)] = 0.0
    """A score must rise by more than this to renew the patience. The best checkpoint is the best all the same."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """Learning rate after the warm-up."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of the steps with linear warm-up."""
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    decayed: Literal["matrices", "all"] = "matrices"
    """What decays: matrices and embeddings, or biases and norms too (2025)."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null switches clipping off."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is smaller than the others."""
    max_length: Annotated[int, Field(ge=8)] = 256
    """Tokens of a text, special ones included, or a model's positions if fewer; longer ones are cut at the end (of a
    pair, the longer text first)."""
    pooling: Literal["auto", "first", "last", "last_token", "mean"] = "auto"
    """What the classifier reads. `first`, `last`: the hidden state at the row's first or last position. `last_token`:
    at the last token before the padding. `mean`: the mean over tokens. `auto`: `last_token` for models that read left
    to right; for others `first` where the tokenizer puts a token in front of texts, else `mean`."""
    padding: Literal["right", "left"] = "right"
    """Side on which shorter rows are filled up; `right` is faster for causal models. Texts begin at position 0 either
    way, so that results do not depend on it."""
    head: Literal["linear", "mlp"] = "linear"
    """`linear`: one layer without bias, as Hugging Face's for decoders. `mlp`: norm, layer, GELU, norm, dropout, layer,
    as in 2025."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before the classifier's last layer; the model's own follows its configuration."""
    freeze: Literal["nothing", "embeddings", "model"] = "nothing"
    """What does not learn; `model`: all but the classifier."""
    lora: Adapters | None = None
    """Train adapters and the classifier only."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products; `auto`: bf16 where the machine has it."""
    train_rows: Annotated[int, Field(ge=2)] | None = None
    """Train on this many rows, drawn from the training file; the same ones for every model and seed."""
    select: Literal["held_out", "scored"] = "held_out"
    """Where the best checkpoint is chosen. `held_out`: on rows taken from the training file. `scored`: on the file that
    is then scored, as all years' pipelines do; its scores are too good."""
    held_out_share: Share = 0.1
    """Share of the training rows that choose, for `held_out`."""
    sweep: Grid | None = None
    """Try several settings, choose on held-out rows."""

    @field_validator("lora", mode="before")
    @classmethod
    def _true_is_default(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @model_validator(mode="after")
    def _fits(self) -> TaskFinetuning:
        if self.pooling == "first" and self.padding == "left":
            raise ValueError("`pooling: first` would read padding with `padding: left`; take `padding: right`")
        if self.pooling == "last" and self.padding == "right":
            raise ValueError("`pooling: last` would read padding with `padding: right`; take `padding: left`, or "
                             "`pooling: last_token`")  # fmt: skip
        if self.lora is not None and self.freeze != "nothing":
            raise ValueError("`lora` freezes all weights of the model already; leave `freeze` out")
        if self.sweep is not None and self.select == "scored":
            raise ValueError("a `sweep` that chose on the scored file would fit it; take `select: held_out`")
        return self


_TRAINER = {"lr": 5e-5, "batch_rows": 64, "epochs": 10, "schedule": "linear", "warmup_share": 0.0, "weight_decay": 0.0,
            "max_length": 128, "dropout": 0.0, "select": "scored", "min_gain": 0.001, "seeds": (12,),
            "tasks": GLUE_11}  # fmt: skip
_OWN = {"lr": 3e-5, "batch_rows": 32, "epochs": 10, "patience": None, "schedule": "cosine", "warmup_share": 0.06,
        "final_lr": 0.1, "weight_decay": 0.01, "decayed": "all", "clip": None, "drop_last": True, "max_length": 512,
        "head": "mlp", "dropout": 0.1, "select": "scored", "seeds": (42,), "tasks": GLUE_7}  # fmt: skip
_OWN_TASKS = {"boolq": {"batch_rows": 16}, "multirc": {"batch_rows": 16}, "wsc": {"epochs": 30}}

_YEARS: Mapping[str, dict[str, Any]] = {
    "2023": _TRAINER | {"evaluate_every": 200, "evaluate_end": False, "patience": 10},
    "2024": _TRAINER | {"patience": 3},
    "2025": _OWN | {"pooling": "first"},
    "2026": _OWN | {"pooling": "last", "padding": "left"},
    "tutelage": {},
}
"""What each year's scripts set; what they leave to Trainer's defaults (its clipping at 1) is among it. Their
arithmetic was fp32; here it is the machine's, by `precision`."""
_YEARS_BY_TASK: Mapping[str, Mapping[str, dict[str, Any]]] = {"2025": _OWN_TASKS, "2026": _OWN_TASKS}


class Finetuning(TaskFinetuning):
    """Fine-tuning on GLUE, SuperGLUE and MSGS: the settings for all tasks, and those for single ones."""

    rules: FinetuneRules = "tutelage"
    """Whose settings count where the recipe has none, which score of a task is its headline and which one chooses
    checkpoints: a year of BabyLM, or `tutelage` (the defaults shown here, for small models)."""
    tasks: tuple[str, ...] = GLUE_7
    """Tasks by name. `mnli-mm` is scored with the model of `mnli`."""
    by_task: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - pydantic copies it
    """Settings of single tasks: `{wsc: {epochs: 30}}`."""
    seeds: Annotated[int, Field(ge=1, le=100)] | tuple[int, ...] = 1
    """Fine-tuned once for each seed of order, classifier and dropout: a number (0, 1, ...) or a list of seeds."""

    @model_validator(mode="before")
    @classmethod
    def _from_year(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("rules"), int):
            value = value | {"rules": str(value["rules"])}
        rules = value.get("rules", "tutelage")
        if not isinstance(rules, str):
            return value
        given = value.get("by_task", {})
        of_task = {
            # What the recipe has for all tasks goes before what the year has for one.
            task: {key: setting for key, setting in settings.items() if key not in value}
            for task, settings in _YEARS_BY_TASK.get(rules, {}).items()
        }
        if isinstance(given, dict) and all(isinstance(settings, dict) for settings in given.values()):
            given = of_task | {task: of_task.get(task, {}) | settings for task, settings in given.items()}
        return _YEARS.get(rules, {}) | value | {"by_task": given}

    @model_validator(mode="after")
    def _tasks_are_right(self) -> Finetuning:
        for task in (*self.tasks, *self.by_task):
            if task not in (*GLUE_11, *MSGS):
                raise ValueError(f"unknown task '{task}'{nearest(task, (*GLUE_11, *MSGS))}")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"`tasks` repeat one another: {', '.join(self.tasks)}")
        check_seeds(self.seed_list)
        for task in self.by_task:
            self.of(task)
        return self

    @property
    def seed_list(self) -> tuple[int, ...]:
        return seed_list(self.seeds)

    def of(self, task: str) -> TaskFinetuning:
        """Return what counts for one task."""
        given = {key: getattr(self, key) for key in TaskFinetuning.model_fields}
        own = self.by_task.get(task, {})
        if unknown := sorted(own.keys() - given.keys()):
            raise ValueError(f"by_task.{task}: unknown key '{unknown[0]}'{nearest(unknown[0], given)}")
        try:
            return TaskFinetuning.model_validate(given | own)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (task, *first["loc"])))
            raise ValueError(f"by_task.{place}: {first['msg'].removeprefix('Value error, ')}") from error
