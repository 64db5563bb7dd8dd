"""Settings: what a model learns from whom: stages, objectives, teachers, caches; see `recipe`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from tutelage.base.functions import check_settings, is_function_name, load_function
from tutelage.recipe.data import Count, Fraction, Kinds, Section, Share
from tutelage.recipe.schedule import GateSettings, Span, TemperatureScheduleSettings, WeightScheduleSettings
from tutelage.recipe.select import Select as Select
from tutelage.recipe.teacher import TEACHER as TEACHER
from tutelage.recipe.teacher import Teacher as Teacher

ModelKind = Literal["causal", "masked"]
"""Causal: each token sees those before it. Masked: each sees all others."""

Family = Literal["classification", "pair_classification", "tagging"]


class Objective(Section):
    """One term of the loss and its weight."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor before the term; terms are means over their own targets."""


class Distill(Objective):
    """Forward Kullback-Leibler divergence from the teachers' distribution to the student's."""

    temperature: Annotated[float, Field(gt=0)] | TemperatureScheduleSettings = 1.0
    """Logits of teachers and student are divided by it before the softmax. It may change over the stage."""
    temperature_squared: bool = True
    """Multiply by the squared temperature (Hinton 2015; BabyLlama's code has it, its equation does not)."""
    reduction: Literal["per_token", "per_row"] = "per_token"
    """`per_token`: mean over tokens. `per_row`: summed over a row's tokens, mean over rows, as BabyLlama's code does:
    at 128 tokens a row that is 128 times the per-token weight."""
    schedule: WeightScheduleSettings | None = None
    """How the weight falls to nothing; the text takes up what teachers give up. Whole to the end unless given."""
    gate: GateSettings | None = None
    """How much teachers count at each token; the same at all unless given."""


class Masked(Objective):
    """Masked language modelling (BERT): predict the hidden tokens."""

    rate: Share = 0.15
    """Share of tokens to be predicted; of these 80 % are masked, 10 % replaced by random tokens, 10 % kept."""
    final_rate: Share | None = None
    """That share in the last pass, from `rate` in the first in equal steps; for models whose length is `epochs`."""


class Hybrid(Masked):
    """Two ways of reading in one causal model (GPT-BERT): some rows from left to right, each next token predicted; the
    others whole, with tokens hidden and each predicted at the place before it."""

    share: Fraction = 0.5
    """Share of rows that are read whole; each row draws its way again in each epoch."""
    taught: Literal["all", "causal", "whole"] = "all"
    """Rows in which `distill` counts. Teachers of rows that are read whole must have learned `hybrid` themselves."""


class Denoiser(Section):
    """Which spans are hidden in a row of `ul2`."""

    rate: Share = 0.15
    """Share of a row's text that is hidden."""
    mean: Annotated[float, Field(ge=1)] = 3.0
    """Mean length of a span, in tokens."""

    @model_validator(mode="after")
    def _spans_stay_apart(self) -> Denoiser:
        if self.mean * (1 - self.rate) < self.rate:
            raise ValueError(f"spans of {self.mean:g} tokens at a rate of {self.rate:g} would touch: take longer spans")
        return self


class Ul2(Objective):
    """A mixture of denoisers for a causal model (UL2): each row draws its kind again in each epoch."""

    causal: Fraction = 0.6
    """Share of rows that are read as they are, each token predicted."""
    prefix: Fraction = 0.2
    """Share of rows of which only what follows a prefix of random length is predicted."""
    span: Fraction = 0.2
    """Share of rows in which sentinels (`<extra_id_0>`, ...) stand for spans, which are predicted behind the text."""
    denoisers: Annotated[tuple[Denoiser, ...], Field(min_length=1)] = (Denoiser(),)
    """How spans are hidden; each row with spans draws one of these."""

    @model_validator(mode="after")
    def _shares_are_whole(self) -> Ul2:
        shares = (self.causal, self.prefix, self.span)
        if abs(sum(shares) - 1) > 1e-9:
            given = ", ".join(f"{share:g}" for share in shares)
            raise ValueError(f"`causal`, `prefix` and `span` are shares of the rows, but {given} do not sum to 1")
        return self


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
    """`uniform`: all tasks of a mean count the same, as in the paper. `uncertainty`: each is divided by a variance that
    is learned with it (Kendall et al. 2018)."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Tasks weigh as much as their number of labels to the power of 1/temperature: at 1 in proportion to their labels,
    at large values the same; the same unless given."""
    confidence: bool = True
    """Labels weigh as much as the teacher was sure of them (votes); false counts all the same."""

    @model_validator(mode="after")
    def _names_once(self) -> Tasks:
        for key, names in (("families", self.families), ("only", self.only or ())):
            if len(set(names)) < len(names):
                raise ValueError(f"`{key}` names something twice: {', '.join(names)}")
        if self.only == ():
            raise ValueError("`only` names no task; leave it out to learn all")
        return self


class CustomObjective(Objective):
    """A function of your own, for the tokens that the text's objective would predict: `my_package.losses:focal`.

    It is called as `focal(logits, targets, gamma=2)` with float32 logits `(n, V)` of some positions, their targets
    `(n,)` and its settings, and returns the loss of each position, `(n,)`, finite and differentiable in the logits, as
    `torch.nn.functional.cross_entropy(..., reduction="none")` does. Positions come by blocks, in no particular
    grouping, so the loss of one must not depend on the others. The term is the mean over all targets of the batch."""

    model_config = ConfigDict(extra="allow")

    @property
    def settings(self) -> dict[str, Any]:
        """What is given beside the weight, for the function."""
        return dict(self.model_extra or {})


TEXTS = ("next_token", "masked", "hybrid", "ul2")
"""Objectives that are learned from the text alone; a stage has one of them at most."""


class Objectives(Section):
    """The weighted terms of a stage's loss; a number stands for `{weight: number}`."""

    next_token: Objective | None = None
    """Cross-entropy of the next token."""
    masked: Masked | None = None
    """Cross-entropy of masked tokens."""
    hybrid: Hybrid | None = None
    """Cross-entropy of the next token, and of masked tokens in rows that are read whole; a causal model."""
    ul2: Ul2 | None = None
    """Cross-entropy of what a mixture of denoisers asks for: `ul2: 1` is 60 % causal, 20 % prefix, 20 % span rows."""
    distill: Distill | None = None
    """Divergence from the teachers; needs `teachers`."""
    tasks: Tasks | None = None
    """Labels of texts and words; `masked: 1, tasks: 0.5` is the study plans' loss. Needs `data.separator: brackets` and
    `data.rows.kind: examples`."""
    custom: dict[str, CustomObjective] | None = None
    """Functions of your own by name, `package.module:function`; such a name may also stand beside the other keys."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        terms = {key: _weighed(term) for key, term in value.items()}
        custom = terms.get("custom") or {}
        if not isinstance(custom, dict):
            return terms
        custom = {key: _weighed(term) for key, term in custom.items()}
        custom |= {key: terms.pop(key) for key in list(terms) if isinstance(key, str) and ":" in key}
        return terms | {"custom": custom} if custom else terms

    @field_validator("custom")
    @classmethod
    def _functions_are_there(cls, custom: dict[str, CustomObjective] | None) -> dict[str, CustomObjective] | None:
        for name, term in (custom or {}).items():
            if not is_function_name(name):
                raise ValueError(f"'{name}' names no function: write package.module:function")
            check_settings(name, load_function(name), 2, term.settings)
        return custom

    @model_validator(mode="after")
    def _one_way_of_reading(self) -> Objectives:
        texts = [name for name in TEXTS if getattr(self, name) is not None]
        if len(texts) > 1:
            raise ValueError(f"{' and '.join(f'`{name}`' for name in texts)} exclude each other within a stage")
        if not self.named():
            raise ValueError(f"name an objective: {', '.join(f'`{name}`' for name in TEXTS)}, `distill`, `tasks` or a "
                             "function")  # fmt: skip
        if self.ul2 is not None and self.tasks is not None:
            raise ValueError("`ul2` rewrites rows, where labels no longer stand in their places: leave `tasks` out")
        if self.hybrid is not None and self.tasks is not None:
            raise ValueError("`hybrid` reads rows both ways, and labels are read from one place: leave `tasks` out")
        text, distill = self.text, self.distill
        if distill is not None and text is None and (distill.schedule or distill.gate):
            key = "schedule" if distill.schedule else "gate"
            raise ValueError(f"`distill.{key}` takes weight from the teachers, and nothing would be left to learn: add "
                             f"one of {', '.join(f'`{name}`' for name in TEXTS)}, which takes it up")  # fmt: skip
        return self

    @property
    def text(self) -> Objective | None:
        """What is learned from the text itself, whoever teaches."""
        return self.next_token or self.masked or self.hybrid or self.ul2

    @property
    def hides(self) -> Masked | None:
        """The objective that hides tokens, if there is one."""
        return self.masked or self.hybrid

    def named(self) -> dict[str, Objective]:
        """Return the terms that are there, by name."""
        terms = {name: getattr(self, name) for name in type(self).model_fields if name != "custom"}
        return {name: term for name, term in terms.items() if term is not None} | (self.custom or {})


def _weighed(value: Any) -> Any:
    return {"weight": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class Cache(Kinds):
    """Teachers' output, computed once and kept on disk; a word stands for `{kind: word}`. See docs/caches.md."""

    goes_with: ClassVar = {"draws": "sparse", "sets": "sparse", "k": "top_k"}
    kind: Literal["hidden", "sparse", "top_k"]
    """`hidden`: the teachers' last hidden states, from which the whole distribution follows. `sparse`: a few tokens
    drawn from it, unbiased. `top_k`: its most likely tokens; small, and biased."""
    draws: Annotated[int, Field(ge=1, le=4096)] = 16
    """`sparse`: tokens drawn at each position for one set."""
    sets: Annotated[int, Field(ge=1, le=1024)] = 4
    """`sparse`: sets of draws; epoch e reads set e modulo this number, so that a student memorises no single draw."""
    k: Count = 64
    """`top_k`: how many tokens are kept at each position."""
    fill: Literal["ahead", "first_epoch"] = "ahead"
    """`ahead`: before the student begins. `first_epoch`: while it trains, with the rows it meets, which is less work
    where a stage reads only part of them."""
    limit_gib: Annotated[float, Field(gt=0)] = 100.0
    """Largest size on disk; a cache that would exceed it is refused before anything is computed."""


class Stage(Section):
    """A span of a model's training with its own objectives and teachers."""

    span: Span | None = None
    """How long: `17%` of the run, a number of steps, `5M tokens`, `1M words`; the last stage takes the rest."""
    objectives: Objectives = Objectives(next_token=Objective())
    """The loss."""
    teachers: tuple[Teacher, ...] = ()
    """Who teaches during this stage; all must share the student's vocabulary."""
    combine: Literal["mean_logits", "mean_probabilities"] = "mean_logits"
    """How several teachers become one distribution; `mean_logits` as BabyLlama published."""
    cache: Cache | None = None
    """Keep the teachers' output on disk, instead of computing it at every step."""
    select: Select | None = None
    """Learn from some of the rows (or tokens) only, chosen before the stage begins; see docs/selection.md."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Stage:
        if (self.objectives.distill is not None) != bool(self.teachers):
            raise ValueError("`teachers` and `objectives.distill` go together: give both, or neither")
        if self.cache is not None and not self.teachers:
            raise ValueError("`cache` keeps teachers' output: name `teachers`, or leave it out")
        distill, cache = self.objectives.distill, self.cache
        changes = distill is not None and isinstance(distill.temperature, TemperatureScheduleSettings)
        if changes and cache and cache.kind != "hidden":
            raise ValueError(f"`cache: {cache.kind}` keeps teachers' output at one temperature, and this one changes; "
                             "take `cache: hidden`, no cache, or a single temperature")  # fmt: skip
        if self.select and self.select.by == "excess" and self.cache and self.cache.fill == "first_epoch":
            raise ValueError("`select: {by: excess}` hides targets that a cache keeps: take `cache.fill: ahead`")
        return self

    @property
    def needs(self) -> tuple[Teacher, ...]:
        """Every model that must be trained before this stage: its teachers, and those whose scores select its rows."""
        return (*self.teachers, *(self.select.scorers if self.select else ()))

    @property
    def reads(self) -> ModelKind | None:
        """Whether the objectives make the model causal or masked; `distill` alone leaves it open."""
        if self.objectives.masked:
            return "masked"
        return "causal" if self.objectives.text else None
