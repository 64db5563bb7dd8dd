"""Causal models that read rows whole, against transformers' own way of reading both ways."""

import pytest
import torch

from tutelage.base.errors import UserError
from tutelage.models.attention import set_attention
from tutelage.models.build import language_model


def made(model_type: str = "llama", **settings):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    if model_type in ("gpt2", "opt", "gpt_neox"):
        shape.pop("num_key_value_heads")
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=40, **shape, **settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("attention", ["eager", "sdpa", "causal"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_transformers_own_way(model_type: str, attention: str, padded: bool) -> None:
    hf = made(model_type)
    tokens_BT, whole_B = torch.randint(1, 40, (5, 9)), torch.tensor([True, False, True, True, False])
    lengths_B = torch.tensor([9, 7, 4, 1, 9]) if padded else None
    seen = torch.ones_like(tokens_BT) if lengths_B is None else (torch.arange(9) < lengths_B[:, None]).long()
    hf.eval()
    with torch.no_grad():
        causal = hf(input_ids=tokens_BT, attention_mask=seen).logits
        hf.config.is_causal = False
        both = hf(input_ids=tokens_BT, attention_mask=seen).logits
    hf.config.is_causal = True
    expected = torch.where(whole_B[:, None, None], both, causal)
    model = language_model(hf, "causal", 40)
    set_attention(model.hf, attention, "causal")
    model.check_reads_whole()
    found = model.logits(tokens_BT, lengths_B, whole_B)
    real = seen.bool()
    assert not torch.allclose(causal[whole_B & (seen.sum(1) > 1)], both[whole_B & (seen.sum(1) > 1)], atol=1e-3)
    assert torch.allclose(found[real], expected[real], atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("mamba", {}), ("mistral", {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 3})],
)
def test_models_that_cannot_are_refused(model_type: str, settings: dict) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, vocab_size=40, hidden_size=16, num_hidden_layers=1, **settings)
    model = language_model(AutoModelForCausalLM.from_config(config), "causal", 40)
    with pytest.raises(UserError, match=r"cannot read rows whole, as `hybrid` asks: take"):
        model.check_reads_whole()
