"""From hidden states to losses and gradients, without ever holding all logits.

The output layer is the widest product of a small model. Its logits are computed chunk by chunk; each chunk's gradient
follows at once from closed forms, so that neither logits nor probabilities wait for the backward pass:

    cross-entropy           d/dz = p - onehot(target)
    KL(teacher || student)  d/dz = (p_T - q_T) / T

with p the student's and q the teachers' distribution, both at temperature T where marked. The backward pass only
scales what was found. `tests/training/test_fused.py` holds the plain form and compares values and gradients.

Shapes: N positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import IGNORE
from tutelage.teaching.signal import DenseSignal

CHUNK_BYTES = 32 << 20
"""Memory for one chunk's logits and what is made of them; larger chunks left the caches of the CPUs measured."""


@dataclass(frozen=True)
class Scales:
    """Factors of the two sums in the loss, weights and counts multiplied out.

    Attributes:
        target: before the sum of cross-entropies.
        teacher: before the sum of divergences, the squared temperature included where it is wanted.
        temperature: of the divergence.
    """

    target: float
    teacher: float = 0.0
    temperature: float = 1.0


def fused_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    scales: Scales,
    signal: DenseSignal | None = None,
    taught_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the scaled loss (differentiable) and the two plain sums (float64, detached).

    Args:
        hidden_ND: student's hidden states, in any float type.
        weight_VD: student's output layer; its gradient is accumulated in the weight's own type.
        bias_V: its bias, or None.
        targets_N: right answers; `IGNORE` where there is none.
        scales: factors of the sums.
        signal: what teachers say about the same N positions; None where nobody teaches.
        taught_N: which positions the divergence covers; all unless given.

    Returns:
        `scales.target * sum(cross-entropy) + scales.teacher * sum(KL)`, and `(2,)`: both sums in nats.
    """
    loss, sums = _Fused.apply(hidden_ND, weight_VD, bias_V, targets_N, scales, signal, taught_N)  # type: ignore[no-untyped-call]
    return loss, sums


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        scales: Scales,
        signal: DenseSignal | None,
        taught_N: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wants = any(ctx.needs_input_grad[:3])
        device = hidden_ND.device.type
        # Autocast would cast the weights again in every chunk, and leaves some products in float32.
        type_ = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        hidden, weight = hidden_ND.to(type_), weight_VD.to(type_)
        bias = None if bias_V is None else bias_V.to(type_)
        grad_hidden = torch.empty_like(hidden) if wants else None
        grad_weight = torch.zeros_like(weight_VD) if wants else None
        grad_bias = torch.zeros_like(bias_V) if wants and bias_V is not None else None
        sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        said = None if signal is None else signal.to(type_)
        # Logits, two log-softmaxes, the teachers' distribution, the gradient: about five float32 buffers.
        chunk = max(32, CHUNK_BYTES // (20 * weight.shape[0]))
        with torch.autocast(device, enabled=False):
            for start in range(0, hidden.shape[0], chunk):
                part = slice(start, start + chunk)
                grad = _chunk(
                    F.linear(hidden[part], weight, bias).float(),
                    targets_N[part],
                    scales,
                    None if said is None else said.at(part),
                    None if taught_N is None else taught_N[part],
                    sums,
                    wants,
                )
                if grad is not None and grad_hidden is not None and grad_weight is not None:
                    g = grad.to(type_)
                    torch.mm(g, weight, out=grad_hidden[part])
                    grad_weight += g.t() @ hidden[part]
                    if grad_bias is not None:
                        grad_bias += grad.sum(0)
        if wants:
            ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
            ctx.hidden_type = hidden_ND.dtype
        loss = scales.target * sums[0] + scales.teacher * sums[1]
        ctx.mark_non_differentiable(sums)
        return loss.float(), sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        scale = grads[0]
        return (
            (hidden * scale.to(hidden.dtype)).to(ctx.hidden_type),
            weight * scale.to(weight.dtype),
            None if bias is None else bias * scale.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _chunk(
    logits: Tensor,
    targets: Tensor,
    scales: Scales,
    signal: DenseSignal | None,
    taught: Tensor | None,
    sums: Tensor,
    wants: bool,
) -> Tensor | None:
    """Add a chunk's two sums to `sums`; return the gradient of the loss in its logits."""
    grad: Tensor | None = None
    log_p = F.log_softmax(logits, -1)
    answered = targets != IGNORE
    gold = targets.clamp_min(0)[:, None]
    # Measured even where it has no weight: a student of teachers alone is judged by the text too.
    sums[0] -= (log_p.gather(1, gold).squeeze(1) * answered).sum(dtype=torch.float64)
    if scales.target and wants:
        factor = answered[:, None] * scales.target
        grad = log_p.exp().mul_(factor)
        grad.scatter_add_(1, gold, -factor.to(grad.dtype))
    if signal is not None and scales.teacher:
        T = scales.temperature
        log_p_T = log_p if T == 1 else F.log_softmax(logits.div_(T), -1)
        log_q = signal.log_probs(T)
        q = log_q.exp()
        # Where q is 0 its logarithm may be minus infinity; such tokens add nothing.
        divergence = (q * (log_q.clamp_min_(-1e4) - log_p_T)).sum(-1)
        sums[1] += (divergence if taught is None else divergence * taught).sum(dtype=torch.float64)
        if wants:
            push = log_p_T.exp().sub_(q).mul_(scales.teacher / T)
            if taught is not None:
                push.mul_(taught[:, None])
            grad = push if grad is None else grad.add_(push)
    return grad
