"""Held-out loss on easy and on hard text: rows sorted by the loss of a reference model, in parts of equal size.

SALT (Rawat et al. 2024) asks of easy and hard parts of a task what a weak teacher does for each. The parts are the same
for every model, because one reference decides them; a reference that is also measured looks better on what it calls
easy than it is.
"""

from __future__ import annotations

import numpy as np
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Floats, Json, Precision
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.teaching.teachers import Ensemble

NAMES = {2: ("easy", "hard"), 3: ("easy", "medium", "hard")}
"""Names of the parts; of more they are `part_1` (the easiest), `part_2` and so on."""


def row_losses(
    ensemble: Ensemble, source: BatchSource, device: torch.device, precision: Precision = "fp32", label: str = "buckets"
) -> Floats:
    """Sum a model's cross-entropy over each row of held-out text, unshuffled.

    Returns `(R, 2)`: for every row its sum in nats and how many tokens were predicted.
    """
    found = []
    with torch.inference_mode(), progress(label, source.tokens_per_epoch, "tok") as bar:
        for batch in source.once():
            batch = batch.to(device)
            known_BT = batch.targets_BT != IGNORE
            index_M = known_BT.flatten().nonzero().squeeze(1)
            signal = ensemble.dense_signal(batch.tokens_BT, batch.lengths_B, precision).at(index_M)
            loss_BT = torch.zeros(known_BT.shape, dtype=torch.float64, device=device)
            loss_BT[known_BT] = -signal.target_log_probs(batch.targets_BT.flatten()[index_M]).double()
            found.append(torch.stack([loss_BT.sum(1), known_BT.sum(1).double()], 1).cpu().numpy())
            bar.advance(batch.token_count)
    losses_R2 = np.concatenate(found) if found else np.zeros((0, 2))
    if not np.isfinite(losses_R2).all():
        raise UserError(
            f"{label}: the model's loss is not finite on some rows, so its weights are damaged: train it again"
        )
    return losses_R2


def buckets(losses_R2: Floats, reference_R2: Floats, parts: int, by: str) -> MeasuredResult:
    """Measure a model's loss in parts of held-out text, from what the reference finds easy to what it finds hard.

    Losses are as `row_losses` gives them, of the same rows. The reference's mean decides a row's part, ties the row's
    place; parts have as equal numbers of rows as can be, and one at least. The values are the parts' mean
    cross-entropies in nats per token; the hardest is the headline. The note names the reference, `by`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_R = reference_R2[:, 0] / reference_R2[:, 1]
    rows = np.flatnonzero(reference_R2[:, 1] > 0)
    rows = rows[np.argsort(mean_R[rows], kind="stable")]
    if len(rows) < parts:
        raise UserError(f"evaluation.buckets.parts: {parts} parts of {len(rows)} rows of held-out text; name fewer")
    values = {}
    keys = NAMES.get(parts) or tuple(f"part_{i + 1}" for i in range(parts))
    for key, part in zip(keys, np.array_split(rows, parts), strict=True):
        loss, count = losses_R2[part].sum(0)
        note = f"rows on which {by} loses {mean_R[part[0]]:.2f} to {mean_R[part[-1]]:.2f} nats per token"
        values[key] = MeasuredValue(float(loss / count), "nats", better="lower", n=int(count), note=note)
    return MeasuredResult("buckets", "held-out", list(values)[-1], values)


def _buckets(context: Context) -> MeasuredResult:
    chosen = context.settings.buckets
    if context.held_out is None or context.reference is None or chosen is None:
        raise UserError("evaluation 'buckets' is measured on a recipe's held-out text, and there is no recipe here")
    losses_R2 = row_losses(
        context.ensemble, context.held_out(), context.models.device, context.precision, f"buckets {context.label}"
    )
    return buckets(losses_R2, context.reference(), chosen.parts, str(chosen.by))


def _buckets_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    return {"parts": settings.buckets.parts if settings.buckets else None}


BUCKETS = Measurement(_buckets, _buckets_inputs, needs=frozenset({"held_out", "reference"}))
