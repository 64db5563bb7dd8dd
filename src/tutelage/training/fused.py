"""From hidden states to losses and gradients, without ever holding all logits.

The output layer is the widest product of a small model. Its logits are computed block by block; each block's gradient
follows at once from closed forms and takes the logits' place in memory, so that neither logits nor probabilities wait
for the backward pass:

    cross-entropy           d/dz = p - onehot(target)
    KL(teacher || student)  d/dz = (p_T - q_T) / T

with p the student's and q the teachers' distribution, both at temperature T where marked. A gate's weights follow from
the same numbers on the way; no gradient goes through them. The backward pass only scales what was found.
`training.reference` holds the plain definition in float64; tests compare values and gradients. Logits come by blocks
and tiles (`models.logits`); each head of dense teachers takes as much again.

Shapes: N positions, D width, V vocabulary, K tokens of a sparse signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.corpus.batches import IGNORE
from tutelage.models.logits import LOSS, equal_parts, quick_log, softmax
from tutelage.models.products import product, weight_gradient
from tutelage.teaching.gates import Gate
from tutelage.teaching.signal import Signal, TeacherTile
from tutelage.training.custom import CustomTerm

VOCABULARY_ROWS = 16384
"""Rows of the weight's gradient that are added at once; a copy of all of it would grow with the vocabulary."""


@dataclass(frozen=True)
class LossScales:
    """Factors of the two sums in the loss, weights and counts multiplied out.

    Attributes:
        target: before the sum of cross-entropies.
        teacher: before the sum of divergences, the squared temperature included where it is wanted.
        temperature: of the divergence.
        gate: weighs the teachers at each position; 1 everywhere unless given.
        yielded: what comes to the factor of a cross-entropy where a gate gives the teachers no weight.
        tasks: before each task's sum of cross-entropies, where labels are learned; not used here, see `objectives`.
        custom: terms that are functions of the user's; likewise.
    """

    target: float
    teacher: float = 0.0
    temperature: float = 1.0
    gate: Gate | None = None
    yielded: float = 0.0
    tasks: tuple[float, ...] = ()
    custom: tuple[CustomTerm, ...] = ()


@dataclass(frozen=True)
class PositionWeights:
    """How a position's gradient is made of its terms: `rate * (alpha * p + beta * p_T - alpha * gold - beta * q)`.

    The rates, equal at nearly all positions, are applied to rows of width D instead of V.

    Attributes:
        alpha_N: share of the cross-entropy.
        beta_N: share of the divergence; both sum to 1 where there is any loss.
        rate_N: 1 at a position with all terms, less elsewhere.
        common: the largest rate, which the rates are relative to.
    """

    alpha_N: Tensor
    beta_N: Tensor
    rate_N: Tensor
    common: float

    def at(self, part: slice) -> PositionWeights:
        """Return the shares at some positions, in the same memory."""
        return PositionWeights(self.alpha_N[part], self.beta_N[part], self.rate_N[part], self.common)

    def take(self, other: PositionWeights) -> None:
        """Become what others are."""
        self.alpha_N.copy_(other.alpha_N)
        self.beta_N.copy_(other.beta_N)
        self.rate_N.copy_(other.rate_N)


def fused_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    scales: LossScales,
    signal: Signal | None = None,
    distill_mask_N: Tensor | None = None,
    gate_weight_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the scaled loss (differentiable once) and three plain sums (float64, detached).

    Args:
        hidden_ND: student's hidden states, in any float type.
        weight_VD: student's output layer; its gradient is accumulated in the weight's own type.
        targets_N: right answers; `IGNORE` where there is none.
        signal: the teachers' output at the same N positions; None without teachers.
        distill_mask_N: weight of the divergence at each position, or which positions it covers; all unless given.
        gate_weight_N: the gate's weights, float32, for a gate that looks at whole rows; others are computed here.

    Returns:
        `scales.target * sum(cross-entropy) + scales.teacher * sum(KL)`, and `(3,)`: both sums in nats, and the sum of
        the gate's weights where there is a gate. With weights g of a gate the loss is the sum of
        `(scales.target + (1 - g) * scales.yielded) * cross-entropy + g * scales.teacher * KL`; the plain sums are not
        weighted by it.

    Raises:
        ValueError: a sparse signal that was drawn at another temperature, or a gate over rows without its weights.
    """
    if scales.gate is not None and scales.gate.by_row and signal is not None and gate_weight_N is None:
        raise ValueError("a gate over rows is computed outside: give `gate_weight_N`")
    arguments = hidden_ND, weight_VD, bias_V, targets_N, scales, signal, distill_mask_N, gate_weight_N
    loss, sums = _Fused.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss, sums


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        scales: LossScales,
        signal: Signal | None,
        distill_mask_N: Tensor | None,
        gate_weight_N: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wants = any(ctx.needs_input_grad[:3])
        device = hidden_ND.device.type
        # Autocast would cast the weights again in every block, and leaves some products in float32.
        type_ = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        hidden, weight = hidden_ND.to(type_), weight_VD.to(type_)
        bias = None if bias_V is None else bias_V.to(type_)
        grad_hidden = torch.empty_like(hidden) if wants else None
        grad_weight = torch.zeros_like(weight_VD) if wants else None
        grad_bias = torch.zeros_like(bias_V) if wants and bias_V is not None else None
        # The last one is what a gate moves from the teachers to the text.
        sums = torch.zeros(4, dtype=torch.float64, device=hidden.device)
        if not scales.teacher:
            signal = None
        teachers = None if signal is None else signal.cast(type_)
        shares = _shares(scales, targets_N, distill_mask_N, teachers is not None, gate_weight_N)
        tile = LOSS.tile_rows(device, len(weight))
        rows = max(tile, LOSS.block_rows(device, len(weight), type_.itemsize))
        with torch.autocast(device, enabled=False):
            for block in equal_parts(hidden.shape[0], rows):
                logits = product(hidden[block], weight, bias)
                tile_of = None if teachers is None else teachers.block(block, scales.temperature)
                for inner in equal_parts(logits.shape[0], tile):
                    part = slice(block.start + inner.start, block.start + inner.stop)
                    gradient = _tile(
                        logits[inner].float(),
                        targets_N[part],
                        scales,
                        shares.at(part),
                        None if tile_of is None else tile_of(inner),
                        None if distill_mask_N is None else distill_mask_N[part],
                        None if gate_weight_N is None else gate_weight_N[part],
                        sums,
                        wants,
                    )
                    if gradient is not None:
                        logits[inner] = gradient
                if grad_hidden is not None and grad_weight is not None:
                    rate = shares.rate_N[block, None].to(type_)
                    torch.mul(product(logits, weight.t()), rate, out=grad_hidden[block])
                    reader = hidden[block] * rate
                    for columns in equal_parts(weight.shape[0], VOCABULARY_ROWS):
                        grad_weight[columns].add_(weight_gradient(logits[:, columns], reader), alpha=shares.common)
                    if grad_bias is not None:
                        grad_bias.add_((logits.t() @ rate).squeeze(1), alpha=shares.common)
                del logits, tile_of  # before the next block's are made
        if wants:
            # Not `save_for_backward`: a saved tensor would be copied once more when it becomes the weight's gradient.
            ctx.found = grad_hidden, grad_weight, grad_bias
            ctx.common, ctx.hidden_type = shares.common, hidden_ND.dtype
        loss = scales.target * sums[0] + scales.teacher * sums[1] + sums[3]
        found = sums[:3].clone()
        ctx.mark_non_differentiable(found)
        return loss.float(), found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("the gradient of a fused loss can be taken once")
        (hidden, weight, bias), ctx.found = ctx.found, None
        scale = grads[0]
        # In the wider type, in which the factor is not rounded.
        hidden = hidden.to(ctx.hidden_type).mul_((ctx.common * scale).to(ctx.hidden_type))
        return hidden, weight.mul_(scale), None if bias is None else bias.mul_(scale), None, None, None, None, None


def _shares(
    scales: LossScales, targets: Tensor, mask: Tensor | None, teacher: bool, gate_weight: Tensor | None = None
) -> PositionWeights:
    """Weigh the terms at each position; `teacher`: whether there are teachers, `gate_weight`: the gate's."""
    alpha = (targets != IGNORE) * scales.target
    beta = torch.zeros_like(alpha)
    if teacher:
        beta = beta + scales.teacher / scales.temperature * (1.0 if mask is None else mask.to(alpha.dtype))
    if gate_weight is not None:
        alpha, beta = alpha + (targets != IGNORE) * (1 - gate_weight) * scales.yielded, beta * gate_weight
    common = scales.target + (max(scales.yielded, scales.teacher / scales.temperature) if teacher else 0.0) or 1.0
    whole = alpha + beta
    divisor = torch.where(whole > 0, whole, 1.0)
    return PositionWeights(alpha / divisor, beta / divisor, whole / common, common)


def _tile(
    logits: Tensor,
    targets: Tensor,
    scales: LossScales,
    shares: PositionWeights,
    teacher: TeacherTile | None,
    mask: Tensor | None,
    gate_weight: Tensor | None,
    sums: Tensor,
    wants: bool,
) -> Tensor | None:
    """Add a tile's sums to `sums`; return its gradient before the rates.

    `logits`, `(n, V)`, and the tile of the teachers at the temperature are overwritten; so are the `shares` of a gate
    whose weights are found here.
    """
    T = 1.0 if teacher is None else scales.temperature
    highest = logits.amax(-1)
    p_T, total_T = softmax(logits if T == 1 else logits.div_(T), highest / T, quick_log)
    p, total = p_T, total_T
    if T == 2:
        # exp(z) is the square of exp(z/2): the temperature of the papers takes one pass of exponentials for both.
        squares = p_T.square().sum(-1)
        total = 2 * total_T + quick_log(squares)
    elif T != 1:
        p, total = softmax(logits * T, highest, quick_log)
    gold = targets.clamp_min(0)[:, None]
    right = logits.gather(1, gold).squeeze(1)
    # Measured even where it has no weight: a student of teachers alone is judged by the text too.
    surprise = (total - T * right) * (targets != IGNORE)
    sums[0] += surprise.sum(dtype=torch.float64)

    if teacher is not None:
        if scales.gate is not None and not scales.gate.by_row:
            gate_weight = scales.gate.at_tokens(teacher, total_T - right, targets, logits.shape[1])
            shares.take(_shares(scales, targets, mask, True, gate_weight))
        divergence = teacher.divergence(logits, total_T)
        divergence = divergence if mask is None else divergence * mask
        sums[1] += divergence.sum(dtype=torch.float64)
        if gate_weight is not None:
            sums[2] += (gate_weight if mask is None else gate_weight * mask).sum(dtype=torch.float64)
            moved = (1 - gate_weight) * (scales.yielded * surprise - scales.teacher * divergence)
            sums[3] += moved.sum(dtype=torch.float64)

    if not wants:
        return None
    alpha, beta = shares.alpha_N[:, None], shares.beta_N[:, None]
    if T == 2:
        p = p_T.mul(alpha / squares[:, None]).add_(beta).mul_(p_T)
    elif T != 1:
        p = p.lerp_(p_T, beta)
    if teacher is not None:
        teacher.pull(p, beta)
    return p.scatter_add_(1, gold, -alpha)
