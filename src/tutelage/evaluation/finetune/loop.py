"""The loop of fine-tuning: shuffled batches, AdamW, evaluations, the best weights kept.

Layers are not compiled: that would save a seventh of a step, and take 15 to 40 seconds of a task's few minutes.

Order, classifier and dropout follow from the seed alone. Shapes: N rows, B rows of a part, L labels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Ints
from tutelage.corpus.batches import keyed_generator
from tutelage.evaluation.finetune.classifier import Classifier
from tutelage.evaluation.finetune.metrics import METRICS, Metric
from tutelage.evaluation.finetune.rows import (
    MicroBatch,
    TextRows,
    collate,
    line_up,
    lines,
    order,
    parts,
    scored_batches,
)
from tutelage.recipe.finetune import TaskFinetuning
from tutelage.training.optim import learning_rate, parameter_groups

DROPOUT = 13
"""Key of dropout's seeds; see `rows.ORDER`."""


@dataclass(frozen=True)
class Fitted:
    """A classifier with its best weights, ready to score."""

    classifier: Classifier
    score: float
    """On the rows that chose."""
    epoch: float
    """Passes over the training rows after which it was best."""
    ran: float
    """Passes until it stopped."""
    scores: tuple[float, ...]
    """Of every evaluation, in order."""


@dataclass(frozen=True)
class Reading:
    """How rows are fed to a model."""

    pad_id: int
    """Fills rows up; what it is does not matter."""
    limit: int
    """Longest row."""
    precision: str
    label: str
    """For the progress bar."""


def fit(classifier: Classifier, train: TextRows, chooser: TextRows, metric: Metric, settings: TaskFinetuning,
        reading: Reading, seed: int) -> Fitted:  # fmt: skip
    """Train a classifier in place and give it the weights that scored best; equal scores keep the earlier ones.

    Raises:
        UserError: fewer rows than a batch with `drop_last`, or a loss that is not finite.
    """
    device = _device(classifier)
    a_batch = settings.batch_rows
    steps = len(train) // a_batch if settings.drop_last else -(-len(train) // a_batch)
    if steps < 1:
        raise UserError(f"{reading.label}: {len(train)} training rows fill no batch of {a_batch} rows; lower "
                        "batch_rows or set drop_last: false")  # fmt: skip
    total = steps * settings.epochs
    warmup_steps = round(settings.warmup_share * total)
    groups = parameter_groups(classifier, settings.weight_decay, decay_all=settings.decayed == "all")
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    every = settings.evaluate_every or steps
    keeper = _Keeper(classifier, settings)
    lengths_N = train.lengths_N
    seen = torch.zeros((), device=device)
    with progress(reading.label, total * a_batch, "rows") as bar, torch.random.fork_rng():
        for step in range(total):
            epoch, place = divmod(step, steps)
            if place == 0:
                shuffled_N = order(len(train), seed, epoch)
            batch_N = shuffled_N[place * a_batch : (place + 1) * a_batch]
            torch.manual_seed(int(keyed_generator(seed, DROPOUT, step).integers(2**62)))
            classifier.train()
            # One autocast for all parts: weights are cast once.
            with _autocast(device, reading.precision):
                lengths_B = lengths_N[batch_N]
                for part_N in lines(lengths_B) if classifier.reads_lines else parts(lengths_B, device.type):
                    part = _part(classifier, train, batch_N[part_N], settings, reading)
                    loss = nn.functional.cross_entropy(classifier(part), part.labels_B, reduction="sum") / len(batch_N)
                    loss.backward()  # type: ignore[no-untyped-call]
                    seen += loss.detach()
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(trained, settings.clip)
            lr = learning_rate(step, total, settings.lr, warmup_steps, settings.schedule, settings.final_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.advance(len(batch_N), keeper.note)
            last = step + 1 == total and (settings.evaluate_end or not keeper.scores)
            if (step + 1) % every == 0 or last:
                if not math.isfinite(float(seen)):
                    raise UserError(f"{reading.label}: the loss is not finite after step {step + 1}; lower lr or set "
                                    "precision: fp32")  # fmt: skip
                predicted_N = predict(classifier, chooser, settings, reading).argmax(1)
                if keeper.stops(METRICS[metric](chooser.labels_N, predicted_N), (step + 1) / steps):
                    break
    keeper.restore((step + 1) / steps)
    return Fitted(classifier, keeper.best, keeper.best_epoch, (step + 1) / steps, tuple(keeper.scores))


def predict(classifier: Classifier, rows: TextRows, settings: TaskFinetuning, reading: Reading) -> NDArray[np.float32]:
    """Return the logits of all rows in their order, `(N, L)`."""
    device = _device(classifier)
    classifier.eval()
    found: list[tuple[Ints, Tensor]] = []
    with torch.no_grad(), _autocast(device, reading.precision):
        for index_B in scored_batches(rows.lengths_N, device.type):
            part = _part(classifier, rows, index_B, settings, reading)
            found.append((index_B, classifier(part).float()))
    logits_NL = np.empty((len(rows), found[0][1].shape[1]), dtype=np.float32)
    for index_B, logits_BL in found:
        logits_NL[index_B] = logits_BL.cpu().numpy()
    return logits_NL


def _part(
    classifier: Classifier, rows: TextRows, index_B: Ints, settings: TaskFinetuning, reading: Reading
) -> MicroBatch:
    if classifier.reads_lines:
        return line_up(rows, index_B)
    return collate(rows, index_B, reading.pad_id, settings.padding, reading.limit, _device(classifier))


def _device(classifier: Classifier) -> torch.device:
    return next(classifier.parameters()).device


class _Keeper:
    """Remembers the best weights, and when patience is over."""

    def __init__(self, classifier: Classifier, settings: TaskFinetuning) -> None:
        self._classifier, self._settings = classifier, settings
        self._weights: dict[str, Tensor] = {}
        self._waited, self.best_epoch, self.best, self.note = 0, 0.0, -math.inf, ""
        self.scores: list[float] = []

    def stops(self, score: float, epoch: float) -> bool:
        """Take an evaluation's score; tell whether to stop."""
        self.scores.append(score)
        self._waited = 0 if score > self.best + self._settings.min_gain else self._waited + 1
        if score > self.best:
            self.best, self.best_epoch = score, epoch
            self._weights = {name: tensor.clone() for name, tensor in self._learned()}
        self.note = f"{score:.3f}, best {self.best:.3f}"
        return self._settings.patience is not None and self._waited >= self._settings.patience

    @torch.no_grad()
    def restore(self, epoch: float) -> None:
        """Give the classifier, trained until an epoch, its best weights back."""
        if self.best_epoch != epoch:
            for name, tensor in self._learned():
                tensor.copy_(self._weights[name])

    def _learned(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, p.detach()) for name, p in self._classifier.named_parameters() if p.requires_grad)


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
