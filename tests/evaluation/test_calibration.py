"""Calibration against a naive twin: one token at a time, all logits, a loop over bins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE, BatchSource, Masking
from tutelage.evaluation.calibration import calibration
from tutelage.models.logits import LIKELIHOOD
from tutelage.teaching.teachers import Ensemble

CPU = torch.device("cpu")


MASKING = Masking(rate=0.3, mask_id=3, vocab_size=60, special_ids=(0, 1, 2, 3, 4, 5), seed=0)


def rows(store, masking=None):
    return BatchSource(store, recipe.Rows(length=16), 8, seed=0, masking=masking, shuffle=False)


def naive(models, source, bins):
    kept = []
    for batch in source.once():
        logits = torch.stack([model.logits(batch.tokens_BT, batch.lengths_B) for model in models]).mean(0)
        for probabilities, target in zip(
            logits.softmax(-1).flatten(0, 1).tolist(), batch.targets_BT.flatten().tolist(), strict=True
        ):
            if target != IGNORE:
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                kept.append((probabilities[best], best == target))
    error = 0.0
    for index in range(bins):
        inside = [(sure, right) for sure, right in kept
                  if index / bins <= sure < (index + 1) / bins or (sure == 1 and index == bins - 1)]  # fmt: skip
        if inside:
            sure, right = (float(np.mean(values)) for values in zip(*inside, strict=True))
            error += len(inside) / len(kept) * abs(right - sure)
    return error, float(np.mean([right for _, right in kept])), float(np.mean([sure for sure, _ in kept])), len(kept)


@pytest.mark.parametrize("logit_bytes", [1, 1 << 20])
@pytest.mark.parametrize("seeds", [(0,), (1, 2)])
@torch.no_grad()
def test_the_error_equals_the_naive_one(store, make_model, monkeypatch, seeds, logit_bytes):
    monkeypatch.setitem(LIKELIHOOD.block, "cpu", logit_bytes)
    models = [make_model("llama", seed=seed) for seed in seeds]
    for model in models:
        model.hf.get_output_embeddings().weight.mul_(30)  # so that several bins are filled
    found = calibration(Ensemble(models), rows(store), CPU, bins=10)
    error, accuracy, confidence, count = naive(models, rows(store), 10)
    assert found.values["error"].value == pytest.approx(error, abs=1e-5)
    assert found.values["accuracy"].value == pytest.approx(accuracy)
    assert found.values["confidence"].value == pytest.approx(confidence, abs=1e-5)
    assert {value.n for value in found.values.values()} == {count}
    assert (found.headline, found.values["error"].unit, found.values["error"].better) == ("error", "share", "lower")
    table = found.predictions["bins"]
    assert sum(row["n"] for row in table) == count
    assert sum(row["n"] > 0 for row in table) > 3
    assert json.dumps(found.to_json())
    assert "predictions" not in found.to_json()


def test_a_model_that_is_certain_and_right_has_no_error_and_one_that_is_wrong_has_it_all(store, make_model):
    class Sure(torch.nn.Module):
        """Says that the next token is its own successor, or always token 3."""

        def __init__(self, table):
            super().__init__()
            self.table = torch.nn.Parameter(table)

        def dense_signal(self, tokens, lengths, precision):
            from tutelage.teaching.signal import DenseSignal

            return DenseSignal((self.table[tokens],), ((torch.eye(len(self.table)), None),), (1.0,))

    store.tokens[:] = np.arange(len(store)) % 50 + 6
    right = torch.full((60, 60), -1e3)
    right[torch.arange(60), torch.where(torch.arange(60) == 55, 6, torch.arange(60) + 1) % 60] = 0
    assert calibration(Sure(right), rows(store), CPU).values["error"].value == 0
    wrong = torch.full((60, 60), -1e3)
    wrong[:, 3] = 0
    found = calibration(Sure(wrong), rows(store), CPU)
    assert (found.values["error"].value, found.values["confidence"].value) == (1, 1)
    assert found.predictions["bins"][-1]["n"] == found.values["error"].n


@torch.no_grad()
def test_masked_models_are_measured_on_masked_tokens(store, make_model):
    model = make_model("modernbert")
    found = calibration(Ensemble([model]), rows(store, MASKING), CPU)
    error, accuracy, _, count = naive([model], rows(store, MASKING), 15)
    assert 0.2 * len(store) < count < 0.4 * len(store)
    assert found.values["error"].value == pytest.approx(error, abs=1e-5)
    assert (found.values["accuracy"].value, found.values["error"].n) == (pytest.approx(accuracy), count)


def test_nothing_to_predict_and_broken_models_are_told(store, make_model):
    model = make_model("llama")
    model.hf.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(UserError, match="not numbers"):
        calibration(Ensemble([model]), rows(store), CPU)
    nothing = rows(store, Masking(rate=0.0, mask_id=3, vocab_size=60, special_ids=(0, 1, 2, 3, 4, 5), seed=0))
    with pytest.raises(UserError, match="no token to predict"):
        calibration(Ensemble([make_model("modernbert")]), nothing, CPU)
