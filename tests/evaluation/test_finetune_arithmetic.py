"""The savings in training arithmetic against the plain forms, in value and gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from tutelage.evaluation.finetune.attention import LEAN, lean
from tutelage.evaluation.finetune.pooled import shorten

ARCHITECTURES = ("llama", "gpt2", "bert", "modernbert")


def trunk_of(world: Any, architecture: str) -> Any:
    trunk = world.hugging_face(architecture, 40).base_model
    for module in trunk.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trunk


def run(trunk: Any, mask: torch.Tensor | None, bf16: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states and gradients of a sum over the real tokens."""
    trunk.zero_grad()
    torch.manual_seed(0)
    tokens = torch.randint(40, (3, 12))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = trunk(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
    weight = torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)
    (hidden * weight * (1 if mask is None else mask[..., None])).sum().backward()
    return hidden.detach(), {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}


@pytest.fixture
def masks() -> dict[str, torch.Tensor | None]:
    right, left = torch.ones(3, 12, dtype=torch.long), torch.ones(3, 12, dtype=torch.long)
    right[0, 5:] = right[1, 9:] = 0
    left[0, :7] = left[1, :3] = 0
    return {"none": None, "right": right, "left": left}


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lean_attention_is_the_models_own(world: Any, masks: Any, architecture: str, padding: str) -> None:
    plain = trunk_of(world, architecture)
    ours = copy.deepcopy(plain)
    assert lean(ours)
    assert ours.config._attn_implementation == LEAN
    assert plain.config._attn_implementation == "eager"
    mask = masks[padding]
    (wanted, gradients), (found, ours_gradients) = run(plain, mask), run(ours, mask)
    real = torch.ones(3, 12, dtype=torch.bool) if mask is None else mask > 0
    torch.testing.assert_close(found[real], wanted[real], atol=1e-5, rtol=1e-4)
    assert gradients.keys() == ours_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours_gradients[name], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bf16_both_are_as_far_from_float32(world: Any, masks: Any, architecture: str) -> None:
    plain = trunk_of(world, architecture)
    ours = copy.deepcopy(plain)
    lean(ours)
    exact, exact_gradients = run(plain, masks["right"])
    real = masks["right"] > 0

    def errors(trunk: Any) -> tuple[float, float]:
        hidden, gradients = run(trunk, masks["right"], bf16=True)
        apart = sum(float((gradients[name] - exact).pow(2).sum()) for name, exact in exact_gradients.items())
        return float((hidden - exact)[real].pow(2).mean()), apart

    (value, gradient), plain_errors = errors(ours), errors(plain)
    assert value < 2 * plain_errors[0]
    assert gradient < 2 * plain_errors[1]


def test_grouped_queries() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager")  # fmt: skip
    plain = LlamaModel(config)
    ours = copy.deepcopy(plain)
    assert lean(ours)
    (wanted, gradients), (found, ours_gradients) = run(plain, None), run(ours, None)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours_gradients[name], gradient, atol=1e-4, rtol=1e-3)


def test_dropout_of_attention_stays(world: Any) -> None:
    trunk = trunk_of(world, "gpt2")
    assert lean(trunk)
    for block in trunk.h:
        block.attn.attn_dropout.p = 0.5
    trunk.train()
    tokens = torch.randint(40, (2, 9))
    torch.manual_seed(1)
    one = trunk(input_ids=tokens).last_hidden_state
    other = trunk(input_ids=tokens).last_hidden_state
    assert not torch.allclose(one, other)
    trunk.eval()
    torch.testing.assert_close(trunk(input_ids=tokens).last_hidden_state, trunk(input_ids=tokens).last_hidden_state)


def test_a_model_with_scores_of_its_own_keeps_its_attention(world: Any) -> None:
    trunk = trunk_of(world, "llama")
    for layer in trunk.layers:
        attention = layer.self_attn
        forward = attention.forward
        attention.forward = lambda *args, forward=forward, attention=attention, **more: (
            forward(*args, **more)[0] * (1.5 if attention.config._attn_implementation == LEAN else 1.0),
            None,
        )
    assert not lean(trunk)
    assert trunk.config._attn_implementation == "eager"


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_the_last_layer_where_it_is_read(world: Any, masks: Any, padding: str) -> None:
    """Value and gradient are those of all positions of which one is taken."""
    plain = trunk_of(world, "llama")
    ours = copy.deepcopy(plain)
    short = shorten(ours)
    assert short is not None
    mask, places = masks[padding], {"none": [11, 4, 0], "right": [4, 8, 11], "left": [11, 11, 11]}[padding]
    tokens, rows = torch.randint(40, (3, 12)), torch.arange(3)
    short.places_B = torch.tensor(places)
    found = ours(input_ids=tokens, attention_mask=mask).last_hidden_state
    wanted = plain(input_ids=tokens, attention_mask=mask).last_hidden_state[rows, short.places_B]
    assert found.shape == (3, 1, 32)
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn(3, 32)
    (found[:, 0] * weight).sum().backward()
    (wanted * weight).sum().backward()
    for ours_parameter, parameter in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours_parameter.grad, parameter.grad, atol=1e-4, rtol=1e-3)
    short.places_B = None
    torch.testing.assert_close(run(ours, mask)[0], run(plain, mask)[0], atol=1e-5, rtol=1e-4)


def test_layers_of_another_kind_stay_whole(world: Any) -> None:
    assert shorten(trunk_of(world, "gpt2")) is None
    assert shorten(trunk_of(world, "modernbert")) is None
    trunk = trunk_of(world, "llama")
    forward = trunk.layers[-1].forward
    trunk.layers[-1].forward = lambda hidden, **more: forward(hidden, **more) + hidden.flip(-1)
    assert shorten(trunk) is None
    assert type(trunk.layers[-1]).__name__ == "LlamaDecoderLayer"
