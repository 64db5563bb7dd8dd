"""What each model of a recipe reads, for how many steps, and what that costs in floating-point operations.

Operations are counted for one seed: own training, the forward passes of teachers as long as they teach, and the passes
that score rows for selections. One model's operations are those of `models.cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource
from tutelage.corpus.tokenizer import vocabulary_size
from tutelage.experiment.rows import CorpusRows
from tutelage.experiment.runs import references_to
from tutelage.models.build import shape, shape_of
from tutelage.models.cost import Cost, cost_of
from tutelage.recipe import ModelKind, Recipe
from tutelage.teaching.cache import epochs_read
from tutelage.training.plan import Plan, plan


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """A model of a recipe with everything that is the same for all its seeds.

    In the settings, `model`, a length given as another model's operations is turned into steps. Checkpoints are kept at
    the steps of `milestones`: named by others, or asked for by words seen. `plans` know what each model costs.
    """

    name: str
    model: recipe.Model
    source: BatchSource
    steps: Plan
    milestones: frozenset[int]
    plans: Plans

    @property
    def cost(self) -> Cost:
        """The model's own."""
        return self.plans.cost_of(self.name, self.model.reads)

    @property
    def scoring_flops(self) -> float:
        """Operations of the passes that score rows for its selections, each scorer once; as if nobody shared them."""
        scorers = {str(s): s for stage in self.model.stages if stage.select is not None for s in stage.select.scorers}
        tokens = self.source.tokens_per_epoch
        return sum(self.plans.cost_of(scorer.model, "causal").forward_flops * tokens for scorer in scorers.values())

    def cache_epochs(self, index: int) -> range:
        """Return the epochs for which the cache of a stage has slots; one where rows are the same in all."""
        return epochs_read(self.source, self.steps.start_of(index), self.steps.taught_until(index))

    def teacher_flops(self, live: bool = False, until: int | None = None) -> float:
        """Return the operations of the teachers up to a step; `live`: as if there were no caches.

        The work of filling a cache counts whole once its stage has begun.
        """
        total = 0.0
        for index, stage in enumerate(self.model.stages):
            start, end = self.steps.start_of(index), self.steps.taught_until(index)
            asked = (end if until is None else min(end, until)) - start
            if asked <= 0:
                break
            read = asked * self.source.tokens_per_epoch / self.source.steps_per_epoch
            passed = float(self.source.tokens_per_epoch * len(self.cache_epochs(index)))
            costs = [self.plans.cost_of(teacher.model, self.model.reads) for teacher in stage.teachers]
            total += teaching_flops(None if live else stage.cache, costs, self.plans.vocab_size, read, passed)
        return total

    def flops(self, until: int | None = None) -> float:
        """Return all operations up to a step; the last one unless given."""
        steps = self.steps.total if until is None else until
        return step_flops(self.cost, self.source) * steps + self.teacher_flops(until=until) + self.scoring_flops


class Plans:
    """The plans of a recipe's models, each made when it is first asked for."""

    def __init__(self, what: Recipe, rows: CorpusRows) -> None:
        self.recipe, self.rows = what, rows
        self._plans: dict[str, ModelPlan] = {}
        self._costs: dict[tuple[str, ModelKind], Cost] = {}

    def of(self, name: str) -> ModelPlan:
        """Return a model's plan.

        Raises:
            UserError: a length or stage that cannot be, or one that depends on operations that nobody counted.
        """
        if name not in self._plans:
            self._plans[name] = self._made(name)
        return self._plans[name]

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer: see `vocabulary_size`."""
        return vocabulary_size(self.rows.prepared.tokenizer)

    def cost_of(self, name: str, reads: ModelKind) -> Cost:
        """Return the cost of a model of the recipe, or of one from outside; counted once, without weights."""
        if (name, reads) not in self._costs:
            length, model = self.recipe.data.rows.length, self.recipe.models.get(name)
            hf = shape_of(name, reads) if model is None else shape(model, self.rows.prepared.tokenizer, length)
            self._costs[name, reads] = cost_of(hf, reads, length)
        return self._costs[name, reads]

    def _made(self, name: str) -> ModelPlan:
        model, references = self.recipe.models[name], references_to(self.recipe, name)
        source = self.rows.training(model)
        if model.flops_of is not None:
            own = step_flops(self.cost_of(name, model.reads), source)
            length = int(self._budget(name, model.flops_of) / own)
            model = model.model_copy(update={"steps": length, "flops_of": None})
        written = (t.checkpoint for t in references)
        named = frozenset(int(text.removeprefix("step-")) for text in written if text.startswith("step-"))
        words = frozenset(t.words for t in references if t.words is not None)
        steps = plan(name, model, source, self.rows.words_per_token, named, words)
        milestones = named | frozenset(steps.words.values())
        return ModelPlan(name=name, model=model, source=source, steps=steps, milestones=milestones, plans=self)

    def _budget(self, name: str, wanted: recipe.FlopsOf) -> float:
        """Return the operations of another model, and of the training of its teachers where they are counted."""
        budget = self.of(wanted.model).flops()
        if wanted.teachers == "counted":
            for ancestor, seeds in self.recipe.ancestors_of(wanted.model).items():
                if ancestor not in self.recipe.models:
                    raise UserError(
                        f"models.{name}.flops_of: the training of '{ancestor}' happened elsewhere, and nobody counted "
                        "it; leave `teachers: counted` out"
                    )
                budget += seeds * self.of(ancestor).flops()
        return budget


def step_flops(cost: Cost, source: BatchSource) -> float:
    """Return the operations of a model's own training in one step."""
    return cost.training_flops * source.tokens_per_epoch / source.steps_per_epoch


def teaching_flops(
    cache: recipe.Cache | None, costs: Sequence[Cost], vocab_size: int, read: float, passed: float
) -> float:
    """Count the operations of a stage's teachers, from the tokens that the student reads.

    A cache, of which `passed` tokens fill all slots, is counted as if each student had filled it for itself. Without
    one, the teachers are asked at every step.
    """
    if cache is None:
        return sum(cost.forward_flops * read for cost in costs)
    computed = passed if cache.fill == "ahead" else min(passed, read)
    if cache.kind != "hidden":
        return sum(cost.forward_flops * computed for cost in costs)
    # The output layers are left out of the pass, and applied at every step instead.
    heads = [2.0 * cost.output_width * vocab_size for cost in costs]
    return sum((c.forward_flops - head) * computed + head * read for c, head in zip(costs, heads, strict=True))
