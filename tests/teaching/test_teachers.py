"""What an ensemble says in bf16 is what its models say one by one under autocast."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tutelage.corpus.batches import Batch
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble

V, B, T = 53, 3, 7
SHAPES = {
    "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_embd": 24, "n_layer": 1, "n_head": 2},
}


def models() -> list[LanguageModel]:
    torch.manual_seed(3)
    made = []
    for kind, settings in SHAPES.items():
        for tied in (False, True):
            config = AutoConfig.for_model(kind, vocab_size=V, tie_word_embeddings=tied, **settings)
            made.append(LanguageModel(AutoModelForCausalLM.from_config(config), "causal", V))
    return made


@pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities"])
def test_rounding_once_is_rounding_at_every_call(combine: str) -> None:
    tokens = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))
    batch = Batch(torch.arange(B), torch.zeros(B), tokens, tokens, None, {})
    shares = [1.0, 2.0, 3.0, 2.0]
    ensemble = Ensemble(models(), shares, combine)
    before = ensemble.dense_signal(tokens, None, "bf16")
    embeddings = [model.hf.get_input_embeddings().weight.clone() for model in ensemble._each()]

    said = ensemble.signal(batch, "bf16")
    after = ensemble.dense_signal(tokens, None, "bf16")
    for one, other in zip(before.hidden, after.hidden, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(embeddings, ensemble._each(), strict=True):
        assert torch.equal(one, other.hf.get_input_embeddings().weight), "the residual stream stays in float32"
    torch.testing.assert_close(said.log_probs(2.0), before.log_probs(2.0), atol=2e-2, rtol=0)
    assert ensemble.signal(batch, "bf16").log_probs().equal(said.log_probs()), (
        "the second call is the first one's equal"
    )


def test_fp32_is_left_alone() -> None:
    tokens = torch.randint(0, V, (B, T))
    batch = Batch(torch.arange(B), torch.zeros(B), tokens, tokens, None, {})
    ensemble = Ensemble(models())
    assert ensemble.signal(batch, "fp32").log_probs().equal(ensemble.dense_signal(tokens).log_probs())
    assert all(parameter.dtype == torch.float32 for parameter in ensemble.parameters())
