"""The fused loss against its definition in float64: values and gradients (tolerances of the project: 1e-6 of the
cross-entropy, 1e-5 of the gradients' norm)."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import IGNORE
from tutelage.models.logits import Budget
from tutelage.teaching.gates import Advantage, Confidence, Gate, SkipCertain
from tutelage.teaching.signal import DenseSignal, Signal, SparseSignal
from tutelage.training import fused
from tutelage.training.fused import LossScales, fused_loss
from tutelage.training.reference import distillation_loss

N, D, V = 151, 24, 101


def case(seed: int, teachers: int, bias: bool, combine: str) -> tuple[list[Tensor], Tensor, DenseSignal | None]:
    make = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=make)  # noqa: E731
    student = [draw(N, D), draw(V, D) * 0.3, *([draw(V)] if bias else [])]
    targets = torch.randint(0, V, (N,), generator=make)
    targets[::5] = IGNORE
    if not teachers:
        return student, targets, None
    widths = [D, D + 9, 16][:teachers]
    heads = tuple((draw(V, d) * 0.4, draw(V) if i == 1 else None) for i, d in enumerate(widths))
    shares = torch.rand(teachers, generator=make) + 0.2
    signal = DenseSignal(tuple(draw(N, d) for d in widths), heads, tuple((shares / shares.sum()).tolist()), combine)
    return student, targets, signal


CASES = [
    *itertools.product([1, 2, 3], [0.5, 1.0, 2.0], ["mean_logits", "mean_probabilities"], [False, True]),
    (0, 1.0, "mean_logits", False),
    (0, 1.0, "mean_logits", True),
]


@pytest.mark.parametrize(("teachers", "temperature", "combine", "bias"), CASES)
@pytest.mark.parametrize("chunk_rows", [64, 1000])
def test_equals_plain_form(
    monkeypatch: pytest.MonkeyPatch, teachers: int, temperature: float, combine: str, bias: bool, chunk_rows: int
) -> None:
    monkeypatch.setattr(fused, "LOSS", Budget({"cpu": chunk_rows * 4 * V}, {"cpu": 16 * 4 * V}))
    monkeypatch.setattr(fused, "VOCABULARY_ROWS", 40)
    student, targets, signal = case(teachers, teachers, bias, combine)
    taught = torch.arange(N) % 7 != 3 if signal is not None else None
    scales = LossScales(0.5 / 30, 0.5 * temperature**2 / 32 if signal is not None else 0.0, temperature)

    ours = [x.clone().requires_grad_() for x in student]
    loss, sums = fused_loss(ours[0], ours[1], ours[2] if bias else None, targets, scales, signal, taught)
    loss.backward()
    exact = [x.double().requires_grad_() for x in student]
    expected = distillation_loss(exact[0], exact[1], exact[2] if bias else None, targets, scales, signal, taught).loss
    expected.backward()

    cross_entropy = F.cross_entropy(F.linear(*(x.double() for x in student)), targets, ignore_index=IGNORE)
    assert abs(float(loss.detach()) - float(expected.detach())) < 1e-6 * float(cross_entropy)
    error = torch.stack([(a.grad - b.grad).norm() for a, b in zip(ours, exact, strict=True)]).norm()
    norm = torch.stack([b.grad.norm() for b in exact]).norm()
    assert error < 1e-5 * norm
    combined = scales.target * sums[0] + scales.teacher * sums[1]
    assert float(combined) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_backward_is_scaled_by_what_follows() -> None:
    student, targets, signal = case(5, 2, True, "mean_logits")
    grads = []
    for factor in (1.0, -2.5):
        leaves = [x.clone().requires_grad_() for x in student]
        loss, _ = fused_loss(*leaves, targets, LossScales(1.0, 1.0, 2.0), signal)
        (factor * loss).backward()
        grads.append([x.grad for x in leaves])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one * -2.5, other)


@pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities"])
def test_a_token_the_teacher_excludes_adds_nothing_and_no_nan(combine: str) -> None:
    student, targets, _ = case(1, 0, False, "mean_logits")
    bias = torch.zeros(V)
    bias[3] = float("-inf")
    signal = DenseSignal((torch.randn(N, D),), ((torch.randn(V, D), bias),), (1.0,), combine)
    hidden = student[0].clone().requires_grad_()
    loss, _ = fused_loss(hidden, student[1], None, targets, LossScales(1.0, 1.0), signal)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


def test_bf16_stays_close() -> None:
    student, targets, signal = case(3, 2, False, "mean_logits")
    exact = distillation_loss(*student, None, targets, LossScales(1 / N, 1 / N, 1.0), signal).loss
    loss, _ = fused_loss(student[0].bfloat16(), student[1], None, targets, LossScales(1 / N, 1 / N, 1.0), signal)
    assert float(loss) == pytest.approx(float(exact), rel=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("target_weight", [0.0, 0.5])
def test_sparse_signal_equals_plain_form(
    monkeypatch: pytest.MonkeyPatch, temperature: float, target_weight: float
) -> None:
    """Against the divergence from a distribution that has the sparse shares and zeros, in float64; tokens repeat."""
    monkeypatch.setattr(fused, "LOSS", Budget({"cpu": 64 * 4 * V}, {"cpu": 16 * 4 * V}))
    student, targets, _ = case(4, 0, True, "mean_logits")
    make = torch.Generator().manual_seed(9)
    ids = torch.randint(0, 12, (N, 6), generator=make)
    shares = torch.rand(N, 6, generator=make)
    shares /= shares.sum(1, keepdim=True)
    q = torch.zeros(N, V, dtype=torch.float64).scatter_add_(1, ids, shares.double())
    entropy = -(q * q.clamp_min(1e-300).log()).sum(1)
    signal = SparseSignal(ids, shares, entropy.float(), torch.zeros(N), temperature)
    weight = torch.rand(N, generator=make)
    scales = LossScales(target_weight / 30, 0.5 * temperature**2 / 32, temperature)

    ours = [x.clone().requires_grad_() for x in student]
    loss, sums = fused_loss(*ours, targets, scales, signal, weight)
    loss.backward()
    exact = [x.double().requires_grad_() for x in student]
    logits = F.linear(*exact)
    cross_entropy = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    divergence = -(q * F.log_softmax(logits / temperature, -1)).sum(1) - entropy
    expected = scales.target * cross_entropy + scales.teacher * (divergence * weight).sum()
    expected.backward()

    assert float(sums[0]) == pytest.approx(float(cross_entropy.detach()), rel=1e-6)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    error = torch.stack([(a.grad - b.grad).norm() for a, b in zip(ours, exact, strict=True)]).norm()
    assert error < 1e-5 * torch.stack([b.grad.norm() for b in exact]).norm()


def test_sparse_signal_of_another_temperature_is_refused() -> None:
    student, targets, _ = case(4, 0, False, "mean_logits")
    signal = SparseSignal(torch.zeros(N, 2, dtype=torch.int64), torch.full((N, 2), 0.5), *torch.zeros(2, N), 2.0)
    with pytest.raises(ValueError, match="temperature 2"):
        fused_loss(*student, None, targets, LossScales(1.0, 1.0, 1.0), signal)


def test_gradient_is_taken_once() -> None:
    student, targets, _ = case(4, 0, False, "mean_logits")
    leaves = [x.clone().requires_grad_() for x in student]
    loss, _ = fused_loss(*leaves, None, targets, LossScales(1.0))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def sparse_signal(T: float) -> SparseSignal:
    """Return a signal of a few tokens."""
    make = torch.Generator().manual_seed(9)
    ids = torch.randint(0, 12, (N, 6), generator=make)
    shares = torch.rand(N, 6, generator=make)
    shares /= shares.sum(1, keepdim=True)
    entropy = torch.rand(N, generator=make) * math.log(V)
    return SparseSignal(ids, shares, entropy, -4 * torch.rand(N, generator=make), T)


@pytest.mark.parametrize("gate", [SkipCertain(0.3), Advantage(0.7), Confidence()], ids=["skip", "advantage", "sure"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["mean_logits", "mean_probabilities", "sparse"])
@pytest.mark.parametrize("text", [0.0, 0.4 / 30])
@pytest.mark.parametrize("tile_rows", [16, 1000])
def test_gates_equal_plain_form(
    monkeypatch: pytest.MonkeyPatch, gate: Gate, temperature: float, kind: str, text: float, tile_rows: int
) -> None:
    monkeypatch.setattr(fused, "LOSS", Budget({"cpu": 64 * 4 * V}, {"cpu": tile_rows * 4 * V}))
    T = temperature
    student, targets, dense = case(3, 2, True, "mean_logits" if kind == "sparse" else kind)
    signal: Signal | None = sparse_signal(T) if kind == "sparse" else dense
    taught = torch.arange(N) % 7 != 3
    skipped = (torch.arange(N) % 4 != 1).float()
    scales = LossScales(text, 0.5 * T**2 / 32, T, gate, 0.5 / 30)

    ours = [x.clone().requires_grad_() for x in student]
    known = skipped if isinstance(gate, SkipCertain) else None
    loss, sums = fused_loss(*ours, targets, scales, signal, taught, known)
    loss.backward()

    leaves = [x.double().requires_grad_() for x in student]
    expected, surprise, divergence, g = distillation_loss(*leaves, targets, scales, signal, taught, known)
    expected.backward()

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-6)
    assert float(sums[0]) == pytest.approx(float(surprise.detach().sum()), rel=1e-6)
    assert float(sums[1]) == pytest.approx(float(divergence.detach().sum()), rel=1e-6)
    assert float(sums[2]) == pytest.approx(float((g * taught).sum()), rel=1e-5)
    error = torch.stack([(a.grad - b.grad).norm() for a, b in zip(ours, leaves, strict=True)]).norm()
    assert error < 1e-5 * torch.stack([b.grad.norm() for b in leaves]).norm()
    assert ours[0].grad.shape == (N, D)


def test_a_gate_over_rows_without_its_weights_is_refused() -> None:
    student, targets, signal = case(3, 2, False, "mean_logits")
    with pytest.raises(ValueError, match="gate_weight_N"):
        fused_loss(*student, None, targets, LossScales(1.0, 1.0, gate=SkipCertain(0.5)), signal)


def test_a_gate_that_is_open_everywhere_changes_nothing() -> None:
    student, targets, signal = case(3, 2, False, "mean_logits")
    plain = fused_loss(*student, None, targets, LossScales(0.1, 0.2, 2.0), signal)
    gated = fused_loss(*student, None, targets, LossScales(0.1, 0.2, 2.0, SkipCertain(0.1), 0.3), signal, None,
                       torch.ones(N))  # fmt: skip
    assert float(gated[0]) == pytest.approx(float(plain[0]), rel=1e-7)
    assert gated[1][2] == N
