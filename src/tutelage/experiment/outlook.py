"""What an experiment will do, told before it begins, and how far its trainings are, whoever trains them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

from rich.table import Table

from tutelage.base.console import NARROWEST
from tutelage.base.progress import console, human
from tutelage.base.run_folder import RunFolder
from tutelage.experiment.identity import TrainingRun

TAIL_BYTES = 4096
"""Of a run's metrics, in which the last whole line stands."""


def tell(runs: Sequence[TrainingRun], evaluate: Sequence[str], workers: int = 1) -> None:
    """Print which models are trained, for how long, by whom they are taught, and what follows."""
    left = [run for run in runs if not run.folder.is_finished]
    if left:
        console.print(_table(runs))
    finished = f"{len(runs) - len(left)} of {len(runs)} trainings are finished"
    beside = f", {workers} side by side" if workers > 1 else ""
    order = f"{len(left)} to go, teachers first{beside}" if left else "nothing to train"
    console.print(f"{finished}: {order}; then scores on {', '.join(evaluate) or 'nothing'}, and the report")


def trainings(runs: Sequence[TrainingRun]) -> Callable[[], tuple[str, float]]:
    """Return a function for `progress.overall`: trainings that are over, and the share of all operations done."""
    flops = [run.plan.flops() for run in runs]

    def state() -> tuple[str, float]:
        shares = [share_done(run.folder, run.plan.steps.total) for run in runs]
        done = sum(share * operations for share, operations in zip(shares, flops, strict=True))
        return f"{sum(run.folder.is_finished for run in runs)} of {len(runs)} trainings", done / sum(flops)

    return state


def share_done(folder: RunFolder, steps: int) -> float:
    """Return the share of a run's steps that its metrics tell of, from 0 to 1."""
    if folder.is_finished:
        return 1.0
    try:
        with folder.metrics.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
        # The last line may be on its way.
        whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return min(1.0, json.loads(whole[-1])["step"] / steps) if whole else 0.0
    except (OSError, ValueError, KeyError):
        return 0.0


def _table(runs: Sequence[TrainingRun]) -> Table:
    table = Table(title="To be trained", title_justify="left", box=None)
    table.add_column("model", overflow="fold", min_width=min(NARROWEST, max(len(run.name) for run in runs)))
    for column in ("seeds", "params", "passes", "steps", "FLOPs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("learns from", overflow="fold")
    for name in dict.fromkeys(run.name for run in runs):
        same = [run for run in runs if run.name == name]
        plan = same[0].plan
        teachers = dict.fromkeys(str(t) for stage in plan.model.stages for t in stage.teachers)
        passes = plan.steps.total / plan.source.steps_per_epoch
        table.add_row(
            name, str(len(same)), human(plan.cost.parameters), f"{passes:.3g}", f"{plan.steps.total:,}",
            f"{len(same) * plan.flops():.2g}", ", ".join(("text", *teachers)),
        )  # fmt: skip
    return table
