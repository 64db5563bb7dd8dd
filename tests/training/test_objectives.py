"""A learner's loss against the naive one over whole rows, and its independence of how a batch is cut."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tutelage import recipe
from tutelage.corpus.batches import IGNORE, Batch, BatchSource, Hybrid, Masking
from tutelage.corpus.ul2 import Mixture
from tutelage.teaching.teachers import Ensemble
from tutelage.training.fused import LossScales
from tutelage.training.objectives import Learner, LossCounts, count, effective_weights, scales_for, used_positions

T = 16


def batch_of(store, kind: str = "chunks", text: str = "next_token") -> Batch:
    masking, hybrid = Masking(0.3, 3, 60, (0, 1, 2, 3, 4, 5), seed=1), None
    if text.startswith("hybrid"):
        hybrid = Hybrid(0.4, masking, {"": (True, True), "causal": (True, False), "whole": (False, True)}[text[7:]])
    mixture = Mixture((0.3, 0.3, 0.4), ((0.15, 3.0),), (3, 4, 5), seed=1) if text == "ul2" else None
    rows = recipe.Rows(kind=kind, length=T, buckets=(8,))
    return BatchSource(store, rows, 32, seed=0, masking=masking if text == "masked" else None, mixture=mixture,
                       hybrid=hybrid).batch(0)  # fmt: skip


def objectives(text: str, reduction: str, temperature: float, squared: bool, gate=None) -> recipe.Objectives:
    distill = {"weight": 0.7, "temperature": temperature, "temperature_squared": squared, "reduction": reduction,
               "gate": gate}  # fmt: skip
    return recipe.Objectives.model_validate({text.split("-")[0]: 0.3, "distill": distill})


def naive(
    learner: Learner, batch: Batch, what: recipe.Objectives, ensemble: Ensemble, share: float = 1.0
) -> torch.Tensor:
    """BabyLlama's loss row by row and token by token, in float64; `share` of the teachers' weight, gates."""
    student, *teachers = (
        model.logits(batch.tokens_BT, batch.lengths_B, batch.whole_B) for model in (learner.model, *ensemble.models)
    )
    distill, text = what.distill, what.text
    ce, ce_count, kl, kl_count, rows, moved = 0.0, 0, 0.0, 0, 0, 0.0
    for b in range(len(batch.tokens_BT)):
        length = T if batch.lengths_B is None else int(batch.lengths_B[b])
        row_taught = 0
        skipped = _most_certain(batch, what, ensemble, teachers, b, length)
        for t in range(min(length, batch.tokens_BT.shape[1])):
            target = int(batch.targets_BT[b, t])
            if target != IGNORE:
                surprise = -F.log_softmax(student[b, t], -1)[target]
                ce = ce + surprise
                ce_count += 1
            whole = batch.whole_B is not None and batch.whole_B[b]
            if (what.masked or what.ul2 or whole) and target == IGNORE:
                continue
            if batch.taught_B is not None and not batch.taught_B[b]:
                continue
            q = F.softmax(sum(s * z[b, t] for s, z in zip(ensemble.shares, teachers, strict=True))
                          / distill.temperature, -1)  # fmt: skip
            log_p = F.log_softmax(student[b, t] / distill.temperature, -1)
            heard = _heard(distill.gate, q, log_p, target, t in skipped)
            kl = kl + heard * (q * (q.log() - log_p)).sum()
            moved = moved + ((1 - heard) * surprise if target != IGNORE else 0.0)
            kl_count += 1
            row_taught = 1
        rows += row_taught
    square = distill.temperature**2 if distill.temperature_squared else 1.0
    over = rows if distill.reduction == "per_row" else kl_count
    loss = (text.weight + distill.weight * (1 - share)) * ce / ce_count
    return loss + distill.weight * share * (square * kl / over + moved / ce_count)


def _most_certain(batch, what, ensemble, teachers, b: int, length: int) -> set[int]:
    """The tokens of a row that its gate skips."""
    gate, T = what.distill.gate, what.distill.temperature
    if gate is None or gate.kind != "skip_certain":
        return set()
    places = [t for t in range(min(length, batch.tokens_BT.shape[1]))
              if not what.masked or batch.targets_BT[b, t] != IGNORE]  # fmt: skip
    mixed = [F.softmax(sum(s * z[b, t] for s, z in zip(ensemble.shares, teachers, strict=True)) / T, -1)
             for t in places]  # fmt: skip
    entropy = {t: float(-(q * q.log()).sum()) for t, q in zip(places, mixed, strict=True)}
    return set(sorted(places, key=entropy.__getitem__)[: int(gate.share * len(places))])


def _heard(gate, q: torch.Tensor, log_p: torch.Tensor, target: int, skipped: bool) -> float:
    if gate is None:
        return 1.0
    if gate.kind == "skip_certain":
        return float(not skipped)
    if gate.kind == "confidence":
        return 1 - float(-(q * q.log()).sum()) / math.log(len(q))
    if target == IGNORE:
        return 1.0
    return 1 / (1 + math.exp(-float(q[target].log() - log_p[target].detach()) / gate.scale))


@pytest.mark.parametrize("kind", ["chunks", "examples"])
@pytest.mark.parametrize("text", ["next_token", "masked", "ul2", "hybrid", "hybrid-causal", "hybrid-whole"])
@pytest.mark.parametrize(
    ("reduction", "temperature", "squared"), [("per_token", 2.0, True), ("per_row", 2.0, True), ("per_row", 0.5, False)]
)
def test_equals_naive_loss(store, make_model, kind, text, reduction, temperature, squared) -> None:
    batch = batch_of(store, kind, text)
    shapes = ("modernbert", "modernbert") if text == "masked" else ("llama", "gpt2")
    learner = Learner(make_model(shapes[0], 1))
    ensemble = Ensemble([make_model(shapes[0], 2), make_model(shapes[1], 3)], [2.0, 1.0])
    what = objectives(text, reduction, temperature, squared)
    used = used_positions(batch, distills=True)
    signal = ensemble.dense_signal(batch.tokens_BT, batch.lengths_B, whole_B=batch.whole_B)
    loss, _ = learner(batch, scales_for(what, count(batch)), signal, used)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()

    learner.double()
    ensemble.double()
    expected = naive(learner, batch, what, ensemble)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    exact = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    assert ours.keys() == exact.keys()
    error = torch.stack([(ours[name] - exact[name]).norm() for name in ours]).norm()
    assert error < 1e-5 * torch.stack([g.norm() for g in exact.values()]).norm()


@pytest.mark.parametrize(
    "gate", [{"kind": "skip_certain", "share": 0.3}, {"kind": "advantage", "scale": 0.2}, {"kind": "confidence"}, None]
)
@pytest.mark.parametrize(("kind", "masked"), [("chunks", False), ("examples", False), ("examples", True)])
@pytest.mark.parametrize("reduction", ["per_token", "per_row"])
def test_gates_and_schedules_equal_the_naive_loss(store, make_model, kind, masked, gate, reduction) -> None:
    # Where teachers say the same twice, which of the two is skipped is a matter of rounding: no token stands twice in a
    # row, and what stands around a mask matters.
    store.tokens = (6 + 7 * np.arange(len(store)) % 53).astype(np.uint16)
    batch = batch_of(store, kind, "masked" if masked else "next_token")
    shape = "modernbert" if masked else "llama"
    learner, ensemble = Learner(make_model(shape, 1)), Ensemble([make_model(shape, 2), make_model(shape, 3)])
    for matrix in (p for p in ensemble.parameters() if p.ndim == 2):
        matrix.data.mul_(6)
    what = objectives("masked" if masked else "next_token", reduction, 2.0, True, gate)
    used = used_positions(batch, distills=True)
    assert (used is not None) == (kind == "examples")
    signal = ensemble.dense_signal(batch.tokens_BT, batch.lengths_B)
    loss, sums = learner(batch, scales_for(what, count(batch), 0.4), signal, used)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    learner.double()
    ensemble.double()
    expected = naive(learner, batch, what, ensemble, 0.4)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    exact = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    error = torch.stack([(ours[name] - exact[name]).norm() for name in ours]).norm()
    assert error < 1e-5 * torch.stack([g.norm() for g in exact.values()]).norm()
    assert (0 < sums[2] < count(batch).distilled) == (gate is not None)


def test_a_temperature_that_changes_is_that_of_the_step() -> None:
    glide = {"start": 4.0, "end": 1.0}
    counts = LossCounts(30, 32, 2, 32)
    found = scales_for(objectives("next_token", "per_token", glide, True), counts, 0.5, 3.0)
    assert found == scales_for(objectives("next_token", "per_token", 3.0, True), counts, 0.5)
    first = scales_for(objectives("next_token", "per_token", glide, True), counts)
    assert (first.temperature, first.teacher) == (4.0, pytest.approx(0.7 * 16 / 32))


def test_what_the_teachers_give_up_is_the_texts() -> None:
    what, counts = objectives("next_token", "per_token", 1.0, True), LossCounts(10, 10, 2, 10)
    for share in (1.0, 0.75, 0.1, 0.0):
        scales = scales_for(what, counts, share)
        assert 10 * (scales.target + scales.teacher) == pytest.approx(1.0)
    assert scales_for(what, counts, 0.0) == LossScales(pytest.approx(0.1))


@pytest.mark.parametrize("gate", [None, "skip_certain", "advantage"])
@pytest.mark.parametrize("kind", ["chunks", "examples"])
@pytest.mark.parametrize("text", ["next_token", "ul2", "hybrid"])
@pytest.mark.parametrize("reduction", ["per_token", "per_row"])
def test_cutting_a_batch_changes_nothing(store, make_model, kind, text, reduction, gate) -> None:
    batch = batch_of(store, kind, text)
    ensemble = Ensemble([make_model("gpt2", 3)])
    scales = scales_for(objectives(text, reduction, 2.0, True, gate), count(batch))
    results = []
    for rows in (32, 8, 5):
        learner = Learner(make_model("llama", 1))
        total = 0.0
        for micro in batch.split(rows):
            signal = ensemble.dense_signal(micro.tokens_BT, micro.lengths_B, whole_B=micro.whole_B)
            loss, _ = learner(micro, scales, signal)
            loss.backward()
            total += loss.item()
        results.append((total, torch.cat([p.grad.flatten() for p in learner.parameters()])))
    for total, gradient in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-6)
        assert (gradient - results[0][1]).norm() < 1e-5 * results[0][1].norm()


def test_counts_of_a_causal_chunk_batch(store) -> None:
    counts = count(batch_of(store))
    assert (counts.target, counts.distilled, counts.distilled_rows, counts.tokens) == (32 * (T - 1), 32 * T, 32, 32 * T)


def test_padding_is_neither_target_nor_distilled(store) -> None:
    batch = batch_of(store, "examples")
    counts = count(batch)
    assert counts.distilled == counts.tokens == int(batch.lengths_B.sum())
    assert counts.target == counts.tokens - len(batch.rows_B)


def test_causality(make_model) -> None:
    """What follows a position has no influence on it: its gradient is exactly zero."""
    model = make_model("llama")
    embedded = model.hf.get_input_embeddings()(torch.arange(10, 20)[None]).detach().requires_grad_()
    hidden = model.hf(inputs_embeds=embedded).logits
    hidden[0, 4].sum().backward()
    reached = embedded.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True] * 5 + [False] * 5


def test_effective_weights_name_the_hidden_factor() -> None:
    said = effective_weights(objectives("next_token", "per_row", 2.0, True), 128)
    assert "358.4" in said  # 0.7 x 4 x 128
    alone = effective_weights(recipe.Objectives.model_validate({"tasks": 0.5}), 128)
    assert alone == "0.5 x mean over tasks of texts, 0.5 x mean over tagging tasks"
    beside = effective_weights(recipe.Objectives.model_validate({"masked": 1, "tasks": 0.5}), 128)
    assert beside == f"masked 1 per token; {alone}"
