"""What a model sees is tested when it is made or loaded; settings that cannot work are refused by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from tutelage.base.errors import UserError
from tutelage.experiment.setup import Experiment
from tutelage.models.build import config_for, read_weights
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.load import recipe_from_text
from tutelage.training.parallel import Group

V = 60
SHAPE = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def made(architecture: str, kind: str, **settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    factory = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    hf = factory.from_config(AutoConfig.for_model(architecture, **settings), attn_implementation="eager")
    return LanguageModel(hf, kind, V)  # type: ignore[arg-type]


XLM = {"vocab_size": V, "emb_dim": 16, "n_layers": 1, "n_heads": 2}


@pytest.mark.parametrize(("architecture", "settings"), [("bert", SHAPE), ("roberta", SHAPE), ("xlm", XLM)])
def test_a_model_that_reads_ahead_is_no_causal_one(architecture: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"sees the tokens that follow, .*--kind masked.*is_decoder"):
        made(architecture, "causal", **settings)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("bert", {**SHAPE, "is_decoder": True}), ("xlm", {**XLM, "causal": True}), ("llama", SHAPE), ("mamba", SHAPE)],
)
def test_causal_models_pass(architecture: str, settings: dict[str, Any]) -> None:
    assert made(architecture, "causal", **settings).kind == "causal"


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_masked_models_pass(architecture: str) -> None:
    assert made(architecture, "masked", **SHAPE, pad_token_id=0).kind == "masked"


def test_a_model_that_does_not_read_ahead_is_no_masked_one() -> None:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))
    with pytest.raises(UserError, match=r"does not see the tokens that follow.*next_token"):
        LanguageModel(hf, "masked", V)
    with pytest.raises(UserError, match="does not see the tokens that follow"):
        made("bert", "masked", **SHAPE, is_decoder=True)


RECIPE = """
name: toy
data: {corpus: starter, words: 3000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  one: {config: CONFIG, steps: 2, evaluations: 1, optim: {batch_rows: 4}}
"""
LLAMA = "{model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = recipe_from_text(RECIPE.replace("CONFIG", LLAMA + "}"))
    return Experiment(recipe, tmp_path_factory.mktemp("runs"), Group(0, 1, torch.device("cpu")))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dtype: float16", r"config\.dtype \(float16\).*leave it out.*precision"),
        ("torch_dtype: bfloat16", r"config\.torch_dtype \(bfloat16\)"),
        ("vocab_size: 9", r"config\.vocab_size comes from the recipe's tokenizer"),
        ("pad_token_id: 3", r"config\.pad_token_id comes from the recipe's tokenizer"),
        ("num_attention_heads: 5", "num_attention_heads=5"),
        ("head_dim: 7", "head_dim=7"),
        ("hidden_size: 0", "hidden_size=0"),
    ],
)
def test_settings_that_cannot_work_are_named(experiment: Experiment, setting: str, message: str) -> None:
    key = setting.partition(":")[0]
    fewer = ", ".join(part for part in LLAMA[1:].split(", ") if not part.startswith(f"{key}:"))
    text = RECIPE.replace("CONFIG", "{" + fewer + ", " + setting + "}")
    from tutelage.models.build import build

    with pytest.raises(UserError, match=message):
        build(recipe_from_text(text).models["one"], experiment.data.tokenizer, 16, 0)


def test_reads_of_configuration_are_whole(experiment: Experiment) -> None:
    config = config_for(experiment.recipe.models["one"], experiment.data.tokenizer, 16)
    assert config.vocab_size == len(experiment.data.tokenizer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))
    hf.save_pretrained(tmp_path)
    return tmp_path


def test_weights_of_layers_that_the_configuration_lacks_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    more = {name.replace("layers.0.", "layers.1."): value.clone() for name, value in weights.items()}
    save_file({**weights, **more}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights of layers that its config\.json does not have \(model\.layers\.1\."):
        read_weights(str(folder), "causal")


def test_other_weights_without_a_place_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "classifier.weight": torch.zeros(2, 16)}, folder / "model.safetensors", {"format": "pt"})
    read_weights(str(folder), "causal")
    assert "has no place for are left out: classifier.weight" in " ".join(capsys.readouterr().err.split())
