"""Surprisal of words, many at a time, against the same one by one; and as the published code has it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from tutelage.base.errors import UserError
from tutelage.evaluation.psychometrics.surprisal import Following, surprisals

PAIRS = [
    Following("sleep", "The cats"),
    Following("mat.", "The cats sleep on the"),
    Following("barks", "A dog that"),
    Following("unbelievably", "The cats sleep"),
    Following("one", "Café owners – every"),
    Following("sleep", "None"),
    Following("owner,", "A dog that barks never bites its"),
    Following("–", "Café owners"),
    Following("sleep", "The cats"),
]


@torch.no_grad()
def probability(hf, ids, place, token, shift=0):
    """What a model in float64 gives a token at a place: the next one (causal), or at a mask."""
    logits = copy.deepcopy(hf).double()(torch.tensor([ids])).logits[0, place - shift]
    return float(logits.softmax(-1)[token])


def published(hf, tokenizer, pair, backend):
    """The published recipe, told again step by step: text grows, is tokenized anew, one model call a token."""
    context, total = pair.context, 0.0
    tokens = tokenizer(pair.word, add_special_tokens=False)["input_ids"]
    for number, token in enumerate(tokens):
        piece = tokenizer.decode(token)
        asked = token if number == 0 else tokenizer(piece, add_special_tokens=False)["input_ids"][0]
        if backend == "causal":
            ids = tokenizer(context)["input_ids"]
            p = probability(hf, ids, len(ids) - 1, asked)
        else:
            ids = tokenizer(context + tokenizer.mask_token * 3)["input_ids"]
            from_end = 3 if ids[-1] == tokenizer.mask_token_id else 4
            p = probability(hf, ids, len(ids) - from_end, asked, shift=int(backend == "mntp"))
        total -= math.log(p)
        context += piece
    return total


def plainly(hf, tokenizer, pair, backend):
    """Context, space and word as one text; the word's tokens one after the other."""
    before = tokenizer(pair.context, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{pair.context} {pair.word}", add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    framed = tokenizer("x")["input_ids"][0] == tokenizer.cls_token_id
    first, last = ([tokenizer.cls_token_id], [tokenizer.sep_token_id]) if framed else ([], [])
    total = 0.0
    for place in range(len(before), len(whole)):
        ids = first + whole[:place]
        if backend == "causal":
            p = probability(hf, ids, len(ids) - 1, whole[place])
        else:
            mask = [tokenizer.mask_token_id] * 3
            p = probability(hf, ids + mask + last, len(ids), whole[place], shift=int(backend == "mntp"))
        total -= math.log(p)
    return total


CASES = [("llama", "causal"), ("gpt2", "causal"), ("bert", "mlm"), ("modernbert", "mlm"), ("bert", "mntp")]


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize(("architecture", "backend"), CASES)
@pytest.mark.parametrize("as_published", [False, True])
def test_many_words_at_once_as_one_by_one(world, architecture, backend, template, as_published):
    tokenizer = world.FRAMED if template else world.PLAIN
    hf = world.hugging_face(architecture, len(tokenizer))
    twin = published if as_published else plainly
    expected = [twin(hf, tokenizer, pair, backend) for pair in PAIRS]
    ensemble = world.as_ensemble(hf, vocab_size=len(tokenizer))
    found = surprisals(ensemble, tokenizer, PAIRS, backend, as_published)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    again = surprisals(ensemble, tokenizer, PAIRS, backend, as_published, batch_tokens=16)
    np.testing.assert_allclose(again, found, rtol=1e-5, atol=1e-5)


def test_the_published_way_gives_other_numbers(world):
    """It asks for a word glued to its context."""
    hf = world.hugging_face("llama", len(world.PLAIN))
    ensemble = world.as_ensemble(hf, vocab_size=len(world.PLAIN))
    plain, glued = (surprisals(ensemble, world.PLAIN, PAIRS, as_published=flag) for flag in (False, True))
    assert np.abs(plain - glued).max() > 0.1


def test_the_default_backend_follows_the_model(world):
    for architecture, backend in (("llama", "causal"), ("bert", "mlm")):
        hf = world.hugging_face(architecture, len(world.PLAIN))
        ensemble = world.as_ensemble(hf, vocab_size=len(world.PLAIN))
        found = surprisals(ensemble, world.PLAIN, PAIRS)
        np.testing.assert_array_equal(found, surprisals(ensemble, world.PLAIN, PAIRS, backend))


@pytest.mark.parametrize("as_published", [False, True])
def test_a_hopeless_word_has_a_large_surprisal_not_an_infinite_one(world, as_published):
    """Its probability is zero in float32, and in float64 as a product."""
    hf = world.hugging_face("llama", len(world.PLAIN))
    hf.lm_head.weight.data.mul_(1000)
    ensemble = world.as_ensemble(hf, vocab_size=len(world.PLAIN))
    found = surprisals(ensemble, world.PLAIN, PAIRS, as_published=as_published)
    assert np.isfinite(found).all()
    assert found.max() > 800


def test_what_does_not_fit_is_told(world):
    causal = world.as_ensemble(world.hugging_face("llama", len(world.PLAIN)), vocab_size=len(world.PLAIN))
    masked = world.as_ensemble(world.hugging_face("bert", len(world.PLAIN)), vocab_size=len(world.PLAIN))
    with pytest.raises(UserError, match="'mlm' does not fit a causal model: causal"):
        surprisals(causal, world.PLAIN, PAIRS, "mlm")
    with pytest.raises(UserError, match="'causal' does not fit a masked model: mlm or mntp"):
        surprisals(masked, world.PLAIN, PAIRS, "causal")
    for pair in (Following("", "The cats"), Following("sleep", " ")):
        with pytest.raises(UserError, match="neither may be empty"):
            surprisals(causal, world.PLAIN, [pair])
    unmasked = world.byte_tokenizer({key: text for key, text in world.SPECIALS.items() if key != "mask_token"})
    ensemble = world.as_ensemble(world.hugging_face("bert", len(unmasked)), vocab_size=len(unmasked))
    with pytest.raises(UserError, match="no mask token"):
        surprisals(ensemble, unmasked, PAIRS)


@pytest.mark.parametrize("as_published", [False, True])
def test_a_word_without_tokens_is_refused_and_an_unknown_one_scored(world, as_published):
    tokenizer = world.word_tokenizer("the cat sleeps")
    for architecture in ("llama", "bert"):
        hf = world.hugging_face(architecture, len(tokenizer))
        ensemble = world.as_ensemble(hf, vocab_size=len(tokenizer))
        with pytest.raises(UserError, match="'zebra'"):
            surprisals(ensemble, tokenizer, [Following("zebra", "the cat")], as_published=as_published)
        known = surprisals(ensemble, tokenizer, [Following("platypus", "the cat")], as_published=as_published)
        assert np.isfinite(known).all()


def test_a_text_that_is_too_long_is_told(world):
    hf = world.hugging_face("gpt2", len(world.PLAIN), positions=8)
    ensemble = world.as_ensemble(hf, vocab_size=len(world.PLAIN))
    with pytest.raises(UserError, match="positions for 8"):
        surprisals(ensemble, world.PLAIN, PAIRS)
