"""Attention for training on a CPU; the numbers are those of the plain form, but for rounding.

Attention written out (`eager`) keeps its softmax in float32 beside copies in bf16, and its backward pass makes as many
again. Here scores stay in the precision of the products, the mask is added in place, and the softmax, which computes in
float32 inside, is the only block kept for the backward pass. (`scaled_dot_product_attention` makes a step half as long
again: see docs/decisions.md.)

Shapes: B rows, H heads, T tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAN = "tutelage_lean"
"""Name of the attention among transformers' implementations."""


class _Attention(torch.autograd.Function):
    """`softmax(q k^T + mask) v` with one kept block."""

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask_BHTT: Tensor | None) -> Tensor:
        scores_BHTT = q_BHTD @ k_BHTD.mT
        if mask_BHTT is not None:
            scores_BHTT += mask_BHTT
        weights_BHTT = torch.softmax(scores_BHTT, -1)
        ctx.save_for_backward(q_BHTD, k_BHTD, v_BHTD, weights_BHTT)
        return weights_BHTT @ v_BHTD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHTD, k_BHTD, v_BHTD, weights_BHTT = ctx.saved_tensors
        (out_BHTD,) = gradients
        v_gradient = weights_BHTT.mT @ out_BHTD
        scores_BHTT = torch._softmax_backward_data(out_BHTD @ v_BHTD.mT, weights_BHTT, -1, weights_BHTT.dtype)
        return scores_BHTT @ k_BHTD, scores_BHTT.mT @ q_BHTD, v_gradient, None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' interface wants it: heads `(B, H, T, D)` in, `(B, T, H, D)` out."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (heads.to(torch.get_autocast_dtype(device)) for heads in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (heads.repeat_interleave(groups, 1) for heads in (key, value))
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        # The least float32 would become -inf in bf16, and a row of padding NaN.
        attention_mask = attention_mask.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
    if dropout and module.training:
        scores = query @ key.mT
        weights = torch.softmax(scores if attention_mask is None else scores + attention_mask, -1)
        attended = F.dropout(weights, dropout) @ value
    else:
        attended = _Attention.apply(query, key, value, attention_mask)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2).contiguous(), None


@torch.no_grad()
def lean(trunk: Any) -> bool:
    """Let a model attend in the lean form, if that gives what its own form gives; tell whether it does.

    The check is by numbers, on two random rows: some architectures add terms to their scores, or keep attention to
    themselves.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(LEAN, attend)
    AttentionMaskInterface.register(LEAN, eager_mask)
    before, was_training = trunk.config._attn_implementation, trunk.training
    device = next(trunk.parameters()).device
    tokens_BT = torch.arange(16, device=device).view(2, 8) % trunk.config.vocab_size
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[1, 5:] = 0
    trunk.eval()
    try:
        wanted = trunk(input_ids=tokens_BT, attention_mask=mask_BT).last_hidden_state
        trunk.set_attn_implementation(LEAN)
        found = trunk(input_ids=tokens_BT, attention_mask=mask_BT).last_hidden_state
        same = torch.allclose(found[mask_BT > 0], wanted[mask_BT > 0], atol=1e-4 * float(wanted.abs().max()))
    except (ValueError, TypeError, RuntimeError):
        same = False
    if not same:
        trunk.set_attn_implementation(before)
    trunk.train(was_training)
    return same
