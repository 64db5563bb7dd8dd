"""Fine-tuning against its slow twin, by hand, and on tasks that can be learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.evaluation.finetune import loop
from tutelage.evaluation.finetune.classifier import build, pool, pooling_of
from tutelage.evaluation.finetune.loop import Reading, fit, predict
from tutelage.evaluation.finetune.rows import Part, Rows, collate, encode, order, parts, split, subset
from tutelage.evaluation.finetune.run import finetune, finetune_together
from tutelage.evaluation.finetune.tasks import Example
from tutelage.models.language_model import LanguageModel
from tutelage.recipe_finetune import Finetuning, TaskFinetuning

WORDS = ["red", "blue", "green", "one", "two", "three", "dog", "cat", "cow"]
READING = Reading(0, 64, "fp32", "test")
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


def texts(count: int, seed: int = 0) -> list[Example]:
    """Texts of 2 to 12 words; the label says whether `dog` is among them."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = list(draw.choice([word for word in WORDS if word != "dog"], int(draw.integers(2, 13))))
        if number % 2:
            words[int(draw.integers(len(words)))] = "dog"
        found.append(Example(" ".join(words), None, number % 2))
    return found


def write_task(folder: Path, name: str, train: list[Example], scored: list[Example]) -> None:
    for split_name, rows in (("train", train), ("valid", scored)):
        lines = (json.dumps({"sentence": row.first, "label": row.label}) for row in rows)
        (folder / f"{name}.{split_name}.jsonl").write_text("\n".join(lines))


def random_rows(lengths: list[int], vocabulary: int, labels: int = 2) -> Rows:
    draw = np.random.default_rng(1)
    tokens = [draw.integers(7, vocabulary, length) for length in lengths]
    return Rows(tokens, None, np.arange(len(lengths)) % labels)


# --- rows


def test_parts_hold_every_row_once_and_save_padding() -> None:
    draw = np.random.default_rng(0)
    for count in (1, 2, 31, 64):
        lengths = draw.integers(1, 129, count)
        found = parts(lengths, "cpu")
        assert sorted(np.concatenate(found).tolist()) == list(range(count))
        padded = sum(len(part) * -(-lengths[part].max() // 8) * 8 for part in found)
        assert padded <= count * -(-lengths.max() // 8) * 8
        assert all(len(part) == 1 or len(part) * lengths[part].max() <= 1024 for part in found)
    assert len(parts(draw.integers(1, 129, 64), "cuda")) == 1


def test_parts_are_the_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all ways of cutting six rows."""
    from itertools import combinations

    from tutelage.evaluation.finetune import rows

    monkeypatch.setitem(rows.PART_COST, "cpu", 30)

    def cost(cut: list[np.ndarray], lengths: np.ndarray) -> int:
        return sum(len(part) * (-(-int(lengths[part].max()) // 8) * 8) + 30 for part in cut)

    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 60, 6)
        order_N = np.argsort(lengths, kind="stable")
        ways = [np.split(order_N, list(cuts)) for n in range(6) for cuts in combinations(range(1, 6), n)]
        assert cost(parts(lengths, "cpu"), lengths) == min(cost(way, lengths) for way in ways)


def test_long_texts_are_cut_as_told(tokenizer: Any) -> None:
    rows = encode(tokenizer, [Example("red " * 20, None, 0), Example("red blue", None, 1)], 8, "x")
    assert [len(row) for row in rows.tokens] == [8, 2]
    assert rows.cut == 1
    pair = encode(tokenizer, [Example("red blue", "one " * 20, 0)], 8, "x")
    ids = tokenizer.convert_ids_to_tokens(pair.tokens[0].tolist())
    assert ids == ["red", "blue", *["one"] * 6]


def test_pairs_follow_the_tokenizers_template(world: Any) -> None:
    rows = encode(world.FRAMED, [Example("No.", None, 0)], 32, "x")
    assert rows.tokens[0][0] == world.FRAMED.cls_token_id
    assert rows.tokens[0][-1] == world.FRAMED.sep_token_id


def test_texts_without_a_token_are_told(world: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"rte.train: row 1 .* has no token"):
        encode(tokenizer, [Example("red", None, 0), Example("zebra", None, 1)], 32, "rte.train")
    with pytest.raises(UserError, match="no room for text"):
        encode(world.FRAMED, [Example("No.", None, 0)], 2, "x")


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
    right = Part(tokens, torch.tensor([2, 4]), None, labels)
    left = Part(tokens, torch.tensor([2, 4]), None, labels, left=True)
    full = Part(tokens, None, None, labels)
    assert pool(hidden, right, "first")[:, 0].tolist() == [0, 12]
    assert pool(hidden, left, "last")[:, 0].tolist() == [9, 21]
    assert pool(hidden, right, "last_token")[:, 0].tolist() == [3, 21]
    assert pool(hidden, left, "last_token")[:, 0].tolist() == [9, 21]
    assert pool(hidden, full, "last_token")[:, 0].tolist() == [9, 21]
    assert pool(hidden, right, "mean")[:, 0].tolist() == [1.5, 16.5]
    assert pool(hidden, left, "mean")[:, 0].tolist() == [7.5, 16.5]
    assert pool(hidden, full, "mean")[:, 0].tolist() == [4.5, 16.5]


def test_pooling_that_goes_without_saying(world: Any) -> None:
    auto = settings_of()
    assert pooling_of("causal", auto, True) == "last_token"
    assert pooling_of("masked", auto, True) == "first"
    assert pooling_of("masked", auto, False) == "mean"
    assert pooling_of("masked", settings_of(padding="left"), True) == "mean"


@pytest.mark.parametrize("pooling", ["last_token", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_side_and_batches_change_nothing(world: Any, tokenizer: Any, architecture: str, pooling: str) -> None:
    """Logits of padded rows, on either side, are those of each row by itself."""
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
    model = model_of(world, "gpt2", tokenizer)
    forward = model.hf.transformer.forward
    model.hf.transformer.forward = lambda input_ids, attention_mask=None, position_ids=None, **more: forward(
        input_ids=input_ids, **more
    )
    with pytest.raises(UserError, match="take `padding: right`"):
        build([model], 2, settings_of(padding="left"), tokenizer, 0)


# --- the slow twin


def plainly(classifier: nn.Module, rows: Rows, index: np.ndarray) -> torch.Tensor:
    """The whole batch in one padded block, masked everywhere, fp32."""
    member = classifier.members[0]
    longest = max(len(rows.tokens[i]) for i in index)
    tokens = torch.zeros(len(index), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for place, i in enumerate(index):
        tokens[place, : len(rows.tokens[i])] = torch.from_numpy(rows.tokens[i])
        mask[place, : len(rows.tokens[i])] = 1
    hidden = member.trunk(input_ids=tokens, attention_mask=mask).last_hidden_state
    pooled = torch.stack([row[: int(m.sum())][-1] for row, m in zip(hidden, mask, strict=True)])
    return member.head(pooled)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_gradient_and_weights_are_those_of_a_plain_loop(
    world: Any, tokenizer: Any, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps: parts, schedules and clipping against padded batches and Hugging Face's scheduler."""
    from transformers import get_linear_schedule_with_warmup

    from tutelage.evaluation.finetune import rows as rows_module

    # So that batches are cut into several parts.
    monkeypatch.setitem(rows_module.PART_COST, "cpu", 1)
    draw = np.random.default_rng(0)
    train = random_rows(draw.integers(1, 33, 24).tolist(), len(tokenizer))
    assert len(parts(train.lengths_N[:8], "cpu")) > 2
    model = model_of(world, architecture, tokenizer)
    # AdamW divides by the gradient's size and would blow rounding up; its groups have tests of their own.
    monkeypatch.setattr(loop, "adamw", lambda model, optim, **_: torch.optim.SGD(model.parameters(), lr=optim.lr))
    settings = settings_of(
        pooling="last_token", batch_rows=8, epochs=2, dropout=0.0, warmup_share=0.0, lr=0.3, clip=0.5
    )
    _without_dropout(model)
    classifier = build([model], 2, settings, tokenizer, seed=5)
    before = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    twin = copy.deepcopy(classifier).train()
    monkeypatch.setattr(loop._Keeper, "restore", lambda self: None)
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_of_parts_is_that_of_the_batch(world: Any, tokenizer: Any, architecture: str) -> None:
    rows = random_rows([2, 30, 5, 17, 9, 32, 1, 24], len(tokenizer))
    model = model_of(world, architecture, tokenizer)
    _without_dropout(model)
    settings = settings_of(pooling="last_token", dropout=0.0)
    classifier = build([model], 2, settings, tokenizer, seed=0).train()
    total = 0.0
    for index in (np.array([6, 0, 2]), np.array([4, 3]), np.array([7, 1, 5])):
        part = collate(rows, index, 0, "right", 32)
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


# --- learning


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "modernbert"])
def test_what_can_be_learned_is_learned(world: Any, tokenizer: Any, tmp_path: Path, architecture: str) -> None:
    write_task(tmp_path, "sst2", texts(400), texts(100, seed=1))
    model = model_of(world, architecture, tokenizer)
    before = {name: p.clone() for name, p in model.hf.named_parameters()}
    settings = Finetuning.model_validate(settings_of(epochs=8).model_dump() | {"tasks": ["sst2"]})
    result = finetune([model], tokenizer, "sst2", settings, seed=0, folder=tmp_path)
    assert result.values["accuracy"].value > 0.9
    assert result.values["mcc"].value > 0.8
    assert result.values["majority"].value == 0.5
    assert next(iter(result.values)) == result.headline == "accuracy"
    assert [entry["id"] for entry in result.predictions] == [f"sst2_{i}" for i in range(100)]
    right = np.mean([entry["pred"] == i % 2 for i, entry in enumerate(result.predictions)])
    assert right == result.values["accuracy"].value
    assert "40 rows held out" in result.values["accuracy"].note
    for name, parameter in model.hf.named_parameters():
        assert torch.equal(parameter, before[name]), "the model itself must stay as it is"


def test_the_same_seed_gives_the_same_numbers(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    write_task(tmp_path, "sst2", texts(64), texts(20, seed=1))
    model = model_of(world, "gpt2", tokenizer)  # with dropout
    settings = Finetuning.model_validate(settings_of(epochs=2).model_dump())
    state = torch.get_rng_state()
    one, again, other = (
        finetune([model], tokenizer, "sst2", settings, seed=seed, folder=tmp_path).predictions for seed in (1, 1, 2)
    )
    rows = encode(tokenizer, texts(64), 32, "x")
    logits = []
    for seed in (1, 1, 2):
        classifier = build([model], 2, settings.of("sst2"), tokenizer, seed)
        fit(classifier, rows, rows, "accuracy", settings.of("sst2"), READING, seed)
        logits.append(predict(classifier, rows, settings.of("sst2"), READING))
    assert one == again
    assert len(other) == len(one)
    assert np.array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])
    assert torch.equal(torch.get_rng_state(), state), "the process' random numbers are not touched"


def test_an_ensemble_is_one_classifier(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Mean of logits, one loss, gradients into members of different architectures."""
    models = [model_of(world, "llama", tokenizer), model_of(world, "gpt2", tokenizer, seed=1)]
    for model in models:
        _without_dropout(model)
    settings = settings_of(dropout=0.0)
    classifier = build(models, 2, settings, tokenizer, seed=0).train()
    part = collate(random_rows([5, 9, 3], len(tokenizer)), np.arange(3), 0, "right", 32)
    mean = sum(member(part) for member in classifier.members) / 2
    torch.testing.assert_close(classifier(part), mean)
    nn.functional.cross_entropy(classifier(part), part.labels_B).backward()
    for member in classifier.members:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in member.head.parameters())
        assert member.trunk.get_input_embeddings().weight.grad.abs().sum() > 0
    write_task(tmp_path, "sst2", texts(300), texts(60, seed=1))
    result = finetune(models, tokenizer, "sst2", Finetuning.model_validate(settings.model_dump()), 0, tmp_path)
    assert result.values["accuracy"].value > 0.8


def test_causal_models_see_nothing_from_the_first_token(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The default of 2025, and the note that tells of it."""
    write_task(tmp_path, "sst2", [Example("one " + row.first, None, row.label) for row in texts(60)],
               [Example("one " + row.first, None, row.label) for row in texts(20, seed=1)])  # fmt: skip
    settings = Finetuning.model_validate(settings_of(epochs=1, pooling="first").model_dump())
    result = finetune([model_of(world, "llama", tokenizer)], tokenizer, "sst2", settings, 0, tmp_path)
    assert len({entry["pred"] for entry in result.predictions}) == 1
    assert "nothing but the first token" in result.values["accuracy"].note


@pytest.mark.parametrize("freeze", ["embeddings", "model"])
def test_what_is_frozen_stays(world: Any, tokenizer: Any, freeze: str) -> None:
    settings = settings_of(freeze=freeze, epochs=1)
    classifier = build([model_of(world, "gpt2", tokenizer)], 2, settings, tokenizer, 0)
    before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
    rows = encode(tokenizer, texts(32), 32, "x")
    fit(classifier, rows, rows, "accuracy", settings_of(freeze=freeze, epochs=1, patience=None), READING, 0)
    changed = {name for name, p in classifier.named_parameters() if not torch.equal(p, before[name])}
    assert any("head" in name for name in changed)
    assert not any("wte" in name or "wpe" in name for name in changed)
    assert any(".h." in name for name in changed) == (freeze == "embeddings")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_alone_learn(world: Any, tokenizer: Any, tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    settings = settings_of(lora={"rank": 4, "alpha": 8}, lr=1e-2, epochs=1)
    model = model_of(world, architecture, tokenizer)
    classifier = build([model], 2, settings, tokenizer, 0)
    before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
    rows = encode(tokenizer, texts(64), 32, "x")
    fit(classifier, rows, rows, "accuracy", settings, READING, 0)
    changed = {name for name, p in classifier.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name or "head" in name for name in changed)
    assert any("lora_" in name for name in changed)


def test_adapters_where_peft_knows_no_place(world: Any, tokenizer: Any) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    model = model_of(world, "llama", tokenizer)
    with pytest.raises(UserError, match="does not suit a llama"):
        build([model], 2, settings_of(lora={"targets": ["nowhere"]}), tokenizer, 0)
    model.hf.config.model_type = "unheard-of"
    with pytest.raises(UserError, match=r"name linear layers in `lora.targets`: .*q_proj"):
        build([model], 2, settings_of(lora=True), tokenizer, 0)


def test_without_peft_the_extra_is_named(world: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"tutelage\[finetune\]"):
        build([model_of(world, "llama", tokenizer)], 2, settings_of(lora=True), tokenizer, 0)


# --- choosing


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[Rows]:
    """Let evaluations score as a script says; return the rows they saw."""
    seen: list[Rows] = []
    left = iter(scores)
    real = loop.predict

    def watched(classifier: Any, rows: Rows, settings: Any, reading: Any) -> Any:
        seen.append(rows)
        return real(classifier, rows, settings, reading)

    monkeypatch.setattr(loop, "predict", watched)
    monkeypatch.setattr(loop, "METRICS", dict.fromkeys(("accuracy", "f1", "mcc"), lambda gold, said: next(left)))
    return seen


@pytest.mark.parametrize(
    ("scores", "said", "best", "ran"),
    [
        ([0.5, 0.7, 0.7, 0.6], {}, 2, 4),
        ([0.5, 0.5, 0.5, 0.5], {}, 1, 4),
        ([0.5, 0.6, 0.7, 0.8], {}, 4, 4),
        ([0.5, 0.4, 0.4, 0.9], {"patience": 2}, 1, 3),
        ([0.5, 0.505, 0.51, 0.9], {"patience": 2, "min_gain": 0.02}, 3, 3),
    ],
)
def test_ties_keep_the_earlier_epoch_and_patience_ends(
    world: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, scores: list[float], said: dict[str, Any], best: int,
    ran: int,
) -> None:  # fmt: skip
    scripted(monkeypatch, scores)
    settings = settings_of(epochs=4, **said)
    rows = encode(tokenizer, texts(32), 32, "x")
    weights: list[torch.Tensor] = []
    classifier = build([model_of(world, "llama", tokenizer)], 2, settings, tokenizer, 0)
    stops = loop._Keeper.stops

    def noting(self: Any, score: float, epoch: float) -> bool:
        weights.append(classifier.members[0].head[-1].weight.detach().clone())
        return stops(self, score, epoch)

    monkeypatch.setattr(loop._Keeper, "stops", noting)
    fitted = fit(classifier, rows, rows, "accuracy", settings, READING, 0)
    assert (fitted.epoch, fitted.ran, fitted.score) == (best, ran, scores[best - 1])
    assert torch.equal(classifier.members[0].head[-1].weight, weights[best - 1])


def test_evaluations_by_steps(world: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.1, 0.9, 0.3])
    settings = settings_of(epochs=2, evaluate_every=3)  # 4 steps an epoch: after 3, 6 and 8
    rows = encode(tokenizer, texts(64), 32, "x")
    classifier = build([model_of(world, "llama", tokenizer)], 2, settings, tokenizer, 0)
    fitted = fit(classifier, rows, rows, "accuracy", settings, READING, 0)
    assert fitted.scores == (0.1, 0.9, 0.3)
    assert fitted.epoch == 1.5


@pytest.mark.parametrize("select", ["held_out", "scored"])
def test_who_chooses(world: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str) -> None:
    """With `held_out` no evaluation sees the scored file, and its labels change nothing but its scores."""
    train, scored = texts(60), texts(20, seed=1)
    write_task(tmp_path, "sst2", train, scored)
    scored_ids = {row.tobytes() for row in encode(tokenizer, scored, 32, "x").tokens}
    train_ids = {row.tobytes() for row in encode(tokenizer, train, 32, "x").tokens}
    seen = scripted(monkeypatch, [0.5] * 4)
    settings = Finetuning.model_validate(settings_of(epochs=2, select=select).model_dump())
    result = finetune([model_of(world, "llama", tokenizer)], tokenizer, "sst2", settings, 0, tmp_path)
    assert len(seen) == 2
    for rows in seen:
        ids = {row.tobytes() for row in rows.tokens}
        assert ids <= (train_ids if select == "held_out" else scored_ids)
    assert ("too good" in result.values["chosen"].note) == (select == "scored")
    monkeypatch.undo()
    if select == "held_out":
        turned = [Example(row.first, None, 1 - row.label) for row in scored]
        real = finetune([model_of(world, "llama", tokenizer)], tokenizer, "sst2", settings, 0, tmp_path)
        write_task(tmp_path, "sst2", train, turned)
        other = finetune([model_of(world, "llama", tokenizer)], tokenizer, "sst2", settings, 0, tmp_path)
        assert other.predictions == real.predictions


def test_sweeps_choose_on_held_out_rows(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    write_task(tmp_path, "sst2", texts(300), texts(60, seed=1))
    said = settings_of(epochs=4).model_dump() | {"sweep": {"lr": [1e-7, 3e-3], "batch_rows": [16, 300]}}
    settings = Finetuning.model_validate(said)
    result = finetune([model_of(world, "llama", tokenizer)], tokenizer, "sst2", settings, 0, tmp_path)
    assert result.values["accuracy"].value > 0.8
    assert "lr 0.003, batch_rows 16, epochs 4, best of 4" in result.values["accuracy"].note


def test_mnli_mm_reuses_the_model_of_mnli(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    def rows(count: int, seed: int) -> list[str]:
        draw = np.random.default_rng(seed)
        labels = [i % 3 for i in range(count)]
        pairs = [(" ".join(draw.choice(WORDS[:6], 4)), " ".join([WORDS[6 + label]] * 2)) for label in labels]
        return [json.dumps({"premise": a, "hypothesis": b, "label": label})
                for (a, b), label in zip(pairs, labels, strict=True)]  # fmt: skip

    for name, count in (("mnli.train", 240), ("mnli.valid", 30), ("mnli-mm.valid", 21)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows(count, count)))
    model = model_of(world, "llama", tokenizer)
    settings = Finetuning.model_validate(settings_of(select="scored").model_dump() | {"rules": "2024"})
    found = finetune_together([model], tokenizer, ("mnli", "mnli-mm"), settings, 0, tmp_path)
    assert [len(found[name].predictions) for name in ("mnli", "mnli-mm")] == [30, 21]
    assert found["mnli-mm"].predictions[0]["id"] == "mnli-mm_0"
    assert set(found["mnli"].values) == {"accuracy", "mcc", "chosen", "majority"}
    assert all(result.values["accuracy"].value > 0.9 for result in found.values())
    alone = finetune([model], tokenizer, "mnli-mm", settings, 0, tmp_path)
    assert alone.predictions == found["mnli-mm"].predictions
    with pytest.raises(UserError, match="need a training each"):
        finetune_together([model], tokenizer, ("mnli", "rte"), settings, 0, tmp_path)


# --- bad input


def test_more_tokens_than_positions(world: Any, tokenizer: Any, tmp_path: Path, capsys: Any) -> None:
    long = [Example("red " * 30 + row.first, None, row.label) for row in texts(32)]
    write_task(tmp_path, "sst2", long, long)
    settings = Finetuning.model_validate(settings_of(epochs=1, max_length=64).model_dump())
    result = finetune([model_of(world, "gpt2", tokenizer, positions=16)], tokenizer, "sst2", settings, 0, tmp_path)
    assert "32 texts were cut at 16 tokens" in result.values["accuracy"].note
    assert "cut at 16 tokens, not at max_length=64" in capsys.readouterr().err


def test_a_tokenizer_without_padding_changes_nothing(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    write_task(tmp_path, "sst2", texts(48), texts(20, seed=1))
    settings = Finetuning.model_validate(settings_of(epochs=2).model_dump())
    for architecture in ("gpt2", "bert"):
        model = model_of(world, architecture, tokenizer)
        usual = finetune([model], tokenizer, "sst2", settings, 0, tmp_path)
        bare = copy.deepcopy(tokenizer)
        bare.pad_token = None
        assert bare.pad_token_id is None
        assert finetune([model], bare, "sst2", settings, 0, tmp_path).predictions == usual.predictions


def test_training_rows_too_few(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    one_sided = [Example("red", None, 0)] * 40 + [Example("blue", None, 1)]
    write_task(tmp_path, "sst2", one_sided, texts(4))
    model = model_of(world, "llama", tokenizer)
    settings = Finetuning.model_validate(settings_of(train_rows=2).model_dump())
    with pytest.raises(UserError, match="have one label only; raise train_rows"):
        finetune([model], tokenizer, "sst2", settings, 0, tmp_path)
    write_task(tmp_path, "sst2", texts(8), texts(4))
    settings = Finetuning.model_validate(settings_of(drop_last=True).model_dump())
    with pytest.raises(UserError, match="fill no batch of 16 rows"):
        finetune([model], tokenizer, "sst2", settings, 0, tmp_path)


def test_a_tokenizer_of_another_model(world: Any, tokenizer: Any, tmp_path: Path) -> None:
    write_task(tmp_path, "sst2", texts(8), texts(4))
    model = LanguageModel(world.hugging_face("llama", 9), "causal", 9)
    settings = Finetuning.model_validate(settings_of().model_dump())
    with pytest.raises(UserError, match="knows 9 tokens"):
        finetune([model], tokenizer, "sst2", settings, 0, tmp_path)


def test_a_loss_that_is_not_finite(world: Any, tokenizer: Any) -> None:
    model = model_of(world, "llama", tokenizer)
    rows = encode(tokenizer, texts(32), 32, "x")
    settings = settings_of(epochs=1)
    classifier = build([model], 2, settings, tokenizer, 0)
    with torch.no_grad():
        classifier.members[0].head[-1].weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite after step 2; lower lr"):
        fit(classifier, rows, rows, "accuracy", settings, READING, 0)


def test_no_model(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no model"):
        build([], 2, settings_of(), tokenizer, 0)


@pytest.mark.data
def test_real_rows_go_through(world: Any, real_data: Path) -> None:
    """A tiny model on WSC: nothing to be learned, everything to be gone through."""
    model = model_of(world, "llama", world.PLAIN)
    settings = Finetuning.model_validate({"rules": "2026", "epochs": 1, "max_length": 64})
    result = finetune([model], world.PLAIN, "wsc", settings, 0, real_data / "glue")
    assert len(result.predictions) == 52
    assert set(result.values) == {"accuracy", "f1", "mcc", "chosen", "majority"}
