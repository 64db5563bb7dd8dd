"""The fused loss against its plain float64 form: values and gradients (tolerances of the project: 1e-6 of the
cross-entropy, 1e-5 of the gradients' norm)."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import IGNORE
from tutelage.teaching.signal import DenseSignal, SparseSignal
from tutelage.training import fused
from tutelage.training.fused import Scales, fused_loss

N, D, V = 151, 24, 101


def plain(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scales: Scales,
    signal: DenseSignal | None,
    taught: Tensor | None,
) -> Tensor:
    """The definition, one line after another, in float64 with autograd."""
    logits = F.linear(hidden, weight, bias)
    loss = scales.target * F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    if signal is not None:
        T = scales.temperature
        teacher_logits = [
            F.linear(h.double(), w.double(), None if b is None else b.double())
            for h, (w, b) in zip(signal.hidden, signal.heads, strict=True)
        ]
        if signal.combine == "mean_logits":
            mixed = sum(share * z for share, z in zip(signal.weights, teacher_logits, strict=True))
            q = F.softmax(mixed / T, -1)
        else:
            q = sum(share * F.softmax(z / T, -1) for share, z in zip(signal.weights, teacher_logits, strict=True))
        log_p = F.log_softmax(logits / T, -1)
        divergence = (q * (q.log() - log_p)).sum(-1)
        if taught is not None:
            divergence = divergence[taught]
        loss = loss + scales.teacher * divergence.sum()
    return loss


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
    monkeypatch.setattr(fused, "BLOCK_BYTES", {"cpu": chunk_rows * 4 * V})
    monkeypatch.setattr(fused, "TILE_BYTES", {"cpu": 16 * 4 * V})
    monkeypatch.setattr(fused, "VOCABULARY_ROWS", 40)
    student, targets, signal = case(teachers, teachers, bias, combine)
    taught = torch.arange(N) % 7 != 3 if signal is not None else None
    scales = Scales(0.5 / 30, 0.5 * temperature**2 / 32 if signal is not None else 0.0, temperature)

    ours = [x.clone().requires_grad_() for x in student]
    loss, sums = fused_loss(ours[0], ours[1], ours[2] if bias else None, targets, scales, signal, taught)
    loss.backward()
    exact = [x.double().requires_grad_() for x in student]
    expected = plain(exact[0], exact[1], exact[2] if bias else None, targets, scales, signal, taught)
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
        loss, _ = fused_loss(*leaves, targets, Scales(1.0, 1.0, 2.0), signal)
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
    loss, _ = fused_loss(hidden, student[1], None, targets, Scales(1.0, 1.0), signal)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


def test_bf16_stays_close() -> None:
    student, targets, signal = case(3, 2, False, "mean_logits")
    exact = plain(*(x.double() for x in student), None, targets, Scales(1 / N, 1 / N, 1.0), signal, None)
    loss, _ = fused_loss(student[0].bfloat16(), student[1], None, targets, Scales(1 / N, 1 / N, 1.0), signal)
    assert float(loss) == pytest.approx(float(exact), rel=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("target_weight", [0.0, 0.5])
def test_sparse_signal_equals_plain_form(
    monkeypatch: pytest.MonkeyPatch, temperature: float, target_weight: float
) -> None:
    """Against the divergence from a distribution that has the sparse shares and zeros, in float64; tokens repeat."""
    monkeypatch.setattr(fused, "BLOCK_BYTES", {"cpu": 64 * 4 * V})
    monkeypatch.setattr(fused, "TILE_BYTES", {"cpu": 16 * 4 * V})
    student, targets, _ = case(4, 0, True, "mean_logits")
    make = torch.Generator().manual_seed(9)
    ids = torch.randint(0, 12, (N, 6), generator=make)
    shares = torch.rand(N, 6, generator=make)
    shares /= shares.sum(1, keepdim=True)
    q = torch.zeros(N, V, dtype=torch.float64).scatter_add_(1, ids, shares.double())
    entropy = -(q * q.clamp_min(1e-300).log()).sum(1)
    signal = SparseSignal(ids, shares, entropy.float(), torch.zeros(N), temperature)
    weight = torch.rand(N, generator=make)
    scales = Scales(target_weight / 30, 0.5 * temperature**2 / 32, temperature)

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
        fused_loss(*student, None, targets, Scales(1.0, 1.0, 1.0), signal)


def test_gradient_is_taken_once() -> None:
    student, targets, _ = case(4, 0, False, "mean_logits")
    leaves = [x.clone().requires_grad_() for x in student]
    loss, _ = fused_loss(*leaves, None, targets, Scales(1.0))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()
