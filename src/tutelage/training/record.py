"""What a run writes down while it trains: metrics that repeat to the last bit, and clock readings apart from them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

from torch import Tensor

from tutelage.run_folder import Lines, RunFolder
from tutelage.training.checkpoint import State
from tutelage.training.heldout import HeldOut
from tutelage.training.objectives import Counts


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


class Record:
    """The run's metrics and clock: means since the last line, in nats per token."""

    def __init__(self, run: RunFolder, state: State, timing: dict[str, float], log_every: int, active: bool) -> None:
        self._files = (Lines(run.metrics, state.metrics_bytes), Lines(run.timing)) if active else None
        self._log_every, self._before = log_every, timing.get("seconds", 0.0)
        self.teaching = Stopwatch(timing.get("teaching", 0.0))
        self._start = self._saved = time.monotonic()
        self.loss = math.nan

    def step(self, state: State, sums: Tensor, counts: Counts, norm: float, clipped: bool, rate: float) -> None:
        """Add a step to the current means; write them down when it is time."""
        state.clipped += clipped
        add = {
            "target": float(sums[0]),
            "targets": counts.target,
            "teacher": float(sums[1]),
            "taught": counts.taught,
            "norm": norm,
            "clipped": clipped,
            "steps": 1,
        }
        window = {key: state.window.get(key, 0.0) + value for key, value in add.items()}
        self.loss = window["target"] / max(window["targets"], 1)
        state.window = window
        if state.step % self._log_every:
            return
        state.window = {}
        if self._files is None:
            return
        line = {
            "step": state.step,
            "tokens": state.tokens,
            "loss": self.loss,
            "lr": rate,
            "grad_norm": window["norm"] / window["steps"],
            "clip_rate": window["clipped"] / window["steps"],
        }
        if window["teacher"]:
            line["kl"] = window["teacher"] / max(window["taught"], 1)
        self._files[0].write(line)
        self._files[1].write({"step": state.step, "tokens": state.tokens, "seconds": round(self.seconds(), 3)})

    def evaluation(self, state: State, result: HeldOut) -> None:
        """Write an evaluation down."""
        if self._files is not None:
            self._files[0].write({"step": state.step, "tokens": state.tokens, "val": asdict(result)})

    def seconds(self) -> float:
        """Return the seconds of training so far, those before a resume included."""
        return self._before + time.monotonic() - self._start

    def timing(self) -> dict[str, float]:
        """Return the clock readings to go on from: seconds in all, and those in which teachers were asked."""
        return {"seconds": self.seconds(), "teaching": self.teaching.seconds}

    def minutes_since_save(self) -> float:
        """Return how old the last checkpoint is."""
        return (time.monotonic() - self._saved) / 60

    def saved(self) -> None:
        """Note that a checkpoint was written."""
        self._saved = time.monotonic()

    def sync(self) -> int:
        """Flush the metrics to the disk; return their length in bytes."""
        return self._files[0].sync() if self._files is not None else 0

    def __enter__(self) -> Record:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        for file in self._files or ():
            file.close()
