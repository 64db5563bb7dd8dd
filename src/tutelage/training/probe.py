"""How fast a few training steps are, and what the first one came to: for estimates, and to choose between forms."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource, to_device
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble
from tutelage.training.fused import LossScales
from tutelage.training.objectives import Learner, LossCounts, count, text_scales, used_positions
from tutelage.training.optim import adamw
from tutelage.training.parallel import clip_gradient


@dataclass(frozen=True)
class Probe:
    """What a few steps showed."""

    first: float
    """Seconds of the first step, which warms up."""
    usual: float
    """Median seconds of the others."""
    loss: float
    """Of the first step."""
    norm: float
    """Of its gradient."""


def probe(
    model: LanguageModel,
    source: BatchSource,
    precision: str,
    steps: int,
    teachers: Ensemble | None = None,
    scales_of: Callable[[LossCounts], LossScales] = text_scales,
) -> Probe:
    """Time so many training steps, after a first one, of a model with its teachers.

    Model and teachers need the real shapes only; their weights may be random, and the model's are changed. `scales_of`
    gives the factors of the loss' terms by a batch's counts.
    """
    learner = Learner(model).train()
    optimizer = adamw(learner, recipe.Optim())
    device = model.weight_VD.device
    times, learned = [], torch.empty(0)
    for step in range(steps + 1):
        began = time.perf_counter()
        batch = source.batch(step)
        torch.manual_seed(step)
        scales, used = scales_of(count(batch)), used_positions(batch, teachers is not None)
        batch, used = batch.to(device), to_device(used, device)
        signal = teachers.signal(batch, precision) if teachers else None
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = learner(batch, scales, signal, used)
        loss.backward()
        norm = clip_gradient(learner, 1.0)
        if step == 0:
            learned = torch.stack([loss.detach(), norm])
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return Probe(times[0], statistics.median(times[1:]), *learned.tolist())
