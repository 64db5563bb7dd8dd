"""Attention within rows that stand one after the other in a line, without padding.

All of a model but its attention treats tokens one by one, so rows of any lengths may go through it as one line of
tokens. Attention takes the line apart: neighbouring rows of about the same length form a `RowGroup`, filled up to one
width. Scores stay in the precision of the products, and the softmax, which computes in float32 inside, is the only
block kept for the backward pass. (`scaled_dot_product_attention` takes several times as long in bf16 on a CPU: see
docs/decisions.md.)

Shapes: N tokens of the line, R its rows, G rows of a group, W their width, B = H * G, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from tutelage.base.types import Ints

LINE = "tutelage_line"
"""Name of the attention among transformers' implementations."""
WIDTH = 32
"""Groups are as wide as a multiple of this: at other widths torch's softmax takes up to eight times as long in bf16."""
LOOKED_AT = 512
"""Attention windows beyond it are not tried out."""


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of about the same length."""

    lengths_G: Tensor
    """Tokens of each row, filled up to `width`."""
    width: int
    tokens: Tensor
    """Where in the line the token of each of the G * W places stands; N for a filler."""
    places: Tensor
    """Which of the G * W places have a token."""
    masks: dict[Any, Tensor] = field(default_factory=dict)
    """Those made so far."""

    def mask(self, causal: bool, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what is added to scores, `(1 or G, 1 or W, W)`: the least number where a query must not look."""
        key = causal, window, dtype
        if key not in self.masks:
            self.masks[key] = self.mask_at(torch.arange(self.width)[None], causal, window, dtype)
        return self.masks[key]

    def mask_at(self, place_GQ: Tensor, causal: bool, window: int | None, dtype: torch.dtype) -> Tensor:
        """The same for queries that stand at some places of their rows."""
        place_W = torch.arange(self.width)
        distance_GQW = place_GQ[..., None] - place_W
        # Fillers come last: where no token sees what follows it, none sees them.
        seen = distance_GQW >= 0 if causal else (place_W < self.lengths_G[:, None])[:, None]
        if window is not None and window < self.width:
            seen = seen & (distance_GQW.abs() < window)
        return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def groups_of(lengths_R: Ints) -> tuple[RowGroup, ...]:
    """Group the rows of a line; rows sorted by length make the fewest groups."""
    starts_R, total = np.cumsum(lengths_R) - lengths_R, int(lengths_R.sum())
    found = []
    for width, run in groupby(range(len(lengths_R)), key=lambda row: -(-int(lengths_R[row]) // WIDTH) * WIDTH):
        rows_G = list(run)
        lengths_G1, place_W = lengths_R[rows_G, None], np.arange(width)
        inside_GW = place_W < lengths_G1
        tokens_GW = np.where(inside_GW, starts_R[rows_G, None] + place_W, total)
        arrays = lengths_G1[:, 0], tokens_GW.reshape(-1), np.flatnonzero(inside_GW)
        lengths_G, tokens, places = map(torch.from_numpy, arrays)
        found.append(RowGroup(lengths_G, width, tokens, places))
    return tuple(found)


def one_of_each(groups: Sequence[RowGroup]) -> tuple[RowGroup, ...]:
    """Return the groups of a line that holds one token of each row."""
    found, start = [], 0
    for group in groups:
        tokens_G = torch.arange(start, start + len(group.lengths_G))
        found.append(RowGroup(torch.ones_like(group.lengths_G), 1, tokens_G, tokens_G - start))
        start += len(group.lengths_G)
    return tuple(found)


def product_type(heads: Tensor) -> torch.dtype:
    """The type in which products with a tensor are computed."""
    device = heads.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else heads.dtype


def spread(heads_HND: Tensor, groups: Sequence[RowGroup], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Set heads apart by groups, `(B, W, D)` each, without a gradient; fillers are zero."""
    H, N, D = heads_HND.shape
    filled_HND = heads_HND.new_zeros(H, N + 1, D, dtype=dtype)
    filled_HND[:, :N] = heads_HND
    return tuple(filled_HND.index_select(1, group.tokens).view(-1, group.width, D) for group in groups)


def gather(heads_BWD: Sequence[Tensor], groups: Sequence[RowGroup], H: int) -> Tensor:
    """Put heads together again, `(H, N, D)`, without a gradient; the adjoint of `spread`."""
    parts_HND = (
        x.reshape(H, -1, x.shape[-1]).index_select(1, group.places) for x, group in zip(heads_BWD, groups, strict=True)
    )
    return torch.cat(list(parts_HND), 1)


class Spread(torch.autograd.Function):
    """`spread` with a gradient."""

    @staticmethod
    def forward(ctx: Any, heads_HND: Tensor, groups: Sequence[RowGroup], dtype: torch.dtype) -> tuple[Tensor, ...]:
        ctx.groups, ctx.heads, ctx.dtype = groups, len(heads_HND), heads_HND.dtype
        return spread(heads_HND, groups, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gather(gradients, ctx.groups, ctx.heads).to(ctx.dtype), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, H: int, groups: Sequence[RowGroup], *heads_BWD: Tensor) -> Tensor:
        ctx.groups, ctx.dtype = groups, heads_BWD[0].dtype
        return gather(heads_BWD, groups, H)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *spread(gradients[0], ctx.groups, ctx.dtype)


class _Attention(torch.autograd.Function):
    """`softmax(scale q k^T + mask) v` with one kept block."""

    @staticmethod
    def forward(ctx: Any, q_BQD: Tensor, k_BWD: Tensor, v_BWD: Tensor, mask: Tensor, scale: float) -> Tensor:
        weights_BQW = torch.softmax(torch.baddbmm(mask, q_BQD, k_BWD.mT, alpha=scale), -1)
        ctx.save_for_backward(q_BQD, k_BWD, v_BWD, weights_BQW)
        ctx.scale = scale
        return weights_BQW @ v_BWD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (out_BQD,), (q_BQD, k_BWD, v_BWD, weights_BQW) = gradients, ctx.saved_tensors
        v_gradient = weights_BQW.mT @ out_BQD
        scores_BQW = torch._softmax_backward_data(out_BQD @ v_BWD.mT, weights_BQW, -1, weights_BQW.dtype)
        return (scores_BQW @ k_BWD).mul_(ctx.scale), (scores_BQW.mT @ q_BQD).mul_(ctx.scale), v_gradient, None, None


def attend_apart(apart: Sequence[Sequence[Tensor]], masks: Sequence[Tensor], groups: Sequence[RowGroup], H: int,
                 scale: float, dropout: float) -> Tensor:  # fmt: skip
    """Attend group by group: queries, keys and values, one block for each group; `groups` are those of the queries.

    Returns what was attended to, `(H, N, D)`, N the number of queries. `dropout` is the share of weights to drop.
    """
    attended = []
    for mask, q_BQD, k_BWD, v_BWD in zip(masks, *apart, strict=True):
        mask_BQW = mask if len(mask) == 1 else mask.repeat(H, 1, 1)
        if dropout:
            weights_BQW = torch.softmax(torch.baddbmm(mask_BQW, q_BQD, k_BWD.mT, alpha=scale), -1)
            attended.append(F.dropout(weights_BQW, dropout) @ v_BWD)
        else:
            attended.append(_Attention.apply(q_BQD, k_BWD, v_BWD, mask_BQW, scale))  # type: ignore[no-untyped-call]
    out_HND: Tensor = _Gather.apply(H, groups, *attended)  # type: ignore[no-untyped-call]
    return out_HND


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    groups: Sequence[RowGroup] = (),
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' interface wants it: heads of one line, `(1, H, N, D)`, in, `(1, N, H, D)` out."""
    H, dtype = query.shape[1], product_type(query)
    if key.shape[1] < H:
        key, value = (heads.repeat_interleave(H // key.shape[1], 1) for heads in (key, value))
    q, k, v = (Spread.apply(heads[0], groups, dtype) for heads in (query, key, value))  # type: ignore[no-untyped-call]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    masks = [group.mask(causal, sliding_window, dtype) for group in groups]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out_HND = attend_apart((q, k, v), masks, groups, H, scale, dropout if module.training else 0.0)
    return out_HND.transpose(0, 1)[None].contiguous(), None


@torch.no_grad()
def reads_lines(trunk: Any, first: int, limit: int | None) -> bool:
    """Tell whether a model, given `LINE`, reads rows in a line as it reads each by itself; its attention stays.

    By numbers: some architectures add terms to their scores, keep attention to themselves or take no positions. `trunk`
    is a Hugging Face model without its output layer, `first` the position of a row's first token, `limit` the longest.
    """
    # Without a function for masks, so that none are made for the line.
    AttentionInterface.register(LINE, attend)
    before, was_training = trunk.config._attn_implementation, trunk.training
    # Rows of two groups, one of them longer than a window that sees no further.
    longest = max(WIDTH + 1, min(getattr(trunk.config, "sliding_window", None) or 0, LOOKED_AT) + 8)
    lengths_R = np.minimum([3, 6, longest], longest if limit is None else limit)
    ids_N = torch.arange(int(lengths_R.sum()), device=next(trunk.parameters()).device) % trunk.config.vocab_size
    if trunk.config.pad_token_id is not None:
        # Texts have none, and where RoBERTa's kind counts by itself, it leaves it out.
        ids_N[ids_N == trunk.config.pad_token_id] = trunk.config.vocab_size - 1
    place_N = torch.cat([torch.arange(first, first + length) for length in lengths_R.tolist()]).to(ids_N.device)
    trunk.eval()
    try:
        wanted_ND = torch.cat([trunk(input_ids=row[None]).last_hidden_state[0] for row in ids_N.split([*lengths_R])])
        trunk.set_attn_implementation(LINE)
        line = {"input_ids": ids_N[None], "position_ids": place_N[None], "groups": groups_of(lengths_R)}
        found_ND = trunk(**line).last_hidden_state[0]
        return torch.allclose(found_ND, wanted_ND, atol=1e-4 * float(wanted_ND.abs().max()))
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return False
    finally:
        trunk.set_attn_implementation(before)
        trunk.train(was_training)
