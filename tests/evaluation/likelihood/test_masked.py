"""Ways of scoring masked models against their slow forms; equal copies are read once and nothing is padded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, next_token_by_mask
from tutelage.evaluation.benchmarks.items import Item, encode
from tutelage.evaluation.likelihood.causal import log_probs
from tutelage.evaluation.likelihood.masked import copies

MASKED = CONVENTIONS["2025"]
WORDWISE = replace(MASKED, name="2025-words", masked=replace(MASKED.masked, masking="rest_of_word"))
NEXT = next_token_by_mask(MASKED)


def score(world, hf, items, convention, tokenizer=None, **settings):
    tokenizer = tokenizer or world.FRAMED
    ensemble = world.as_ensemble(hf, vocab_size=len(tokenizer))
    return log_probs(ensemble, tokenizer, items, convention, **settings)


@torch.no_grad()
def slow_sum(hf, rows):
    """Sum over (masked row, position read, token asked)."""
    total = 0.0
    for row, position, token in rows:
        logits = hf.double()(torch.tensor([row])).logits[0, position]
        total += float(logits.log_softmax(-1)[token])
    hf.float()
    return total


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_the_rest_of_a_word_is_masked_with_it(world, architecture):
    tokenizer, hf = world.FRAMED, world.hugging_face(architecture, len(world.FRAMED))
    found = score(world, hf, world.ITEMS, WORDWISE)
    pieces = 0
    for item, value in zip(world.ITEMS, found.sum_N, strict=True):
        encoded = tokenizer(item.completion)
        ids, words = encoded["input_ids"], encoded.word_ids()
        rows = []
        for position in range(1, len(ids) - 1):
            later = [j for j in range(position + 1, len(ids) - 1) if words[j] == words[position]]
            pieces += len(later)
            row = [tokenizer.mask_token_id if j in (position, *later) else token for j, token in enumerate(ids)]
            rows.append((row, position, ids[position]))
        assert value == pytest.approx(slow_sum(hf, rows), abs=1e-5, rel=1e-6)
    assert pieces > 10  # words of several tokens, or nothing was tested
    plain = score(world, hf, world.ITEMS, MASKED)
    assert (plain.sum_N != found.sum_N).any()
    assert (plain.tokens_N == found.tokens_N).all()


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_masked_next_token_against_the_slow_form(world, architecture):
    tokenizer, hf = world.FRAMED, world.hugging_face(architecture, len(world.FRAMED))
    items = [*world.ITEMS[:4], Item(" on the mat.", prefix="The cats sleep")]
    found = score(world, hf, items, NEXT)
    for item, value, count in zip(items, found.sum_N, found.tokens_N, strict=True):
        ids = tokenizer(item.prefix + item.completion)["input_ids"]
        first = len(ids) - 1 - count
        rows = [
            ([tokenizer.mask_token_id if j == position else token for j, token in enumerate(ids)],
             position - 1, ids[position])
            for position in range(first, len(ids) - 1)
        ]  # fmt: skip
        assert value == pytest.approx(slow_sum(hf, rows), abs=1e-5, rel=1e-6)


def test_equal_copies_are_read_once_and_nothing_is_padding(world, monkeypatch):
    tokenizer = world.word_tokenizer("the cats sleep sleeps run here there")
    items = [Item("the cats sleep here"), Item("the cats sleeps here"), Item("the cats sleep here"), Item("the cats")]
    rows = encode(tokenizer, items, "masked", MASKED)
    groups = list(copies(rows, tokenizer.mask_token_id, MASKED.masked))
    # Two rows of four words share the copy that masks the third; the repeated one is no row of its own.
    assert [group.tokens_CT.shape for group in groups] == [(7, 4), (2, 2)]
    assert sum(len(group.target_M) for group in groups) == 4 + 4 + 2
    seen = []
    ensemble = world.as_ensemble(world.hugging_face("bert", len(tokenizer)), vocab_size=len(tokenizer))
    signal = ensemble.dense_signal

    def record(tokens, lengths, precision):
        seen.append((tokens.clone(), lengths))
        return signal(tokens, lengths, precision)

    monkeypatch.setattr(ensemble, "dense_signal", record)
    log_probs(ensemble, tokenizer, items, MASKED, batch_tokens=8)
    assert all(lengths is None for _, lengths in seen)
    assert sum(tokens.numel() for tokens, _ in seen) == 7 * 4 + 2 * 2
    assert all((tokens == tokenizer.mask_token_id).sum(1).eq(1).all() for tokens, _ in seen)


@pytest.mark.parametrize("convention", [MASKED, WORDWISE, NEXT], ids=lambda convention: convention.name)
def test_batches_and_neighbours_change_nothing(world, convention):
    hf = world.hugging_face("modernbert", len(world.FRAMED))
    together = score(world, hf, world.ITEMS, convention, batch_tokens=4096).sum_N
    small = score(world, hf, world.ITEMS, convention, batch_tokens=1).sum_N
    alone = [score(world, hf, [item], convention).sum_N[0] for item in world.ITEMS]
    np.testing.assert_allclose(together, small, atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-6)


def test_a_tokenizer_without_a_mask_token_is_refused(world):
    specials = {role: token for role, token in world.SPECIALS.items() if role != "mask_token"}
    tokenizer = world.byte_tokenizer(specials)
    hf = world.hugging_face("bert", len(tokenizer))
    with pytest.raises(UserError, match="no mask token"):
        score(world, hf, world.ITEMS, MASKED, tokenizer)
