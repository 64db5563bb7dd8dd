"""Scores of predicted labels, from the table of how often each label met each prediction.

Semantics are scikit-learn's (`accuracy_score`, `f1_score` of label 1, `matthews_corrcoef`), compared in the tests; a
score whose denominator is zero is 0.

Shapes: N items, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from tutelage.base.types import Ints

Metric = Literal["accuracy", "f1", "mcc"]


def confusion(gold_N: Ints, predicted_N: Ints) -> Ints:
    """Count pairs of label (row) and prediction (column), `(L, L)`."""
    size = int(max(gold_N.max(), predicted_N.max(), 1)) + 1
    counts: Ints = np.bincount(gold_N * size + predicted_N, minlength=size * size).reshape(size, size)
    return counts


def accuracy(gold_N: Ints, predicted_N: Ints) -> float:
    """Share of right predictions."""
    return float(np.mean(gold_N == predicted_N))


def f1(gold_N: Ints, predicted_N: Ints) -> float:
    """Harmonic mean of precision and recall of label 1."""
    table_LL = confusion(gold_N, predicted_N)
    said, there = table_LL[:, 1].sum(), table_LL[1].sum()
    return float(2 * table_LL[1, 1] / (said + there)) if said + there else 0.0


def mcc(gold_N: Ints, predicted_N: Ints) -> float:
    """Matthews' correlation of labels and predictions, for any number of labels (Gorodkin 2004)."""
    table_LL = confusion(gold_N, predicted_N).astype(np.float64)
    n, there_L, said_L = table_LL.sum(), table_LL.sum(1), table_LL.sum(0)
    spread = np.sqrt((n**2 - (there_L**2).sum()) * (n**2 - (said_L**2).sum()))
    return float((np.trace(table_LL) * n - (there_L * said_L).sum()) / spread) if spread else 0.0


METRICS: Mapping[Metric, Callable[[Ints, Ints], float]] = {"accuracy": accuracy, "f1": f1, "mcc": mcc}
