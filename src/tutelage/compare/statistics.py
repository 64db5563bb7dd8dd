"""What a few seeds can and cannot show.

Seeds are few, so differences are paired by seed and get Student-t intervals; accuracies, whose items are a sample too,
get a bootstrap over seeds and items; a permutation test is only reported from six seeds on, because with five the
smallest two-sided p-value it can reach is 1/16. An interval that holds zero proves no equality: half its width says
which effects would have gone unseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

PERMUTATION_SEEDS = 6
"""Fewest pairs for which the sign-flip test is reported: 2 / 2**6 = 0.031 is its smallest p-value."""
EXACT_PERMUTATION_SEEDS = 16
"""Up to so many pairs all sign flips are tried; beyond, 100,000 random ones."""
RESAMPLES = 4000
"""Bootstrap resamples; the error of the standard error is then about 1 %."""
_ROUNDING = 1e-12
"""A spread below this share of the values is rounding, not variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean difference and how well it is known; `interval` and `p` are None where nothing can be tested."""

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float | None
    method: str

    @property
    def half_width(self) -> float | None:
        """Half the interval's width: roughly the smallest difference these seeds could have shown."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def paired_t(differences: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of paired differences with Student's t-interval and the two-sided p-value (Student 1908).

    One difference, or differences that are all equal, give no interval: there is no spread to judge by.
    """
    from scipy import stats

    values = np.asarray(differences, dtype=np.float64)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(n=n, mean=mean, interval=None, p=None, method="one seed")
    if float(np.std(values, ddof=1)) / math.sqrt(n) <= _ROUNDING * float(np.max(np.abs(values))):
        return Estimate(n=n, mean=mean, interval=None, p=None, method="identical differences")
    test = stats.ttest_1samp(values, 0)
    low, high = map(float, test.confidence_interval(level))
    return Estimate(n=n, mean=mean, interval=(low, high), p=float(test.pvalue), method="paired t")


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the mean under all flips of the differences' signs (Fisher 1935); None below six."""
    if len(differences) < PERMUTATION_SEEDS:
        return None
    from scipy import stats

    exact = len(differences) <= EXACT_PERMUTATION_SEEDS
    result = stats.permutation_test(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else 100_000,
        rng=np.random.default_rng(0),
    )
    return min(1.0, float(result.pvalue))


def seeds_and_items(
    differences: Sequence[FloatArray], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Macro mean of item differences, for other seeds *and* other items than those at hand.

    `differences`: for each paradigm an array of shape (seeds, items), each entry the score of a minus the score of b.
    All seeds answer the same items, so seeds and items are resampled independently of each other: the pigeonhole
    bootstrap (Owen 2007, Annals of Applied Statistics 1:386), which errs on the wide side. Its standard error is
    widened by sqrt(n / (n - 1)) and takes a t-quantile, because a bootstrap over few units is too narrow (Hesterberg
    2015, The American Statistician 69:371); without variance between items this is the paired t-interval.
    One seed gives an interval over items alone, which says nothing about another training.
    """
    from scipy import stats

    n = differences[0].shape[0]
    generator = np.random.default_rng(seed)
    seed_weights_RS = generator.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    estimates_R = np.zeros(resamples)
    mean = 0.0
    for difference_SN in differences:
        # Items on which all seeds did the same are interchangeable: draw how often each pattern comes, not each item.
        patterns_SK, counts_K = np.unique(difference_SN, axis=1, return_counts=True)
        items = int(counts_K.sum())
        draws_RK = generator.multinomial(items, counts_K / items, size=resamples) / items
        estimates_R += np.sum((draws_RK @ patterns_SK.T) * seed_weights_RS, axis=1)
        mean += float(difference_SN.mean())
    mean /= len(differences)
    error = float(np.std(estimates_R / len(differences), ddof=1)) * (math.sqrt(n / (n - 1)) if n > 1 else 1.0)
    method = "bootstrap over seeds and items" if n > 1 else "bootstrap over items alone"
    if error <= _ROUNDING:
        return Estimate(n=n, mean=mean, interval=None, p=None, method="identical differences")
    law = stats.t(n - 1) if n > 1 else stats.norm()
    reach = float(law.ppf((1 + level) / 2)) * error
    p = float(2 * law.sf(abs(mean) / error))
    return Estimate(n=n, mean=mean, interval=(mean - reach, mean + reach), p=p, method=method)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for being many (Holm 1979): a family-wise bound without assuming independence.

    None (not tested) stays None and does not count.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for rank, (p, i) in enumerate(tested):
        floor = max(floor, min(1.0, (len(tested) - rank) * p))
        corrected[i] = floor
    return corrected


def split_paradigms(phenomena: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """Halve paradigms into (for choices, for claims), alternating in sorted order within each phenomenon.

    `phenomena` maps a paradigm to its phenomenon. What was chosen on the first half (a sweep, a checkpoint) is claimed
    on the second. The alternation runs on from one phenomenon to the next, so the halves differ by one at most.
    """
    ordered = sorted(phenomena, key=lambda name: (phenomena[name] or "", name))
    return ordered[0::2], ordered[1::2]
