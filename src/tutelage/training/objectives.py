"""What a model learns from a batch: named sums, each with its own count.

A loss is never a mean taken inside a micro-batch. Every term is a sum over its targets, and the loop knows each term's
count over the whole batch (all micro-batches, all processes) before the first forward pass, so that

    loss = sum over terms of  weight * (sum of the term) / (count of the term)

does not depend on how the batch was cut. The counts differ: in rows of T tokens, the next token has T - 1 targets, a
divergence T, a masked model as many as were hidden.

Labels add a term for each task, over its own count (see `tasks`). Everything happens inside `Learner.forward`, so that
data-parallel wrappers see all weights used, the output layer's too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from tutelage import recipe
from tutelage.base.functions import load_function
from tutelage.corpus.batches import IGNORE, Batch, to_device
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.gates import GATES, Gate
from tutelage.teaching.signal import Signal
from tutelage.training.custom import CustomTerm, custom_loss
from tutelage.training.fused import LossScales, fused_loss

NEARLY_ALL = 0.95
"""Above this share of used positions, copying them costs more than the output layer on the unused ones."""
SUMS = ("target", "teacher", "gate_weight")
"""The sums of a step: cross-entropy with the text, divergence from the teachers, weights of a gate."""


@dataclass(frozen=True)
class LossCounts:
    """How many targets a whole batch has."""

    target: int
    """Positions with a right answer (next or masked tokens)."""
    distilled: int
    """Positions where the divergence is measured."""
    distilled_rows: int
    """Rows with at least one such position."""
    tokens: int
    """Tokens read, padding left out."""
    tasks: tuple[float, ...] = ()
    """Labels of each task that is learned, each as much as it is sure."""
    custom: tuple[int, ...] = ()
    """Targets of each function of the user's, 0 where the stage does not have it."""


def count(batch: Batch) -> LossCounts:
    """Count a batch's targets."""
    mask_BT = distill_mask(batch)
    targets, rows = int((batch.targets_BT != IGNORE).sum()), int(mask_BT.any(1).sum())
    return LossCounts(targets, int(mask_BT.sum()), rows, batch.token_count, _count_labels(batch))


def _count_labels(batch: Batch) -> tuple[float, ...]:
    if not batch.labels:
        return ()
    classes_BJ, tags_BSK = (batch.labels[name] != IGNORE for name in ("classes", "tags"))
    labels_BL = torch.cat([classes_BJ, tags_BSK.sum(1)], 1)
    return tuple((batch.labels["sure"].double() * labels_BL).sum(0).tolist())


def distill_mask(batch: Batch) -> Tensor:
    """Return where the divergence is measured, `(B, T)`: where a rewritten or masked row asks, else at all real tokens.

    A causal row's last token counts too, though its target lies outside the row (as in BabyLlama's code). Of a hybrid's
    rows, those count in which its teachers teach.
    """
    asked_BT = batch.targets_BT != IGNORE
    if batch.masked or batch.rewritten or batch.silent:
        return asked_BT
    if batch.whole_B is None or batch.taught_B is None:
        return batch.real_BT
    return torch.where(batch.whole_B[:, None], asked_BT, batch.real_BT) & batch.taught_B[:, None]


def used_positions(batch: Batch, distills: bool) -> Tensor | None:
    """Return the positions of a batch's flattened rows that have any loss, or None where nearly all have.

    To be asked on the CPU: a device would have to be waited for.
    """
    used_BT = batch.targets_BT != IGNORE
    if distills:
        used_BT |= distill_mask(batch)
    found = used_BT.flatten().nonzero().squeeze(1)
    return found if len(found) < NEARLY_ALL * used_BT.numel() else None


def scales_for(
    objectives: recipe.Objectives,
    counts: LossCounts,
    share: float = 1.0,
    temperature: float | None = None,
    tasks: Sequence[float] = (),
    custom: Iterable[str] | None = None,
) -> LossScales:
    """Multiply a stage's weights, reductions and the batch's counts out to the factor of each sum.

    Args:
        counts: of the whole batch.
        share: of the teachers' weight that is left; what is gone is the text's.
        temperature: where it changes over the stage; the recipe's number unless given.
        tasks: weight of each task's mean, see `task_weights`.
        custom: names of the user's functions, in the order of their sums; those of the stage unless given.
    """
    found = _scales_for(objectives, counts, share, temperature)
    labels = counts.tasks if tasks else ()
    factors = (weight / total if total else 0.0 for weight, total in zip(tasks, labels, strict=True))
    terms = (_custom_term(name, objectives, counts) for name in (objectives.custom or () if custom is None else custom))
    return replace(found, tasks=tuple(factors), custom=tuple(terms))


def text_scales(counts: LossCounts) -> LossScales:
    """Return the factors of plain training: the mean over the text's targets, and no teachers."""
    return LossScales(1.0 / max(counts.target, 1))


def _custom_term(name: str, objectives: recipe.Objectives, counts: LossCounts) -> CustomTerm:
    term, function = (objectives.custom or {}).get(name), load_function(name)
    if term is None:
        return CustomTerm(name, function, 0.0)
    return CustomTerm(name, partial(function, **term.settings), term.weight / max(counts.target, 1))


def _scales_for(
    objectives: recipe.Objectives, counts: LossCounts, share: float, temperature: float | None
) -> LossScales:
    text, distill = objectives.text, objectives.distill
    targets = max(counts.target, 1)
    target = text.weight / targets if text else 0.0
    if distill is None:
        return LossScales(target)
    if text:
        target += distill.weight * (1 - share) / targets
    if not share:
        return LossScales(target)
    temperature = first_temperature(distill) if temperature is None else temperature
    over = counts.distilled_rows if distill.reduction == "per_row" else counts.distilled
    weight, square = distill.weight * share, temperature**2 if distill.temperature_squared else 1.0
    gate = gate_of(distill)
    return LossScales(target, weight * square / max(over, 1), temperature, gate, weight / targets if gate else 0.0)


def gate_of(distill: recipe.Distill) -> Gate | None:
    """Return the gate of a recipe's divergence, if it has one."""
    gate = distill.gate
    return None if gate is None else GATES[gate.kind](gate.share, gate.scale)


def first_temperature(distill: recipe.Distill) -> float:
    """Return the temperature, at the stage's start if it changes."""
    temperature = distill.temperature
    return temperature.start if isinstance(temperature, recipe.TemperatureScheduleSettings) else temperature


class Learner(nn.Module):
    """A model, the heads that learn labels beside it, if any, and its losses under one `forward`."""

    def __init__(self, model: LanguageModel, heads: TaskHeads | None = None) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    def forward(
        self, batch: Batch, scales: LossScales, signal: Signal | None = None, used_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the batch's share of the loss and its plain sums: three as in `SUMS`, then of tasks and custom terms.

        The batch is on the model's device; `used_N` is what `used_positions` found, all positions unless given.
        """
        hidden_BTD = self.model.hidden(batch.tokens_BT, batch.lengths_B, batch.whole_B)
        hidden_ND = hidden_BTD.flatten(0, 1)
        targets_N = batch.targets_BT.flatten()
        distill_mask_N = distill_mask(batch).flatten() if signal is not None else None
        gate_weight_N = None
        if used_N is not None:
            hidden_ND, targets_N = hidden_ND[used_N], targets_N[used_N]
            signal = None if signal is None else signal.at(used_N)
            distill_mask_N = None if distill_mask_N is None else distill_mask_N[used_N]
        elif signal is not None:
            signal = signal.at(slice(None))
        if signal is not None and scales.gate is not None and scales.gate.by_row:
            gate_weight_N = _at_rows(scales.gate, signal.entropies(scales.temperature), distill_mask(batch), used_N)
        output = self.model.weight_VD, self.model.bias_V
        loss, sums = fused_loss(hidden_ND, *output, targets_N, scales, signal, distill_mask_N, gate_weight_N)
        custom = sums.new_zeros(len(scales.custom))
        for place, term in enumerate(scales.custom):
            if term.factor:
                part, custom[place] = custom_loss(hidden_ND, *output, targets_N, term)
                loss = loss + part
        if self.heads is None:
            return loss, torch.cat([sums, custom])
        lost_L, sure_L = self.heads(hidden_BTD, batch.labels)
        weighed, log_variance = lost_L, self.heads.log_variance_L
        if log_variance is not None:
            # Summed over a step, the last term is half the log-variance, once for each task that has labels in it.
            weighed = lost_L * torch.exp(-log_variance) + sure_L * log_variance / 2
        factors_L = to_device(torch.tensor(scales.tasks), lost_L.device)
        return loss + (factors_L * weighed).sum(), torch.cat([sums, lost_L.detach().double(), custom])


def _at_rows(gate: Gate, entropy_N: Tensor, mask_BT: Tensor, used_N: Tensor | None) -> Tensor:
    """Apply a gate over rows to the used positions, among which are all of the divergence."""
    if used_N is None:
        return gate.at_rows(entropy_N.view_as(mask_BT), mask_BT).flatten()
    whole = torch.zeros(mask_BT.numel(), device=entropy_N.device).index_copy_(0, used_N, entropy_N)
    return gate.at_rows(whole.view_as(mask_BT), mask_BT).flatten()[used_N]


def effective_weights(objectives: recipe.Objectives, row_length: int) -> str:
    """Say what the terms weigh, per token with reductions and temperature included, for the log."""
    parts = [f"{name} {term.weight:g}" for name, term in objectives.named().items() if name not in ("distill", "tasks")]
    distill = objectives.distill
    if distill is not None:
        square = first_temperature(distill) ** 2 if distill.temperature_squared else 1.0
        factors = [f"{distill.weight:g}"]
        factors += [f"T² {square:g}"] if distill.temperature_squared else []
        factors += [f"{row_length} tokens a row"] if distill.reduction == "per_row" else []
        total = distill.weight * square * (row_length if distill.reduction == "per_row" else 1)
        parts.append(f"distill {' x '.join(factors)}" + (f" = {total:g}" if len(factors) > 1 else ""))
    changes = distill is not None and (distill.schedule is not None or not isinstance(distill.temperature, float))
    gated = f", teachers gated by {distill.gate.kind}" if distill and distill.gate else ""
    sentences = [", ".join(parts) + " per token" + (" at first" if changes else "") + gated] if parts else []
    if (tasks := objectives.tasks) is not None:
        tagging = tasks.tagging_weight or tasks.weight
        sentences.append(f"{tasks.weight:g} x mean over tasks of texts, {tagging:g} x mean over tagging tasks")
    return "; ".join(sentences)
