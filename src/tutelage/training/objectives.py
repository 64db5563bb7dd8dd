"""What a model learns from a batch: named sums, each with its own count.

A loss is never a mean taken inside a micro-batch. Every term is a sum over its targets, and the loop knows each term's
count over the whole batch (all micro-batches, all processes) before the first forward pass, so that

    loss = sum over terms of  weight * (sum of the term) / (count of the term)

does not depend on how the batch was cut. Counts differ: in rows of T tokens, the next token has T - 1 targets, a
divergence T, a masked model as many as were hidden.

Everything happens inside `Learner.forward`, so that data-parallel wrappers see all weights used, the output layer's
too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tutelage import recipe
from tutelage.corpus.batches import IGNORE, Batch
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.signal import DenseSignal
from tutelage.training.fused import Scales, fused_loss

TERMS = ("target", "teacher")
"""The two sums of a step: cross-entropy with the text, divergence from the teachers."""


@dataclass(frozen=True)
class Counts:
    """How many targets a whole batch has.

    Attributes:
        target: positions with a right answer (next or masked tokens).
        taught: positions where the teachers are heard.
        rows: rows with at least one such position.
        tokens: tokens read, padding left out.
    """

    target: int
    taught: int
    rows: int
    tokens: int


def count(batch: Batch) -> Counts:
    """Count a batch's targets."""
    taught = taught_positions(batch)
    return Counts(
        int((batch.targets_BT != IGNORE).sum()), int(taught.sum()), int(taught.any(1).sum()), batch.token_count
    )


def taught_positions(batch: Batch) -> Tensor:
    """Return where the teachers are heard, `(B, T)`: at hidden tokens of a masked row, else at every real token.

    A causal row's last token counts too, though its target lies outside the row (as in BabyLlama's code).
    """
    return batch.targets_BT != IGNORE if batch.masked or batch.silent else batch.real_BT


def scales_for(objectives: recipe.Objectives, counts: Counts) -> Scales:
    """Multiply a stage's weights, reductions and the batch's counts out to the factor of each sum."""
    text = objectives.masked or objectives.next_token
    target = text.weight / max(counts.target, 1) if text else 0.0
    distill = objectives.distill
    if distill is None:
        return Scales(target)
    over = counts.rows if distill.reduction == "per_row" else counts.taught
    square = distill.temperature**2 if distill.temperature_squared else 1.0
    return Scales(target, distill.weight * square / max(over, 1), distill.temperature)


class Learner(nn.Module):
    """A model and its losses under one `forward`."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, scales: Scales, signal: DenseSignal | None = None) -> tuple[Tensor, Tensor]:
        """Return the batch's share of the loss and its plain sums, `(2,)` in the order of `TERMS`."""
        hidden = self.model.hidden(batch.tokens_BT, batch.lengths_B)
        taught = taught_positions(batch) if signal is not None else None
        used = batch.targets_BT != IGNORE
        if taught is not None:
            used = used | taught
        index = used.flatten().nonzero().squeeze(1)
        return fused_loss(
            hidden.reshape(-1, hidden.shape[-1])[index],
            self.model.weight_VD,
            self.model.bias_V,
            batch.targets_BT.flatten()[index],
            scales,
            None if signal is None else signal.at(index),
            None if taught is None else taught.flatten()[index],
        )


def effective_weights(objectives: recipe.Objectives, row_length: int) -> str:
    """Say what the terms weigh per token, reductions and temperature included, for the log."""
    parts = [f"{name} {term.weight:g}" for name, term in objectives.named().items() if name != "distill"]
    distill = objectives.distill
    if distill is not None:
        factors = [f"{distill.weight:g}"]
        factors += [f"T² {distill.temperature**2:g}"] if distill.temperature_squared else []
        factors += [f"{row_length} tokens a row"] if distill.reduction == "per_row" else []
        total = distill.weight * (distill.temperature**2 if distill.temperature_squared else 1.0)
        total *= row_length if distill.reduction == "per_row" else 1
        parts.append(f"distill {' x '.join(factors)}" + (f" = {total:g}" if len(factors) > 1 else ""))
    return ", ".join(parts) + " per token"
