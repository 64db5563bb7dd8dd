"""Selection equals the formulas written out token by token, and cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tutelage.teaching.selection import between, difference, highest, mean_loss, salt_ds


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


def literal_top(scores: list[float], count: int) -> list[bool]:
    """The rows with the highest scores, of equal ones the first."""
    ranked = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    return [row in ranked[:count] for row in range(len(scores))]


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
        assert highest(found, count).tolist() == literal_top(expected, count)


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
    assert highest(scores, 2).tolist() == [True, False, True]
    assert highest(scores, 3).all()


def test_ties_go_to_the_first_rows() -> None:
    assert highest(np.array([2.0, 1.0, 2.0, 2.0, 0.0]), 2).tolist() == [True, False, True, False, False]
    assert highest(np.array([1.0, 1.0, 1.0]), 3).all()


def test_means_and_differences() -> None:
    nll, reference = np.array([[1.0, 2.0], [4.0, 0.0]]), np.array([[2.0, 4.0], [1.0, 1.0]])
    assert mean_loss(nll).tolist() == [1.5, 2.0]
    assert difference(nll, reference).tolist() == [1.5, -1.0]


def test_a_band_is_the_middle_of_the_rising_order() -> None:
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0, 0.0])
    chosen = between(values, 0.2, 0.8)
    assert sorted(values[chosen]) == [2, 3, 4, 5, 6, 7]
    draw = np.random.default_rng(0)
    for _ in range(200):
        values = np.round(draw.normal(size=int(draw.integers(2, 30))), 1)
        low, high = sorted(draw.random(2))
        ranked = sorted(range(len(values)), key=lambda row: (values[row], row))
        expected = ranked[round(low * len(values)) : round(high * len(values))]
        assert np.flatnonzero(between(values, low, high)).tolist() == sorted(expected)
