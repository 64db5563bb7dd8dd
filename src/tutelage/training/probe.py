"""How fast a few training steps are, for estimates."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import Learner, count, scales_for
from tutelage.training.optim import adamw


def seconds_per_step(
    model: LanguageModel,
    teachers: Sequence[LanguageModel],
    source: BatchSource,
    stage: recipe.Stage,
    precision: str,
    steps: int,
) -> float:
    """Time training steps of a model with its teachers; the first, which warms up, does not count.

    Args:
        model: a model with any weights; it is changed.
        teachers: models as large as the real teachers, whose weights may be random.
        source: batches of the size to time.
        stage: what is learned.
        precision: `bf16` or `fp32`.
        steps: how many to time.

    Returns:
        Median seconds of a step.
    """
    learner = Learner(model).train()
    optimizer = adamw(learner, recipe.Optim())
    ensemble = Ensemble(teachers, None, stage.combine) if teachers else None
    device = model.weight_VD.device
    times = []
    for step in range(steps + 1):
        began = time.perf_counter()
        batch = source.batch(step).to(device)
        signal = ensemble.say(batch, precision) if ensemble else None
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = learner(batch, scales_for(stage.objectives, count(batch)), signal)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[(len(times) - 1) // 2]
