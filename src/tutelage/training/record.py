"""What a run writes down while it trains: metrics that repeat to the last bit, and clock readings apart from them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.base.run_folder import JsonLines, RunFolder
from tutelage.base.types import Json
from tutelage.training.checkpoint import State
from tutelage.training.objectives import LossCounts
from tutelage.training.outcome import HeldOut


@dataclass
class Stopwatch:
    """Adds up the seconds inside `with` blocks. On a GPU, whose work goes on by itself, that says nothing."""

    seconds: float = 0.0

    def __enter__(self) -> None:
        """Start."""
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self._start


class StepSums(NamedTuple):
    """What a step measures, over all processes: the gradient's norm, the plain sums."""

    norm: float
    target: float
    teacher: float
    gate_weight: float
    tasks: tuple[float, ...]
    custom: tuple[float, ...]


@dataclass(frozen=True)
class StepSettings:
    """What changes from step to step by plan.

    Attributes:
        rate: the learning rate.
        weight: the teachers', where it changes over the stage.
        temperature: likewise.
        gated: whether a gate weighs the teachers' tokens.
    """

    rate: float
    weight: float | None = None
    temperature: float | None = None
    gated: bool = False


class Record:
    """The run's metrics and clock: means since the last line, in nats per token, and of `tasks` per label.

    Steps hand in tensors, which are read at the next `sync`: on a GPU, reading a number waits for all work before it.
    """

    def __init__(
        self,
        run: RunFolder,
        state: State,
        timing: dict[str, float],
        log_every: int,
        active: bool,
        tasks: tuple[str, ...] = (),
        custom: tuple[str, ...] = (),
    ) -> None:
        self._tasks, self._custom = tasks, custom
        self._files = (JsonLines(run.metrics, state.metrics_bytes), JsonLines(run.timing)) if active else None
        self._log_every, self._before = log_every, timing.get("seconds", 0.0)
        self._unread: list[tuple[int, int, LossCounts, StepSettings, Tensor]] = []
        self.teaching = Stopwatch(timing.get("teaching", 0.0))
        self._start = self._saved = time.monotonic()
        self.loss = math.nan

    def step(self, state: State, measured: Tensor, counts: LossCounts, settings: StepSettings) -> None:
        """Take note of the step that `state` now counts; `measured` is as `StepSums` says."""
        self._unread.append((state.step, state.tokens, counts, settings, measured))

    def sync(self, state: State, clip: float) -> tuple[int, str] | None:
        """Read what was noted, add it to the current means, write lines that are due.

        Returns:
            The first step, counted from 0, whose loss or gradient was not finite, and the numbers; None if all is well.
        """
        numbers = torch.stack([measured for *_, measured in self._unread]).tolist() if self._unread else []
        for (step, tokens, counts, settings, _), row in zip(self._unread, numbers, strict=True):
            norm, target, teacher, gate_weight, *rest = row
            tasks, custom = rest[: len(self._tasks)], rest[len(self._tasks) :]
            found = StepSums(norm, target, teacher, gate_weight, tuple(tasks), tuple(custom))
            if not all(map(math.isfinite, row)):
                return step - 1, f"sums {[found.target, found.teacher]}, gradient norm {found.norm}"
            self._add(state, step, tokens, counts, found, clip, settings)
        self._unread.clear()
        return None

    def _add(
        self,
        state: State,
        step: int,
        tokens: int,
        counts: LossCounts,
        found: StepSums,
        clip: float,
        settings: StepSettings,
    ) -> None:
        clipped = found.norm > clip
        state.clipped += clipped
        add = {
            "target": found.target,
            "targets": counts.target,
            "teacher": found.teacher,
            "distilled": counts.distilled,
            "gate_weight": found.gate_weight,
            "gated": counts.distilled * settings.gated,
            "norm": found.norm,
            "clipped": clipped,
            "steps": 1,
        }
        for task, lost, labels in zip(self._tasks, found.tasks, counts.tasks, strict=True):
            add |= {f"task {task}": lost, f"labels {task}": labels}
        for name, lost, targets in zip(self._custom, found.custom, counts.custom, strict=True):
            add |= {f"objective {name}": lost, f"targets {name}": targets}
        window = {key: state.window.get(key, 0.0) + value for key, value in add.items()}
        self.loss = window["target"] / max(window["targets"], 1)
        state.window = window
        if step % self._log_every:
            return
        state.window = {}
        if self._files is None:
            return
        line: Json = {
            "step": step,
            "tokens": tokens,
            "loss": self.loss,
            "lr": settings.rate,
            "grad_norm": window["norm"] / window["steps"],
            "clip_rate": window["clipped"] / window["steps"],
        }
        if window["teacher"]:
            line["kl"] = window["teacher"] / max(window["distilled"], 1)
        if settings.weight is not None:
            line["weight"] = settings.weight
        if settings.temperature is not None:
            line["temperature"] = settings.temperature
        if window["gated"]:
            line["gate_weight"] = window["gate_weight"] / window["gated"]
        if self._tasks:
            sure = {task: window[f"labels {task}"] for task in self._tasks}
            line["tasks"] = {task: window[f"task {task}"] / count for task, count in sure.items() if count}
        if self._custom:
            counted = {name: window[f"targets {name}"] for name in self._custom}
            line["objectives"] = {name: window[f"objective {name}"] / count for name, count in counted.items() if count}
        self._files[0].write(line)
        self._files[1].write({"step": step, "tokens": tokens, "seconds": round(self.seconds(), 3)})

    def evaluation(self, state: State, result: HeldOut) -> None:
        """Write an evaluation down."""
        if self._files is not None:
            self._files[0].write({"step": state.step, "tokens": state.tokens, "val": asdict(result)})

    def seconds(self) -> float:
        """Return the seconds of training so far, those before a resume included."""
        return self._before + time.monotonic() - self._start

    def timing(self) -> dict[str, float]:
        """Return the clock readings to resume from: seconds in all, and those in which teachers were asked."""
        return {"seconds": self.seconds(), "teaching": self.teaching.seconds}

    def minutes_since_save(self) -> float:
        """Return how old the last checkpoint is."""
        return (time.monotonic() - self._saved) / 60

    def saved(self) -> None:
        """Note that a checkpoint was written."""
        self._saved = time.monotonic()

    def flush(self) -> int:
        """Flush the metrics to the disk; return their length in bytes."""
        return self._files[0].sync() if self._files is not None else 0

    def __enter__(self) -> Record:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        for file in self._files or ():
            file.close()
