"""Objectives of a user's own, by blocks of logits: see `recipe.CustomObjective` for the contract.

Shapes: N positions, n of a block, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE
from tutelage.models.logits import LOSS, equal_parts
from tutelage.models.products import product, weight_gradient

TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits `(n, V)` float32 and targets `(n,)` in, the loss of each position `(n,)` out."""


@dataclass(frozen=True)
class CustomTerm:
    """A term of the loss that is a user's function, its settings filled in.

    `factor` stands before the sum over targets, weight and count multiplied out; 0 where the stage does not have it.
    """

    name: str
    function: TokenLoss
    factor: float


def custom_loss(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, term: CustomTerm
) -> tuple[Tensor, Tensor]:
    """Return the scaled loss (differentiable once) and the plain sum over targets (float64, detached).

    As with `fused_loss`, the gradient of a block's logits is found at once, here by autograd, and only hidden states'
    and weights' gradients wait for the backward pass. A function that returns anything else than the loss of each
    position is a `UserError`.
    """
    loss, total = _ByBlocks.apply(hidden_ND, weight_VD, bias_V, targets_N, term)  # type: ignore[no-untyped-call]
    return loss, total


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, term: CustomTerm
    ) -> tuple[Tensor, Tensor]:
        device, wants = hidden_ND.device.type, any(ctx.needs_input_grad[:3])
        type_ = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        hidden, weight = hidden_ND.to(type_), weight_VD.to(type_)
        bias = None if bias_V is None else bias_V.to(type_)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight_VD)
        grad_bias = None if bias_V is None else torch.zeros_like(bias_V)
        with torch.autocast(device, enabled=False):
            for block in equal_parts(len(hidden), LOSS.block_rows(device, len(weight))):
                logits = product(hidden[block], weight, bias).float().requires_grad_(wants)
                lost = _sum(term, logits, targets_N[block])
                total += lost.detach().double()
                if not wants:
                    continue
                grad = torch.autograd.grad(lost, logits)[0].to(type_)
                grad_hidden[block] = product(grad, weight.t())
                grad_weight += weight_gradient(grad, hidden[block])
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        ctx.found, ctx.hidden_type, ctx.factor = (grad_hidden, grad_weight, grad_bias), hidden_ND.dtype, term.factor
        ctx.mark_non_differentiable(total)
        return (term.factor * total).float(), total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (hidden, weight, bias), ctx.found = ctx.found, None
        scale = grads[0] * ctx.factor
        hidden = hidden.to(ctx.hidden_type).mul_(scale.to(ctx.hidden_type))
        return hidden, weight.mul_(scale), None if bias is None else bias.mul_(scale), None, None


def _sum(term: CustomTerm, logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """Return the sum of a function over a block's targets."""
    known_n = targets_n != IGNORE
    with torch.enable_grad():
        loss_n = term.function(logits_nV, targets_n.clamp_min(0))
        if not isinstance(loss_n, Tensor) or loss_n.shape != targets_n.shape:
            found = tuple(loss_n.shape) if isinstance(loss_n, Tensor) else type(loss_n).__name__
            raise UserError(
                f"objectives.{term.name} must return the loss of each position, of shape {tuple(targets_n.shape)}, and "
                f"returned {found}: neither a sum nor a mean over positions (reduction='none')"
            )
        # Not a product: a loss without a target may be anything.
        return torch.where(known_n, loss_n, 0.0).sum()
