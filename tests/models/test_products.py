"""Float32 products by another library: the same numbers and gradients, whatever the shapes."""

import copy
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tutelage.models import products

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this build of torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take oneDNN on every processor."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)


@pytest.mark.parametrize("front", [(5,), (2, 3), (2, 1, 7), (1,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_values_and_gradients_equal_float64(front: tuple[int, ...], bias: bool, transposed: bool) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(*front, 12, requires_grad=True)
    weight = torch.randn(12, 9).t().requires_grad_() if transposed else torch.randn(9, 12, requires_grad=True)
    given = [inputs, weight] + ([torch.randn(9, requires_grad=True)] if bias else [])
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    ours = products.linear(*given) if bias else products.linear(*given, None)
    theirs = F.linear(*exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
    factors = torch.randn(*front, 9)
    for one, other in zip(
        torch.autograd.grad(ours, given, factors), torch.autograd.grad(theirs, exact, factors.double()), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_slices_are_copied_before_they_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """For rows with gaps between them oneDNN takes a path hundreds of times slower."""
    grad, inputs = torch.randn(7, 20)[:, 3:11], torch.randn(7, 5)
    seen = []
    original = products._dense
    monkeypatch.setattr(products, "_dense", lambda matrix: seen.append(original(matrix)) or seen[-1])
    torch.testing.assert_close(products.weight_gradient(grad, inputs), grad.t() @ inputs)
    assert all(matrix.is_contiguous() or matrix.t().is_contiguous() for matrix in seen)
    assert len(seen) == 2


def test_frozen_weights_have_no_gradient() -> None:
    inputs, weight = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6)
    products.linear(inputs, weight, None).sum().backward()
    torch.testing.assert_close(inputs.grad, weight.sum(0).expand(4, 6))
    assert weight.grad is None


def test_layers_keep_their_names_and_copies_their_weights() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2, bias=False))
    names, expected, rows = list(model.state_dict()), model(torch.ones(3, 6)), torch.ones(3, 6)
    products.use_onednn_linear(model)
    assert list(model.state_dict()) == names
    assert all(isinstance(layer, products.FastLinear) for layer in (model[0], model[2]))
    torch.testing.assert_close(model(rows), expected)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
    torch.testing.assert_close(model(rows), expected)
    assert not torch.allclose(other(rows), expected)


def test_models_compute_the_same(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.arange(24).reshape(2, 12)
    for architecture in ("llama", "gpt2", "modernbert"):
        fast = make_model(architecture, 1)
        with monkeypatch.context() as usual:
            usual.setattr(products, "prefers_onednn", lambda: False)
            plain = make_model(architecture, 1)
        assert {type(m) for m in fast.modules()} & {products.FastLinear, products.FastConv1D}
        assert not {type(m) for m in plain.modules()} & {products.FastLinear, products.FastConv1D}
        torch.testing.assert_close(fast.logits(tokens), plain.logits(tokens), rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast.hidden(tokens), plain.hidden(tokens))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="compiling needs a C++ compiler")
def test_compiled_layers_multiply_alike() -> None:
    layer = nn.Linear(8, 8)
    products.use_onednn_linear(layer)
    rows = torch.randn(4, 8)
    expected = torch.autograd.grad(layer(rows).square().sum(), layer.weight)[0]
    layer.compile(dynamic=False)
    torch.testing.assert_close(torch.autograd.grad(layer(rows).square().sum(), layer.weight)[0], expected)
