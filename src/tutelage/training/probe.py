"""How fast a few training steps are, for estimates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource, to_device
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import Learner, count, scales_for, used_positions
from tutelage.training.optim import adamw


def seconds_per_step(
    model: LanguageModel,
    teachers: Sequence[LanguageModel],
    source: BatchSource,
    stage: recipe.Stage,
    precision: str,
    steps: int,
) -> tuple[float, float]:
    """Time training steps of a model with its teachers.

    Args:
        model: a model with any weights; it is changed.
        teachers: models as large as the real teachers, whose weights may be random.
        source: batches of the size to time.
        stage: what is learned.
        precision: `bf16` or `fp32`.
        steps: how many to time.

    Returns:
        Seconds of the first step, which warms up, and the median of the others.
    """
    learner = Learner(model).train()
    optimizer = adamw(learner, recipe.Optim())
    ensemble = Ensemble(teachers, None, stage.combine) if teachers else None
    device = model.weight_VD.device
    times = []
    for step in range(steps + 1):
        began = time.perf_counter()
        batch = source.batch(step)
        scales, used = scales_for(stage.objectives, count(batch)), used_positions(batch, bool(teachers))
        batch, used = batch.to(device), to_device(used, device)
        signal = ensemble.say(batch, precision) if ensemble else None
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = learner(batch, scales, signal, used)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times[0], statistics.median(times[1:])
