"""Log-probabilities against lm-eval and minicons, item by item, where they are installed.

`benchmarks/agreement.py` does the same on all of BLiMP.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.likelihood.causal import log_probs

NATS = 1e-4
PARADIGMS = ("anaphor_gender_agreement", "ellipsis_n_bar_1", "wh_island")
COMPLETIONS = [
    Item(" sleep on the mat.", prefix="The cats"),
    Item(" bites its owner, people say.", prefix="A dog that barks never"),
    Item(" of them near the old mill?", prefix="Who saw the two"),
]


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval", reason="lm-eval is not installed")


@pytest.fixture
def minicons():
    return pytest.importorskip("minicons.scorer", reason="minicons is not installed")


def learned(world, architecture):
    """A model that has learned its few sentences: far from uniform."""
    hf = world.hugging_face(architecture, len(world.PLAIN))
    optimizer = torch.optim.AdamW(hf.parameters(), lr=3e-3)
    for step in range(150):
        ids = torch.tensor([[world.PLAIN.bos_token_id, *world.plain_ids(" " + world.TEXTS[step % len(world.TEXTS)])]])
        hf(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return hf.eval()


def pairs(real_data):
    """Real pairs: (good, bad) of a few paradigms."""
    found = []
    for name in PARADIGMS:
        lines = (real_data / "eval" / "blimp" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:100]
        found += [(row["sentence_good"], row["sentence_bad"]) for row in map(json.loads, lines)]
    return found


def theirs_causal(hf, tokenizer, items):
    """lm-eval's log-probabilities: an empty context becomes the bos token, the text brings its space itself."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=copy.deepcopy(hf), tokenizer=tokenizer, backend="causal", batch_size=16, device="cpu")
    requests = [
        Instance("loglikelihood", {}, (item.prefix, item.completion if item.prefix else " " + item.completion), index)
        for index, item in enumerate(items)
    ]
    return np.array([value for value, _ in model.loglikelihood(requests, disable_tqdm=True)])


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_causal_scores_are_those_of_lm_eval(world, lm_eval, architecture, trained):
    hf = learned(world, architecture) if trained else world.hugging_face(architecture, len(world.PLAIN))
    items = world.ITEMS + COMPLETIONS
    ours = world.score(hf, world.PLAIN, items, "2024").sum_N
    np.testing.assert_allclose(ours, theirs_causal(hf, world.PLAIN, items), atol=NATS, rtol=0)


@pytest.mark.data
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_blimp_is_decided_as_lm_eval_decides(world, lm_eval, real_data, architecture):
    hf = world.hugging_face(architecture, len(world.PLAIN), positions=128)
    items = [Item(text) for pair in pairs(real_data) for text in pair]
    ours = world.score(hf, world.PLAIN, items, "2024").sum_N
    theirs = theirs_causal(hf, world.PLAIN, items)
    # Tiny random models on byte-sized tokens: sums of hundreds of nats, so the difference is relative too.
    np.testing.assert_allclose(ours, theirs, atol=NATS, rtol=1e-6)
    mine, other = (sums[::2] - sums[1::2] for sums in (ours, theirs))
    apart = np.abs(other) > 2e-3
    assert (mine > 0)[apart].tolist() == (other > 0)[apart].tolist()


def scorer_of(minicons, hf, tokenizer):
    """A scorer of minicons, whose tokenizer still has a method that transformers 5 took away."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.batch_encode_plus = tokenizer.__call__
    return minicons.MaskedLMScorer(hf, "cpu", tokenizer=tokenizer)


@pytest.mark.parametrize("metric", ["original", "within_word_l2r"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.filterwarnings("ignore")
def test_pseudo_log_likelihoods_are_those_of_minicons(world, minicons, architecture, metric):
    tokenizer, hf = world.FRAMED, world.hugging_face(architecture, len(world.FRAMED))
    masking = {"original": "token", "within_word_l2r": "rest_of_word"}[metric]
    convention = replace(CONVENTIONS["2025"], masked=replace(CONVENTIONS["2025"].masked, masking=masking))
    ensemble = world.as_ensemble(hf, vocab_size=len(tokenizer))
    ours = log_probs(ensemble, tokenizer, world.ITEMS, convention)
    scorer = scorer_of(minicons, hf, tokenizer)
    texts = [item.completion for item in world.ITEMS]
    theirs = scorer.sequence_score(texts, reduction=lambda x: x.sum(0).item(), PLL_metric=metric)
    np.testing.assert_allclose(ours.sum_N, theirs, atol=NATS, rtol=0)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.filterwarnings("ignore")
def test_the_masked_scores_of_2024_are_conditional_scores_of_minicons(world, minicons, architecture):
    tokenizer, hf = world.FRAMED, world.hugging_face(architecture, len(world.FRAMED))
    convention = CONVENTIONS["2024"]
    ensemble = world.as_ensemble(hf, vocab_size=len(tokenizer))
    ours = log_probs(ensemble, tokenizer, world.ITEMS, convention).reduced(convention.masked.reduction)
    scorer = scorer_of(minicons, hf, tokenizer)
    continuations = [" " + item.completion for item in world.ITEMS]
    theirs = scorer.conditional_score([tokenizer.eos_token] * len(continuations), continuations)
    np.testing.assert_allclose(ours, theirs, atol=NATS, rtol=0)


@pytest.mark.data
@pytest.mark.parametrize("metric", ["original", "within_word_l2r"])
@pytest.mark.filterwarnings("ignore")
def test_real_sentences_are_scored_as_by_minicons(world, minicons, real_data, metric):
    tokenizer, hf = world.FRAMED, world.hugging_face("modernbert", len(world.FRAMED), positions=128)
    masking = {"original": "token", "within_word_l2r": "rest_of_word"}[metric]
    convention = replace(CONVENTIONS["2025"], masked=replace(CONVENTIONS["2025"].masked, masking=masking))
    texts = [text for pair in pairs(real_data)[::25] for text in pair]
    ensemble = world.as_ensemble(hf, vocab_size=len(tokenizer))
    ours = log_probs(ensemble, tokenizer, [Item(text) for text in texts], convention)
    scorer = scorer_of(minicons, hf, tokenizer)
    theirs = scorer.sequence_score(texts, reduction=lambda x: x.sum(0).item(), PLL_metric=metric)
    np.testing.assert_allclose(ours.sum_N, theirs, atol=NATS, rtol=1e-6)
