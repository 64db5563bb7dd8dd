"""What an experiment is: one strict, typed tree that a YAML file fills.

Every key is documented by the string below it; `docs/recipes.md` is generated from these. Unknown keys are refused
with the nearest match and the line; values have types and bounds. Secrets never stand in a recipe.

Reading goes: YAML text -> plain tree (`recipe.yaml`) -> `a.b=c` overrides -> `like`/`without` resolved -> this schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from tutelage.recipe.data import Count, Data, Section, Words, check_seeds, seed_list
from tutelage.recipe.evaluation import Compare, Evaluation
from tutelage.recipe.optim import Average, Optim
from tutelage.recipe.stage import TEACHER, Hybrid, Masked, ModelKind, Stage, Tasks, Ul2
from tutelage.recipe.words import SCHEDULES

LENGTHS = ("epochs", "steps", "tokens", "words", "flops_of")


class FlopsOf(Section):
    """A length that is as many floating-point operations as another model takes; a name stands for `{model: name}`."""

    model: str
    """Model of this recipe."""
    teachers: Literal["given", "counted"] = "given"
    """`given`: its own training and what its teachers compute meanwhile, as if they had been there. `counted`: the
    training of its teachers too, theirs included, each once."""

    @model_validator(mode="before")
    @classmethod
    def _name_is_model(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class Model(Section):
    """A model to train: its shape, its length, its teaching."""

    preset: str | None = None
    """A shape by name (`tutelage show --presets`)."""
    config: dict[str, Any] | None = None
    """Or a Hugging Face configuration: `{model_type: llama, hidden_size: 256, ...}`; with `preset`, changes to it."""
    weights: str | None = None
    """Or start from these weights: a Hugging Face folder or hub id."""
    kind: ModelKind | None = None
    """Whether it reads left to right (`causal`) or both ways (`masked`); follows from the objectives unless given."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Length in passes over the training rows; name one of `epochs`, `steps`, `tokens`, `words`, `flops_of`."""
    steps: Count | None = None
    """Length in optimizer steps."""
    tokens: Count | None = None
    """Length in tokens read, repeats included."""
    words: Count | None = None
    """Length in whitespace words read, repeats included."""
    flops_of: FlopsOf | None = None
    """As many FLOPs as the whole training of another model: an equal control. For models without teachers, scorers."""
    seeds: Annotated[int, Field(ge=1, le=1000)] | tuple[int, ...] = 1
    """Trained once for each seed: a number (0, 1, ...) or a list of seeds."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    """What is learned from what, in order."""
    optim: Optim = Optim()
    """Optimizer, schedule, batch."""
    average: Average | None = None
    """Evaluate and export an average of the weights in place of the last ones; training takes the same steps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products; weights and optimizer stay fp32. `auto`: bf16 where the machine has it."""
    attention: Literal["auto", "eager", "sdpa", "causal"] = "auto"
    """Form of attention: product and softmax written out (`eager`), `scaled_dot_product_attention` (`sdpa`), or the
    same without ever building a mask (`causal`; masked models and those with windows take `sdpa`). `auto`: `sdpa` on a
    GPU, `eager` on a CPU; in runs of over one minute on a GPU, five on a CPU, the fastest of a few timed steps."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Make code for the layers' shapes (`torch.compile`; takes half a minute). `auto`: where a run of over a quarter of
    an hour gains from it, by a few timed steps. A sharded model is not compiled."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """On a GPU, launch forward and backward pass as one recorded graph each; small models gain, whose kernels are
    shorter than launching them. `auto`: where a run of over a minute gains from it, by a few timed steps; one process
    and one micro-batch a step only."""
    deterministic: bool = False
    """On a GPU, take slower kernels that repeat to the last bit, so that a resumed run equals one never interrupted. A
    CPU always repeats."""
    evaluations: Count = 10
    """Evaluations on `val`, evenly spaced, the last one at the end; each also saves a checkpoint."""
    save_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Also save a checkpoint when the last one is older than this."""
    sharding: Literal["none", "fsdp"] = "none"
    """How several processes hold this model and its teachers while it trains. `none`: each holds them whole. `fsdp`:
    each holds a part of all weights, gradients and moments and fetches the rest layer by layer, for models too large
    for one device; results differ by rounding only, and one process ignores it."""
    keep: Literal["best", "all"] = "best"
    """Checkpoints to keep: the best and the last two, or all."""
    checkpoints: Literal["babylm-strict-small", "babylm-strict"] | tuple[Words, ...] = ()
    """Also keep the weights where so many words were seen, repeats included: a list (`[100K, 1M]`), or what BabyLM asks
    for, 1M to 9M and 10M to 100M (`babylm-strict-small`), on to 1000M (`babylm-strict`). Those beyond the run's length
    are left out; the end stands for the next one of BabyLM's that is less than 1 % away. `name@words-1M` names one."""
    heads: Literal["kept", "dropped"] = "kept"
    """Whether heads of `objectives.tasks` are written beside the trained weights, for `evaluate: [tasks]`."""
    like: str | None = None
    """Take every setting not given here from that model (resolved before anything else)."""
    without: str | tuple[str, ...] = ()
    """With `like`: leave out `teachers` (or `distill`, the same), `select`, or an objective; where an objective
    goes, the other weights are scaled to sum to 1; without `tasks`, they stay as they are."""

    @model_validator(mode="after")
    def _has_one_length(self) -> Model:
        if sum(getattr(self, length) is not None for length in LENGTHS) != 1:
            raise ValueError(f"give its length as exactly one of {', '.join(f'`{length}`' for length in LENGTHS)}")
        if self.flops_of is not None and any(stage.needs for stage in self.stages):
            raise ValueError("`flops_of` is for models without teachers and scorers, all of whose steps cost the same")
        return self

    @model_validator(mode="after")
    def _has_one_shape(self) -> Model:
        if self.preset is None and self.config is None and self.weights is None:
            raise ValueError("give its shape: `preset`, `config` or `weights`")
        if self.weights is not None and (self.preset or self.config):
            raise ValueError("`weights` bring their own shape: leave out `preset` and `config`")
        if self.without and self.like is None:
            raise ValueError("`without` goes with `like`: name the model to leave something out of")
        return self

    @model_validator(mode="after")
    def _has_different_seeds_and_checkpoints(self) -> Model:
        if list(self.checkpoint_words) != sorted(set(self.checkpoint_words)):
            raise ValueError(f"checkpoints {list(self.checkpoint_words)} are not in rising order")
        check_seeds(self.seed_list)
        return self

    @model_validator(mode="after")
    def _execution_fits_sharding(self) -> Model:
        for key in ("compile", "cuda_graphs"):
            if self.sharding != "none" and getattr(self, key) == "on":
                raise ValueError(f"`{key}: on` and `sharding` exclude each other; leave one of them out")
        if self.sharding != "none" and self.tasks:
            raise ValueError("heads are not sharded: `tasks` and `sharding` exclude each other")
        return self

    @model_validator(mode="after")
    def _stages_agree(self) -> Model:
        if any(stage.span is None for stage in self.stages[:-1]) or self.stages[-1].span is not None:
            raise ValueError("every stage but the last has a `span`; the last takes the rest")
        if len({self.kind, *(stage.reads for stage in self.stages)} - {None}) > 1:
            raise ValueError("stages (and `kind`) disagree whether the model is causal or masked")
        objectives = [stage.objectives for stage in self.stages]
        rates = {(terms.hides.rate, terms.hides.final_rate): None for terms in objectives if terms.hides}
        if len(rates) > 1:
            told = ", ".join(str(rate) if final is None else f"{rate} to {final}" for rate, final in rates)
            raise ValueError(f"stages differ in `masked.rate` ({told}); give all the same rate")
        if any(final is not None for _, final in rates) and self.epochs is None:
            raise ValueError("`final_rate` changes from pass to pass: give the model's length in `epochs`")
        if len({(one.weighting, one.confidence) for one in self.tasks}) > 1:
            raise ValueError("stages differ in `tasks.weighting` or `tasks.confidence`; give all the same")
        texts = [terms.text.model_copy(update={"weight": 1.0}) for terms in objectives if terms.text]
        for name, same in (("ul2", self.ul2), ("hybrid", self.hybrid)):
            if same is not None and any(text != same for text in texts):
                raise ValueError(f"stages differ in `{name}`; give all the same settings (weights may differ)")
        if self.hybrid is not None and self.cuda_graphs == "on":
            raise ValueError("a CUDA graph reads all rows one way: `hybrid` and `cuda_graphs: on` exclude each other")
        return self

    @property
    def ul2(self) -> Ul2 | None:
        """The mixture of denoisers that rewrites this model's rows, with weight 1."""
        found = next((stage.objectives.ul2 for stage in self.stages if stage.objectives.ul2), None)
        return None if found is None else found.model_copy(update={"weight": 1.0})

    @property
    def hybrid(self) -> Hybrid | None:
        """How its rows are read both ways, with weight 1."""
        found = next((stage.objectives.hybrid for stage in self.stages if stage.objectives.hybrid), None)
        return None if found is None else found.model_copy(update={"weight": 1.0})

    @property
    def hides(self) -> Masked | None:
        """The objective that hides tokens, if it has one."""
        return next((stage.objectives.hides for stage in self.stages if stage.objectives.hides), None)

    @property
    def tasks(self) -> tuple[Tasks, ...]:
        """What its stages learn from labels."""
        return tuple(stage.objectives.tasks for stage in self.stages if stage.objectives.tasks)

    @property
    def seed_list(self) -> tuple[int, ...]:
        return seed_list(self.seeds)

    @property
    def checkpoint_words(self) -> tuple[int, ...]:
        """The numbers of words at which checkpoints are asked for."""
        return SCHEDULES[self.checkpoints] if isinstance(self.checkpoints, str) else self.checkpoints

    @property
    def reads(self) -> ModelKind:
        """Whether it is causal or masked, by `kind` and by its objectives."""
        masked = self.kind == "masked" or any(stage.reads == "masked" for stage in self.stages)
        return "masked" if masked else "causal"


class Recipe(Section):
    """A whole experiment: the data, every model, what they are scored on and how they are compared."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    """Names the run folder, `runs/<name>/`."""
    description: str = ""
    """A sentence or two for the report."""
    seed: int = 0
    """Added to every model's seed. To repeat the whole experiment with other random numbers, choose a value beyond all
    seeds, such as 100: with `seeds: 3`, 0 means 0, 1, 2 and 1 means 1, 2, 3."""
    data: Data = Data()
    """Corpus, tokenizer, rows."""
    models: Annotated[dict[str, Model], Field(min_length=1)]
    """Models by name: letters, digits, `_` and `-`."""
    evaluate: tuple[str, ...] = ("test",)
    """`test` or `val` (held-out loss), suites and other evaluations by name (`blimp`, `blimp-supplement`, ...; see
    docs/evaluation.md), `pairs:FOLDER` of minimal pairs in JSON lines, or `package.module:function` of your own."""
    evaluation: Evaluation = Evaluation()
    """Rules of scoring."""
    compare: Compare = Compare()
    """What the report compares."""

    @model_validator(mode="after")
    def _names_can_be_folders(self) -> Recipe:
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise wrong(("models", name), "a model's name has letters, digits, '_' and '-' only; rename it")
            if name.lower() in ("data", "ensembles"):
                raise wrong(("models", name), f"the run keeps its own files in '{name}/'; name the model otherwise")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        buckets = self.evaluation.buckets
        if "buckets" in self.evaluate and buckets is None:
            raise wrong(("evaluate",), "`buckets` needs to know whose loss sorts the rows: evaluation.buckets.by")
        if buckets is not None:
            self._check_named(buckets.by.model, ("evaluation", "buckets", "by"))
        for name in self.compare.models:
            self._check_compared(name)
        for name in (name for pair in self.compare.pairs for name in pair):
            if name not in (self.compare.models or self.models):
                raise wrong(("compare", "pairs"), f"names '{name}', which is not among the models compared")
        return self

    @model_validator(mode="after")
    def _teachers_are_of_their_students_kind(self) -> Recipe:
        for name, number, stage in self._stages():
            reads = self.models[name].reads
            for teacher in stage.needs:
                kind = self.models[teacher.model].reads if teacher.model in self.models else reads
                if kind != reads:
                    key = "teachers" if teacher in stage.teachers else "select"
                    remedy = "choose a teacher of the same kind, or another objective (or `kind`) for one of the two"
                    raise wrong(("models", name, "stages", number, key),
                                f"the teacher '{teacher}' is {kind}, its student {reads}; {remedy}")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _labels_have_their_places(self) -> Recipe:
        if self.data.separator == "brackets" and self.data.rows.kind == "examples":
            return self
        remedy = "set data.separator=brackets and data.rows.kind=examples"
        for name, number, stage in self._stages():
            if stage.objectives.tasks:
                place = ("models", name, "stages", number, "objectives", "tasks")
                raise wrong(place, f"labels belong to whole texts between brackets: {remedy}")
        if "tasks" in self.evaluate:
            raise wrong(("evaluate",), f"`tasks` needs labels: {remedy}")
        return self

    @model_validator(mode="after")
    def _compiled_rows_are_alike(self) -> Recipe:
        for name, model in self.models.items() if self.data.rows.kind == "examples" else ():
            for key, why in (("compile", "each compiled again"), ("cuda_graphs", "a graph only one")):
                if getattr(model, key) == "on":
                    message = f"rows of kind `examples` have many lengths, {why}; leave `{key}` out"
                    raise wrong(("models", name, key), message)
        return self

    @model_validator(mode="after")
    def _lengths_are_known(self) -> Recipe:
        def visit(name: str, path: tuple[str, ...]) -> None:
            if path:
                self._check_named(name, ("models", path[-1], "flops_of"))
            if name in path:
                circle = " -> ".join((*path, name))
                raise wrong(("models", path[0], "flops_of"), f"lengths depend on each other in a circle: {circle}")
            if of := self.models[name].flops_of:
                counted = self.ancestors_of(of.model) if of.teachers == "counted" else {}
                for other in (of.model, *(one for one in counted if one in self.models)):
                    visit(other, (*path, name))

        for name in self.models:
            visit(name, ())
        return self

    def ancestors_of(self, name: str) -> dict[str, int]:
        """Return a model's teachers and scorers, theirs, and so on, from outside too: how many seeds of each."""
        found: dict[str, set[int]] = {}
        waiting = [name]
        for one in waiting:  # which grows meanwhile
            model = self.models.get(one)
            for needed in (needed for stage in model.stages for needed in stage.needs) if model else ():
                if needed.model not in found:
                    waiting.append(needed.model)
                first = self.models[needed.model].seed_list[0] if needed.model in self.models else 0
                found.setdefault(needed.model, set()).add(first if needed.seed is None else needed.seed)
        return {model: len(seeds) for model, seeds in found.items()}

    def _stages(self) -> Iterator[tuple[str, int, Stage]]:
        """Yield every stage with its model's name and its number."""
        for name, model in self.models.items():
            for number, stage in enumerate(model.stages):
                yield name, number, stage

    def _check_named(self, name: str, place: tuple[str | int, ...]) -> None:
        if name not in self.models:
            raise wrong(place, f"names '{name}', which is not among models: {list(self.models)}")

    def _check_compared(self, name: str) -> None:
        """Check a name of `compare.models`: a model, or an ensemble of models of one kind."""
        place = ("compare", "models")
        kinds: dict[str, str] = {}
        for written in ensemble_members(name) or [name]:
            match = TEACHER.fullmatch(written)
            member = match["model"] if match and written != name else written
            self._check_named(member, place)
            kinds[member] = self.models[member].reads
        if len(set(kinds.values())) > 1:
            listed = ", ".join(f"{member} is {kind}" for member, kind in kinds.items())
            raise wrong(place, f"'{name}' mixes kinds ({listed}); an ensemble is causal or masked")


def wrong(place: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """Make the error of a check that goes across sections; it is told at that place, with its line."""
    return PydanticCustomError("recipe", "{message}", {"message": message, "place": place})


def ensemble_members(name: str) -> list[str]:
    """Return the members of `ensemble(a, b)`; nothing where `name` is no ensemble."""
    match = re.fullmatch(r"ensemble\((.+)\)", name)
    return [member.strip() for member in match[1].split(",")] if match else []


def is_path(name: str) -> bool:
    """Tell whether a model's or corpus's name is meant as a path."""
    return name.startswith((".", "/", "~")) or Path(name).exists()
