"""The last layer, computed only where the classifier reads.

A classifier that reads one position needs the last layer's feed-forward part there and nowhere else: of eight layers
that is a tenth of all arithmetic, forward and backward.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What Llama's and its relatives' layers are made of, in order of use; both sums start before the norms."""


class LastLayer(nn.Module):
    """A layer that answers for one position of each row, `(B, 1, D)`, while `places_B` is set.

    Attributes:
        places_B: the position in each row; None for all positions.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.places_B: Tensor | None = None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Attend from everywhere, go on where asked."""
        if self.places_B is None:
            return self.layer(hidden_states, *args, **kwargs)
        norm, attention, second_norm, mlp = (getattr(self.layer, name) for name in _PARTS)
        attended_BTD = attention(norm(hidden_states), *args, **kwargs)[0]
        rows_B = torch.arange(len(hidden_states), device=hidden_states.device)
        here_BTD = (hidden_states[rows_B, self.places_B] + attended_BTD[rows_B, self.places_B])[:, None]
        return here_BTD + mlp(second_norm(here_BTD))

    def __getattr__(self, name: str) -> Any:
        """Answer for the layer, whose kind and the like the model may ask for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)


@torch.no_grad()
def shorten(trunk: Any) -> LastLayer | None:
    """Put a `LastLayer` into a trunk whose last layer is of the known kind; return it, or None where it is not.

    Checked by numbers on random rows, since layers with the same parts may put them together otherwise.
    """
    layers = getattr(trunk, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layers[-1], name) for name in _PARTS):
        return None
    device, was_training, whole = next(trunk.parameters()).device, trunk.training, layers[-1]
    tokens_BT = torch.arange(16, device=device).view(2, 8) % trunk.config.vocab_size
    places_B = torch.tensor([7, 4], device=device)
    trunk.eval()
    wanted_BD = trunk(input_ids=tokens_BT, use_cache=False).last_hidden_state[torch.arange(2), places_B]
    short = LastLayer(whole)
    layers[-1], short.places_B = short, places_B
    try:
        found_BTD = trunk(input_ids=tokens_BT, use_cache=False).last_hidden_state
        same = found_BTD.shape[1] == 1 and torch.allclose(
            found_BTD[:, 0], wanted_BD, atol=1e-4 * float(wanted_BD.abs().max())
        )
    except (TypeError, AttributeError, RuntimeError):
        same = False
    short.places_B = None
    if not same:
        layers[-1] = whole
    trunk.train(was_training)
    return short if same else None
