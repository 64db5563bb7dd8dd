"""The form of a model's arithmetic: which attention, compiled or not. Results differ by rounding alone.

What is fastest depends on the processor and the shape, so a run that is long enough to repay it begins with a few timed
steps of each form. What was chosen is written down and kept for the whole run: resuming must repeat every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource, Chunks
from tutelage.files import read_json, write_json
from tutelage.models.build import attention
from tutelage.models.language_model import LanguageModel
from tutelage.progress import console, duration
from tutelage.run_folder import Json
from tutelage.training.probe import seconds_per_step

MEASURED_FROM = 300.0
"""Seconds of training from which on forms are timed."""
COMPILED_FROM = 900.0
"""Seconds of training from which on compiling is tried: it takes half a minute, and gains a quarter at most."""
WORTH = 0.05
"""Share of the time that a form must save to be preferred to the plain one."""
MEASURED_STEPS = 500
"""Shorter runs are not worth the timing."""
STEPS = 5
"""Steps to time."""


@dataclass(frozen=True)
class Form:
    """A form of arithmetic.

    Attributes:
        attention: name of a transformers implementation.
        compiled: whether the layers run as code made for their shapes (`torch.compile`).
    """

    attention: str
    compiled: bool = False

    def give(self, model: LanguageModel) -> LanguageModel:
        """Let a model compute in this form; its weights and their names stay."""
        model.hf.set_attn_implementation(self.attention)
        if self.compiled:
            # Layer by layer: they are alike, so that one compilation serves all, and what surrounds them (masks,
            # embeddings) stays out of it.
            for layer in model.layers:
                layer.compile(dynamic=False)
        return model


def choose(
    model: recipe.Model, build: Callable[[], LanguageModel], source: BatchSource, precision: str, steps: int
) -> tuple[Form, Json]:
    """Choose the form for a run, by measurement where the recipe leaves it open and the run is long.

    Args:
        model: the recipe's model, whose wishes come first.
        build: makes the model, on its device.
        source: training batches of one process, one micro-batch each.
        precision: `bf16` or `fp32`.
        steps: micro-batches of the whole run.

    Returns:
        The form, and seconds of a step by form, for the record.
    """
    form = Form(attention() if model.attention == "auto" else model.attention, model.compile == "on")
    static = isinstance(source.rows, Chunks)
    open_attention = model.attention == "auto" and not torch.cuda.is_available()
    if steps < MEASURED_STEPS or (not open_attention and (model.compile != "auto" or not static)):
        return form, {}
    stage = recipe.Stage(objectives=_text_objective(model))

    def seconds(form: Form) -> tuple[float, float]:
        return seconds_per_step(form.give(build()), [], source, stage, precision, STEPS)

    def note(form: Form, first: float, usual: float) -> None:
        measured.append(asdict(form) | {"first": round(first, 3), "usual": round(usual, 4)})

    measured: list[Json] = []
    first, best = seconds(form)
    note(form, first, best)
    if open_attention and best * steps > MEASURED_FROM:
        other = Form("sdpa" if form.attention == "eager" else "eager", form.compiled)
        with _or_not(other):
            first, usual = seconds(other)
            note(other, first, usual)
            if usual < (1 - WORTH) * best:
                form, best = other, usual
    if model.compile == "auto" and static and best * steps > COMPILED_FROM:
        compiled = Form(form.attention, compiled=True)
        console.print("timing compiled layers ...")
        with _or_not(compiled):
            first, usual = seconds(compiled)
            note(compiled, first, usual)
            if (best - usual) * steps - first > WORTH * best * steps:
                form, best = compiled, usual
    console.print(
        f"{form.attention} attention, {'compiled' if form.compiled else 'not compiled'}: "
        f"{source.batch_rows * source.row_length / best:,.0f} tokens/s without teachers, about {duration(best * steps)}"
    )
    return form, {"steps": measured}


def remembered(run: Path, shared: Path, key: str, choose: Callable[[], tuple[Form, Json]]) -> Form:
    """Return the form that a run began with; a new run takes that of its like, or chooses.

    Args:
        run: file in the run's folder.
        shared: file in the experiment's folder, by key: models that are compared compute in the same form.
        key: digest of whatever the choice depends on.
        choose: measures.
    """
    if not run.is_file():
        known = read_json(shared) if shared.is_file() else {}
        if key not in known:
            form, measured = choose()
            known[key] = asdict(form) | measured
            write_json(shared, known)
        write_json(run, known[key])
    found = read_json(run)
    return Form(found["attention"], found["compiled"])


@contextmanager
def _or_not(form: Form) -> Iterator[None]:
    """Go on without a form that fails: no compiler, or a model that does not have it. The errors are of many kinds."""
    try:
        yield
    except Exception as error:
        what = "compiled layers" if form.compiled else f"{form.attention} attention"
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        console.print(f"no {what}: {type(error).__name__}: {reason}")


def _text_objective(model: recipe.Model) -> recipe.Objectives:
    """The objective of plain training: forms are compared without teachers."""
    if model.reads == "causal":
        return recipe.Objectives(next_token=recipe.Objective())
    return recipe.Objectives(
        masked=next((s.objectives.masked for s in model.stages if s.objectives.masked), recipe.Masked())
    )
