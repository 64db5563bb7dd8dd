"""Where teachers were heard, against the gates' definitions, one token after another."""

import math

import pytest
import torch

from tutelage import recipe
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.teaching.gates import Advantage, Confidence, Gate, SkipCertain
from tutelage.teaching.teachers import Ensemble
from tutelage.training import gate_report
from tutelage.training.gate_report import gate_by_difficulty


@pytest.mark.parametrize("gate", [SkipCertain(0.5), Advantage(0.3), Confidence()], ids=["skip", "advantage", "sure"])
@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_bins_equal_the_definition(store, make_model, monkeypatch: pytest.MonkeyPatch, gate: Gate, kind: str) -> None:
    monkeypatch.setattr(gate_report, "BINS", 7)
    source = BatchSource(store, recipe.Rows(kind=kind, length=16, buckets=(8,)), 5, seed=0, shuffle=False)
    student, ensemble = make_model("llama", 1), Ensemble([make_model("llama", 2), make_model("gpt2", 3)])
    T, found = 2.0, []
    student.requires_grad_(False)
    for batch in source.once():
        own = torch.log_softmax(student.logits(batch.tokens_BT, batch.lengths_B) / T, -1)
        mixed = sum(0.5 * model.logits(batch.tokens_BT, batch.lengths_B) for model in ensemble.models)
        said = torch.log_softmax(mixed / T, -1)
        for b in range(len(batch.tokens_BT)):
            length = batch.tokens_BT.shape[1] if batch.lengths_B is None else int(batch.lengths_B[b])
            entropy = [float(-(said[b, t].exp() * said[b, t]).sum()) for t in range(length)]
            skipped = sorted(range(length), key=entropy.__getitem__)[: length // 2]
            for t in range(length):
                target = int(batch.targets_BT[b, t])
                if target == IGNORE:
                    continue
                teacher, loss = -float(said[b, t, target]), -float(own[b, t, target])
                if isinstance(gate, SkipCertain):
                    heard = float(t not in skipped)
                elif isinstance(gate, Advantage):
                    heard = 1 / (1 + math.exp(-(loss - teacher) / 0.3))
                else:
                    heard = 1 - entropy[t] / math.log(student.vocab_size)
                found.append((teacher, heard))
    bins = gate_by_difficulty(student, ensemble, gate, T, source)
    assert sum(part["tokens"] for part in bins) == len(found)
    assert sum(part["tokens"] * part["gate_weight"] for part in bins) / len(found) == pytest.approx(
        sum(heard for _, heard in found) / len(found), abs=5e-3
    )
    losses = sorted(teacher for teacher, _ in found)
    start = 0
    for part in bins:
        expected = losses[start : start + part["tokens"]]
        start += part["tokens"]
        assert part["loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
