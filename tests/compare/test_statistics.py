"""Statistics against scipy, brute force and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from tutelage.compare.statistics import holm, paired_t, seeds_and_items, sign_flip_p, split_paradigms


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_paired_t_equals_scipy(n: int, level: float) -> None:
    generator = np.random.default_rng(n)
    a, b = generator.normal(3.5, 0.1, n), generator.normal(3.4, 0.1, n)
    ours, reference = paired_t(list(a - b), level), stats.ttest_rel(a, b)
    assert ours.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert ours.interval == pytest.approx(tuple(reference.confidence_interval(level)), rel=1e-9)
    assert ours.mean == pytest.approx(np.mean(a - b))
    assert ours.half_width == pytest.approx((ours.interval[1] - ours.interval[0]) / 2)


@pytest.mark.parametrize("differences", [[0.2], [0.1, 0.1, 0.1], [0.0, 0.0], [0.3, 0.3 + 1e-16]])
def test_nothing_is_tested_without_spread(differences: list[float]) -> None:
    estimate = paired_t(differences)
    assert estimate.interval is None
    assert estimate.p is None
    assert not estimate.shown
    assert estimate.mean == pytest.approx(np.mean(differences))


@pytest.mark.parametrize("n", [6, 7, 9])
def test_sign_flips_equal_brute_force(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    means = [abs(np.mean(values * signs)) for signs in itertools.product((1, -1), repeat=n)]
    brute = np.mean([mean >= abs(values.mean()) - 1e-12 for mean in means])
    assert sign_flip_p(list(values)) == pytest.approx(brute)


def test_sign_flips_only_from_six_seeds_on() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 64)


def test_sign_flips_with_many_seeds_are_sampled_and_repeatable() -> None:
    values = list(np.random.default_rng(0).normal(0.1, 1, 30))
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.03)


def test_bootstrap_without_item_variance_is_the_paired_t() -> None:
    per_seed = np.array([0.02, 0.05, -0.01, 0.03])
    ours = seeds_and_items([np.tile(per_seed[:, None], 500)], resamples=40_000)
    reference = paired_t(list(per_seed))
    assert ours.mean == pytest.approx(reference.mean)
    assert ours.interval == pytest.approx(reference.interval, rel=0.02)


def test_bootstrap_equals_one_that_draws_items_one_by_one() -> None:
    generator = np.random.default_rng(3)
    differences = [generator.integers(-1, 2, (3, 40)).astype(float) for _ in range(4)]
    draws = []
    for _ in range(6000):
        seeds = generator.integers(0, 3, 3)
        columns = [d[np.ix_(seeds, generator.integers(0, 40, 40))].mean() for d in differences]
        draws.append(np.mean(columns))
    naive = np.std(draws, ddof=1) * np.sqrt(3 / 2) * stats.t.ppf(0.975, 2)
    assert seeds_and_items(differences, resamples=12_000).half_width == pytest.approx(naive, rel=0.05)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    truth, hits, tries = 0.05, 0, 200
    for _ in range(tries):
        seeds, items = generator.normal(0, 0.03, (4, 1)), generator.normal(0, 0.5, (1, 200))
        differences = np.clip(np.round(truth + seeds + items + generator.normal(0, 0.4, (4, 200)), 1), -3, 3)
        low, high = seeds_and_items([differences], resamples=400).interval or (0, 0)
        hits += low <= truth <= high
    # It errs on the wide side by design.
    assert 0.92 <= hits / tries <= 1.0


def test_bootstrap_is_repeatable_and_knows_one_seed() -> None:
    differences = np.random.default_rng(0).integers(-1, 2, (1, 300)).astype(float)
    one = seeds_and_items([differences])
    assert one == seeds_and_items([differences])
    assert one.method == "bootstrap over items alone"
    assert one.half_width == pytest.approx(1.96 * differences.std() / np.sqrt(300), rel=0.05)


def test_holm_equals_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [pytest.approx(1.0), None, pytest.approx(1.0)]
    assert holm([]) == []


def test_halves_are_even_disjoint_and_independent_of_order() -> None:
    phenomena = {f"p{i}": f"phenomenon{i % 5}" for i in range(33)}
    choices, claims = split_paradigms(phenomena)
    assert sorted(choices + claims) == sorted(phenomena)
    assert abs(len(choices) - len(claims)) <= 1
    assert split_paradigms(dict(reversed(phenomena.items()))) == (choices, claims)
    for phenomenon in set(phenomena.values()):
        counts = [sum(phenomena[name] == phenomenon for name in half) for half in (choices, claims)]
        assert abs(counts[0] - counts[1]) <= 1
