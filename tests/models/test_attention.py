"""Attention without masks: the numbers of attention with masks, and nothing read from the device."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tutelage.evaluation.likelihood.prefixes import read_bundles, shares_prefixes
from tutelage.models.attention import CAUSAL, REGISTERED, attends_without_masks, set_attention
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble
from tutelage.training.fused import LossScales, fused_loss

V, B, T = 53, 3, 12
LLAMA = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "llama": ("llama", LLAMA),
    "llama, grouped queries": ("llama", LLAMA | {"num_key_value_heads": 2}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "scale_attn_by_inverse_layer_idx": True}),
}
TOKENS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


def model(shape: str | tuple, attention: str, dropout: float = 0.0, **more) -> LanguageModel:
    kind, settings = SHAPES[shape] if isinstance(shape, str) else shape
    if kind == "gpt2":
        settings = settings | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, vocab_size=V, pad_token_id=0, **settings, **more)
    found = LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), "causal", V)
    set_attention(found.hf, attention, "causal")
    return found.train()


def learn(one: LanguageModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    hidden = one.hidden(TOKENS).flatten(0, 1)
    loss, _ = fused_loss(hidden, one.weight_VD, one.bias_V, TOKENS.flatten(), LossScales(1.0))
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in one.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_are_those_of_the_plain_form(shape: str) -> None:
    one = model(shape, CAUSAL)
    assert attends_without_masks(one.hf)
    (loss, gradients), (expected, plain) = learn(one), learn(model(shape, "eager"))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert gradients.keys() == plain.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-5 * float(plain[name].abs().max()))


def test_dropout_draws_what_sdpa_draws() -> None:
    (loss, gradients), (expected, plain) = learn(model("gpt2", CAUSAL, 0.3)), learn(model("gpt2", "sdpa", 0.3))
    assert loss == expected
    assert all(torch.equal(gradient, plain[name]) for name, gradient in gradients.items())
    assert loss != learn(model("gpt2", CAUSAL))[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_mask_is_made_and_no_number_read(shape: str, monkeypatch: pytest.MonkeyPatch, reading) -> None:
    asked = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **rest):
        asked.append((attn_mask, is_causal))
        return original(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **rest)

    one, other = model(shape, CAUSAL, dropout=0.1), model(shape, "sdpa", dropout=0.1)
    with reading() as usual:
        other.hidden(TOKENS)
    assert usual.found, "if transformers no longer reads numbers for its masks, our form has lost its purpose"
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    for name in ("sdpa_mask", "find_packed_sequence_indices"):
        monkeypatch.setattr(masking_utils, name, lambda *_, **__: pytest.fail("a mask is made"))
    with reading() as ours:
        one.hidden(TOKENS).sum().backward()
    assert ours.found == []
    assert ours.all > 100
    assert [(mask, causal) for mask, causal in asked] == [(None, True)] * 2


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_that_a_caller_gives_are_heeded(shape: str) -> None:
    """Trees of texts are read through a mask with four dimensions."""
    one, other = Ensemble([model(shape, CAUSAL)]), Ensemble([model(shape, "eager")])
    assert shares_prefixes(one, 10)
    depth = torch.tensor([[0, 1, 2, 3, 2, 3, 1, 2, 3, 4, 5, 6]]).expand(B, T)
    found, expected = read_bundles(one, TOKENS, depth, "fp32"), read_bundles(other, TOKENS, depth, "fp32")
    torch.testing.assert_close(found.hidden[0], expected.hidden[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", LLAMA | {"sliding_window": 4, "num_key_value_heads": 4}),
        ("gemma3_text", LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}),
        ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}),
        ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4}),
        ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 32}),
    ],
)
def test_models_that_it_does_not_fit_keep_their_numbers(kind: str, settings: dict) -> None:
    one, other = model((kind, settings), CAUSAL).eval(), model((kind, settings), "eager").eval()
    assert not attends_without_masks(one.hf)
    torch.testing.assert_close(one.hidden(TOKENS), other.hidden(TOKENS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_kernel_that_looks_ahead_is_found_out(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args, **rest):
        return sdpa_attention_forward(*args, **rest | {"is_causal": False})

    monkeypatch.setitem(AttentionInterface._global_mapping, REGISTERED, wrong)
    assert model(shape, CAUSAL).hf.config._attn_implementation == "sdpa"


def test_masked_models_keep_sdpa(make_model) -> None:
    one = make_model("modernbert", 1)
    set_attention(one.hf, CAUSAL, "masked")
    assert one.hf.config._attn_implementation == "sdpa"


def test_exported_folders_do_not_name_it(tmp_path: Path) -> None:
    one = model("llama, grouped queries", CAUSAL).eval()
    one.hf.save_pretrained(tmp_path)
    assert "attn_implementation" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stock.config._attn_implementation == "sdpa"
    torch.testing.assert_close(stock(input_ids=TOKENS).logits, one.logits(TOKENS), rtol=1e-4, atol=1e-5)
