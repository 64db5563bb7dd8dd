"""Llama's layers for fine-tuning: lean in a line of tokens, and the last one computed only where the classifier reads.

A classifier that reads one position needs the last layer's feed-forward part, queries and output there and nowhere
else: of eight layers that is a tenth of all arithmetic, forward and backward. In a line (see `attention`), much of the
rest is small operations between the products: here norms come out in the products' type, and heads are turned by their
positions while they are set apart.

Shapes: B rows, T tokens, N tokens of a line, E width of a layer, H heads, D width of a head, R positions read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.evaluation.finetune.attention import (
    RowGroup,
    Spread,
    attend_apart,
    gather,
    one_of_each,
    product_type,
    spread,
)

_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What the layers of Llama and its relatives are made of, in order of use; both sums start before the norms."""


class LeanLayer(nn.Module):
    """A layer in lean form."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.places_R: Tensor | None = None
        """The positions to answer for, counted through all of `(B, T)`; in a line one for each row, in their order;
        None for all positions."""
        self.leads = False
        """Whether lines, too, go through in this form, and not in the model's own."""

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        groups: Sequence[RowGroup] = (),
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Attend from everywhere, go on where asked."""
        norm, attention, second_norm, mlp = (getattr(self.layer, name) for name in _PARTS)
        if groups and self.leads and position_embeddings is not None:
            here = self._at(hidden_states) + self._attend(hidden_states, groups, position_embeddings)
            return here + mlp(_normed(here, second_norm))
        kwargs |= {"groups": groups} if groups else {}
        kwargs |= {"position_embeddings": position_embeddings} if position_embeddings is not None else {}
        if self.places_R is None:
            return self.layer(hidden_states, *args, **kwargs)
        here = self._at(hidden_states) + self._at(attention(norm(hidden_states), *args, **kwargs)[0])
        return here + mlp(second_norm(here))

    def _at(self, hidden_BTE: Tensor) -> Tensor:
        return hidden_BTE if self.places_R is None else hidden_BTE.flatten(0, 1)[self.places_R][None]

    def _attend(self, hidden_1NE: Tensor, groups: Sequence[RowGroup], turns: tuple[Tensor, Tensor]) -> Tensor:
        attention: Any = self.layer.self_attn
        normed_1NE = _normed(hidden_1NE, getattr(self.layer, _PARTS[0]))
        cos_ND, sin_ND = (turn[0] for turn in turns)
        D, dtype = cos_ND.shape[-1], product_type(hidden_1NE)
        window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
        projected = attention.q_proj(self._at(normed_1NE)), attention.k_proj(normed_1NE), attention.v_proj(normed_1NE)
        q_HND, k_HND, v_HND = (one[0].unflatten(-1, (-1, D)).transpose(0, 1) for one in projected)
        H = len(q_HND)
        if len(k_HND) < H:
            k_HND, v_HND = (heads.repeat_interleave(H // len(heads), 0) for heads in (k_HND, v_HND))
        keys = _Turned.apply(k_HND, cos_ND, sin_ND, groups, dtype)  # type: ignore[no-untyped-call]
        values = Spread.apply(v_HND, groups, dtype)  # type: ignore[no-untyped-call]
        if self.places_R is None:
            asking, masks = groups, [group.mask(True, window, dtype) for group in groups]
        else:
            cos_ND, sin_ND, asking = cos_ND[self.places_R], sin_ND[self.places_R], one_of_each(groups)
            lengths_R = torch.cat([group.lengths_G for group in groups])
            place_R1 = (self.places_R - lengths_R.cumsum(0) + lengths_R)[:, None]
            place_GQ = place_R1.split([len(group.lengths_G) for group in groups])  # type: ignore[no-untyped-call]
            masks = [group.mask_at(place, True, window, dtype) for group, place in zip(groups, place_GQ, strict=True)]
        queries = _Turned.apply(q_HND, cos_ND, sin_ND, asking, dtype)  # type: ignore[no-untyped-call]
        dropout = attention.attention_dropout if self.training else 0.0
        out_HND = attend_apart((queries, keys, values), masks, asking, H, attention.scaling, dropout)
        out_1NE: Tensor = attention.o_proj(out_HND.transpose(0, 1).flatten(1)[None])
        return out_1NE

    def __getattr__(self, name: str) -> Any:
        """Answer for the layer, whose kind and the like the model may ask for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)


class _Turned(torch.autograd.Function):
    """Rotary embeddings of heads, set apart by groups."""

    @staticmethod
    def forward(
        ctx: Any, heads_HND: Tensor, cos_ND: Tensor, sin_ND: Tensor, groups: Sequence[RowGroup], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos_ND, sin_ND)
        ctx.groups, ctx.heads, ctx.dtype = groups, len(heads_HND), heads_HND.dtype
        return spread(_turn(heads_HND, cos_ND, sin_ND), groups, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos_ND, sin_ND = ctx.saved_tensors
        back_ND = -sin_ND.roll(sin_ND.shape[-1] // 2, -1)
        return _turn(gather(gradients, ctx.groups, ctx.heads), cos_ND, back_ND).to(ctx.dtype), None, None, None, None


def _turn(heads_HND: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
    """Turn each pair of a head's halves by its angle, in float32."""
    x, half = heads_HND.float(), heads_HND.shape[-1] // 2
    turned = x * cos_ND
    turned[..., :half].addcmul_(x[..., half:], sin_ND[:, :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin_ND[:, half:])
    return turned


class _Normed(torch.autograd.Function):
    """The root-mean-square norm, in float32 inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_E: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight_E)
        out: Tensor = (normed * weight_E).to(dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight_E = ctx.saved_tensors
        gradient = gradients[0].float()
        of_weight_E = (gradient * normed).flatten(0, -2).sum(0)
        gradient = gradient * weight_E
        along = torch.linalg.vecdot(gradient, normed)[..., None].div_(normed.shape[-1])
        return gradient.addcmul_(normed, along, value=-1).mul_(scale), of_weight_E, None, None


def _normed(x: Tensor, norm: Any) -> Tensor:
    """Apply a norm; the result has the type of the products that follow."""
    if not hasattr(norm, "variance_epsilon"):
        normed: Tensor = norm(x)
        return normed
    found: Tensor = _Normed.apply(x, norm.weight, norm.variance_epsilon, product_type(x))  # type: ignore[no-untyped-call]
    return found


@torch.no_grad()
def lean(trunk: Any) -> list[LeanLayer]:
    """Make a trunk's layers lean where they are of the known kind; return them, or none.

    Checked by numbers on random rows, since layers with the same parts may put them together otherwise.
    """
    whole = getattr(trunk, "layers", None)
    if not isinstance(whole, nn.ModuleList) or not all(hasattr(layer, name) for layer in whole for name in _PARTS):
        return []
    device, was_training = next(trunk.parameters()).device, trunk.training
    tokens_BT = torch.arange(16, device=device).view(2, 8) % trunk.config.vocab_size
    places_R = torch.tensor([7, 12], device=device)
    trunk.eval()
    wanted_RE = trunk(input_ids=tokens_BT, use_cache=False).last_hidden_state.flatten(0, 1)[places_R]
    lean = [LeanLayer(layer) for layer in whole]
    trunk.layers, lean[-1].places_R = nn.ModuleList(lean), places_R
    try:
        found_RE = trunk(input_ids=tokens_BT, use_cache=False).last_hidden_state[0]
        same = len(found_RE) == 2 and torch.allclose(found_RE, wanted_RE, atol=1e-4 * float(wanted_RE.abs().max()))
    except (TypeError, AttributeError, RuntimeError):
        same = False
    lean[-1].places_R = None
    if not same:
        trunk.layers = whole
    trunk.train(was_training)
    return lean if same else []
