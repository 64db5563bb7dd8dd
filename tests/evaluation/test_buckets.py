"""Losses in easy and hard parts of held-out text, against whole logits and sorted lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.evaluation.buckets import buckets, row_losses
from tutelage.teaching.teachers import Ensemble

CPU = torch.device("cpu")


def test_row_losses_are_those_of_whole_logits(store, make_model) -> None:
    model = make_model()
    source = BatchSource(store, recipe.Rows(length=16), 5, seed=0, shuffle=False)
    found = row_losses(Ensemble([model]), source, CPU)
    expected = []
    with torch.inference_mode():
        for batch in source.once():
            logits = model.logits(batch.tokens_BT, batch.lengths_B)
            for row, targets in zip(logits, batch.targets_BT, strict=True):
                known = targets != IGNORE
                loss = torch.nn.functional.cross_entropy(row[known], targets[known], reduction="sum")
                expected.append([float(loss), int(known.sum())])
    assert found.shape == (len(expected), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_are_equal_rise_in_difficulty_and_together_are_the_whole(parts: int) -> None:
    draw = np.random.default_rng(parts)
    losses = np.stack([draw.uniform(10, 90, 40), draw.integers(8, 20, 40)], 1)
    # Ties, and rows in which nothing is predicted.
    reference = np.stack([draw.integers(1, 6, 40) * 10.0, np.full(40, 10.0)], 1)
    reference[::9, 1] = 0
    losses[::9, 1] = losses[::9, 0] = 0
    result = buckets(losses, reference, parts, "small")
    rows = sorted((row for row in range(40) if row % 9), key=lambda row: (reference[row, 0], row))
    values = list(result.values.items())
    sizes = [len(rows) // parts + (i < len(rows) % parts) for i in range(parts)]
    for (_, value), size in zip(values, sizes, strict=True):
        part, rows = rows[:size], rows[size:]
        assert value.value == pytest.approx(losses[part, 0].sum() / losses[part, 1].sum())
        assert value.n == losses[part, 1].sum()
        assert (value.unit, value.better) == ("nats", "lower")
        assert f"{reference[part[0], 0] / 10:.2f} to {reference[part[-1], 0] / 10:.2f}" in value.note
    assert result.headline == values[-1][0] == {2: "hard", 3: "hard", 7: "part_7"}[parts]


def test_losses_that_are_not_finite_are_refused(store, make_model) -> None:
    model = make_model()
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="buckets: the model's loss is not finite on some rows"):
        row_losses(Ensemble([model]), BatchSource(store, recipe.Rows(length=16), 5, seed=0, shuffle=False), CPU)


def test_more_parts_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"buckets\.parts: 3 parts of 2 rows"):
        buckets(np.ones((2, 2)), np.ones((2, 2)), 3, "small")
