"""Train one run of an experiment: its mode of execution, its caches, the loop, and what is written at the end."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial

from tutelage.base import machine
from tutelage.base.files import fingerprint, read_json
from tutelage.base.progress import console, duration
from tutelage.experiment import caches
from tutelage.experiment.exported import best, export
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.initial import new_learner, new_model
from tutelage.experiment.loading import ensemble_of
from tutelage.experiment.selections import select_ahead
from tutelage.experiment.setup import Experiment
from tutelage.models.build import attention
from tutelage.models.cost import cost_of
from tutelage.training import checkpoint, execution
from tutelage.training.execution import ExecutionMode
from tutelage.training.gate_report import gate_by_difficulty
from tutelage.training.job import Job
from tutelage.training.loop import train
from tutelage.training.objectives import Learner, first_temperature, gate_of
from tutelage.training.outcome import Finished, GateBin, GateStage, HeldOut

SETTLING_MODE = {"preset", "config", "weights", "attention", "compile", "cuda_graphs"}
"""Settings of a model that its mode of execution depends on."""


def train_run(experiment: Experiment, run: TrainingRun) -> None:
    """Train one run, or go on with it, or skip it if it is finished."""
    # One process holds the lock for the whole group.
    with run.folder.locked() if experiment.group.is_main else nullcontext():
        if experiment.group.is_main:
            run.folder.write_spec(run.spec)
        experiment.group.barrier()
        if run.folder.is_finished:
            return
        model, data = run.model, experiment.data
        with machine.deterministic(model.deterministic):
            selected, scoring = select_ahead(experiment, run)
            building = caches.build_ahead(experiment, run)
        if model.sharding != "none" and experiment.group.size == 1:
            console.print(f"{run}: not sharded, since this is the only process; torchrun starts several")
        batches = {index: run.plan.source.with_rows(found.rows, found.targets) for index, found in selected.items()}
        mode = mode_of(experiment, run)
        opened = ExitStack()
        job = Job(
            name=run.name,
            model=model,
            seed=run.initial_seed,
            source=run.plan.source,
            val=experiment.rows.held_out("val", model),
            val_bytes_per_token=data.val.bytes / len(data.val),
            plan=run.plan.steps,
            milestones=run.plan.milestones,
            teachers=lambda index: caches.teachers_at(experiment, run, index, mode, opened),
            precision=run.precision,
            task_weights=experiment.rows.task_weights(model),
            selected=batches,
        )
        with opened, machine.deterministic(model.deterministic):
            learner = new_learner(experiment, run)
            mode.apply(learner.model)
            state = train(job, learner, run.folder, experiment.group)
            del learner  # before `_finish` builds another
        if experiment.group.is_main:
            _finish(experiment, run, state, building, scoring)
        experiment.group.barrier()


def mode_of(experiment: Experiment, run: TrainingRun) -> ExecutionMode:
    """Return a run's mode of execution: what it began with, or a new choice."""
    model, group = run.model, experiment.group
    rows = min(model.optim.micro_batch_rows or model.optim.batch_rows, -(-model.optim.batch_rows // group.size))
    micros = -(-model.optim.batch_rows // (rows * group.size))
    if model.sharding != "none" and group.size > 1:
        # Too large for one process, and so for a trial.
        return ExecutionMode(attention() if model.attention == "auto" else model.attention)
    settings = model.model_dump(mode="json", include=SETTLING_MODE)
    steps, length = run.plan.steps.total * micros, experiment.recipe.data.rows.length
    key = fingerprint([settings, rows, length, run.precision, steps, machine.environment()])

    choose = partial(
        execution.choose, model, lambda: new_model(experiment, run).to(group.device),
        run.plan.source.with_batch_rows(rows), run.precision, steps, micros == 1 and group.size == 1,
    )  # fmt: skip
    noted, shared = run.folder.path / "execution.json", experiment.folder / "executions.json"
    chosen = asdict(execution.remembered(noted, shared, key, choose)) if group.is_main else None
    return ExecutionMode(**group.from_main(chosen))


def _finish(experiment: Experiment, run: TrainingRun, state: checkpoint.State, building: float, scoring: float) -> None:
    """Export the best checkpoint and write down what training came to.

    `building` caches and `scoring` for selections took that many seconds.
    """
    best_step = int(state.best["step"])
    learner = best(experiment, run, best_step)
    model, heads, plan, folder = learner.model, learner.heads, run.plan, run.folder
    cost = cost_of(model.hf, run.model.reads, plan.source.row_length)
    timing = read_json(checkpoint.folder_of(folder.checkpoints, state.step) / "timing.json")
    val = next(line["val"] for line in reversed(folder.lines()) if line["step"] == best_step and "val" in line)
    done = Finished(
        steps=state.step,
        tokens=state.tokens,
        words=round(state.tokens * experiment.rows.words_per_token),
        epochs=state.step / plan.source.steps_per_epoch,
        seconds=timing["seconds"] + building + scoring,
        seconds_teaching=None if experiment.group.device.type == "cuda" else timing["teaching"] + building,
        seconds_ahead=building + scoring,
        flops=cost.training_flops * state.tokens,
        teacher_flops=plan.teacher_flops(),
        seconds_scoring=scoring,
        scoring_flops=plan.scoring_flops,
        clip_rate=state.clipped / state.step,
        best_step=best_step,
        val=HeldOut(**val),
        cost=cost,
        architecture=model.hf.config.model_type,
        gate_report=_gate_report(experiment, run, learner),
        heads=None
        if heads is None
        else {
            "parameters": sum(parameter.numel() for parameter in heads.parameters()),
            "tasks": [task.name for task in heads.tasks],
        },
    )
    export(experiment, run, learner, done)
    took = duration(timing["seconds"])
    console.print(f"{run}: {state.step} steps in {took}, val loss {val['loss']:.4f} at step {best_step}")


def _gate_report(experiment: Experiment, run: TrainingRun, learner: Learner) -> list[GateStage]:
    """Measure the weights of the gates of the stages that have one; nothing where the model is too large for one."""
    if run.model.sharding != "none" and experiment.group.size > 1:
        return []
    found, device, val = [], experiment.group.device, experiment.rows.held_out("val", run.model)
    for index, stage in enumerate(run.model.stages):
        distill = stage.objectives.distill
        if distill is not None and (gate := gate_of(distill)) is not None:
            teachers = ensemble_of(experiment, stage.teachers, run.model.reads, stage.combine).to(device)
            student = learner.to(device).eval().model
            bins = gate_by_difficulty(student, teachers, gate, first_temperature(distill), val)
            found.append(GateStage(index, [GateBin(**part) for part in bins]))
    learner.cpu()
    return found
