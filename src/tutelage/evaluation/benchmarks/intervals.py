"""How sure a benchmark's accuracy is: other items of the same kind might have come out otherwise."""

from __future__ import annotations

import numpy as np

from tutelage.evaluation.benchmarks.results import Measure, SuiteResult

DRAWS = 10_000


def interval(
    result: SuiteResult, level: float = 0.95, measure: Measure = "accuracy", draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap interval over items of a benchmark's macro accuracy, percentiles of `draws` resamples.

    Items are drawn with replacement within each paradigm, and the draws averaged as the result is. An item being right
    or wrong, the number of right ones among n drawn from n is binomial, so that is drawn. The same arguments give the
    same interval, with a share `level` of resamples inside. It knows nothing of other seeds of the model, nor of other
    paradigms. By `strict` a tie is wrong.
    """
    random = np.random.default_rng(seed)
    shares = {
        uid: random.binomial(score.n, getattr(score, measure), draws) / score.n
        for uid, score in result.paradigms.items()
    }
    low, high = np.quantile(result.average(shares), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
