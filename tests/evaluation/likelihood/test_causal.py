"""Every rule of every year against the slow form; batching, sharing and precision change nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForCausalLM, RobertaForMaskedLM

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item, encode
from tutelage.models.language_model import LanguageModel

PREFIXED = [
    Item(" sleep on the mat.", prefix="The cats"),
    Item("the mat.", prefix="The cats sleep on "),
    Item(" of them", prefix="Who saw the two"),
    Item("s", prefix="The cat"),
]


def without(world, *names):
    return {name: token for name, token in world.SPECIALS.items() if name not in names}


def expected_row(world, item, year):
    """By hand: token ids of a causal row, and the first scored position."""
    if year in ("2023", "2024") and not item.prefix:
        start = world.PLAIN.eos_token_id if year == "2023" else world.PLAIN.bos_token_id
        return [start, *world.plain_ids(" " + item.completion)], 1
    ids = world.plain_ids(item.prefix + item.completion)
    if year in ("2023", "2024"):
        return ids, min(len(ids), len(world.plain_ids(item.prefix.rstrip())))
    ends = [len(world.PLAIN.decode(ids[: index + 1])) for index in range(len(ids))]
    return ids, max(1, next(index for index, end in enumerate(ends) if end > len(item.prefix)))


@pytest.mark.parametrize("year", CONVENTIONS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_causal_scores_equal_the_slow_form(world, architecture, year):
    hf = world.hugging_face(architecture, len(world.PLAIN))
    # A letter of two bytes would need more than `decode` to find its end by hand.
    items = [item for item in world.ITEMS + PREFIXED if "é" not in item.completion]
    found = world.score(hf, world.PLAIN, items, year, batch_tokens=64)
    for item, total, tokens in zip(items, found.sum_N, found.tokens_N, strict=True):
        ids, first = expected_row(world, item, year)
        assert tokens == len(ids) - first
        assert total == pytest.approx(world.slow_causal([hf], ids, list(range(first, len(ids)))), abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("year", CONVENTIONS)
def test_masked_scores_equal_the_slow_form(world, architecture, year):
    tokenizer = world.FRAMED
    hf = world.hugging_face(architecture, len(tokenizer))
    items = [world.ITEMS[0], world.ITEMS[2], world.ITEMS[4], Item(" sleep.", prefix="The cats")]
    found = world.score(hf, tokenizer, items, year, batch_tokens=256)
    for item, score in zip(items, found.reduced(CONVENTIONS[year].masked.reduction), strict=True):
        before = {"2023": "", "2024": (item.prefix or "</s>") + " "}.get(year, item.prefix)
        space = " " if year in ("2023", "2024") and not item.prefix else ""
        ids = [tokenizer.cls_token_id, *world.plain_ids(before + space + item.completion), tokenizer.sep_token_id]
        # The separator of 2024 belongs to the first scored token, or is one.
        first = 1 + len(world.plain_ids(before.rstrip() if year == "2024" else before))
        total = world.slow_masked([hf], ids, list(range(first, len(ids) - 1)), tokenizer.mask_token_id)
        expected = total / (len(ids) - 1 - first) if year == "2024" else total
        assert score == pytest.approx(expected, abs=1e-5, rel=1e-6)


def test_what_each_year_puts_in_front_of_a_sentence(world):
    rows = {year: encode(world.PLAIN, [Item("The cats")], "causal", CONVENTIONS[year]) for year in CONVENTIONS}
    assert rows["2023"].tokens_S.tolist() == [world.PLAIN.eos_token_id, *world.plain_ids(" The cats")]
    assert rows["2024"].tokens_S.tolist() == [world.PLAIN.bos_token_id, *world.plain_ids(" The cats")]
    assert rows["2025"].tokens_S.tolist() == world.plain_ids("The cats")
    assert not any(row.scored_S[0] for row in rows.values())
    assert all(row.scored_S[1:].all() for row in rows.values())


def test_a_tokenizer_that_prepends_a_token_has_its_first_word_scored_since_2025(world):
    row = encode(world.FRAMED, [Item("The cats")], "causal", CONVENTIONS["2025"])
    assert row.scored_S.tolist() == [False, *[True] * len(world.plain_ids("The cats")), False]


@pytest.mark.parametrize(
    ("missing", "expected"), [((), "<s>"), (("bos_token",), "</s>"), (("bos_token", "eos_token"), "<pad>")]
)
def test_2024_falls_back_from_bos_to_eos_to_pad(world, missing, expected):
    tokenizer = world.byte_tokenizer(without(world, *missing))
    row = encode(tokenizer, [Item("The cats")], "causal", CONVENTIONS["2024"])
    assert row.tokens_S[0] == tokenizer.convert_tokens_to_ids(expected)


def test_2024_masked_without_eos_reads_the_word_none(world):
    tokenizer = world.byte_tokenizer(without(world, "eos_token"), template=True)
    row = encode(tokenizer, [Item("The cats")], "masked", CONVENTIONS["2024"])
    assert tokenizer.decode(row.tokens_S, skip_special_tokens=True) == "None  The cats"
    assert tokenizer.decode(row.tokens_S[row.scored_S]) == "  The cats"


def test_a_year_that_needs_a_token_the_tokenizer_lacks_is_refused(world):
    tokenizer = world.byte_tokenizer(without(world, "eos_token"))
    with pytest.raises(UserError, match=r"2023.*eos.*2025"):
        encode(tokenizer, [Item("The cats")], "causal", CONVENTIONS["2023"])


def test_characters_and_tokens_disagree_where_the_boundary_falls_inside_a_token(world):
    item = Item("s", prefix="The cat")
    assert len(world.plain_ids("The cats")) < len(world.plain_ids("The cat"))
    assert encode(world.PLAIN, [item], "causal", CONVENTIONS["2025"]).scored_S.tolist() == [False, True]
    assert encode(world.PLAIN, [item], "causal", CONVENTIONS["2024"]).scored_S.tolist() == [False, False]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "modernbert"])
def test_batch_size_changes_nothing(world, architecture):
    tokenizer = world.FRAMED if "bert" in architecture else world.PLAIN
    hf, items = world.hugging_face(architecture, len(tokenizer)), world.ITEMS + PREFIXED
    small, large = (world.score(hf, tokenizer, items, "2025", batch_tokens=size).sum_N for size in (64, 4096))
    np.testing.assert_allclose(small, large, atol=1e-5, rtol=1e-6)


def test_equal_items_and_equal_beginnings_are_computed_once(world, monkeypatch):
    asked = []

    def count(_signal, index_M, _targets):
        asked.append(len(index_M))
        return torch.zeros(len(index_M))

    monkeypatch.setattr("tutelage.evaluation.likelihood.causal.target_log_probs", count)
    good, bad = "The cats sleep on the mat.", "The cats sleeps on the mat."
    hf = world.hugging_face("llama", len(world.PLAIN))
    world.score(hf, world.PLAIN, [Item(good), Item(bad), Item(good)], "2025")
    one, two = world.plain_ids(good), world.plain_ids(bad)
    differ = next(index for index in range(len(one)) if one[index] != two[index])
    assert sum(asked) == (len(one) - 1) + (len(two) - differ)


def test_a_beginning_may_be_scored_in_one_item_and_context_in_another(world):
    hf = world.hugging_face("gpt2", len(world.PLAIN))
    items = [Item(" on the mat.", prefix="The cats sleep"), Item("The cats sleep on the mat."), Item("The cats sleep.")]
    together = world.score(hf, world.PLAIN, items, "2025").sum_N
    alone = [world.score(hf, world.PLAIN, [item], "2025").sum_N[0] for item in items]
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-6)


def test_an_ensemble_scores_by_its_mean_logits(world):
    pair = [world.hugging_face("llama", len(world.PLAIN), seed=1), world.hugging_face("gpt2", len(world.PLAIN), seed=2)]
    found = world.score(pair, world.PLAIN, world.ITEMS[:3], "2025")
    for item, total in zip(world.ITEMS, found.sum_N, strict=False):
        ids = world.plain_ids(item.completion)
        assert total == pytest.approx(world.slow_causal(pair, ids, list(range(1, len(ids)))), abs=1e-5, rel=1e-6)


def test_bf16_stays_near_fp32(world):
    hf = world.hugging_face("llama", len(world.PLAIN))
    exact, rough = (
        world.score(hf, world.PLAIN, world.ITEMS, "2025", precision=name).sum_N for name in ("fp32", "bf16")
    )
    np.testing.assert_allclose(rough, exact, rtol=0.05, atol=0.5)
    assert (rough != exact).any()


def test_nothing_scored_is_zero_nats_and_has_no_mean(world):
    hf = world.hugging_face("gpt2", len(world.PLAIN))
    found = world.score(hf, world.PLAIN, [Item(""), Item("T"), Item("No.")], "2025")
    assert found.tokens_N.tolist() == [0, 0, len(world.plain_ids("No.")) - 1]
    assert found.sum_N[:2].tolist() == [0, 0]
    assert found.sum_N[2] < 0
    assert np.isnan(found.reduced("mean")).tolist() == [True, True, False]
    masked = world.score(world.hugging_face("bert", len(world.FRAMED)), world.FRAMED, [Item("")], "2024")
    assert masked.tokens_N.tolist() == [0]


def test_unknown_words_are_scored_and_vanished_texts_refused(world):
    tokenizer = world.word_tokenizer("cats sleep here")
    hf = world.hugging_face("gpt2", len(tokenizer))
    found = world.score(hf, tokenizer, [Item("cats snore here"), Item("cats zzz here")], "2025")
    assert found.tokens_N.tolist() == [2, 2]
    assert found.sum_N[0] == found.sum_N[1]
    with pytest.raises(UserError, match=r"'zebra' with no token"):
        world.score(hf, tokenizer, [Item("zebra")], "2025")


def test_a_text_longer_than_learned_positions_is_named_and_rotations_have_no_end(world):
    items = [Item("No."), Item(" ".join(["The cats sleep."] * 40))]
    with pytest.raises(UserError, match=r"item 1 has \d+ tokens.*positions for 64.*The cats sleep"):
        world.score(world.hugging_face("gpt2", len(world.PLAIN)), world.PLAIN, items, "2025")
    rotary = world.hugging_face("llama", len(world.PLAIN))
    assert np.isfinite(world.score(rotary, world.PLAIN, items, "2025").sum_N).all()


@pytest.mark.parametrize("year", ["2023", "2025"])
def test_the_last_token_of_a_causal_row_needs_no_position(world, year):
    """Rows of 64 inputs and one target on 64 positions, alone and as branches of a tree."""
    tokenizer, hf = world.PLAIN, world.hugging_face("gpt2", len(world.PLAIN))
    text = "The dog saw"
    start = year == "2023"
    while len(world.plain_ids(" " * start + text)) + start < 65:
        text += "x"
    items = [Item(text), Item(text[:-1]), Item(text[:-1] + "y")]
    found = world.score(hf, tokenizer, items, year)
    for item, total in zip(items, found.sum_N, strict=True):
        ids = [tokenizer.eos_token_id] * start + world.plain_ids(" " * start + item.completion)
        expected = world.slow_causal([hf], ids, list(range(1, len(ids))))
        assert total == pytest.approx(expected, abs=1e-3)
    assert found.tokens_N.max() == 64
    with pytest.raises(UserError, match=r"has 66 tokens and the model has positions for 64"):
        world.score(hf, tokenizer, [Item(text + "x")], year)


def test_positions_of_robertas_kind_begin_behind_the_padding_id(world):
    tokenizer = world.byte_tokenizer(template=True)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, max_position_embeddings=34, **shape)
    hf = RobertaForMaskedLM(config).eval()
    assert LanguageModel(copy.deepcopy(hf), "masked", len(tokenizer)).positions == 32
    text = "The dog saw"
    while len(tokenizer(text)["input_ids"]) < 32:
        text += "x"
    assert np.isfinite(world.score(hf, tokenizer, [Item(text)], "2025").sum_N).all()
    with pytest.raises(UserError, match=r"has 33 tokens and the model has positions for 32"):
        world.score(hf, tokenizer, [Item(text + "x")], "2025")


@pytest.mark.parametrize("padding", [0, 1])
def test_causal_models_of_robertas_kind_are_scored_at_their_own_positions(world, padding):
    """Shared beginnings are read once, at the positions that the model gives a row by itself."""
    tokenizer = world.PLAIN
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=padding, max_position_embeddings=66, is_decoder=True,
                           initializer_range=0.5, **shape)  # fmt: skip
    torch.manual_seed(0)
    hf = RobertaForCausalLM(config).eval()
    items = [Item(text) for text in ("The dog saw the cats", "The dog saw the dog", "The dog sees", "The two cats")]
    found = world.score(hf, tokenizer, items, "2025")
    for item, total in zip(items, found.sum_N, strict=True):
        ids = world.plain_ids(item.completion)
        assert total == pytest.approx(world.slow_causal([hf], ids, list(range(1, len(ids)))), abs=1e-4)
    # 2024 begins with bos, which may be the padding too: that token then has no position of its own.
    config.pad_token_id = tokenizer.bos_token_id
    torch.manual_seed(0)
    hf = RobertaForCausalLM(config).eval()
    found = world.score(hf, tokenizer, items, "2024")
    for item, total in zip(items, found.sum_N, strict=True):
        ids = [tokenizer.bos_token_id, *world.plain_ids(" " + item.completion)]
        assert total == pytest.approx(world.slow_causal([hf], ids, list(range(1, len(ids)))), abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_what_is_cut_is_read_as_its_end_alone(world, architecture):
    tokenizer, hf = world.PLAIN, world.hugging_face(architecture, len(world.PLAIN))
    items = [Item("cats", " ".join(["The dog saw"] * 30) + " the "), Item("cats", "The two "), Item("dog", "x " * 200)]
    found = world.score(hf, tokenizer, items, "2025", cut=True)
    for item, total in zip(items, found.sum_N, strict=True):
        ids = world.plain_ids(item.prefix + item.completion)
        places = range(len(world.plain_ids(item.prefix.strip())), len(ids))
        # The last token of a causal row is predicted and never read.
        gone = max(0, len(ids) - (65 if architecture == "gpt2" else 64))
        ids, places = ids[gone:], [place - gone for place in places]
        slow = (world.slow_causal([hf], ids, places) if architecture == "gpt2"
                else world.slow_masked([hf], ids, places, tokenizer.mask_token_id))  # fmt: skip
        assert total == pytest.approx(slow, abs=1e-4)
    with pytest.raises(UserError, match=r"a word has 6[45] tokens or more"):
        world.score(hf, tokenizer, [Item("long" * 40, "The ")], "2025", cut=True)


def test_a_masked_model_needs_a_mask_token(world):
    tokenizer = world.byte_tokenizer(without(world, "mask_token"), template=True)
    with pytest.raises(UserError, match="no mask token"):
        world.score(world.hugging_face("bert", len(tokenizer)), tokenizer, world.ITEMS, "2025")


def test_scores_are_in_whole_float32_whatever_a_training_allowed(world, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tutelage.evaluation.likelihood.causal.batches",
        lambda *_: seen.append(torch.get_float32_matmul_precision()) or [],
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        world.score(world.hugging_face("gpt2", len(world.PLAIN)), world.PLAIN, world.ITEMS, "2025")
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)
