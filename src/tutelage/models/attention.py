"""Causal attention without masks, and which implementation of attention a model gets.

`transformers` looks for a mask at every forward pass, and finds that it needs none by reading a number from the
device: the host waits in the middle of a step, and no CUDA graph can be made of it. But it asks for no mask where an
implementation of attention has no function for masks. `causal` is such an implementation:
`scaled_dot_product_attention` as transformers calls it, registered under a second name without masks. Masks that a
caller gives with four dimensions reach it as ever.

It is right only for models whose layers attend to everything before them; others keep `sdpa`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tutelage.models.language_model import probe_row

CAUSAL = "causal"
REGISTERED = "tutelage_causal"
"""Its name among those of transformers. `save_pretrained` does not write it, so no folder depends on it."""
TOLERANCE = 1e-4
"""Difference, relative to the largest hidden value, up to which two implementations are held to be the same."""

# Not with `AttentionMaskInterface`: that is the point.
AttentionInterface.register(REGISTERED, sdpa_attention_forward)


def set_attention(hf: Any, name: str, kind: Literal["causal", "masked"]) -> None:
    """Let a Hugging Face model, cut or not, attend by an implementation: `causal`, or one of transformers.

    `causal` means `sdpa` for a model that it does not fit; so does `eager` for a model that it makes another one of.
    """
    if name != CAUSAL:
        hf.set_attn_implementation(name)
        settle(hf)
    elif kind != "causal" or not _attends_to_all_before(hf) or not _take_causal(hf):
        hf.set_attn_implementation("sdpa")


@torch.no_grad()
def settle(hf: Any) -> None:
    """Where a model's `eager` attention is not what its `sdpa` is, take the latter.

    For a few models transformers' plain form is another function, not a slower one: Falcon's adds the bias of its
    ALiBi twice, in float64 too. `sdpa` is what transformers takes unasked, and so what a model is published and used
    with.
    """
    if hf.config._attn_implementation != "eager" or not hf._supports_sdpa:
        return
    row_1T, was_training = probe_row(hf, 12), hf.training
    hf.eval()
    plain = hf(input_ids=row_1T).logits
    # Falcon cannot be told so, and yet reads it from its configuration.
    to = hf.set_attn_implementation if hf._can_set_attn_implementation() else partial(_write, hf)
    try:
        to("sdpa")
        other = hf(input_ids=row_1T).logits
    except Exception:  # each architecture refuses in its own way what it does not know
        other = plain
    hf.train(was_training)
    if bool((other - plain).abs().max() <= TOLERANCE * plain.abs().max()):
        to("eager")


def _write(hf: Any, name: str) -> None:
    hf.config._attn_implementation = name


def attends_without_masks(hf: Any) -> bool:
    """Tell whether a model attends without masks."""
    return bool(hf.config._attn_implementation == REGISTERED)


def _attends_to_all_before(hf: Any) -> bool:
    config = hf.config
    whole = set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
    windows = [getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size")]
    return whole and not any(windows) and hf._supports_sdpa and hf._can_set_attn_implementation()


@torch.no_grad()
def _take_causal(hf: Any) -> bool:
    """Switch a model over, unless it then says something else of two short rows (positions written into masks...)."""
    device = hf.get_input_embeddings().weight.device
    tokens_BT = torch.arange(16, device=device).view(2, 8) % hf.get_input_embeddings().weight.shape[0]
    was_training, before = hf.training, hf.config._attn_implementation
    hf.eval()
    try:
        expected = hf(input_ids=tokens_BT, use_cache=False).logits
        hf.set_attn_implementation(REGISTERED)
        found = hf(input_ids=tokens_BT, use_cache=False).logits
    except Exception:  # each architecture refuses in its own way what it does not know
        hf.set_attn_implementation(before)
        return False
    finally:
        hf.train(was_training)
    same = bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
    if not same:
        hf.set_attn_implementation(before)
    return same and attends_without_masks(hf)
