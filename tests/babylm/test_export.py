"""Checkpoints by words seen, one after the other, and the folder to upload."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutelage import api
from tutelage.babylm.export import export_babylm
from tutelage.base.errors import UserError
from tutelage.experiment.initial import new_model
from tutelage.experiment.loading import trained
from tutelage.experiment.setup import Experiment
from tutelage.experiment.word_checkpoints import word_checkpoints
from tutelage.recipe import Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.training import checkpoint
from tutelage.training.parallel import Group

RECIPE = """
name: words
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 32}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32,
             rope_parameters: {rope_type: default, rope_theta: 5000.0}}
    steps: 8
    checkpoints: [200, 300, 500, 1M]
    optim: {batch_rows: 8, lr: 1.0e-2}
  plain: {like: student, checkpoints: []}
evaluate: [val, starter-pairs]
"""
STUDENT = Teacher(model="student", seed=0)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    runs = tmp_path_factory.mktemp("runs")
    api.run(recipe_from_text(RECIPE), runs=runs)
    return Experiment(recipe_from_text(RECIPE), runs, Group(0, 1, torch.device("cpu")))


@pytest.fixture(scope="module")
def exported(experiment, tmp_path_factory) -> Path:
    return export_babylm(experiment, experiment.run(STUDENT), "2026", tmp_path_factory.mktemp("upload") / "student")


def test_checkpoints_come_in_order_of_words_seen(experiment) -> None:
    kept = word_checkpoints(experiment, experiment.run(STUDENT))
    assert [(one.name, one.words_seen) for one in kept] == [("chck_200", 200), ("chck_300", 300), ("chck_500", 500)]
    weights = [one.load().weight_VD for one in kept]
    run = experiment.run(STUDENT).folder
    for one, weight in zip(kept, weights, strict=True):
        step = experiment.plans.of("student").steps.words[one.words_seen]
        state = json.loads((checkpoint.folder_of(run.checkpoints, step) / "state.json").read_text())
        per_token = experiment.data.train.words / len(experiment.data.train)
        assert (state["tokens"] - 8 * 32) * per_token < one.words_seen <= state["tokens"] * per_token
        assert not torch.equal(weight, new_model(experiment, experiment.run(STUDENT)).weight_VD)
    assert not torch.equal(weights[0], weights[1])


def test_models_without_checkpoints_are_refused(experiment) -> None:
    with pytest.raises(UserError, match=r"plain\[0\] has no checkpoints by words seen: name some"):
        word_checkpoints(experiment, experiment.run(Teacher(model="plain", seed=0)))


def test_checkpoints_that_were_not_asked_for_in_time_are_told(experiment) -> None:
    text = RECIPE.replace("checkpoints: []", "checkpoints: [200, 300]")
    later = Experiment(recipe_from_text(text), experiment.folder.parent, experiment.group)
    with pytest.raises(UserError, match=r"plain\[0\] was trained without the checkpoints at 200, 300 words"):
        word_checkpoints(later, later.run(Teacher(model="plain", seed=0)))


def test_upload_folder_loads_in_stock_transformers(experiment, exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "UPLOAD.md", "chck_200", "chck_300", "chck_500", "main",
    ]  # fmt: skip
    expected = {one.name: one.load() for one in word_checkpoints(experiment, experiment.run(STUDENT))}
    expected["main"] = trained(experiment, Teacher(model="student"), "causal")
    for name, model in expected.items():
        tokenizer = AutoTokenizer.from_pretrained(exported / name)
        tokens = tokenizer("The cat sat on the mat.", return_tensors="pt").input_ids
        assert tokens[0].tolist() == experiment.data.tokenizer("The cat sat on the mat.")["input_ids"]
        with torch.no_grad():
            stock = AutoModelForCausalLM.from_pretrained(exported / name)(tokens).logits
            assert (stock - model.logits(tokens)).abs().max() < 1e-5
        # The class that every version of transformers knows, and the key that version 4 reads.
        config = json.loads((exported / name / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert json.loads((exported / name / "config.json").read_text())["rope_theta"] == 5000


def test_cards_say_what_each_revision_is(exported: Path) -> None:
    card = (exported / "main" / "README.md").read_text()
    assert "tags: [tutelage, babylm, babylm-2026]" in card
    assert "| base model | none: trained from random weights |" in card
    assert "| starter-pairs | accuracy " in card
    assert "| val | loss " in card
    assert "BPE, 400 tokens, trained on this corpus" in card
    card = (exported / "chck_300" / "README.md").read_text()
    assert "`chck_300`: 300 words seen" in card
    assert "Not measured for this revision." in card
    upload = (exported / "UPLOAD.md").read_text()
    assert "hf upload USER/NAME chck_300 . --revision chck_300" in upload
    assert upload.index("--revision chck_500") < upload.index("--revision main")


def test_a_folder_that_holds_something_is_left_alone(experiment, exported: Path) -> None:
    with pytest.raises(UserError, match="is not an empty folder"):
        export_babylm(experiment, experiment.run(STUDENT), "2026", exported)
