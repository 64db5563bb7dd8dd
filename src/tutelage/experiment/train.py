"""Train one piece of an experiment: its mode of execution, its caches, the loop, and what is written at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from tutelage.base import machine
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json, write_json
from tutelage.base.progress import console, duration
from tutelage.base.run_folder import Json, RunFolder
from tutelage.experiment import caching, plans, selections
from tutelage.experiment.setup import Experiment, Piece
from tutelage.models.build import attention, save
from tutelage.models.cost import cost_of
from tutelage.report.model_card import model_card
from tutelage.training import checkpoint, execution
from tutelage.training.execution import ExecutionMode
from tutelage.training.gate_report import gate_by_difficulty
from tutelage.training.loop import Job, train
from tutelage.training.objectives import Learner, first_temperature, gate_of

SETTLING_MODE = {"preset", "config", "weights", "attention", "compile", "cuda_graphs"}
"""Settings of a model that its mode of execution depends on."""


def train_piece(experiment: Experiment, piece: Piece) -> None:
    """Train one piece, or go on with it, or skip it if it is finished."""
    run = experiment.run_of(piece)
    with _owned(experiment, run):
        if experiment.group.is_main:
            run.write_spec(experiment.spec(piece))
        experiment.group.barrier()
        if run.finished is not None:
            return
        model = experiment.recipe.models[piece.name]
        with machine.deterministic(model.deterministic):
            chosen_by_stage, scoring = selections.ahead(experiment, piece)
            building = caching.build_ahead(experiment, piece)
        if model.sharding != "none" and experiment.group.size == 1:
            console.print(f"{piece}: not sharded, since this is the only process; torchrun starts several")
        source = experiment.rows_of(experiment.data.train, model, model.optim.batch_rows, shuffle=True)
        chosen = {index: source.with_rows(found.rows, found.targets) for index, found in chosen_by_stage.items()}
        mode = mode_of(experiment, piece)
        opened = ExitStack()
        job = Job(
            name=piece.name,
            model=model,
            seed=experiment.recipe.seed + piece.seed,
            source=source,
            val=experiment.rows_of(experiment.data.val, model, 64, shuffle=False),
            val_bytes_per_token=experiment.data.val.bytes / len(experiment.data.val),
            plan=experiment.plan_of(piece.name),
            milestones=experiment.milestones(piece.name),
            teachers=lambda index: caching.teacher_source(experiment, piece, index, mode, opened),
            precision=experiment.precision_of(piece),
            task_weights=experiment.task_weights(model),
            selected=chosen,
        )
        with opened, machine.deterministic(model.deterministic):
            state = train(job, _learner_in(mode, experiment, piece), run, experiment.group)
        if experiment.group.is_main:
            _finish(experiment, piece, run, job, state, building, scoring)
        experiment.group.barrier()


def _learner_in(mode: ExecutionMode, experiment: Experiment, piece: Piece) -> Learner:
    """Make a piece's learner, its model in a mode of execution."""
    learner = experiment.new_learner(piece)
    mode.apply(learner.model)
    return learner


def mode_of(experiment: Experiment, piece: Piece) -> ExecutionMode:
    """Return the mode of execution of a piece's run: what it began with, or a new choice."""
    model, group = experiment.recipe.models[piece.name], experiment.group
    rows = min(model.optim.micro_batch_rows or model.optim.batch_rows, -(-model.optim.batch_rows // group.size))
    micros = -(-model.optim.batch_rows // (rows * group.size))
    if model.sharding != "none" and group.size > 1:
        # Too large for one process, and so for a trial.
        return ExecutionMode(attention() if model.attention == "auto" else model.attention)
    precision = experiment.precision_of(piece)
    settings = model.model_dump(mode="json", include=SETTLING_MODE)
    steps, length = experiment.plan_of(piece.name).total * micros, experiment.recipe.data.rows.length
    key = fingerprint([settings, rows, length, precision, steps, machine.environment()])

    def choose() -> tuple[ExecutionMode, Json]:
        source = experiment.rows_of(experiment.data.train, model, rows, shuffle=True)
        at_once = micros == 1 and group.size == 1
        return execution.choose(
            model, lambda: experiment.new_model(piece).to(group.device), source, precision, steps, at_once
        )

    run, shared = experiment.run_of(piece).path / "execution.json", experiment.folder / "executions.json"
    if group.is_main and checkpoint.steps_in(experiment.run_of(piece).checkpoints) and not run.is_file():
        # Begun by a version that knew the plain mode only.
        write_json(run, asdict(ExecutionMode(attention())))
    chosen = asdict(execution.remembered(run, shared, key, choose)) if group.is_main else None
    return ExecutionMode(**group.from_main(chosen))


def _finish(
    experiment: Experiment,
    piece: Piece,
    run: RunFolder,
    job: Job,
    state: checkpoint.State,
    building: float,
    scoring: float,
) -> None:
    """Export the best checkpoint and write down what training came to.

    `building` caches and `scoring` for selections took that many seconds.
    """
    best = int(state.best["step"])
    learner = experiment.new_learner(piece)
    folder = checkpoint.folder_of(run.checkpoints, best)
    fault = checkpoint.verify(folder)
    if fault is not None:
        raise UserError(
            f"{piece}: the best checkpoint, {folder}, is damaged: {fault}; restore it, or delete {run.path}"
        )
    checkpoint.load_weights(folder, learner)
    cost = cost_of(learner.model.hf, job.model.reads, job.source.row_length)
    last = checkpoint.folder_of(run.checkpoints, state.step)
    timing = read_json(last / "timing.json")
    val = next(line["val"] for line in reversed(run.lines()) if line["step"] == best and "val" in line)
    words = state.tokens * experiment.data.train.words / len(experiment.data.train)
    done = {
        "steps": state.step,
        "tokens": state.tokens,
        "words": round(words),
        "epochs": state.step / job.source.steps_per_epoch,
        "seconds": timing["seconds"] + building + scoring,
        "seconds_teaching": None if experiment.group.device.type == "cuda" else timing["teaching"] + building,
        "seconds_ahead": building + scoring,
        "flops": cost.training_flops * state.tokens,
        "teacher_flops": plans.teacher_flops(experiment, piece.name),
        "seconds_scoring": scoring,
        "scoring_flops": selections.flops(experiment, piece.name),
        "clip_rate": state.clipped / state.step,
        "best_step": best,
        "val": val,
        "cost": asdict(cost),
        "architecture": learner.model.hf.config.model_type,
    }
    gates = _gate_report(experiment, piece, job, learner)
    if gates:
        done["gate_report"] = gates
    if learner.heads is not None:
        done["heads"] = {
            "parameters": sum(parameter.numel() for parameter in learner.heads.parameters()),
            "tasks": [task.name for task in learner.heads.tasks],
        }
    kept = learner.heads if job.model.heads == "kept" else None
    card = model_card(experiment.recipe, piece.name, piece.seed, done)
    save(learner.model, experiment.data.tokenizer, run.hf, card, kept)
    write_json(run.path / "finished.json", done)
    took = duration(timing["seconds"])
    console.print(f"{piece}: {state.step} steps in {took}, val loss {val['loss']:.4f} at step {best}")


def _gate_report(experiment: Experiment, piece: Piece, job: Job, learner: Learner) -> list[Json]:
    """Measure the weights of the gates of the stages that have one; nothing where the model is too large for one."""
    if job.model.sharding != "none" and experiment.group.size > 1:
        return []
    found, device = [], experiment.group.device
    for index, stage in enumerate(job.model.stages):
        distill = stage.objectives.distill
        gate = gate_of(distill) if distill else None
        if distill is not None and gate is not None:
            teachers = experiment.teachers_of(stage, job.model.reads).to(device)
            student = learner.to(device).eval().model
            bins = gate_by_difficulty(student, teachers, gate, first_temperature(distill), job.val)
            found.append({"stage": index, "bins": bins})
    learner.cpu()
    return found


@contextmanager
def _owned(experiment: Experiment, run: RunFolder) -> Iterator[None]:
    """Hold a run folder's lock: one process for the whole group."""
    if experiment.group.is_main:
        with run.locked():
            yield
    else:
        yield
