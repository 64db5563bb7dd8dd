"""The faster products are the same products."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tutelage.evaluation.likelihood.frozen import FrozenProducts


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "modernbert"])
@torch.no_grad()
def test_bf16_is_bitwise_what_autocast_computes(world, architecture):
    hf = world.hugging_face(architecture, len(world.PLAIN)).requires_grad_(False)
    tokens = torch.arange(60).reshape(3, 20)
    with torch.autocast("cpu", torch.bfloat16):
        expected = hf(tokens).logits
        with FrozenProducts(hf.parameters()):
            found = [hf(tokens).logits for _ in range(2)]
    assert all(torch.equal(logits, expected) for logits in found)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "modernbert"])
@torch.no_grad()
def test_float32_differs_by_rounding_alone(world, architecture):
    hf = world.hugging_face(architecture, len(world.PLAIN))
    tokens = torch.arange(60).reshape(3, 20)
    expected = hf(tokens).logits
    with FrozenProducts(hf.parameters()):
        torch.testing.assert_close(hf(tokens).logits, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_every_frozen_weight_is_cast_once_and_nothing_else_is_kept():
    weight, other, inputs = torch.randn(4, 3), torch.randn(4, 3), torch.randn(2, 3)
    products = FrozenProducts([weight])
    with torch.autocast("cpu", torch.bfloat16), products:
        for _ in range(3):
            F.linear(inputs, weight)
            other += 1
            assert torch.equal(F.linear(inputs, other), inputs.bfloat16() @ other.bfloat16().T)
    assert len(products._casts) == 1
