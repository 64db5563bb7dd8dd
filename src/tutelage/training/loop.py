"""Train one model: build, then for each step of each stage, batch -> teachers -> loss -> update.

Reads top to bottom in `train`. What makes it exact to resume: the batch, the dropout seed and the learning rate follow
from the step's number, and `State` holds the rest.
"""

from __future__ import annotations

import contextlib
import math
import signal as signals

import numpy as np
import torch
from torch import Tensor

from tutelage.base.errors import Interrupted, UserError
from tutelage.base.progress import console, progress
from tutelage.base.run_folder import RunFolder
from tutelage.base.stopping import Stop, stop_flag
from tutelage.corpus.batches import Batch, to_device
from tutelage.teaching.signal import DenseSignal, TeacherSource
from tutelage.training import checkpoint
from tutelage.training.checkpoint import State
from tutelage.training.fused import LossScales
from tutelage.training.heldout import HeldOut, held_out
from tutelage.training.job import Job as Job
from tutelage.training.objectives import SUMS, Learner, used_positions
from tutelage.training.optim import adamw, lr_at
from tutelage.training.parallel import Group, clip_gradient
from tutelage.training.record import Record, Stopwatch
from tutelage.training.stage_runner import StageRunner, micro_batches

LOG_LINES = 400
"""Lines of training loss in the metrics of a run, about."""
SYNC_EVERY = {"cpu": 1, "cuda": 16}
"""Steps between two reads of what was measured; each read waits until a GPU has done all that it was given."""


def train(job: Job, run: RunFolder, group: Group) -> State:
    """Train to the end, from the newest good checkpoint if there is one; return the final state.

    Raises:
        Interrupted: SIGTERM or SIGINT came; a checkpoint of the current step was written.
        UserError: a loss that is not finite, a full disk, damaged checkpoints.
    """
    plan, optim = job.plan, job.model.optim
    if optim.batch_rows < group.size:
        raise UserError(
            f"models.{job.name}.optim.batch_rows={optim.batch_rows} is less than the {group.size} processes"
        )

    # --- build, resume
    # What is compiled is counted for the whole process; beyond a limit, layers would silently run uncompiled.
    torch.compiler.reset()
    learner = job.learner().train()
    group.place(learner, job.model.sharding, job.precision)
    optimizer = adamw(learner, optim)
    state, timing = _resume(job, run, group, learner, optimizer)
    wrapped = group.wrap(learner)
    tasks = tuple(task.name for task in learner.heads.tasks) if learner.heads is not None else ()
    record = Record(run, state, timing, max(1, plan.total // LOG_LINES), active=group.is_main, tasks=tasks)

    def save() -> None:
        state.metrics_bytes = record.flush()
        checkpoint.save(run.checkpoints, state, learner, optimizer, record.timing(), write=group.is_main)
        if group.is_main and job.model.keep == "best":
            best = int(state.best.get("step", 0))
            checkpoint.prune(run.checkpoints, {best, *job.milestones}, light={*plan.words.values()} - {best})
        group.barrier()
        record.saved()

    tokens_left = (plan.total - state.step) * job.source.tokens_per_epoch / job.source.steps_per_epoch
    stages, shown = StageRunner(job, group), state.tokens
    sync_every = SYNC_EVERY[group.device.type]
    broken = torch.zeros((), device=group.device)
    with record, stop_flag() as stop, progress(f"train {job}", tokens_left, "tok") as bar:
        while True:
            # --- evaluate, keep the best
            if state.step in plan.evaluations and state.evaluated < state.step:
                result = _evaluate(job, learner, group, stop)
                if result is not None and not math.isfinite(result.loss):
                    raise UserError(f"models.{job.name}: the loss on val is not finite after step {state.step}; lower "
                                    "optim.lr or set precision to fp32. Checkpoints before it are intact")  # fmt: skip
                if result is None:
                    save()
                    raise Interrupted(stop.number or signals.SIGTERM)
                state.evaluated = state.step
                if not state.best or result.loss < state.best["loss"]:
                    state.best = {"step": state.step, "loss": result.loss}
                record.evaluation(state, result)
                save()
                stages.pace.start()
            if state.step >= plan.total:
                stages.end()
                return state

            # --- one step
            stages.go_to(state.step)
            batch = stages.batch(state.step)
            counts = stages.count(batch)
            scales = stages.scales(state.step, counts)
            due = record.minutes_since_save() > job.model.save_minutes or state.step + 1 in job.milestones
            flags = (float(stop.number), float(due))
            sums = _gradients(job, wrapped, stages.teachers, batch, scales, state.step, group, flags, record.teaching)
            norm = clip_gradient(learner, optim.clip or math.inf)
            measured = torch.cat([norm[None], sums])
            # Once a number is not finite, no update follows; the next sync tells.
            broken = torch.maximum(broken, 1 - measured.isfinite().all().float())
            optimizer.found_inf = broken  # type: ignore[attr-defined]
            settings = stages.settings(state.step, lr_at(optim, state.step, plan.total))
            for parameters in optimizer.param_groups:
                parameters["lr"] = settings.rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.tokens += counts.tokens
            record.step(state, measured, counts, settings)

            # --- read what was measured; stop or save when a process asked for it
            if state.step % sync_every and state.step not in plan.evaluations and state.step not in job.milestones:
                continue
            synced = record.sync(state, optim.clip or math.inf)
            if synced.broken is not None:
                raise _not_finite(job, *synced.broken)
            bar.advance(state.tokens - shown, f"loss {record.loss:.3f}")
            stages.pace.add(state.tokens - shown)
            shown = state.tokens
            if synced.stop:
                save()
                raise Interrupted(stop.number or signals.SIGTERM)
            if synced.save and state.step not in plan.evaluations:
                save()
                stages.pace.start()


def _resume(
    job: Job, run: RunFolder, group: Group, learner: Learner, optimizer: torch.optim.Optimizer
) -> tuple[State, dict[str, float]]:
    """Load the newest good checkpoint, if any; return the state and the clock readings up to it."""
    found = group.from_main(checkpoint.newest_good(run.checkpoints) if group.is_main else None)
    if found is None:
        return State(), {}
    if group.is_main:
        console.print(f"{job}: resuming from step {found} of {job.plan.total}")
    return checkpoint.load(run.checkpoints, found, learner, optimizer)


def _gradients(
    job: Job,
    wrapped: torch.nn.Module,
    teachers: TeacherSource | None,
    batch: Batch,
    scales: LossScales,
    step: int,
    group: Group,
    flags: tuple[float, float],
    teaching: Stopwatch,
) -> Tensor:
    """Accumulate a step's gradients over micro-batches and processes.

    Returns:
        The processes' flags to stop and to save, then the plain sums of the terms over the whole batch.
    """
    micros = micro_batches(job, group, batch)
    terms = len(SUMS) + len(scales.tasks)
    sums = to_device(torch.tensor((*flags, *(0.0 for _ in range(terms))), dtype=torch.float64), group.device)
    for index, micro in enumerate(micros):
        used = used_positions(micro, distills=teachers is not None)
        micro, used = micro.to(group.device), to_device(used, group.device)
        torch.manual_seed(_derive(job.seed, step, group.rank, index))
        with teaching:
            signal = None if teachers is None else teachers.signal(micro, job.precision)
        with _synchronised(wrapped, index == len(micros) - 1):
            with _autocast(group.device, job.precision):
                loss, parts = wrapped(micro, scales, signal, used)
            # Data-parallel wrappers average over processes, but the counts are already those of all of them.
            (loss * group.size).backward()
        sums[len(flags) :] += parts
    return group.sum(sums)


def _evaluate(job: Job, learner: Learner, group: Group, stop: Stop) -> HeldOut | None:
    """Measure `val`; every process computes the same, which spares an exchange."""
    learner.eval()
    model = learner.model

    def predict(tokens_BT: Tensor, lengths_B: Tensor | None) -> DenseSignal:
        with _autocast(group.device, job.precision):
            hidden = model.hidden(tokens_BT, lengths_B)
        return DenseSignal((hidden,), ((model.weight_VD, model.bias_V),), (1.0,))

    def should_stop() -> bool:
        return bool(group.sum(torch.tensor(float(stop.number), device=group.device)) > 0)

    # Rows of other shapes would be compiled again.
    with torch.compiler.set_stance("force_eager"):
        result = held_out(predict, job.val, job.val_bytes_per_token, group.device, should_stop, f"val {job}")
    learner.train()
    return result


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _synchronised(wrapped: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Exchange gradients between processes only with the last micro-batch of a step."""
    if last or not isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return wrapped.no_sync()


def _derive(*keys: int) -> int:
    """Mix integers into a seed, so that dropout depends on where a micro-batch stands and on nothing before it."""
    return int(np.random.SeedSequence([key % 2**64 for key in keys]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _not_finite(job: Job, step: int, reason: str) -> UserError:
    """Tell which batch could not be learned from."""
    source, first = job.reading(step)
    all_rows = source.batch(step - first).rows_B.tolist()
    rows = ", ".join(map(str, all_rows[:64])) + (", ..." if len(all_rows) > 64 else "")
    return UserError(
        f"models.{job.name}: step {step + 1}: the loss or its gradient is not finite ({reason}); the weights were not "
        f"changed. Rows of this batch: {rows}. Lower optim.lr, lengthen optim.warmup_steps or set precision to fp32; "
        "a run of the same recipe resumes from its last checkpoint"
    )
