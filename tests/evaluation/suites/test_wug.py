"""Correlations with people's inflections."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.suites.questions import Paradigm, Question
from tutelage.evaluation.suites.suites import evaluate, evaluate_suite, find_suite, items_of, judge
from tutelage.evaluation.suites.wug import correlated

RATIOS = [0.9, 0.2, 0.5, 0.7, 0.1]


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    folder = tmp_path / "eval" / "wug"
    folder.mkdir(parents=True)
    rows = [{"sentences": f"The cats sleep{i}.\tThe cats slept{i}.", "ratio": ratio} for i, ratio in enumerate(RATIOS)]
    (folder / "wug_adj_nominalization.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return find_suite("wug-adj")


def test_shares_are_a_softmax_over_sums_and_compared_by_rank(world, suite):
    hf = world.hugging_face("llama", len(world.PLAIN))
    found = evaluate(world.as_ensemble(hf, vocab_size=len(world.PLAIN)), world.PLAIN, suite, CONVENTIONS["2025"])
    shares = []
    for one, other in zip(items_of(suite)[::2], items_of(suite)[1::2], strict=True):
        sums = []
        for item in (one, other):
            ids = world.plain_ids(item.completion)
            sums.append(world.slow_causal([hf], ids, list(range(1, len(ids)))))
        shares.append(1 / (1 + np.exp(sums[1] - sums[0])))
    assert found.headline == "spearman"
    assert found.values["spearman"].value == pytest.approx(spearmanr(shares, RATIOS)[0])
    assert found.values["accuracy"].value == np.mean(np.array(shares) > 0.5)
    predictions = found.predictions["wug_adj_nominalization"]["predictions"]
    assert [row["id"] for row in predictions] == [f"wug_adj_nominalization_{i}" for i in range(5)]
    np.testing.assert_allclose([row["prob"] for row in predictions], shares, atol=1e-4)
    for row, share, index in zip(predictions, shares, range(5), strict=True):
        assert row["pred"] == items_of(suite)[2 * index + int(share < 0.5)].completion
    assert json.dumps(found.to_json())


def test_by_hand_the_old_accuracy_and_agreement(suite):
    scores = np.array([-1, -2, -1, -3, -2, -1, -5, -1, -1, -1], dtype=float)
    found = judge(suite, scores, CONVENTIONS["2025"])
    # Shares: 0.73, 0.88, 0.27, 0.02, 0.5; ranks 4 5 2 1 3 against those of the ratios 5 2 3 4 1.
    assert found.values["spearman"].value == pytest.approx(1 - 6 * (1 + 9 + 1 + 9 + 4) / (5 * 24))
    assert found.values["accuracy"].value == 3 / 5  # the tie counts as the first
    # People prefer the first of words 0 and 3, the second of 1 and 4, neither of 2; the model's tie is at 4.
    assert (found.values["agreement"].value, found.values["agreement"].n) == (1 / 4, 4)


def test_the_likeliest_of_three_may_have_less_than_half():
    questions = tuple(Question((Item(f"a{i}"), Item(f"b{i}"), Item(f"c{i}"))) for i in range(2))
    scores = np.array([*np.log([[0.4, 0.35, 0.25], [0.3, 0.4, 0.3]]), [np.nan] * 3])
    rules = replace(CONVENTIONS["2025"], ties="random")
    for seed in range(20):
        # The last question has two options, and whatever it ties with beyond them is not drawn.
        asked = (*questions[:2], Question((Item(f"a {seed}"), Item(f"b {seed}"))))
        ratios = np.array([0.8, 0.2, 0.5])
        found = correlated("wug-past", Paradigm("wug_past_tense", asked), ratios, scores, rules)
        assert (found.values["agreement"].value, found.values["agreement"].n) == (1, 2)


def test_no_correlation_can_be_told_of_equal_shares_or_broken_models(suite):
    level = judge(suite, np.full(10, -1.0), CONVENTIONS["2025"]).values["spearman"]
    assert (level.value, level.note) == (None, "no correlation: all shares are the same")
    broken = judge(suite, np.full(10, np.nan), CONVENTIONS["2025"]).values["spearman"]
    assert (broken.value, broken.note) == (None, "the model's probabilities are not numbers")


def test_there_is_no_right_and_wrong_in_wug(world, suite):
    hf = world.hugging_face("llama", len(world.PLAIN))
    ensemble = world.as_ensemble(hf, vocab_size=len(world.PLAIN))
    with pytest.raises(UserError, match="no right and wrong answers"):
        evaluate_suite(ensemble, world.PLAIN, suite, CONVENTIONS["2025"])
