"""Shapes by name: those of the papers, with the settings their parameter counts need, and small ones for laptops.

Parameter counts (`tests/models/test_presets.py`) hold for the papers' vocabulary of 16,000, ModernBERT's for its own
of 50,368; here the vocabulary always comes from the tokenizer. Positions are 256 throughout, twice the papers' rows.
"""

from __future__ import annotations

from typing import Any

from tutelage.base.errors import UserError, nearest

POSITIONS = 256


def _llama(
    width: int, layers: int, heads: int, ffn: int, kv_heads: int | None = None, tied: bool = False
) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads, "intermediate_size": ffn, "rms_norm_eps": 1e-6,
        "max_position_embeddings": POSITIONS, "tie_word_embeddings": tied,
    }  # fmt: skip


def _gpt2(width: int, layers: int, heads: int, dropout: float = 0.1) -> dict[str, Any]:
    shape = {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": POSITIONS}
    return {**shape, "resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}


def _modernbert(width: int, layers: int, heads: int, ffn: int) -> dict[str, Any]:
    return {
        "model_type": "modernbert", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": ffn, "max_position_embeddings": 512,
    }  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    # BabyLlama (Timiryasov and Tastet 2023), section 2 and the released configurations. Its GPT-2 trained with a
    # feed-forward width of 6144: the 3072 of its file never reached the model.
    "gpt2-705m": _gpt2(1536, 24, 16),
    "llama-360m": _llama(1024, 24, 8, 3072),
    "llama-58m": _llama(512, 16, 8, 1024),
    "llama-16m": _llama(256, 8, 8, 1024),
    "gpt2-10m": _gpt2(256, 8, 16),
    "llama-97m": _llama(768, 12, 12, 2048, tied=True),
    "llama-95m": _llama(768, 10, 12, 2048),
    "gpt2-97m": _gpt2(768, 12, 12, dropout=0.0),
    "gptj-97m": _gpt2(768, 12, 12, dropout=0.0) | {"model_type": "gptj", "rotary_dim": 64, "tie_word_embeddings": True},
    # BabyLlama-2 (Tastet and Timiryasov 2024), section 3: grouped-query attention, 15 heads over 5.
    "llama-345m": _llama(960, 32, 15, 2560, kv_heads=5),
    # Study plans (Kamzela et al. 2025), section 4: ModernBERT base, and 384 wide with 16 layers.
    "modernbert-149m": _modernbert(768, 22, 12, 1152),
    "modernbert-39m": _modernbert(384, 16, 6, 576),
    # For laptops; named after their size with 8,000 tokens.
    "llama-10m": _llama(256, 8, 8, 1024, tied=True),
    "llama-4m": _llama(192, 6, 6, 512, tied=True),
    "gpt2-4m": _gpt2(192, 6, 6, dropout=0.0),
    "llama-2m": _llama(128, 4, 4, 384, tied=True),
    "gpt2-2m": _gpt2(128, 4, 4, dropout=0.0),
    "llama-1m": _llama(96, 3, 3, 256, tied=True),
    "modernbert-4m": _modernbert(192, 6, 6, 288),
    "modernbert-2m": _modernbert(160, 4, 4, 240),
}


def preset(name: str) -> dict[str, Any]:
    """Return the settings of a shape.

    Raises:
        UserError: an unknown name, with the nearest.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset '{name}'{nearest(name, PRESETS)} (known: {', '.join(sorted(PRESETS))})")
    return PRESETS[name]
