"""Train one model: for each step of each stage, batch -> teachers -> loss -> update.

Reads top to bottom in `train`. What makes it exact to resume: the batch, the dropout seed and the learning rate follow
from the step's number, and `State` holds the rest.
"""

from __future__ import annotations

import math
import signal as signals
from contextlib import closing

import numpy as np
import torch

from tutelage.base.errors import Interrupted
from tutelage.base.progress import progress
from tutelage.base.run_folder import RunFolder
from tutelage.base.stopping import stop_flag
from tutelage.corpus.batches import to_device
from tutelage.training.checkpoint import State
from tutelage.training.job import Job as Job
from tutelage.training.objectives import SUMS, Learner, used_positions
from tutelage.training.optim import lr_at
from tutelage.training.parallel import Group, clip_gradient, synchronised
from tutelage.training.session import Session
from tutelage.training.stage_runner import StageRunner, micro_batches

SYNC_EVERY = {"cpu": 1, "cuda": 16}
"""Steps between two reads of what was measured; each read waits until a GPU has done all that it was given."""


def train(job: Job, learner: Learner, run: RunFolder, group: Group) -> State:
    """Train to the end, from the newest good checkpoint if there is one; return the final state.

    The learner comes with its initial weights, in host memory.

    Raises:
        Interrupted: SIGTERM or SIGINT came; a checkpoint of the current step was written.
        UserError: a loss that is not finite, a full disk, damaged checkpoints.
    """
    plan, optim, device = job.plan, job.model.optim, group.device
    session, stages = Session(job, learner, run, group), StageRunner(job, group)
    state, shown = session.state, session.state.tokens
    record = session.record
    with closing(record), stop_flag() as stop, progress(f"train {job}", session.tokens_left, "tok") as bar:
        while True:
            # --- evaluate, keep the best
            if state.step in plan.evaluations and state.evaluated < state.step:
                session.evaluate(stop)
            if state.step >= plan.total:
                return state

            # --- the gradient of a step, added up over micro-batches
            stages.go_to(state.step)
            batch = stages.batch(state.step)
            counts = stages.count(batch)
            scales = stages.scales(state.step, counts)
            sums = torch.zeros(len(SUMS) + len(scales.tasks) + len(scales.custom), dtype=torch.float64, device=device)
            micros = micro_batches(job, group, batch)
            for index, micro in enumerate(micros):
                used = to_device(used_positions(micro, distills=stages.teachers is not None), device)
                micro = micro.to(device)
                torch.manual_seed(_derive(job.seed, state.step, group.rank, index))
                with record.teaching:
                    signal = None if stages.teachers is None else stages.teachers.signal(micro, job.precision)
                with synchronised(session.wrapped, last=index == len(micros) - 1):
                    with job.autocast(device):
                        loss, parts = session.wrapped(micro, scales, signal, used)
                    # Data-parallel wrappers average over processes, but the counts are already those of all of them.
                    (loss * group.size).backward()
                sums += parts
            del signal, loss, parts  # they hold the teachers' output layers, also when the teachers are released

            # --- update
            norm = clip_gradient(learner, optim.clip or math.inf)
            settings = stages.settings(state.step, lr_at(optim, state.step, plan.total))
            session.update(torch.cat([norm[None], group.sum(sums)]), counts, settings)

            # --- read what was measured; stop or save where a process asks for it
            kept = state.step in plan.evaluations or state.step in job.milestones
            if state.step % SYNC_EVERY[device.type] and not kept:
                continue
            session.sync()
            bar.advance(state.tokens - shown, f"loss {record.loss:.3f}")
            shown = state.tokens
            due = state.step in job.milestones or record.minutes_since_save() > job.model.save_minutes
            stopped, due = group.any(bool(stop.number), due)
            if stopped or (due and state.step not in plan.evaluations):
                session.save()
            if stopped:
                raise Interrupted(stop.number or signals.SIGTERM)


def _derive(*keys: int) -> int:
    """Mix integers into a seed, so that dropout depends on where a micro-batch stands and on nothing before it."""
    return int(np.random.SeedSequence([key % 2**64 for key in keys]).generate_state(1, np.uint64)[0] >> np.uint64(1))
