"""A learner's loss against the naive one over whole rows, and its independence of how a batch is cut."""

import pytest
import torch
from torch.nn import functional as F

from tutelage import recipe
from tutelage.corpus.batches import IGNORE, Batch, BatchSource, Masking
from tutelage.corpus.ul2 import Mixture
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import Learner, count, effective_weights, scales_for, used_positions

T = 16


def batch_of(store, kind: str = "chunks", text: str = "next_token") -> Batch:
    masking = Masking(0.3, 3, 60, (0, 1, 2, 3, 4, 5), seed=1) if text == "masked" else None
    mixture = Mixture((0.3, 0.3, 0.4), ((0.15, 3.0),), (3, 4, 5), seed=1) if text == "ul2" else None
    rows = recipe.Rows(kind=kind, length=T, buckets=(8,))
    return BatchSource(store, rows, 32, seed=0, masking=masking, mixture=mixture).batch(0)


def objectives(text: str, reduction: str, temperature: float, squared: bool) -> recipe.Objectives:
    distill = {"weight": 0.7, "temperature": temperature, "temperature_squared": squared, "reduction": reduction}
    return recipe.Objectives.model_validate({text: 0.3, "distill": distill})


def naive(learner: Learner, batch: Batch, what: recipe.Objectives, ensemble: Ensemble) -> torch.Tensor:
    """BabyLlama's loss row by row and token by token, in float64."""
    student = learner.model.logits(batch.tokens_BT, batch.lengths_B)
    teachers = [model.logits(batch.tokens_BT, batch.lengths_B) for model in ensemble.models]
    distill, text = what.distill, what.text
    ce, ce_count, kl, kl_count, rows = 0.0, 0, 0.0, 0, 0
    for b in range(len(batch.tokens_BT)):
        length = T if batch.lengths_B is None else int(batch.lengths_B[b])
        row_taught = 0
        for t in range(min(length, batch.tokens_BT.shape[1])):
            target = int(batch.targets_BT[b, t])
            if target != IGNORE:
                ce = ce - F.log_softmax(student[b, t], -1)[target]
                ce_count += 1
            if (what.masked or what.ul2) and target == IGNORE:
                continue
            q = F.softmax(sum(s * z[b, t] for s, z in zip(ensemble.shares, teachers, strict=True))
                          / distill.temperature, -1)  # fmt: skip
            kl = kl + (q * (q.log() - F.log_softmax(student[b, t] / distill.temperature, -1))).sum()
            kl_count += 1
            row_taught = 1
        rows += row_taught
    square = distill.temperature**2 if distill.temperature_squared else 1.0
    over = rows if distill.reduction == "per_row" else kl_count
    return text.weight * ce / ce_count + distill.weight * square * kl / over


@pytest.mark.parametrize("kind", ["chunks", "examples"])
@pytest.mark.parametrize("text", ["next_token", "masked", "ul2"])
@pytest.mark.parametrize(
    ("reduction", "temperature", "squared"), [("per_token", 2.0, True), ("per_row", 2.0, True), ("per_row", 0.5, False)]
)
def test_equals_naive_loss(store, make_model, kind, text, reduction, temperature, squared) -> None:
    batch = batch_of(store, kind, text)
    shapes = ("modernbert", "modernbert") if text == "masked" else ("llama", "gpt2")
    learner = Learner(make_model(shapes[0], 1))
    ensemble = Ensemble([make_model(shapes[0], 2), make_model(shapes[1], 3)], [2.0, 1.0])
    what = objectives(text, reduction, temperature, squared)
    used = used_positions(batch, taught=True)
    loss, _ = learner(batch, scales_for(what, count(batch)), ensemble.signal(batch.tokens_BT, batch.lengths_B), used)
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


@pytest.mark.parametrize("kind", ["chunks", "examples"])
@pytest.mark.parametrize("text", ["next_token", "ul2"])
@pytest.mark.parametrize("reduction", ["per_token", "per_row"])
def test_cutting_a_batch_changes_nothing(store, make_model, kind, text, reduction) -> None:
    batch = batch_of(store, kind, text)
    ensemble = Ensemble([make_model("gpt2", 3)])
    scales = scales_for(objectives(text, reduction, 2.0, True), count(batch))
    results = []
    for rows in (32, 8, 5):
        learner = Learner(make_model("llama", 1))
        total = 0.0
        for micro in batch.split(rows):
            loss, _ = learner(micro, scales, ensemble.signal(micro.tokens_BT, micro.lengths_B))
            loss.backward()
            total += loss.item()
        results.append((total, torch.cat([p.grad.flatten() for p in learner.parameters()])))
    for total, gradient in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-6)
        assert (gradient - results[0][1]).norm() < 1e-5 * results[0][1].norm()


def test_counts_of_a_causal_chunk_batch(store) -> None:
    counts = count(batch_of(store))
    assert (counts.target, counts.taught, counts.rows, counts.tokens) == (32 * (T - 1), 32 * T, 32, 32 * T)


def test_padding_is_neither_target_nor_taught(store) -> None:
    batch = batch_of(store, "examples")
    counts = count(batch)
    assert counts.taught == counts.tokens == int(batch.lengths_B.sum())
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
