"""Intervals of accuracies against the bootstrap written out: items drawn with replacement, one draw at a time."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.intervals import interval
from tutelage.evaluation.benchmarks.results import ParadigmScore, SuiteResult


def result(year="2025", nested=False):
    scores = {
        "a": ParadigmScore(0.8, 0.7, 50, "f", "x"),
        "b": ParadigmScore(0.5, 0.5, 10, "f", "x"),
        "c": ParadigmScore(1.0, 0.9, 20, "g", "y"),
    }
    return SuiteResult("s", CONVENTIONS[year], scores, {}, nested=nested)


def slow_interval(found, level, measure, average):
    random = np.random.default_rng(1)
    items = {
        uid: np.arange(score.n) < round(getattr(score, measure) * score.n) for uid, score in found.paradigms.items()
    }
    draws = []
    for _ in range(4000):
        drawn = {uid: random.choice(right, len(right)) for uid, right in items.items()}
        draws.append(average({uid: right.mean() for uid, right in drawn.items()}, drawn))
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])


def paradigms(shares, _items):
    return np.mean(list(shares.values()))


def pooled(_shares, items):
    return np.mean([np.concatenate([items["a"], items["b"]]).mean(), items["c"].mean()])


def nested(shares, _items):
    return np.mean([np.mean([shares["a"], shares["b"]]), shares["c"]])


@pytest.mark.parametrize("measure", ["accuracy", "strict"])
@pytest.mark.parametrize("level", [0.95, 0.5])
@pytest.mark.parametrize(
    ("found", "average"),
    [(result(), paradigms), (result("2023"), pooled), (result(nested=True), nested)],
    ids=["paradigms", "pooled", "nested"],
)
def test_the_interval_is_that_of_resampled_items(found, average, level, measure):
    low, high = interval(found, level, measure)
    np.testing.assert_allclose(
        (low, high), slow_interval(found, level, measure, average), atol=0.009
    )  # two steps of the coarsest mean
    assert low < found.macro(measure) < high


def test_the_same_every_time_and_narrower_with_a_lower_level():
    found = result()
    assert interval(found) == interval(found)
    assert interval(found, seed=1) != interval(found)
    wide, narrow = interval(found, 0.99), interval(found, 0.8)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_what_cannot_vary_has_no_width():
    scores = {"a": ParadigmScore(1.0, 1.0, 5, None, None)}
    assert interval(SuiteResult("s", CONVENTIONS["2025"], scores, {})) == (1, 1)


def test_macros_by_hand():
    assert result().macro("accuracy") == pytest.approx((0.8 + 0.5 + 1) / 3)
    assert result("2023").macro("accuracy") == pytest.approx(((40 + 5) / 60 + 1) / 2)
    for year in ("2023", "2026"):
        assert result(year, nested=True).macro("accuracy") == pytest.approx((0.65 + 1) / 2)
