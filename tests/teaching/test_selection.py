"""Selection equals the formulas written out token by token, and cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tutelage.teaching.selection import between, difference, highest, mean_loss, salt_ds, ties

DRAW = np.random.default_rng(8)


def literal_salt_ds(losses: list[float], ranks: list[int], k: int, unlearnable: str) -> float:
    """The median over i of 1[x_i among the k likeliest] * (-log P(x_i | x_<i)), by sorting."""
    if unlearnable == "zero":
        values = [loss if rank <= k else 0.0 for loss, rank in zip(losses, ranks, strict=True)]
    else:
        values = [loss for loss, rank in zip(losses, ranks, strict=True) if rank <= k]
    if not values:
        return -math.inf
    values.sort()
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def literal_top(scores: list[float], count: int) -> list[float]:
    """The highest scores; which rows have them is left open where they are equal."""
    return sorted(scores, reverse=True)[:count]


@pytest.mark.parametrize("unlearnable", ["zero", "drop"])
def test_a_thousand_random_tables_equal_the_formula(unlearnable: str) -> None:
    draw = np.random.default_rng(3)
    for number in range(1000):
        rows, tokens, k = int(draw.integers(1, 12)), int(draw.integers(1, 20)), int(draw.integers(1, 12))
        # Few different values, so that many are equal.
        nll = np.round(draw.exponential(3, (rows, tokens)), number % 3).astype(np.float16).astype(np.float64)
        rank = draw.integers(1, 25, (rows, tokens)).astype(np.uint16)
        expected = [
            literal_salt_ds(losses, ranks, k, unlearnable)
            for losses, ranks in zip(nll.tolist(), rank.tolist(), strict=True)
        ]
        found = salt_ds(nll, rank, k, unlearnable)
        assert found.tolist() == expected
        count = int(draw.integers(1, rows + 1))
        chosen = highest(found, count, DRAW)
        assert sorted(found[chosen].tolist(), reverse=True) == literal_top(expected, count)


@pytest.mark.parametrize(
    ("losses", "ranks", "zero", "drop"),
    [
        ([1.0, 4.0, 2.0], [1, 3, 10], 2.0, 2.0),  # odd, all learnable at k = 10
        ([1.0, 4.0, 2.0, 8.0], [1, 3, 10, 2], 3.0, 3.0),  # even: between the middle two
        ([1.0, 4.0, 2.0, 8.0], [1, 3, 10, 11], 1.5, 2.0),  # 0, 1, 2, 4 against 1, 2, 4
        ([5.0, 6.0, 7.0], [11, 12, 1], 0.0, 7.0),  # more than half unlearnable
        ([5.0, 6.0, 7.0], [11, 12, 13], 0.0, -math.inf),  # nothing learnable
        ([3.0], [10], 3.0, 3.0),
        ([3.0], [11], 0.0, -math.inf),
    ],
)
def test_cases_by_hand(losses: list[float], ranks: list[int], zero: float, drop: float) -> None:
    nll, rank = np.array([losses]), np.array([ranks])
    assert salt_ds(nll, rank, 10, "zero").tolist() == [zero]
    assert salt_ds(nll, rank, 10, "drop").tolist() == [drop]


def test_rows_without_a_learnable_token_come_last() -> None:
    scores = salt_ds(np.array([[1.0], [9.0], [2.0]]), np.array([[1], [99], [1]]), 10, "drop")
    assert highest(scores, 2, DRAW).tolist() == [True, False, True]
    assert highest(scores, 3, DRAW).all()


def test_ties_are_drawn_and_not_decided_by_the_files_order() -> None:
    values = np.array([2.0, 1.0, 2.0, 2.0, 0.0, 3.0])
    found = {tuple(np.flatnonzero(highest(values, 2, np.random.default_rng(seed)))) for seed in range(50)}
    assert found == {(0, 5), (2, 5), (3, 5)}
    found = {tuple(np.flatnonzero(between(values, 0.5, 0.7, np.random.default_rng(seed)))) for seed in range(50)}
    assert found == {(0,), (2,), (3,)}
    assert highest(np.array([1.0, 1.0, 1.0]), 3, DRAW).all()
    same = [highest(np.zeros(1000), 500, np.random.default_rng(4)) for _ in range(2)]
    assert (same[0] == same[1]).all()
    # As a fair draw would have it, and not the first half.
    assert 200 < same[0][:500].sum() < 300


def test_ties_are_those_on_both_sides() -> None:
    values = np.array([2.0, 1.0, 2.0, 2.0, 0.0, 3.0, -math.inf, -math.inf])
    assert ties(values, np.array([1, 0, 0, 0, 0, 1, 0, 0], bool)) == 1
    assert ties(values, np.array([1, 1, 1, 1, 0, 1, 0, 0], bool)) == 0
    assert ties(values, np.array([1, 1, 1, 1, 1, 1, 1, 0], bool)) == 1
    # A band has two ends.
    assert ties(np.array([0.0, 0, 0, 1, 2, 2, 2, 2]), np.array([0, 1, 1, 1, 1, 0, 0, 0], bool)) == 3


def test_means_and_differences() -> None:
    nll, reference = np.array([[1.0, 2.0], [4.0, 0.0]]), np.array([[2.0, 4.0], [1.0, 1.0]])
    assert mean_loss(nll).tolist() == [1.5, 2.0]
    assert difference(nll, reference).tolist() == [1.5, -1.0]


def test_a_band_is_the_middle_of_the_rising_order() -> None:
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0, 0.0])
    chosen = between(values, 0.2, 0.8, DRAW)
    assert sorted(values[chosen]) == [2, 3, 4, 5, 6, 7]
    draw = np.random.default_rng(0)
    for _ in range(200):
        values = np.round(draw.normal(size=int(draw.integers(2, 30))), 1)
        low, high = sorted(draw.random(2))
        expected = sorted(values)[round(low * len(values)) : round(high * len(values))]
        assert sorted(values[between(values, low, high, DRAW)]) == expected
