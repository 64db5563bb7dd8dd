"""A run under way: its learner, optimizer, state and record; how they begin or resume, and are evaluated and saved."""

from __future__ import annotations

import math
import signal as signals

import torch
from torch import Tensor

from tutelage.base.errors import Interrupted, UserError
from tutelage.base.progress import console
from tutelage.base.run_folder import RunFolder
from tutelage.base.stopping import Stop
from tutelage.teaching.signal import DenseSignal
from tutelage.training import checkpoint
from tutelage.training.average import WeightAverage
from tutelage.training.checkpoint import State
from tutelage.training.heldout import held_out
from tutelage.training.job import Job
from tutelage.training.objectives import Learner, LossCounts
from tutelage.training.optim import OPTIMIZERS
from tutelage.training.outcome import HeldOut
from tutelage.training.parallel import Group
from tutelage.training.record import Record, StepSettings
from tutelage.training.stage_runner import custom_names

LOG_LINES = 400
"""Lines of training loss in the metrics of a run, about."""


class Session:
    """What the loop works on.

    The learner comes with initial weights in host memory; it is placed on the device, and takes the weights of the
    newest good checkpoint if there is one. As `wrapped`, its gradients are averaged over the processes.

    Raises:
        UserError: fewer rows in a batch than processes, or damaged checkpoints.
    """

    def __init__(self, job: Job, learner: Learner, run: RunFolder, group: Group) -> None:
        rows = job.model.optim.batch_rows
        if rows < group.size:
            raise UserError(f"models.{job.name}.optim.batch_rows={rows} is less than the {group.size} processes")
        self._job, self._run, self._group, self.learner = job, run, group, learner
        # What is compiled is counted for the whole process; beyond a limit, layers would silently run uncompiled.
        torch.compiler.reset()
        group.place(learner.train(), job.model.sharding, job.precision)
        self._optimizer = OPTIMIZERS[job.model.optim.kind](learner, job.model.optim)
        average = job.model.average
        self._average = WeightAverage(learner, average, job.plan.total) if average is not None else None
        self.state, timing = self._resume()
        self.wrapped = group.wrap(learner)
        tasks = tuple(task.name for task in learner.heads.tasks) if learner.heads is not None else ()
        log_every = max(1, job.plan.total // LOG_LINES)
        self.record = Record(run, self.state, timing, log_every, group.is_main, tasks, custom_names(job.model.stages))
        self._broken = torch.zeros((), device=group.device)

    @property
    def tokens_left(self) -> float:
        """How many tokens are still to be read."""
        source = self._job.source
        return (self._job.plan.total - self.state.step) * source.tokens_per_epoch / source.steps_per_epoch

    def update(self, measured: Tensor, counts: LossCounts, settings: StepSettings) -> None:
        """Take the optimizer's step, unless a number of this or an earlier step is not finite; the next sync tells.

        `measured` is as `Record.step` says.
        """
        self._broken = torch.maximum(self._broken, 1 - measured.isfinite().all().float())
        self._optimizer.found_inf = self._broken  # type: ignore[attr-defined]
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = settings.rate * parameters.get("rate", 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        if self._average is not None:
            self._average.update(self.state.step)
        self.state.tokens += counts.tokens
        self.record.step(self.state, measured, counts, settings)

    def sync(self) -> None:
        """Read what was measured since the last time; refuse a loss or gradient that is not finite."""
        if broken := self.record.sync(self.state, self._job.model.optim.clip or math.inf):
            raise self._not_finite(*broken)

    def evaluate(self, stop: Stop) -> None:
        """Measure `val`, note whether it is the best so far, and save; an average of weights also beside the last ones.

        Raises:
            Interrupted: a signal came meanwhile; a checkpoint was written.
            UserError: the loss is not finite.
        """
        state, raw = self.state, None
        if self._average is None:
            result = self._held_out(stop)
        else:
            raw = self._held_out(stop)
            with self._average.in_place():
                result = self._held_out(stop)
        if result is None or (raw is None and self._average is not None):
            self.save()
            raise Interrupted(stop.number or signals.SIGTERM)
        if not math.isfinite(result.loss):
            raise UserError(
                f"models.{self._job.name}: the loss on val is not finite after step {state.step}; lower optim.lr or "
                "set precision to fp32. Checkpoints before it are intact"
            )
        state.evaluated = state.step
        if not state.best or result.loss < state.best["loss"]:
            state.best = {"step": state.step, "loss": result.loss}
        self.record.evaluation(state, result, raw)
        self.save()

    def save(self) -> None:
        """Write a checkpoint, and remove those that are no longer needed; every process must call it."""
        job, state, folder, is_main = self._job, self.state, self._run.checkpoints, self._group.is_main
        state.metrics_bytes = self.record.flush()
        timing = self.record.timing()
        checkpoint.save(folder, state, self.learner, self._optimizer, timing, self._average, write=is_main)
        if is_main and job.model.keep == "best":
            best = int(state.best.get("step", 0))
            checkpoint.prune(folder, {best, *job.milestones}, light={*job.plan.words.values()} - {best})
        self._group.barrier()
        self.record.saved()

    def _resume(self) -> tuple[State, dict[str, float]]:
        """Load the newest good checkpoint, if any; return the state and the clock readings up to it."""
        folder, is_main = self._run.checkpoints, self._group.is_main
        found = self._group.from_main(checkpoint.newest_good(folder) if is_main else None)
        if found is None:
            return State(), {}
        if is_main:
            console.print(f"{self._job}: resuming from step {found} of {self._job.plan.total}")
        return checkpoint.load(folder, found, self.learner, self._optimizer, self._average)

    def _held_out(self, stop: Stop) -> HeldOut | None:
        """Measure `val`; every process computes the same, which spares an exchange."""
        job, model, device = self._job, self.learner.model, self._group.device

        def predict(tokens_BT: Tensor, lengths_B: Tensor | None) -> DenseSignal:
            with job.autocast(device):
                hidden = model.hidden(tokens_BT, lengths_B)
            return DenseSignal((hidden,), ((model.weight_VD, model.bias_V),), (1.0,))

        def should_stop() -> bool:
            return self._group.any(bool(stop.number))[0]

        self.learner.eval()
        # Rows of other shapes would be compiled again.
        with torch.compiler.set_stance("force_eager"):
            result = held_out(predict, job.val, job.val_bytes_per_token, device, should_stop, f"val {job}")
        self.learner.train()
        return result

    def _not_finite(self, step: int, reason: str) -> UserError:
        """Tell which batch could not be learned from."""
        source, first = self._job.reading(step)
        all_rows = source.batch(step - first).rows_B.tolist()
        rows = ", ".join(map(str, all_rows[:64])) + (", ..." if len(all_rows) > 64 else "")
        return UserError(
            f"models.{self._job.name}: step {step + 1}: the loss or its gradient is not finite ({reason}); the weights "
            f"were not changed. Rows of this batch: {rows}. Lower optim.lr, lengthen optim.warmup_steps or set "
            "precision to fp32; a run of the same recipe resumes from its last checkpoint"
        )
