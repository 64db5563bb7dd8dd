"""What a run writes down while it trains: metrics that repeat to the last bit, and clock readings apart from them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

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
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._start


@dataclass(frozen=True)
class StepSettings:
    """What changes from step to step by plan."""

    rate: float
    """The learning rate."""
    weight: float | None = None
    """The teachers', where it changes over the stage."""
    temperature: float | None = None
    """Likewise."""
    gated: bool = False
    """Whether a gate weighs the teachers' tokens."""


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
        """Take note of the step that `state` now counts; over all processes, `measured` holds the gradient's norm and
        the plain sums: those of `objectives.SUMS`, of tasks and of custom terms."""
        self._unread.append((state.step, state.tokens, counts, settings, measured))

    def sync(self, state: State, clip: float) -> tuple[int, str] | None:
        """Read what was noted, add it to the current means, write lines that are due.

        Returns:
            The first step, counted from 0, whose loss or gradient was not finite, and the numbers; None if all is well.
        """
        numbers = torch.stack([measured for *_, measured in self._unread]).tolist() if self._unread else []
        for (step, tokens, counts, settings, _), row in zip(self._unread, numbers, strict=True):
            if not all(map(math.isfinite, row)):
                return step - 1, f"sums {row[1:3]}, gradient norm {row[0]}"
            state.clipped += row[0] > clip
            window = state.window = self._added(state.window, row, counts, row[0] > clip, settings.gated)
            self.loss = window["target"] / max(window["targets"], 1)
            if step % self._log_every:
                continue
            state.window = {}
            if self._files is not None:
                self._files[0].write({"step": step, "tokens": tokens, **self._means(window, settings)})
                self._files[1].write({"step": step, "tokens": tokens, "seconds": round(self.seconds(), 3)})
        self._unread.clear()
        return None

    def _added(
        self, window: dict[str, float], row: list[float], counts: LossCounts, clipped: bool, gated: bool
    ) -> dict[str, float]:
        """Return a window with a step's numbers added."""
        norm, target, teacher, gate_weight, *rest = row
        add: dict[str, float] = {
            "target": target,
            "targets": counts.target,
            "teacher": teacher,
            "distilled": counts.distilled,
            "gate_weight": gate_weight,
            "gated": counts.distilled * gated,
            "norm": norm,
            "clipped": clipped,
            "steps": 1,
        }
        tasks = [(f"task {name}", f"labels {name}") for name in self._tasks]
        custom = [(f"objective {name}", f"targets {name}") for name in self._custom]
        for keys, found in zip(tasks + custom, zip(rest, counts.tasks + counts.custom, strict=True), strict=True):
            add |= zip(keys, found, strict=True)
        return {key: window.get(key, 0.0) + value for key, value in add.items()}

    def _means(self, window: dict[str, float], settings: StepSettings) -> Json:
        def each(names: tuple[str, ...], lost: str, labels: str) -> Json | None:
            counts = {name: window[f"{labels} {name}"] for name in names}
            return {name: window[f"{lost} {name}"] / n for name, n in counts.items() if n} if names else None

        optional: Json = {
            "kl": window["teacher"] / max(window["distilled"], 1) if window["teacher"] else None,
            "weight": settings.weight,
            "temperature": settings.temperature,
            "gate_weight": window["gate_weight"] / window["gated"] if window["gated"] else None,
            "tasks": each(self._tasks, "task", "labels"),
            "objectives": each(self._custom, "objective", "targets"),
        }
        return {
            "loss": self.loss,
            "lr": settings.rate,
            "grad_norm": window["norm"] / window["steps"],
            "clip_rate": window["clipped"] / window["steps"],
        } | {key: value for key, value in optional.items() if value is not None}

    def evaluation(self, state: State, result: HeldOut, raw: HeldOut | None = None) -> None:
        """Write an evaluation down; where it is of averaged weights, also the `raw` one of the last weights."""
        if self._files is not None:
            beside = {} if raw is None else {"val_raw": asdict(raw)}
            self._files[0].write({"step": state.step, "tokens": state.tokens, "val": asdict(result)} | beside)

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

    def close(self) -> None:
        """Close the files."""
        for file in self._files or ():
            file.close()
