"""The savings in training arithmetic against the plain forms, in value and gradient."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

from tutelage.evaluation.finetune.attention import LINE, groups_of, reads_lines
from tutelage.evaluation.finetune.layers import lean

ARCHITECTURES = ("llama", "gpt2", "bert", "modernbert")
LENGTHS = [[5], [3, 3, 4, 12, 1], [40, 33, 1, 32, 50], [50, 2, 64]]


def trunk_of(world: Any, architecture: str) -> Any:
    trunk = world.hugging_face(architecture, 40).base_model
    for module in trunk.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trunk


NamedEvaluation = tuple[torch.Tensor, dict[str, torch.Tensor]]


def gradients(trunk: Any, hidden_ND: torch.Tensor) -> NamedEvaluation:
    """Hidden states and the gradients of a sum over them."""
    trunk.zero_grad()
    (hidden_ND * torch.linspace(-1, 1, hidden_ND.numel()).view(hidden_ND.shape)).sum().backward()
    return hidden_ND.detach(), {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}


def rows_of(lengths: list[int]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randint(2, 40, (sum(lengths),)).split(lengths)


def alone(trunk: Any, lengths: list[int]) -> NamedEvaluation:
    """Every row by itself: the slow twin."""
    return gradients(trunk, torch.cat([trunk(input_ids=row[None]).last_hidden_state[0] for row in rows_of(lengths)]))


def in_line(trunk: Any, lengths: list[int], first: int = 0, bf16: bool = False) -> NamedEvaluation:
    tokens = torch.cat(rows_of(lengths))[None]
    places = torch.cat([torch.arange(first, first + length) for length in lengths])[None]
    groups = groups_of(np.array(lengths))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = trunk(input_ids=tokens, position_ids=places, groups=groups).last_hidden_state[0].float()
    return gradients(trunk, hidden)


def assert_same(found: NamedEvaluation, wanted: NamedEvaluation) -> None:
    torch.testing.assert_close(found[0], wanted[0], atol=1e-5, rtol=1e-4)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


def with_lines(plain: Any, first: int = 0) -> Any:
    trunk = copy.deepcopy(plain)
    assert reads_lines(trunk, first, 64)
    assert trunk.config._attn_implementation == "eager", "finding out changes nothing"
    trunk.set_attn_implementation(LINE)
    return trunk


def test_groups_hold_every_token_once() -> None:
    draw = np.random.default_rng(0)
    for count in (1, 2, 33):
        lengths_R = np.sort(draw.integers(1, 129, count))
        groups = groups_of(lengths_R)
        assert [group.width for group in groups] == sorted({-(-length // 32) * 32 for length in lengths_R.tolist()})
        tokens = torch.cat([group.tokens[group.places] for group in groups])
        assert tokens.tolist() == list(range(lengths_R.sum()))
        for group in groups:
            fillers = np.setdiff1d(np.arange(len(group.tokens)), group.places)
            assert (group.tokens[fillers] == lengths_R.sum()).all()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_line_is_its_rows(world: Any, architecture: str, lengths: list[int]) -> None:
    """In value and gradient, each row is read as if it were alone."""
    plain = trunk_of(world, architecture)
    assert_same(in_line(with_lines(plain), lengths), alone(plain, lengths))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bf16_both_are_as_far_from_float32(world: Any, architecture: str) -> None:
    plain = trunk_of(world, architecture)
    ours, lengths = with_lines(plain), LENGTHS[2]
    exact, exact_gradients = alone(plain, lengths)

    def errors(found: NamedEvaluation) -> tuple[float, float]:
        apart = sum(float((found[1][name] - exact).pow(2).sum()) for name, exact in exact_gradients.items())
        return float((found[0] - exact).pow(2).mean()), apart

    with torch.autocast("cpu", torch.bfloat16):
        plain_errors = errors(alone(plain, lengths))
    value, gradient = errors(in_line(ours, lengths, bf16=True))
    assert value < 2 * plain_errors[0]
    assert gradient < 2 * plain_errors[1]


SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 48, "initializer_range": 0.3, "attn_implementation": "eager"}  # fmt: skip


def test_grouped_queries() -> None:
    torch.manual_seed(0)
    plain = LlamaModel(LlamaConfig(**SMALL, num_key_value_heads=2))
    assert_same(in_line(with_lines(plain), LENGTHS[2]), alone(plain, LENGTHS[2]))


@pytest.mark.parametrize("window", [5, 40])
def test_windows(window: int) -> None:
    """Layers that see some tokens only, before a token or around it."""
    torch.manual_seed(0)
    mistral = MistralModel(MistralConfig(**SMALL, num_key_value_heads=4, sliding_window=window))
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 4, "sep_token_id": 5}
    bert = ModernBertModel(ModernBertConfig(**SMALL, **ids, local_attention=2 * window, global_attn_every_n_layers=2))
    for plain in (mistral, bert.eval()):
        assert_same(in_line(with_lines(plain), LENGTHS[2]), alone(plain, LENGTHS[2]))


def test_positions_that_count_from_behind_the_paddings_id() -> None:
    torch.manual_seed(0)
    plain = RobertaModel(RobertaConfig(**SMALL, pad_token_id=1, max_position_embeddings=66)).eval()
    assert_same(in_line(with_lines(plain, first=2), LENGTHS[2], first=2), alone(plain, LENGTHS[2]))
    assert not reads_lines(plain, 0, 64)


def test_dropout_of_attention_stays(world: Any) -> None:
    trunk = with_lines(trunk_of(world, "gpt2"))
    line = {
        "input_ids": torch.arange(9)[None],
        "position_ids": torch.arange(9)[None],
        "groups": groups_of(np.array([9])),
    }
    for block in trunk.h:
        block.attn.attn_dropout.p = 0.5
    trunk.train()
    torch.manual_seed(1)
    one, other = trunk(**line).last_hidden_state, trunk(**line).last_hidden_state
    assert not torch.allclose(one, other)
    trunk.eval()
    torch.testing.assert_close(trunk(**line).last_hidden_state, trunk(**line).last_hidden_state)


def test_a_model_with_scores_of_its_own_reads_no_lines(world: Any) -> None:
    trunk = trunk_of(world, "llama")
    for layer in trunk.layers:
        attention = layer.self_attn
        forward = attention.forward
        attention.forward = lambda *args, forward=forward, attention=attention, **more: (
            forward(*args, **more)[0] * (1.5 if attention.config._attn_implementation == LINE else 1.0),
            None,
        )
    assert not reads_lines(trunk, 0, 64)
    assert trunk.config._attn_implementation == "eager"


@pytest.fixture
def masks() -> dict[str, torch.Tensor | None]:
    right, left = torch.ones(3, 12, dtype=torch.long), torch.ones(3, 12, dtype=torch.long)
    right[0, 5:] = right[1, 9:] = 0
    left[0, :7] = left[1, :3] = 0
    return {"none": None, "right": right, "left": left}


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_the_last_layer_where_it_is_read(world: Any, masks: Any, padding: str) -> None:
    """Value and gradient are those of all positions of which one is taken."""
    plain = trunk_of(world, "llama")
    ours = copy.deepcopy(plain)
    last = lean(ours)[-1]
    mask, places = masks[padding], {"none": [11, 4, 0], "right": [4, 8, 11], "left": [11, 11, 11]}[padding]
    tokens = torch.randint(40, (3, 12))
    last.places_R = torch.tensor(places) + torch.arange(3) * 12
    found = ours(input_ids=tokens, attention_mask=mask).last_hidden_state
    whole = plain(input_ids=tokens, attention_mask=mask).last_hidden_state
    wanted = whole[torch.arange(3), torch.tensor(places)]
    assert found.shape == (1, 3, 32)
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=1e-4)
    weight = torch.randn(3, 32)
    (found[0] * weight).sum().backward()
    (wanted * weight).sum().backward()
    for ours_parameter, parameter in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours_parameter.grad, parameter.grad, atol=1e-4, rtol=1e-3)
    last.places_R = None
    again = ours(input_ids=tokens, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-4)


def test_layers_of_another_kind_stay_whole(world: Any) -> None:
    assert not lean(trunk_of(world, "gpt2"))
    assert not lean(trunk_of(world, "modernbert"))
    trunk = trunk_of(world, "llama")
    forward = trunk.layers[-1].forward
    trunk.layers[-1].forward = lambda hidden, **more: forward(hidden, **more) + hidden.flip(-1)
    assert not lean(trunk)
    assert type(trunk.layers[-1]).__name__ == "LlamaDecoderLayer"
