"""Rows and their parts, pooling and padding, and the loop against its slow twin."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.base.errors import UserError
from tutelage.evaluation.finetune import classifier as classifier_module
from tutelage.evaluation.finetune import loop
from tutelage.evaluation.finetune import rows as rows_module
from tutelage.evaluation.finetune.attention import groups_of
from tutelage.evaluation.finetune.classifier import build, pool, pooling_of
from tutelage.evaluation.finetune.loop import Reading, fit, predict
from tutelage.evaluation.finetune.rows import (
    MicroBatch,
    TextRows,
    collate,
    encode,
    line_up,
    lines,
    order,
    parts,
    split,
    subset,
)
from tutelage.evaluation.finetune.tasks import LabelledText
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.finetune import TaskFinetuning

WORDS = ["red", "blue", "green", "one", "two", "three", "dog", "cat", "cow"]
READING = Reading(0, 64, "fp32", "test")
CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "gpt2", "bert", "modernbert")


@pytest.fixture
def tokenizer(world: Any) -> Any:
    return world.word_tokenizer(" ".join(WORDS))


def model_of(world: Any, architecture: str, tokenizer: Any, seed: int = 0, positions: int = 64) -> LanguageModel:
    kind = "masked" if "bert" in architecture else "causal"
    return LanguageModel(world.hugging_face(architecture, len(tokenizer), seed, positions), kind, len(tokenizer))


def settings_of(**said: Any) -> TaskFinetuning:
    quick = {"lr": 3e-3, "epochs": 6, "batch_rows": 16, "max_length": 32, "precision": "fp32", "patience": None}
    return TaskFinetuning.model_validate(quick | said)


def random_rows(lengths: list[int], vocabulary: int, labels: int = 2) -> TextRows:
    draw = np.random.default_rng(1)
    tokens = [draw.integers(7, vocabulary, length) for length in lengths]
    return TextRows(tokens, None, np.arange(len(lengths)) % labels)


# --- rows


def test_parts_hold_every_row_once_and_save_padding() -> None:
    draw = np.random.default_rng(0)
    for count in (1, 2, 31, 64):
        lengths = draw.integers(1, 129, count)
        found = parts(lengths, "cpu")
        assert sorted(np.concatenate(found).tolist()) == list(range(count))
        assert sum(len(part) * lengths[part].max() for part in found) <= count * lengths.max()
        assert all(len(part) == 1 or len(part) * lengths[part].max() <= 1024 for part in found)
    assert len(parts(draw.integers(1, 129, 64), "cuda")) == 1


def test_lines_hold_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.evaluation.finetune.rows.LINE_TOKENS", 500)
    draw = np.random.default_rng(0)
    for count in (1, 2, 31, 64):
        lengths = draw.integers(1, 129, count)
        found = lines(lengths)
        assert sorted(np.concatenate(found).tolist()) == list(range(count))
        assert all(np.all(np.diff(lengths[part]) >= 0) for part in found)
        assert all(lengths[part].sum() <= 500 + 128 for part in found)


def test_a_gpus_parts_have_even_lengths_within_the_limit() -> None:
    rows = random_rows([3, 9, 12], 16)
    meta = torch.device("meta")  # taken for a GPU; shapes are all that is asked
    assert collate(rows, np.array([0, 1]), 0, "right", 64, meta).tokens_BT.shape == (2, 16)
    assert collate(rows, np.array([0, 2]), 0, "right", 12, meta).tokens_BT.shape == (2, 12)
    assert collate(rows, np.array([0, 1]), 0, "right", 64, CPU).tokens_BT.shape == (2, 9)


def test_parts_are_the_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all ways of cutting six rows."""
    from itertools import combinations

    from tutelage.evaluation.finetune import rows

    monkeypatch.setitem(rows.PART_COST, "cpu", 30)

    def cost(cut: list[np.ndarray], lengths: np.ndarray) -> int:
        return sum(len(part) * int(lengths[part].max()) + 30 for part in cut)

    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 60, 6)
        order_N = np.argsort(lengths, kind="stable")
        ways = [np.split(order_N, list(cuts)) for n in range(6) for cuts in combinations(range(1, 6), n)]
        assert cost(parts(lengths, "cpu"), lengths) == min(cost(way, lengths) for way in ways)


def test_long_texts_are_cut_as_told(tokenizer: Any) -> None:
    rows = encode(tokenizer, [LabelledText("red " * 20, None, 0), LabelledText("red blue", None, 1)], 8, "x")
    assert [len(row) for row in rows.tokens] == [8, 2]
    assert rows.cut == 1
    pair = encode(tokenizer, [LabelledText("red blue", "one " * 20, 0)], 8, "x")
    ids = tokenizer.convert_ids_to_tokens(pair.tokens[0].tolist())
    assert ids == ["red", "blue", *["one"] * 6]


def test_texts_are_read_in_pieces_as_they_are_whole(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = copy.deepcopy(tokenizer)
    typed.model_input_names = ["input_ids", "token_type_ids"]
    examples = [LabelledText(f"red {word}", "one " * (2 * n), n % 2) for n, word in enumerate(WORDS[:7])]
    for reader in (tokenizer, typed):
        whole = encode(reader, examples, 8, "x")
        assert whole.cut == 3
        monkeypatch.setattr(rows_module, "ENCODED", 2)
        pieces = encode(reader, examples, 8, "x")
        monkeypatch.undo()
        assert (pieces.cut, pieces.types is None) == (whole.cut, reader is tokenizer)
        for one, other in ((whole.tokens, pieces.tokens), (whole.types or [], pieces.types or [])):
            for row, same in zip(one, other, strict=True):
                np.testing.assert_array_equal(row, same)


def test_pairs_follow_the_tokenizers_template(world: Any) -> None:
    rows = encode(world.FRAMED, [LabelledText("No.", None, 0)], 32, "x")
    assert rows.tokens[0][0] == world.FRAMED.cls_token_id
    assert rows.tokens[0][-1] == world.FRAMED.sep_token_id


def test_texts_without_a_token_are_told(world: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"rte.train: row 1 .* has no token"):
        encode(tokenizer, [LabelledText("red", None, 0), LabelledText("zebra", None, 1)], 32, "rte.train")
    with pytest.raises(UserError, match="no room for text"):
        encode(world.FRAMED, [LabelledText("No.", None, 0)], 2, "x")


def test_subsets_and_splits_depend_on_nothing_else() -> None:
    rows = random_rows([4] * 40, 16)
    train, held = split(rows, 0.1)
    assert (len(train), len(held)) == (36, 4)
    ids = sorted(row.tobytes() for row in rows.tokens)
    assert sorted(row.tobytes() for row in train.tokens + held.tokens) == ids
    assert len(subset(rows, 7)) == 7
    assert subset(rows, 99) is rows
    assert order(40, 3, 0).tolist() != order(40, 3, 1).tolist()
    assert order(40, 3, 1).tolist() == order(40, 3, 1).tolist()


# --- pooling and padding


def test_pooling_by_hand() -> None:
    hidden = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
    tokens, labels = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    right = MicroBatch(tokens, torch.tensor([2, 4]), None, labels)
    left = MicroBatch(tokens, torch.tensor([2, 4]), None, labels, left=True)
    full = MicroBatch(tokens, None, None, labels)
    assert pool(hidden, right, "first")[:, 0].tolist() == [0, 12]
    assert pool(hidden, left, "last")[:, 0].tolist() == [9, 21]
    assert pool(hidden, right, "last_token")[:, 0].tolist() == [3, 21]
    assert pool(hidden, left, "last_token")[:, 0].tolist() == [9, 21]
    assert pool(hidden, full, "last_token")[:, 0].tolist() == [9, 21]
    assert pool(hidden, right, "mean")[:, 0].tolist() == [1.5, 16.5]
    assert pool(hidden, left, "mean")[:, 0].tolist() == [7.5, 16.5]
    assert pool(hidden, full, "mean")[:, 0].tolist() == [4.5, 16.5]
    lengths = np.array([3, 5])
    line = MicroBatch(tokens.view(1, 8), torch.from_numpy(lengths), None, labels, groups=groups_of(lengths))
    assert pool(hidden.view(1, 8, 3), line, "first")[:, 0].tolist() == [0, 9]
    assert pool(hidden.view(1, 8, 3), line, "last_token")[:, 0].tolist() == [6, 21]
    assert pool(hidden.view(1, 8, 3), line, "mean")[:, 0].tolist() == [3, 15]


def test_pooling_that_goes_without_saying(world: Any) -> None:
    auto = settings_of()
    assert pooling_of("causal", auto, True) == "last_token"
    assert pooling_of("masked", auto, True) == "first"
    assert pooling_of("masked", auto, False) == "mean"
    assert pooling_of("masked", settings_of(padding="left"), True) == "mean"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pooling", ["last_token", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_side_and_batches_change_nothing(
    world: Any, tokenizer: Any, architecture: str, pooling: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of rows in a line, or padded on either side, are those of each row by itself."""
    if padded:
        monkeypatch.setattr(classifier_module, "reads_lines", lambda *_: False)
    model = model_of(world, architecture, tokenizer)
    rows = random_rows([3, 11, 7, 16, 1], len(tokenizer))
    found = {}
    for side in ("right", "left"):
        settings = settings_of(pooling=pooling, padding=side)
        classifier = build([model], 2, settings, tokenizer, seed=0)
        found[side] = predict(classifier, rows, settings, READING)
        alone = [predict(classifier, rows.take(np.array([i])), settings, READING)[0] for i in range(len(rows))]
        np.testing.assert_allclose(found[side], np.stack(alone), atol=2e-5)
    np.testing.assert_allclose(found["right"], found["left"], atol=2e-5)
    assert np.abs(found["right"]).max() > 0.01


def test_first_and_last_are_the_texts_ends(world: Any, tokenizer: Any) -> None:
    """`last` with padding on the left reads what `last_token` reads."""
    model, rows = model_of(world, "gpt2", tokenizer), random_rows([3, 9], len(tokenizer))
    last, token = settings_of(pooling="last", padding="left"), settings_of(pooling="last_token")
    one, other = (predict(build([model], 2, s, tokenizer, 0), rows, s, READING) for s in (last, token))
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_model_that_cannot_be_padded_on_the_left(world: Any, tokenizer: Any) -> None:
    model = model_of(world, "gpt2", tokenizer)  # without positions, it reads no lines either
    forward = model.hf.transformer.forward
    model.hf.transformer.forward = lambda input_ids, attention_mask=None, position_ids=None, **more: forward(
        input_ids=input_ids, **more
    )
    with pytest.raises(UserError, match="take `padding: right`"):
        build([model], 2, settings_of(padding="left"), tokenizer, 0)


# --- the slow twin


def plainly(classifier: nn.Module, rows: TextRows, index: np.ndarray) -> torch.Tensor:
    """The whole batch in one padded block, masked everywhere, fp32."""
    member = classifier.members[0]
    before = member.trunk.config._attn_implementation
    member.trunk.set_attn_implementation("eager")
    longest = max(len(rows.tokens[i]) for i in index)
    tokens = torch.zeros(len(index), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for place, i in enumerate(index):
        tokens[place, : len(rows.tokens[i])] = torch.from_numpy(rows.tokens[i])
        mask[place, : len(rows.tokens[i])] = 1
    hidden = member.trunk(input_ids=tokens, attention_mask=mask).last_hidden_state
    member.trunk.set_attn_implementation(before)
    pooled = torch.stack([row[: int(m.sum())][-1] for row, m in zip(hidden, mask, strict=True)])
    return member.head(pooled)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_gradient_and_weights_are_those_of_a_plain_loop(
    world: Any, tokenizer: Any, architecture: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps: parts, schedules and clipping against padded batches and Hugging Face's scheduler."""
    from transformers import get_linear_schedule_with_warmup

    from tutelage.evaluation.finetune import rows as rows_module

    # So that batches are cut into several parts.
    monkeypatch.setitem(rows_module.PART_COST, "cpu", 1)
    monkeypatch.setattr(rows_module, "LINE_TOKENS", 60)
    draw = np.random.default_rng(0)
    train = random_rows(draw.integers(1, 33, 24).tolist(), len(tokenizer))
    assert min(len(parts(train.lengths_N[:8], "cpu")), len(lines(train.lengths_N[:8]))) > 1
    model = model_of(world, architecture, tokenizer)
    # AdamW divides by the gradient's size and would blow rounding up; its groups have tests of their own.
    plain = torch.optim.SGD
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda groups, lr, **_: plain([p for group in groups for p in group["params"]], lr=lr)
    )
    settings = settings_of(
        pooling="last_token", batch_rows=8, epochs=2, dropout=0.0, warmup_share=0.0, lr=0.3, clip=0.5
    )
    _without_dropout(model)
    if padded:
        monkeypatch.setattr(classifier_module, "reads_lines", lambda *_: False)
    classifier = build([model], 2, settings, tokenizer, seed=5)
    assert classifier.reads_lines != padded
    before = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    twin = copy.deepcopy(classifier).train()
    monkeypatch.setattr(loop._Keeper, "restore", lambda self, epoch: None)
    fit(classifier, train, train, "accuracy", settings, READING, seed=5)

    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 6)
    for step in range(6):
        index = order(24, 5, step // 3)[step % 3 * 8 : step % 3 * 8 + 8]
        logits = plainly(twin, train, index)
        nn.functional.cross_entropy(logits, torch.from_numpy(train.labels_N[index])).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    moved = 0.0
    for (name, ours), theirs in zip(classifier.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
        moved += float((ours.detach() - before[name]).abs().sum())
    assert moved > 1


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_of_parts_is_that_of_the_batch(
    world: Any, tokenizer: Any, architecture: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if padded:
        monkeypatch.setattr(classifier_module, "reads_lines", lambda *_: False)
    rows = random_rows([2, 30, 5, 17, 9, 32, 1, 24], len(tokenizer))
    model = model_of(world, architecture, tokenizer)
    _without_dropout(model)
    settings = settings_of(pooling="last_token", dropout=0.0)
    classifier = build([model], 2, settings, tokenizer, seed=0).train()
    total = 0.0
    for index in (np.array([6, 0, 2]), np.array([4, 3]), np.array([7, 1, 5])):
        part = collate(rows, index, 0, "right", 32, CPU) if padded else line_up(rows, index)
        loss = nn.functional.cross_entropy(classifier(part), part.labels_B, reduction="sum") / 8
        loss.backward()
        total += float(loss.detach())
    gradient = {name: p.grad.clone() for name, p in classifier.named_parameters() if p.grad is not None}
    classifier.zero_grad()
    whole = nn.functional.cross_entropy(plainly(classifier, rows, np.arange(8)), torch.from_numpy(rows.labels_N))
    whole.backward()
    assert total == pytest.approx(float(whole.detach()), abs=1e-5)
    for name, parameter in classifier.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradient[name], parameter.grad, atol=1e-5, rtol=1e-3)


def _without_dropout(model: LanguageModel) -> None:
    for module in model.hf.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for key in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
        if hasattr(model.hf.config, key):
            setattr(model.hf.config, key, 0.0)
    for module in model.hf.modules():
        for key in ("attention_dropout", "attn_dropout"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)
