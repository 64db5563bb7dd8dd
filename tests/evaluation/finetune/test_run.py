"""Fine-tuning on tasks that can be learned; who chooses; ensembles, adapters, frozen models; bad input."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.base.errors import UserError
from tutelage.evaluation.finetune import loop
from tutelage.evaluation.finetune.classifier import build
from tutelage.evaluation.finetune.loop import Reading, fit, predict
from tutelage.evaluation.finetune.rows import TextRows, encode, line_up
from tutelage.evaluation.finetune.run import finetune, finetune_together
from tutelage.evaluation.finetune.tasks import LabelledText
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.finetune import Finetuning, TaskFinetuning

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


def texts(count: int, seed: int = 0) -> list[LabelledText]:
    """Texts of 2 to 12 words; the label says whether `dog` is among them."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = list(draw.choice([word for word in WORDS if word != "dog"], int(draw.integers(2, 13))))
        if number % 2:
            words[int(draw.integers(len(words)))] = "dog"
        found.append(LabelledText(" ".join(words), None, number % 2))
    return found


def write_task(folder: Path, name: str, train: list[LabelledText], scored: list[LabelledText]) -> None:
    for split_name, rows in (("train", train), ("valid", scored)):
        lines = (json.dumps({"sentence": row.first, "label": row.label}) for row in rows)
        (folder / f"{name}.{split_name}.jsonl").write_text("\n".join(lines))


def random_rows(lengths: list[int], vocabulary: int, labels: int = 2) -> TextRows:
    draw = np.random.default_rng(1)
    tokens = [draw.integers(7, vocabulary, length) for length in lengths]
    return TextRows(tokens, None, np.arange(len(lengths)) % labels)


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
    part = line_up(random_rows([5, 9, 3], len(tokenizer)), np.arange(3))
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
    write_task(tmp_path, "sst2", [LabelledText("one " + row.first, None, row.label) for row in texts(60)],
               [LabelledText("one " + row.first, None, row.label) for row in texts(20, seed=1)])  # fmt: skip
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


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[TextRows]:
    """Let evaluations score as a script says; return the rows they saw."""
    seen: list[TextRows] = []
    left = iter(scores)
    real = loop.predict

    def watched(classifier: Any, rows: TextRows, settings: Any, reading: Any) -> Any:
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


@pytest.mark.parametrize(("epochs", "scores"), [(2, (0.1, 0.3)), (1, (0.1,)), (0.5, (0.1,))])
def test_2023_evaluates_at_multiples_only(world: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch,
                                          epochs: float, scores: tuple[float, ...]) -> None:  # fmt: skip
    """The end is no candidate, save where nothing else is; what was trained after the best evaluation is undone."""
    seen = scripted(monkeypatch, [0.1, 0.3, 0.9])
    settings = settings_of(epochs=max(1, int(epochs)), evaluate_every=3, evaluate_end=False)  # 4 steps an epoch
    weights: list[torch.Tensor] = []
    stops = loop._Keeper.stops

    def noting(self: Any, score: float, epoch: float) -> bool:
        weights.append(classifier.members[0].head[-1].weight.detach().clone())
        return stops(self, score, epoch)

    monkeypatch.setattr(loop._Keeper, "stops", noting)
    rows = encode(tokenizer, texts(64 if epochs >= 1 else 32), 32, "x")
    classifier = build([model_of(world, "llama", tokenizer)], 2, settings, tokenizer, 0)
    fitted = fit(classifier, rows, rows, "accuracy", settings, READING, 0)
    assert (fitted.scores, len(seen)) == (scores, len(scores))
    assert torch.equal(classifier.members[0].head[-1].weight, weights[-1])


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
        turned = [LabelledText(row.first, None, 1 - row.label) for row in scored]
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
    long = [LabelledText("red " * 30 + row.first, None, row.label) for row in texts(32)]
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
    one_sided = [LabelledText("red", None, 0)] * 40 + [LabelledText("blue", None, 1)]
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
