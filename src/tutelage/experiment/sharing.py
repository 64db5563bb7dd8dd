"""Several processes train the runs of one experiment: each takes the next run that nobody else is training.

The locks of the run folders are all that they share, so processes on several machines with one disk can do the same,
may come and go, and leave nothing behind that another one could not take up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tutelage.base import machine
from tutelage.base.errors import InUse, UserError
from tutelage.base.files import write_text
from tutelage.base.progress import console
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.setup import Experiment
from tutelage.experiment.train import train_run
from tutelage.recipe.yaml import dump

PAUSE = 0.5
"""Seconds between two looks, while everything left is in other hands or waits for teachers."""
PATIENCE = 30.0
"""Seconds for helping processes to save and end."""


def train_shared(experiment: Experiment, runs: Sequence[TrainingRun]) -> None:
    """Train runs that no other process is training, until all of them are finished, here or there.

    Raises:
        UserError: several processes of `torchrun`, which train one run together.
    """
    if experiment.group.size > 1:
        raise UserError(
            "--workers and --share train several models side by side, torchrun one model in several processes: take one"
        )
    left = list(runs)
    while left := [run for run in left if not run.folder.is_finished]:
        ready = (run for run in left if _is_ready(experiment, run))
        if not any(_trained_here(experiment, run) for run in ready):
            time.sleep(PAUSE)


def _is_ready(experiment: Experiment, run: TrainingRun) -> bool:
    """Tell whether the models of the recipe that a run learns from are finished."""
    needed = (teacher for stage in run.model.stages for teacher in stage.needs)
    own = (teacher for teacher in needed if teacher.model in experiment.recipe.models)
    return all(experiment.run(teacher).folder.is_finished for teacher in own)


def _trained_here(experiment: Experiment, run: TrainingRun) -> bool:
    try:
        train_run(experiment, run)
    except InUse:
        return False
    return True


@contextmanager
def helpers(experiment: Experiment, count: int) -> Iterator[None]:
    """Start processes that train along, each on its share of the cores; no more than there are cores.

    What they say goes to `worker-<n>.log` in the experiment's folder. Whatever ends this process ends them, saved.

    """
    import torch

    if count == 0:
        yield
        return
    if count >= (cores := machine.cores()):
        console.print(f"--workers {count + 1}: this machine has {cores} of the cores, so {cores} are started")
        count = cores - 1
    threads = cores // (count + 1)
    torch.set_num_threads(threads)
    settings = experiment.folder / ".workers.yaml"
    write_text(settings, dump(experiment.recipe.model_dump(mode="json")))
    command = [
        sys.executable,
        "-m",
        "tutelage",
        "train",
        str(settings),
        "--runs",
        str(experiment.folder.parent),
        "--share",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(1, count + 1):
            log = experiment.folder / f"worker-{number}.log"
            with log.open("wb") as file:
                started.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
        console.print(
            f"{count + 1} workers with {threads} cores each; the others write to {experiment.folder}/worker-*.log"
        )
        yield
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
        for process in started:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        settings.unlink(missing_ok=True)
