"""Train one run of an experiment: its mode of execution, its caches, the loop, and what is written at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from tutelage.base import machine
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json, write_json
from tutelage.base.progress import console, duration
from tutelage.base.run_folder import RunFolder
from tutelage.base.types import Json
from tutelage.experiment import caches
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.loading import ensemble_of, new_learner, new_model
from tutelage.experiment.selections import select_ahead
from tutelage.experiment.setup import Experiment
from tutelage.models.build import attention, save
from tutelage.models.cost import cost_of
from tutelage.report.model_card import model_card
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
    with _owned(experiment, run.folder):
        if experiment.group.is_main:
            run.folder.write_spec(run.spec)
        experiment.group.barrier()
        if run.folder.finished is not None:
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

    def choose() -> tuple[ExecutionMode, Json]:
        source, at_once = run.plan.source.with_batch_rows(rows), micros == 1 and group.size == 1
        return execution.choose(
            model, lambda: new_model(experiment, run).to(group.device), source, run.precision, steps, at_once
        )

    noted, shared = run.folder.path / "execution.json", experiment.folder / "executions.json"
    if group.is_main and checkpoint.steps_in(run.folder.checkpoints) and not noted.is_file():
        # Begun by a version that knew the plain mode only.
        write_json(noted, asdict(ExecutionMode(attention())))
    chosen = asdict(execution.remembered(noted, shared, key, choose)) if group.is_main else None
    return ExecutionMode(**group.from_main(chosen))


def _finish(experiment: Experiment, run: TrainingRun, state: checkpoint.State, building: float, scoring: float) -> None:
    """Export the best checkpoint and write down what training came to.

    `building` caches and `scoring` for selections took that many seconds.
    """
    learner, best = _best(experiment, run, state), int(state.best["step"])
    model, data, plan, folder = learner.model, experiment.data, run.plan, run.folder
    cost = cost_of(model.hf, run.model.reads, plan.source.row_length)
    timing = read_json(checkpoint.folder_of(folder.checkpoints, state.step) / "timing.json")
    val = next(line["val"] for line in reversed(folder.lines()) if line["step"] == best and "val" in line)
    heads: Json | None = None
    if learner.heads is not None:
        heads = {
            "parameters": sum(parameter.numel() for parameter in learner.heads.parameters()),
            "tasks": [task.name for task in learner.heads.tasks],
        }
    done = Finished(
        steps=state.step,
        tokens=state.tokens,
        words=round(state.tokens * data.train.words / len(data.train)),
        epochs=state.step / plan.source.steps_per_epoch,
        seconds=timing["seconds"] + building + scoring,
        seconds_teaching=None if experiment.group.device.type == "cuda" else timing["teaching"] + building,
        seconds_ahead=building + scoring,
        flops=cost.training_flops * state.tokens,
        teacher_flops=plan.teacher_flops(),
        seconds_scoring=scoring,
        scoring_flops=plan.scoring_flops,
        clip_rate=state.clipped / state.step,
        best_step=best,
        val=HeldOut(**val),
        cost=cost,
        architecture=model.hf.config.model_type,
        gate_report=_gate_report(experiment, run, learner),
        heads=heads,
    )
    kept = learner.heads if run.model.heads == "kept" else None
    save(model, data.tokenizer, folder.hf, model_card(experiment.recipe, run.name, run.seed, done), kept)
    done.write(folder.path / "finished.json")
    took = duration(timing["seconds"])
    console.print(f"{run}: {state.step} steps in {took}, val loss {val['loss']:.4f} at step {best}")


def _best(experiment: Experiment, run: TrainingRun, state: checkpoint.State) -> Learner:
    """Load the best checkpoint."""
    learner, folder = (
        new_learner(experiment, run),
        checkpoint.folder_of(run.folder.checkpoints, int(state.best["step"])),
    )
    fault = checkpoint.verify(folder)
    if fault is not None:
        raise UserError(
            f"{run}: the best checkpoint, {folder}, is damaged: {fault}; restore it, or delete {run.folder.path}"
        )
    checkpoint.load_weights(folder, learner)
    return learner


def _gate_report(experiment: Experiment, run: TrainingRun, learner: Learner) -> list[GateStage]:
    """Measure the weights of the gates of the stages that have one; nothing where the model is too large for one."""
    if run.model.sharding != "none" and experiment.group.size > 1:
        return []
    found, device = [], experiment.group.device
    for index, stage in enumerate(run.model.stages):
        distill = stage.objectives.distill
        gate = gate_of(distill) if distill else None
        if distill is not None and gate is not None:
            teachers = ensemble_of(experiment, stage.teachers, run.model.reads, stage.combine).to(device)
            student = learner.to(device).eval().model
            val = experiment.rows.held_out("val", run.model)
            bins = gate_by_difficulty(student, teachers, gate, first_temperature(distill), val)
            found.append(GateStage(index, [GateBin(**part) for part in bins]))
    learner.cpu()
    return found


@contextmanager
def _owned(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Hold a run folder's lock: one process for the whole group."""
    if experiment.group.is_main:
        with folder.locked():
            yield
    else:
        yield
