"""From what models made of every token to the rows, or the tokens, that a stage learns from.

    salt_ds      median over a row's tokens of 1[among the k likeliest] * loss    SALT_DS, arXiv 2410.18779, eq. 10
    difference   mean over a row's tokens of log p_scorer - log p_reference       MiniPLM, arXiv 2410.17215
    mean_loss    mean over a row's tokens of the loss                             bands of perplexity
    excess       of a token: its loss by the scorer minus by the reference        Rho-1, arXiv 2404.07965

Values are often equal: of an early scorer most rows' median is 0. Which of equal ones are kept is drawn, since their
order is that of the files, and `ties` counts them.

Shapes: R rows of the same length, T predicted tokens of a row, N values.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from tutelage.base.types import Bools, Floats, Ints


def salt_ds(nll_RT: Floats, rank_RT: Ints, k: int, unlearnable: Literal["zero", "drop"] = "zero") -> Floats:
    """Return each row's median loss of learnable tokens, `(R,)` nats: those up to rank k of the scorer's predictions.

    Other tokens count as 0, or not at all (`drop`); a row without any learnable token then gets -inf.
    """
    learnable_RT = rank_RT <= k
    if unlearnable == "zero":
        return np.asarray(np.median(np.where(learnable_RT, nll_RT, 0.0), axis=1))
    scores_R = np.full(len(nll_RT), -np.inf)
    some_R = learnable_RT.any(axis=1)
    scores_R[some_R] = np.nanmedian(np.where(learnable_RT, nll_RT, np.nan)[some_R], axis=1)
    return scores_R


def difference(nll_RT: Floats, reference_RT: Floats) -> Floats:
    """Return how much likelier each row is to the scorer than to the reference, `(R,)` nats a token."""
    return np.asarray((reference_RT - nll_RT).mean(axis=1))


def mean_loss(nll_RT: Floats) -> Floats:
    """Return the mean loss of each row, `(R,)` nats a token."""
    return np.asarray(nll_RT.mean(axis=1))


def highest(values_N: Floats, count: int, draw: np.random.Generator) -> Bools:
    """Return which values are the `count` highest, `(N,)`; of equal ones, as many as are wanted are drawn."""
    threshold = np.partition(values_N, len(values_N) - count)[-count]
    chosen_N: Bools = values_N > threshold
    equal = np.flatnonzero(values_N == threshold)
    chosen_N[draw.permutation(equal)[: count - np.count_nonzero(chosen_N)]] = True
    return chosen_N


def between(values_N: Floats, low: float, high: float, draw: np.random.Generator) -> Bools:
    """Return which values lie between two shares of their rising order, `(N,)`; the order of equal ones is drawn."""
    count = len(values_N)
    order = np.lexsort((draw.permutation(count), values_N))
    chosen_N: Bools = np.zeros(count, dtype=np.bool_)
    chosen_N[order[round(low * count) : round(high * count)]] = True
    return chosen_N


def ties(values_N: Floats, kept_N: Bools) -> int:
    """Return how many kept values equal one that is left out, so that chance decided between them."""
    both = np.intersect1d(values_N[kept_N], values_N[~kept_N])
    return int(np.isin(values_N[kept_N], both).sum())
