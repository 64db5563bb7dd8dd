"""Encoder-decoder models against the slow form: one row at a time, float64, with the inputs written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, T5Config
from transformers import T5ForConditionalGeneration as T5

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.likelihood.encoder_decoder import encoder_decoder_log_probs, load_encoder_decoder
from tutelage.evaluation.suites.suites import find_suite, items_of, judge

PREFIXED = [
    Item(" sleep on the mat.", prefix="The cats"),
    Item("bites its owner", prefix="A dog that barks "),
    Item("No."),
    Item("The cats sleep."),
]


def t5(vocab_size, seed=0):
    torch.manual_seed(seed)
    config = T5Config(vocab_size=vocab_size + 3, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                      initializer_factor=1.0, decoder_start_token_id=0)  # fmt: skip
    return T5(config).eval()


def sentinel_tokenizer(world):
    """As T5's: no mask, bos or cls, an eos behind the text, and `<extra_id_0>`."""
    specials = {"pad_token": "<pad>", "eos_token": "</s>", "x": "<extra_id_0>"}
    backend = world.byte_tokenizer(specials | {"bos_token": "<b>"}).backend_tokenizer
    from tokenizers import processors

    ends = [("</s>", backend.token_to_id("</s>"))]
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>",
                                   extra_special_tokens=["<extra_id_0>"])  # fmt: skip


@torch.no_grad()
def slow(hf, encoder, decoder, targets):
    """Sum of the log-probabilities of targets at the last positions of the decoder."""
    logits = hf.double()(input_ids=torch.tensor([encoder]), decoder_input_ids=torch.tensor([decoder])).logits[0]
    hf.float()
    log_p = logits[-len(targets) :].log_softmax(-1)
    return sum(float(log_p[place, token]) for place, token in enumerate(targets))


def expected_mask(hf, tokenizer, item, decoder, mask):
    text = item.prefix + item.completion
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, total = encoded["input_ids"], 0.0
    for place, (_, end) in enumerate(encoded["offset_mapping"]):
        if end > len(item.prefix):
            row = [mask if index == place else token for index, token in enumerate(ids)]
            total += slow(hf, row, decoder, [ids[place]])
    return total


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_the_mask_way(world, batch_tokens):
    tokenizer, hf = world.FRAMED, t5(len(world.FRAMED))
    items = [*world.ITEMS[:3], *PREFIXED]
    found = encoder_decoder_log_probs(hf, tokenizer, items, "mask", batch_tokens)
    decoder = [tokenizer.bos_token_id, tokenizer.mask_token_id]
    expected = [expected_mask(hf, tokenizer, item, decoder, tokenizer.mask_token_id) for item in items]
    np.testing.assert_allclose(found.sum_N, expected, atol=1e-4, rtol=2e-6)
    assert found.tokens_N[-2] == len(world.plain_ids("No."))


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_the_prefix_way(world, batch_tokens):
    tokenizer, hf = world.FRAMED, t5(len(world.FRAMED))
    items = [*world.ITEMS[:3], *PREFIXED]
    found = encoder_decoder_log_probs(hf, tokenizer, items, "prefix", batch_tokens)
    for item, value, count in zip(items, found.sum_N, found.tokens_N, strict=True):
        before, after = world.plain_ids(item.prefix.rstrip(" ")), world.plain_ids(item.completion)
        encoder = [tokenizer.cls_token_id, *before, tokenizer.mask_token_id, tokenizer.eos_token_id]
        decoder = [tokenizer.bos_token_id, tokenizer.mask_token_id, *after[:-1]]
        assert count == len(after)
        assert value == pytest.approx(slow(hf, encoder, decoder, after), abs=1e-4, rel=2e-6)


def test_sentinels_stand_in_for_mask_and_bos(world):
    tokenizer = sentinel_tokenizer(world)
    assert (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id) == (None, None, None)
    hf, item = t5(len(tokenizer)), Item("The cats sleep.")
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    found = encoder_decoder_log_probs(hf, tokenizer, [item], "mask")
    assert found.sum_N[0] == pytest.approx(expected_mask(hf, tokenizer, item, [sentinel], sentinel), abs=1e-4, rel=2e-6)
    ids = tokenizer(item.completion, add_special_tokens=False)["input_ids"]
    found = encoder_decoder_log_probs(hf, tokenizer, [item], "prefix")
    encoder, decoder = [sentinel, tokenizer.eos_token_id], [sentinel, sentinel, *ids[:-1]]
    assert found.sum_N[0] == pytest.approx(slow(hf, encoder, decoder, ids), abs=1e-4, rel=2e-6)


@pytest.mark.parametrize("way", ["mask", "prefix"])
def test_a_model_that_returns_nan_is_refused(world, way):
    hf = t5(len(world.FRAMED))
    hf.decoder.final_layer_norm.weight.data[0] = float("nan")
    with pytest.raises(UserError, match=r"log-probabilities of 1 of 1 texts are not finite"):
        encoder_decoder_log_probs(hf, world.FRAMED, [Item("The cats sleep.")], way)


def test_equal_items_and_empty_completions(world):
    hf = t5(len(world.FRAMED))
    for way in ("mask", "prefix"):
        items = [PREFIXED[0], PREFIXED[0], Item("", prefix="The cats"), Item("")]
        found = encoder_decoder_log_probs(hf, world.FRAMED, items, way)
        assert found.sum_N[0] == found.sum_N[1] < 0
        assert (found.sum_N[2:].tolist(), found.tokens_N[2:].tolist()) == ([0, 0], [0, 0])


def test_a_suite_judged_by_an_encoder_decoder(world, tmp_path):
    rows = [{"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps."}] * 2
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    suite, hf = find_suite(f"pairs:{tmp_path}"), t5(len(world.FRAMED))
    likelihood = encoder_decoder_log_probs(hf, world.FRAMED, items_of(suite), "mask")
    result = judge(suite, likelihood.reduced("sum"), CONVENTIONS["2025"])
    good, bad = likelihood.sum_N[:2]
    assert result.macro("accuracy") == float(good >= bad)
    np.testing.assert_array_equal(result.log_probs["p"], [[good, bad]] * 2)


def test_models_are_loaded_from_folders_and_refused_with_a_reason(world, tmp_path):
    hf = t5(len(world.FRAMED))
    hf.save_pretrained(tmp_path / "model")
    loaded = load_encoder_decoder(str(tmp_path / "model"))
    one, other = (encoder_decoder_log_probs(m, world.FRAMED, PREFIXED, "mask").sum_N for m in (hf, loaded))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match=r"none is no model folder"):
        load_encoder_decoder(str(tmp_path / "none"))
    world.hugging_face("llama", 20).save_pretrained(tmp_path / "llama")
    with pytest.raises(UserError, match="cannot load the encoder-decoder model"):
        load_encoder_decoder(str(tmp_path / "llama"))


def test_what_does_not_fit_is_told(world):
    tokenizer = world.byte_tokenizer({"pad_token": "<pad>", "eos_token": "</s>"})
    with pytest.raises(UserError, match="scored with a mask token"):
        encoder_decoder_log_probs(t5(len(tokenizer)), tokenizer, PREFIXED, "mask")
    config = BartConfig(vocab_size=len(world.FRAMED), d_model=16, encoder_layers=1, decoder_layers=1,
                        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                        max_position_embeddings=8)  # fmt: skip
    bart = BartForConditionalGeneration(config).eval()
    with pytest.raises(UserError, match="positions for 8"):
        encoder_decoder_log_probs(bart, world.FRAMED, world.ITEMS, "mask")
    short = encoder_decoder_log_probs(bart, world.FRAMED, [Item("No.")], "prefix")
    assert short.sum_N[0] < 0
    zebra = world.word_tokenizer("cat")
    with pytest.raises(UserError, match="no token at all"):
        encoder_decoder_log_probs(t5(len(zebra)), zebra, [Item("zebra")], "prefix")
