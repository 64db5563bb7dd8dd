"""Tokenizers that would not work after the training are found before it; ids may have holes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.corpus import tokenizer as tokenizers
from tutelage.corpus.prepare import Prepared, prepare
from tutelage.recipe import Data
from tutelage.recipe.load import recipe_from_text

DATA = {"corpus": "starter", "words": 3000, "tokenizer": {"vocab_size": 300}, "rows": {"length": 16}}
RECIPE = """
name: trust
data: {corpus: starter, words: 3000, tokenizer: TOKENIZER, rows: {length: 16}}
models:
  one:
    config: {model_type: TYPE, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 2
    evaluations: 1
    optim: {batch_rows: 4}
    OBJECTIVES
"""


def recipe(tokenizer: str = "{vocab_size: 300}", type_: str = "llama", objectives: str = "") -> str:
    return RECIPE.replace("TOKENIZER", tokenizer).replace("TYPE", type_).replace("OBJECTIVES", objectives)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(Data.model_validate(DATA), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def with_hole(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer with its last token twenty ids higher."""
    state = json.loads(prepared.tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary[last] += 20
    file = tmp_path_factory.mktemp("hole") / "tokenizer.json"
    file.write_text(json.dumps(state))
    return file


def test_the_size_of_a_vocabulary_is_its_highest_id_and_one(prepared: Prepared, with_hole: Path) -> None:
    assert tokenizers.vocabulary_size(prepared.tokenizer) == len(prepared.tokenizer)
    holed = tokenizers.load(str(with_hole))
    assert tokenizers.vocabulary_size(holed) == len(holed) + 20


@pytest.mark.parametrize(
    ("type_", "objectives"), [("llama", ""), ("modernbert", "stages: [{objectives: {masked: 1}}]")]
)
def test_a_vocabulary_with_a_hole_trains_and_is_scored(
    with_hole: Path, tmp_path: Path, type_: str, objectives: str
) -> None:
    text = recipe(f"{{kind: pretrained, path: {with_hole}}}", type_, objectives)
    summary = api.run(recipe_from_text(text), runs=tmp_path)
    assert summary is not None
    size = tokenizers.vocabulary_size(tokenizers.load(str(with_hole)))
    config = json.loads((tmp_path / "trust" / "one" / "seed-0" / "hf" / "config.json").read_text())
    assert config["vocab_size"] == size


def test_a_type_that_loads_another_tokenizer_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"type 'qwen2' cannot be exported with the recipe's tokenizer"):
        api.run(recipe_from_text(recipe(type_="qwen2")), runs=tmp_path)
    assert not (tmp_path / "trust" / "one" / "seed-0" / "metrics.jsonl").exists()


def test_a_class_that_does_more_than_its_files_tell_is_found_at_prepare(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shouting(PreTrainedTokenizerFast):
        def __call__(self, text, **how):
            return super().__call__(text.upper(), **how)

    backend = Tokenizer.from_str(prepared.tokenizer.backend_tokenizer.to_str())
    monkeypatch.setattr(tokenizers, "_wrapped", lambda made: Shouting(tokenizer_object=backend, bos_token="<s>",
                                                                      eos_token="</s>", pad_token="<pad>"))  # fmt: skip
    with pytest.raises(UserError, match=r"\(Shouting\) encodes differently once saved and loaded again"):
        prepare(Data.model_validate(DATA), tmp_path / "data")
    assert not (tmp_path / "data" / "manifest.json").exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("size", [0, 200])
@pytest.mark.parametrize("digests", [True, False])
def test_a_cut_tokenizer_is_told_with_its_place_and_a_remedy(
    prepared: Prepared, tmp_path: Path, file: str, size: int, digests: bool
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(prepared.folder, folder)
    if not digests:  # as an earlier version prepared it
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["tokenizer_files"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with (folder / "tokenizer" / file).open("r+b") as cut:
        cut.truncate(size)
    with pytest.raises(UserError, match=f"{folder}.*tokenizer.*: delete {folder} and prepare again") as told:
        prepare(Data.model_validate(DATA), folder)
    assert "data.tokenizer.path" not in str(told.value) or not digests
    assert file in str(told.value) or not digests
