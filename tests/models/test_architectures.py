"""Small models of random weights of many types: scored and trained right, or refused in a sentence.

The other side is stock transformers: one row at a time, unpadded, all logits, in float64 where a type computes in it.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertForPreTraining,
    PreTrainedTokenizerFast,
)

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE, Batch
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.external import open_models
from tutelage.evaluation.likelihood.causal import log_probs
from tutelage.evaluation.likelihood.encoder_decoder import encoder_decoder_log_probs, load_encoder_decoder
from tutelage.models import products
from tutelage.models.attention import CAUSAL as WITHOUT_MASKS
from tutelage.models.attention import set_attention, settle
from tutelage.models.build import config_for, load, read_weights
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import Learner, count, text_scales, used_positions
from tutelage.training.optim import adamw, parameter_groups

Kind = Literal["causal", "masked", "encoder-decoder"]
CAUSAL = """
afmoe apertus arcee bart bert bert-generation bigbird_pegasus biogpt bitnet blenderbot bloom camembert codegen cohere
cohere2 cohere2_moe cpmant ctrl cwm data2vec-text deepseek_v4 diffllama doge electra ernie ernie4_5 ernie4_5_moe
exaone4 falcon falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text gemma3n_text git glm glm4 glm4_moe gpt2
gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granitemoe granitemoeshared helium hrm_text jais2
jetmoe lfm2 llama mamba mamba2 marian mbart megatron-bert minimax ministral3 mistral mixtral modernbert-decoder mpt
mvp nanochat olmo olmo2 olmo3 olmoe openai-gpt opt pegasus persimmon phi phi3 phimoe plbart prophetnet qwen2 qwen2_moe
qwen3 qwen3_moe recurrent_gemma reformer rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3
solar_open stablelm starcoder2 trocr vaultgemma xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm xmod
""".split()  # noqa: SIM905
MASKED = """
albert bart bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm esmc
eurobert flaubert fnet funnel ibert jina_embeddings_v3 layoutlm mbart megatron-bert mobilebert modernbert mpnet mra
mvp nomic_bert nystromformer reformer rembert roberta roberta-prelayernorm roc_bert roformer squeezebert tapas xlm
xlm-roberta xlm-roberta-xl xmod yoso
""".split()  # noqa: SIM905
ENCODER_DECODER = """
bart bigbird_pegasus blenderbot blenderbot-small fsmt longt5 m2m_100 marian mbart mt5 mvp nllb-moe pegasus plbart
prophetnet switch_transformers t5 umt5
""".split()  # noqa: SIM905
QUICK = [
    ("llama", "causal"), ("gemma2", "causal"), ("falcon", "causal"), ("mamba", "causal"), ("mobilebert", "masked"),
    ("deberta", "masked"), ("t5", "encoder-decoder"),
]  # fmt: skip
ALL = [(name, kind) for kind, names in (("causal", CAUSAL), ("masked", MASKED)) for name in names]
ALL += [(name, "encoder-decoder") for name in ENCODER_DECODER]
BOTH, LEARNING = {"check_scores", "check_training"}, {"check_training"}
REFUSED: dict[tuple[str, str], set[str]] = {
    # They see what follows, or read a text otherwise when more follows it.
    **dict.fromkeys([(name, "causal") for name in ("cpmant", "prophetnet", "xlm", "xlnet")], BOTH),
    # They cannot compute from tokens alone, from some lengths, or at all in this version.
    **dict.fromkeys([("recurrent_gemma", "causal"), ("xlstm", "causal"), ("xmod", "causal"), ("xmod", "masked")], BOTH),
    **dict.fromkeys([("funnel", "masked"), ("mra", "masked")], BOTH),
    # Their logits are more than one linear map.
    **dict.fromkeys([(name, "causal") for name in ("gemma2", "gemma3n_text", "nanochat", "vaultgemma")], LEARNING),
    **dict.fromkeys([(name, "masked") for name in ("bart", "esm", "mbart", "mobilebert", "mvp")], LEARNING),
}
FACTORIES: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}
WIDTH, HEADS, FEED = 32, 4, 48
NAMES = {
    WIDTH: """hidden_size d_model n_embd emb_dim dim embedding_size embedding_dim word_embed_proj_dim
        attention_hidden_size pooler_hidden_size input_embedding_size output_embedding_size lru_width shape_embed_dim
        pronunciation_embed_dim intra_bottleneck_size hidden_size_per_layer_input true_hidden_size""",
    2: """num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers
        num_encoder_layers num_blocks num_experts_per_tok num_experts_per_token moe_topk moe_k type_vocab_size
        num_key_value_heads num_kv_heads index_n_heads linear_num_key_heads""",
    HEADS: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads
        num_encoder_attention_heads num_decoder_attention_heads mamba_n_heads num_experts num_local_experts
        n_routed_experts moe_num_experts rotary_dim linear_num_value_heads""",
    8: """head_dim d_head d_kv attention_head_size dim_head v_head_dim qk_nope_head_dim qk_rope_head_dim index_head_dim
        kv_channels linear_key_head_dim linear_value_head_dim q_lora_rank kv_lora_rank laurel_rank time_step_rank
        sliding_window mamba_d_state state_size""",
    16: "qk_head_dim mamba_d_head local_attention",
    FEED: """intermediate_size n_inner encoder_ffn_dim decoder_ffn_dim d_ff ffn_dim ffn_hidden_size dff dim_ff d_inner
        moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size feed_forward_size""",
    64: "max_position_embeddings n_positions n_ctx max_seq_len mamba_d_ssm",
    1: "n_group topk_group num_expert_group first_k_dense_replace",
    0: "num_kv_shared_layers num_nextn_predict_layers",
}
SIZES = {name: size for size, names in NAMES.items() for name in names.split()}
MORE: dict[tuple[str, str], dict[str, Any]] = {
    ("falcon", "causal"): {"alibi": True},
    ("gemma2", "causal"): {"final_logit_softcapping": 1.5, "attn_logit_softcapping": 2.0},
    ("gpt_neo", "causal"): {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    ("mamba2", "causal"): {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    ("mobilebert", "masked"): {"embedding_size": 16},
    ("reformer", "causal"): {"is_decoder": True, "axial_pos_embds": False},
    ("reformer", "masked"): {"axial_pos_embds": False},
    ("esmc", "masked"): {"num_key_value_heads": HEADS},
}


def tokenizer() -> PreTrainedTokenizerFast:
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>",
                "cls_token": "<cls>", "sep_token": "<sep>"}  # fmt: skip
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*specials.values()], initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    backend.train_from_iterator([item.completion for item in ITEMS] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


ITEMS = [
    Item(text)
    for text in (
        "The cats sleep on the mat.", "The cats sleeps on the mat.", "A dog that barks never bites its owner.",
        "A dog that bark never bites its owner.", "No.", "The cats sleep.",
    )
]  # fmt: skip


def settings(model_type: str, kind: str, vocabulary: int) -> dict[str, Any]:
    """What makes the default configuration small, its weights large, and nothing random."""
    known = AutoConfig.for_model(model_type).to_dict()
    sizes = {key: SIZES[key] for key, value in known.items() if key in SIZES and type(value) is int}
    drops = {key: 0.0 for key, value in known.items() if "drop" in key and isinstance(value, float)}
    words = ("vocab_size", "vocab_size_per_layer_input", "src_vocab_size", "tgt_vocab_size", "decoder_vocab_size")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    more = {"mask_token_id": 3, "cls_token_id": 4, "sep_token_id": 5, "decoder_start_token_id": 1}
    scale = {key: 0.2 for key in ("initializer_range", "init_std") if key in known}
    decodes = {"is_decoder": True} if kind == "causal" and "is_decoder" in known else {}
    ids |= {key: value for key, value in more.items() if key in known}
    fits = {key: vocabulary for key in known if key in words}
    return sizes | drops | ids | scale | decodes | fits | MORE.get((model_type, kind), {})


def stock(model_type: str, kind: str, vocabulary: int) -> Any:
    """A model of random weights, biases and norms too."""
    torch.manual_seed(0)
    hf = FACTORIES[kind].from_config(AutoConfig.for_model(model_type, **settings(model_type, kind, vocabulary)))
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_((0.1 if parameter.ndim > 1 else 0.05) * torch.randn_like(parameter))
    hf.tie_weights()
    return hf.eval()


@dataclass
class Made:
    kind: Kind
    folder: Path
    hf: Any
    tokenizer: PreTrainedTokenizerFast


def made(model_type: str, kind: Any, folder: Path) -> Made:
    """The model in a folder, as `save_pretrained` writes it, and as transformers loads it."""
    words = tokenizer()
    stock(model_type, kind, len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    hf = FACTORIES[kind].from_pretrained(folder, dtype=torch.float32).eval()
    return Made(kind, folder, hf, words)


@torch.no_grad()
def twin(one: Made, hf: Any, row: list[int]) -> float:
    """Log-probability of a sentence in the plainest way."""

    def log_p(tokens: list[int], **more: Any) -> torch.Tensor:
        return hf(input_ids=torch.tensor([tokens]), **more).logits[0].double().log_softmax(-1)

    if one.kind == "causal":
        found = log_p(row[:-1])
        return float(sum(found[place, token] for place, token in enumerate(row[1:])))
    total = 0.0
    for place, token in enumerate(row):
        masked = [3 if other == place else kept for other, kept in enumerate(row)]
        # With a cache, FSMT's decoder has no mask.
        more = (
            {"decoder_input_ids": torch.tensor([[1, 3]]), "use_cache": False} if one.kind == "encoder-decoder" else {}
        )
        found = log_p(masked, **more)
        total += float(found[-1 if more else place, token])
    return total


def scores(one: Made) -> list[float]:
    """What `evaluate` makes of the sentences."""
    if one.kind == "encoder-decoder":
        hf = load_encoder_decoder(str(one.folder))
        return list(encoder_decoder_log_probs(hf, one.tokenizer, ITEMS, "mask").sum_N)
    [model] = open_models([str(one.folder)], CONVENTIONS["2025"], one.kind, None)
    ensemble = Ensemble([model.load()])
    return list(log_probs(ensemble, one.tokenizer, ITEMS, CONVENTIONS["2025"], batch_tokens=64).sum_N)


def check_scores(one: Made) -> None:
    found = scores(one)
    rows = one.tokenizer([item.completion for item in ITEMS], add_special_tokens=False)["input_ids"]
    wanted = [twin(one, one.hf, row) for row in rows]
    try:  # float64 shows which of two floats is nearer; types with kernels of their own have none
        wide = copy.deepcopy(one.hf).double()
        exact = [twin(one, wide, row) for row in rows]
        wanted = exact if max(map(abs, map(float.__sub__, exact, wanted))) < 1e-3 else wanted
    except RuntimeError:
        pass
    assert len({round(value, 3) for value in wanted}) == len(ITEMS), "the sentences shall differ"
    assert found == pytest.approx(wanted, abs=2e-5, rel=1e-6)


def check_training(one: Made) -> None:
    """Five steps, the first of which loses what the stock model loses."""
    if one.kind == "encoder-decoder":
        return
    learner = Learner(load(str(one.folder), one.tokenizer, one.kind)).train()
    tokens = torch.randint(6, 300, (3, 16), generator=torch.Generator().manual_seed(1))
    targets = torch.cat([tokens[:, 1:], torch.full((3, 1), IGNORE)], 1)
    if one.kind == "masked":
        hidden = torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.3
        targets, tokens = torch.where(hidden, tokens, IGNORE), torch.where(hidden, 3, tokens)
    batch = Batch(torch.arange(3), torch.zeros(3, dtype=torch.long), tokens, targets, None, {}, one.kind == "masked")
    torch.manual_seed(3)  # PhiMoE draws experts
    logits = one.hf.train()(input_ids=tokens).logits
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE)
    optimizer, losses = adamw(learner, recipe.Optim()), []
    for _ in range(5):
        torch.manual_seed(3)
        loss, _sums = learner(batch, text_scales(count(batch)), None, used_positions(batch, False))
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert all(map(torch.tensor(losses).isfinite().__getitem__, range(5)))


def check(model_type: str, kind: str, folder: Path) -> str:
    """Return what was refused."""
    one, refused = made(model_type, kind, folder), ""
    for step in (check_scores, check_training):
        try:
            step(one)
        except UserError as error:
            refused += f"{step.__name__}: {error}\n"
    assert len(refused) < 1200
    return refused


@pytest.mark.parametrize(("model_type", "kind"), QUICK)
def test_models_are_right_or_refused(model_type: str, kind: str, tmp_path: Path) -> None:
    refused = re.findall(r"^(check_\w+):", check(model_type, kind, tmp_path), re.MULTILINE)
    assert set(refused) == REFUSED.get((model_type, kind), set())


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "kind"), [one for one in ALL if one not in QUICK])
def test_all_models_are_right_or_refused(model_type: str, kind: str, tmp_path: Path) -> None:
    refused = re.findall(r"^(check_\w+):", check(model_type, kind, tmp_path), re.MULTILINE)
    assert set(refused) <= REFUSED.get((model_type, kind), set())


def test_falcon_keeps_sdpa_when_eager_is_asked_for(tmp_path: Path) -> None:
    """Its eager form adds the bias of ALiBi twice; a model without ALiBi keeps what is asked for."""
    one = made("falcon", "causal", tmp_path)
    model = load(str(tmp_path), one.tokenizer, "causal")
    tokens = torch.randint(6, 300, (2, 9))
    for name in ("eager", WITHOUT_MASKS, "sdpa"):
        set_attention(model.hf, name, "causal")
        torch.testing.assert_close(model.logits(tokens), one.hf(input_ids=tokens).logits, rtol=1e-4, atol=1e-5)
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **settings("falcon", "causal", 50) | {
        "alibi": False}), attn_implementation="eager")  # fmt: skip
    settle(plain)
    assert plain.config._attn_implementation == "eager"


def test_the_first_deberta_reads_under_bf16(tmp_path: Path) -> None:
    one = made("deberta", "masked", tmp_path)
    model = load(str(tmp_path), one.tokenizer, "masked").train()
    tokens = torch.randint(6, 300, (2, 9))
    with torch.autocast("cpu", torch.bfloat16):
        found = model.logits(tokens)
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), one.hf(input_ids=tokens).logits, rtol=0.05, atol=0.05)


def test_a_model_for_pretraining_is_a_masked_one(tmp_path: Path) -> None:
    one = made("bert", "masked", tmp_path)
    torch.manual_seed(0)
    BertForPreTraining(one.hf.config).save_pretrained(tmp_path)
    [model] = open_models([str(tmp_path)], CONVENTIONS["2025"], None, None)
    assert model.kind == "masked"
    assert not model.load().whole


def test_another_kind_is_refused_shortly(tmp_path: Path) -> None:
    made("llama", "causal", tmp_path)
    with pytest.raises(UserError, match=r"no masked model of type 'llama'; it has causal ones \(--kind causal\)$"):
        read_weights(str(tmp_path), "masked")


def test_settings_that_only_the_code_of_a_model_reads(tmp_path: Path) -> None:
    v3 = {"position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = {"model_type": "deberta-v2", **shape, **v3}
    found = config_for(recipe.Model(config=config, objectives={"masked": 1}, steps=1), tokenizer(), 16)
    assert found.position_buckets == 16
    with pytest.raises(UserError, match="'position_bucket'"):
        config_for(recipe.Model(config={**config, "position_bucket": 1}, steps=1), tokenizer(), 16)


def test_times_and_norms_do_not_decay(tmp_path: Path) -> None:
    for model_type in ("mamba", "mamba2", "rwkv", "llama", "bert", "falcon_h1"):
        hf = stock(model_type, "masked" if model_type == "bert" else "causal", 50)
        names = {id(parameter): name for name, parameter in hf.named_parameters()}
        decayed, rest = ({names[id(p)] for p in group["params"]} for group in parameter_groups(hf, 0.1))
        assert decayed | rest == set(names.values())
        assert not decayed & rest
        assert not [name for name in decayed if re.search(r"norm|A_log|\.D$|bias$|time_|ln_", name)]
        assert all(name in decayed for name in names.values() if re.search("proj.weight|dense.weight", name))


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch's", "oneDNN"])
def test_a_hundred_million_weights_score_as_in_float64(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-5 of a sentence's log-probability, and no pair is turned: what docs/suites.md says."""
    if library == "oneDNN" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    words = tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536}  # fmt: skip
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=len(words), **shape)).eval()
    assert sum(parameter.numel() for parameter in hf.parameters()) > 1e8
    one = Made("causal", Path(), hf, words)
    rows = words([item.completion for item in ITEMS], add_special_tokens=False)["input_ids"]
    wide = copy.deepcopy(hf).double()
    exact = [twin(one, wide, row) for row in rows]
    ensemble = Ensemble([LanguageModel(hf, "causal", None)])
    found = log_probs(ensemble, words, ITEMS, CONVENTIONS["2025"]).sum_N
    assert list(found) == pytest.approx(exact, rel=1e-5, abs=0)
    assert [found[0] > found[1], found[2] > found[3]] == [exact[0] > exact[1], exact[2] > exact[3]]
