"""What a recipe will take, before it is run: sizes, arithmetic, memory, disk, time.

Sizes are counted on models built without memory. Time comes from a probe: a few training steps of each model, teachers'
forward passes included; models too large for a short probe are carried over from the others at equal operations per
second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from rich.syntax import Syntax
from rich.table import Table

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.console import NARROWEST
from tutelage.base.progress import console, duration, human, output
from tutelage.bench.timed import MadeUpTokenizer
from tutelage.experiment import caches
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.initial import new_model
from tutelage.experiment.loading import trained
from tutelage.experiment.setup import Experiment
from tutelage.models.build import shape
from tutelage.models.cost import Cost
from tutelage.models.presets import PRESETS
from tutelage.recipe.load import load_recipe
from tutelage.recipe.shipped import shipped
from tutelage.report.study_tables import shipped_studies
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import scales_for
from tutelage.training.probe import probe

PROBE_FLOPS = 5e11
"""Operations of the largest step that is probed whole; of larger ones, as many rows as fit."""


@dataclass(frozen=True)
class RunEstimate:
    """What one model will take; all but `flops`, `disk` and `seconds` is for one seed.

    Attributes:
        seeds: how many.
        tokens: read, repeats included; `words` likewise.
        flops: own and teachers' operations.
        memory: bytes while it trains, about.
        disk: bytes of checkpoints and exported models, about.
        seconds: of training; None without a probe.
        caches: the teacher cache of each stage that has one: kind, bytes a token, size. Counted in `disk` for each
            stage and model, also where several share one.
    """

    name: str
    seeds: int
    cost: Cost
    steps: int
    tokens: int
    words: int
    flops: float
    memory: float
    disk: float
    seconds: float | None
    caches: tuple[str, ...] = ()


def estimate(experiment: Experiment, with_probe: bool = True) -> list[RunEstimate]:
    """Estimate every model of an experiment; its data are prepared first, aside if it is only looked at."""
    estimates: list[RunEstimate] = []
    for name, model in experiment.recipe.models.items():
        run = experiment.run(recipe.Teacher(model=name))
        plan, cost, source = run.plan, run.plan.cost, run.plan.source
        tokens = round(plan.steps.total * source.tokens_per_epoch / source.steps_per_epoch)
        seeds, flops = len(model.seed_list), plan.flops()
        # Live teachers are probed, at the operations of live teaching.
        probed = (cost.training_flops * tokens + plan.teacher_flops(live=True)) / plan.steps.total
        rate = _probe(experiment, run, probed) if with_probe else None
        kept = caches.planned(run).values()
        teachers = (t.model for stage in model.stages for t in stage.teachers)
        teaching = sum(plan.plans.cost_of(name, model.reads).parameters for name in teachers)
        held = (model.optim.micro_batch_rows or model.optim.batch_rows) * source.row_length
        averages = 4.0 * cost.parameters if model.average is not None else 0.0
        kept_weights = 4.0 * (1 + len(plan.steps.words)) * cost.parameters
        saved = (3 * (12.0 * cost.parameters + averages) + kept_weights) * seeds
        estimates.append(
            RunEstimate(
                name=name,
                seeds=seeds,
                cost=cost,
                steps=plan.steps.total,
                tokens=tokens,
                words=round(tokens * experiment.rows.words_per_token),
                flops=flops * seeds,
                memory=cost.training_bytes(held, teaching) + averages,
                # Up to three checkpoints of weights and moments while it trains, the exported weights, and those kept.
                disk=saved + sum(cache.size for cache in kept),
                seconds=flops * seeds / rate if rate else None,
                caches=tuple(str(cache) for cache in kept),
            )
        )
    return estimates


def _probe(experiment: Experiment, run: TrainingRun, step_flops: float) -> float:
    """Return the operations per second of a few training steps."""
    model, device, stage = run.model, experiment.group.device, run.model.stages[0]
    rows = max(1, min(model.optim.batch_rows, int(model.optim.batch_rows * PROBE_FLOPS / step_flops)))
    teachers = [
        new_model(experiment, experiment.run(teacher)).to(device)
        if teacher.model in experiment.recipe.models
        else trained(experiment, teacher, model.reads).to(device)
        for teacher in stage.teachers
    ]
    student, source = new_model(experiment, run).to(device), run.plan.source.with_batch_rows(rows)
    precision = machine.precision(model.precision)
    if teachers:
        ensemble = Ensemble(teachers, None, stage.combine)
        found = probe(student, source, precision, 3, ensemble, partial(scales_for, stage.objectives))
    else:
        found = probe(student, source, precision, 3)
    return step_flops * rows / model.optim.batch_rows / found.usual


def print_recipe(experiment: Experiment, with_probe: bool) -> None:
    """Print the resolved recipe to stdout, which makes a recipe file; then to stderr a table of estimates."""
    what, say = experiment.recipe, console.print
    text = yaml.safe_dump(_resolved(what), sort_keys=False, allow_unicode=True)
    output().print(Syntax(text, "yaml", background_color="default"))
    rows, data = estimate(experiment, with_probe), experiment.data
    say(
        f"corpus {what.data.corpus}: {data.train.words:,} {data.unit}, {len(data.train):,} tokens to train on; "
        f"val {data.val.words:,} {data.unit}, test {data.test.words:,} {data.unit}; vocabulary {len(data.tokenizer):,}"
    )
    settings, ready = machine.environment(), machine.set_up()
    say(f"machine: {settings['gpu'] or settings['cpu']}, {settings['cores']} cores, "
        f"{settings['memory_gib']} GiB; {ready.threads} threads, "
        f"freed memory {'kept' if ready.pages_kept else 'returned'}, "
        f"`auto` precision {machine.precision('auto')}")  # fmt: skip
    say(_table(rows, data.unit))
    for name, model in what.models.items():
        if model.flops_of is not None:
            whole = ", the training of its teachers counted" if model.flops_of.teachers == "counted" else ""
            say(f"{name}: as many steps as the FLOPs of {model.flops_of.model} pay for{whole}")
        if tasks := experiment.rows.tasks_of(model):
            [width] = [row.cost.output_width for row in rows if row.name == name]
            count = sum(len(task.labels) for task in tasks) * (width + 1)
            say(f"{name}: heads for {len(tasks)} tasks, {count:,} parameters beside those above")
    for row in rows:
        for cache in row.caches:
            say(f"teacher cache of {row.name}: {cache}")
    known = [row.seconds for row in rows if row.seconds is not None]
    if known:
        say(f"training in all: about {duration(sum(known))}, evaluation apart")


def _resolved(what: recipe.Recipe) -> dict[str, Any]:
    """Return a recipe as a tree: defaults left out, but for the weights of objectives, which one wants to see."""
    tree = what.model_dump(mode="json", exclude_defaults=True)
    for name, model in what.models.items():
        for number, stage in enumerate(model.stages if "stages" in tree["models"][name] else ()):
            written = tree["models"][name]["stages"][number].get("objectives", {})
            for term, objective in stage.objectives.named().items():
                if isinstance(written.get(term), dict):
                    written[term] = {"weight": objective.weight} | written[term]
    return tree


def _table(rows: Sequence[RunEstimate], unit: str) -> Table:
    caption = f"Steps, tokens, {unit} and memory are of one seed; FLOPs, disk and time of all. About."
    table = Table(title="What it will take", caption=caption, title_justify="left", caption_justify="left", box=None,
                  padding=(0, 1, 0, 0))  # fmt: skip
    table.add_column("model", overflow="fold", min_width=min(NARROWEST, max(len(row.name) for row in rows)))
    for column in ("seeds", "params", "steps", "tokens", unit, "FLOPs", "memory", "disk", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name, str(row.seeds), human(row.cost.parameters), f"{row.steps:,}", human(row.tokens),
            human(row.words), f"{row.flops:.2g}", f"{human(row.memory)}B", f"{human(row.disk)}B",
            duration(row.seconds) if row.seconds is not None else "-",
        )  # fmt: skip
    return table


def print_recipes() -> None:
    """List the recipes that come with the package, and the studies that write corpora for some of them."""
    table = Table("recipe", "what it is", box=None, padding=(0, 2, 1, 0))
    for name in shipped("recipe"):
        table.add_row(f"[bold]{name}[/]", load_recipe(name).description)
    output().print(table)
    output().print(shipped_studies())


def print_presets() -> None:
    """List the shapes of models that recipes can name, with their parameters at a vocabulary of 16,000."""
    caption = "Parameters: with a vocabulary of 16,000 tokens."
    table = Table("preset", box=None, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
    table.add_column("parameters", justify="right")
    table.add_column("settings")
    for name, settings in PRESETS.items():
        shown = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "model_type")
        table.add_row(name, human(_preset_parameters(name)), f"{settings['model_type']}: {shown}")
    output().print(table)


def _preset_parameters(name: str) -> int:
    objective = "masked" if PRESETS[name]["model_type"] == "modernbert" else "next_token"
    model = recipe.Model.model_validate({"preset": name, "steps": 1, "stages": [{"objectives": {objective: 1}}]})
    hf = shape(model, MadeUpTokenizer(16_000), row_length=8)
    return sum(weights.numel() for weights in hf.parameters())
