"""Draws from a distribution: never outside it, unbiased, closer to it than independent draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tutelage.corpus.batches import keyed_generator
from tutelage.teaching.encoding import most_likely, systematic
from tutelage.teaching.signal import DenseSignal, SparseSignal
from tutelage.training.fused import LossScales, fused_loss

EDGES = torch.tensor([0.0, 0.25, 0.5, 1 - 2**-53], dtype=torch.float64)
DRAWS = 1000


def uniforms(number: int, count: int) -> Tensor:
    return torch.from_numpy(keyed_generator(3, number).random(count))


@pytest.mark.parametrize("V", [7, 50_257])
@pytest.mark.parametrize("shape", ["one-hot first", "one-hot last", "uniform", "denormal tail", "zeros at the end"])
@pytest.mark.parametrize("draws", [1, 16])
def test_ids_lie_inside_the_vocabulary_and_have_a_probability(V: int, shape: str, draws: int) -> None:
    q_V = torch.zeros(V)
    match shape:
        case "one-hot first":
            q_V[0] = 1
        case "one-hot last":
            q_V[-1] = 1
        case "uniform":
            q_V[:] = 1 / V
        case "denormal tail":
            q_V[:] = 1e-40
            q_V[2] = 1 - V * 1e-40
        case "zeros at the end":
            q_V[: V // 2] = 2 / V
    many = torch.cat([EDGES, uniforms(0, 60)])
    ids = systematic(q_V.expand(len(many), V), many, draws, sets=3)
    assert ids.shape == (len(many), 3, draws)
    assert ids.min() >= 0
    assert ids.max() < V
    assert (q_V[ids] > 0).all()


def test_shares_are_within_one_draw_of_the_probabilities() -> None:
    q_NV = F.softmax(3 * torch.randn(40, 101, generator=torch.Generator().manual_seed(1)), -1)
    for part in systematic(q_NV, uniforms(1, 40), 16, sets=4).unbind(1):
        shares = torch.zeros_like(q_NV).scatter_add_(1, part, torch.full(part.shape, 1 / 16))
        assert (shares - q_NV).abs().max() < 1 / 16 + 1e-6


def test_all_sets_together_are_one_finer_draw() -> None:
    q_NV = F.softmax(3 * torch.randn(40, 101, generator=torch.Generator().manual_seed(1)), -1)
    ids = systematic(q_NV, uniforms(1, 40), 16, sets=4).flatten(1)
    shares = torch.zeros_like(q_NV).scatter_add_(1, ids, torch.full(ids.shape, 1 / 64))
    assert (shares - q_NV).abs().max() < 1 / 64 + 1e-6


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_every_token_is_drawn_as_often_as_it_is_likely(chosen: int) -> None:
    """With n = N * q expected draws, systematic draws are the whole part of n and one more with probability frac(n)."""
    times, draws = 20_000, 8
    q_V = F.softmax(2 * torch.randn(101, generator=torch.Generator().manual_seed(6)), -1)
    ids = systematic(q_V.expand(times, -1), uniforms(5, times), draws, sets=3)[:, chosen]
    share_V = torch.bincount(ids.flatten(), minlength=101).double() / (times * draws)
    rest = (draws * q_V.double()) % 1
    sigma_V = (rest * (1 - rest) / times).sqrt() / draws
    usual = torch.minimum(rest, 1 - rest) * times > 10  # else the number of draws is not normal
    z = (share_V - q_V)[usual] / sigma_V[usual]
    assert usual.sum() > 80
    assert z.abs().max() < 4
    assert z.square().mean() == pytest.approx(1, abs=0.4)


def case(T: float) -> tuple[list[Tensor], Tensor, DenseSignal, Tensor]:
    make = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=make)  # noqa: E731
    student = [draw(6, 12), draw(41, 12) * 0.4]
    dense = DenseSignal((draw(6, 20),), ((draw(41, 20) * 0.6, None),), (1.0,))
    return student, torch.full((6,), -100), dense, dense.log_probs(T).exp()


def gradient(student: list[Tensor], targets: Tensor, signal: DenseSignal | SparseSignal, T: float) -> Tensor:
    hidden, weight = (tensor.clone().requires_grad_() for tensor in student)
    loss, _ = fused_loss(hidden, weight, None, targets, LossScales(0.0, 1.0, T), signal)
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, (hidden, weight))]).double()


def sparse(ids_NK: Tensor, shares_NK: Tensor, T: float) -> SparseSignal:
    zeros = torch.zeros(len(ids_NK))
    return SparseSignal(ids_NK, shares_NK, zeros, zeros, T)


@pytest.mark.parametrize("T", [1.0, 2.0])
@pytest.mark.parametrize("chosen", [0, 2])
def test_gradient_of_1000_draws_is_unbiased_and_steadier_than_independent_draws(T: float, chosen: int) -> None:
    student, targets, dense, q_NV = case(T)
    exact = gradient(student, targets, dense, T)
    shares_NK = torch.full((6, 8), 1 / 8)
    make = torch.Generator().manual_seed(4)
    found, independent = [], []
    for number in range(DRAWS):
        ids = systematic(q_NV, uniforms(number, 6), 8, sets=3)[:, chosen]
        found.append(gradient(student, targets, sparse(ids, shares_NK, T), T))
        drawn = torch.multinomial(q_NV, 8, replacement=True, generator=make)
        independent.append(gradient(student, targets, sparse(drawn, shares_NK, T), T))
    draws = torch.stack(found)
    error, variance = draws.mean(0) - exact, draws.var(0)
    # The squared norm of an unbiased mean's error is the trace of its covariance on average.
    assert 0.3 < error.square().sum() / (variance.sum() / DRAWS) < 2
    # Elements of one row of the weight are near multiples of each other, so a few tokens make the largest of 564.
    assert (error.abs() / (variance / DRAWS).sqrt()).max() < 4.5
    assert (error.abs() < 3 * (variance / DRAWS).sqrt()).double().mean() > 0.97
    assert draws.var(0).sum() < 0.5 * torch.stack(independent).var(0).sum()


def test_most_likely_tokens_are_biased_by_the_same_measure() -> None:
    student, targets, dense, q_NV = case(1.0)
    ids, shares = most_likely(q_NV, 8)
    assert torch.allclose(shares.sum(-1), torch.ones(6))
    assert (q_NV.gather(1, ids) >= q_NV.topk(8, -1).values - 1e-7).all()
    kept = gradient(student, targets, sparse(ids, shares, 1.0), 1.0)
    steady = gradient(student, targets, dense, 1.0)
    draws = [systematic(q_NV, uniforms(n, 6), 8)[:, 0] for n in range(DRAWS)]
    mean = torch.stack([gradient(student, targets, sparse(i, torch.full((6, 8), 1 / 8), 1.0), 1.0) for i in draws])
    assert (kept - steady).norm() > 5 * (mean.mean(0) - steady).norm()
