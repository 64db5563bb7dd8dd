"""The `hf/` of a finished model is compared with its digests whenever it is read: a damaged one never counts unsaid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.base.files import sha256
from tutelage.recipe import Recipe
from tutelage.recipe.load import recipe_from_text

SHAPE = "config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, " \
        "intermediate_size: 32}"  # fmt: skip
RECIPE = f"""
name: damaged
data: {{corpus: starter, words: 3000, tokenizer: {{vocab_size: 300}}, rows: {{length: 16}}}}
models:
  teacher: {{{SHAPE}, steps: 3, evaluations: 1, optim: {{batch_rows: 4}}}}
  student:
    like: teacher
    stages: [{{teachers: [teacher], objectives: {{next_token: 0.5, distill: 0.5}}}}]
evaluate: [test]
"""


def recipe(cache: str = "") -> Recipe:
    return recipe_from_text(RECIPE.replace("teachers: [teacher],", f"teachers: [teacher], {cache}"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("finished")
    api.run(recipe(), runs=runs)
    return runs


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """Both models finished, nothing scored."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for scores in tmp_path.glob("damaged/*/seed-0/scores"):
        shutil.rmtree(scores)
    return tmp_path


def hf_of(runs: Path, model: str = "teacher") -> Path:
    return runs / "damaged" / model / "seed-0" / "hf"


def zeros(hf: Path) -> None:
    with (hf / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(bytes(4000))


def one_bit(hf: Path) -> None:
    data = bytearray((hf / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (hf / "model.safetensors").write_bytes(data)


def nan(hf: Path) -> None:
    weights = load_file(hf / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, hf / "model.safetensors", {"format": "pt"})


def other_run(hf: Path) -> None:
    shutil.rmtree(hf)
    shutil.copytree(hf.parents[2] / "student" / "seed-0" / "hf", hf)


def empty_tokenizer(hf: Path) -> None:
    (hf / "tokenizer.json").write_bytes(b"")


DAMAGES = [zeros, one_bit, nan, other_run, empty_tokenizer, shutil.rmtree]


def weights_of(runs: Path, model: str) -> str:
    return sha256(hf_of(runs, model) / "model.safetensors")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_teacher_is_exported_again_and_teaches_as_before(
    finished: Path, runs: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(hf_of(runs))
    shutil.rmtree(runs / "damaged" / "student")
    api.run(recipe(), runs=runs)
    assert weights_of(runs, "teacher") == weights_of(finished, "teacher")
    assert weights_of(runs, "student") == weights_of(finished, "student")
    assert hf_of(runs).with_name("hf-damaged").is_dir() == (damage is not shutil.rmtree)
    said = " ".join(capsys.readouterr().err.split())
    assert "was damaged" in said
    assert "is exported again from checkpoint step-3" in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_scores_and_exports_are_those_of_the_sound_model(
    finished: Path, runs: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(hf_of(runs))
    api.evaluate(recipe(), runs=runs)
    score = "damaged/teacher/seed-0/scores/test.json"
    assert (runs / score).read_bytes() == (finished / score).read_bytes()
    damage(hf_of(runs))
    api.export(recipe(), "teacher", tmp_path / "out", runs=runs)
    assert sha256(tmp_path / "out" / "model.safetensors") == weights_of(finished, "teacher")


def test_caches_are_filled_by_the_sound_model(finished: Path, runs: Path) -> None:
    cached = recipe("cache: {kind: hidden},")
    shutil.rmtree(runs / "damaged" / "student")
    one_bit(hf_of(runs))
    api.cache_build(cached, runs=runs)
    api.cache_build(cached, runs=finished)
    [cache], [sound] = api.cache_verify(cached, runs=runs), api.cache_verify(cached, runs=finished)
    assert (cache.folder.name, cache.damaged) == (sound.folder.name, ())
    assert weights_of(runs, "teacher") == weights_of(finished, "teacher")


def test_without_a_checkpoint_a_damaged_model_is_refused_with_a_remedy(runs: Path) -> None:
    shutil.rmtree(hf_of(runs).with_name("checkpoints"))
    nan(hf_of(runs))
    for verb in (api.run, api.evaluate):
        with pytest.raises(UserError, match=r"teacher\[0\]: the finished model is damaged \(hf/model.safetensors"
                           r" does not match its checksum\).*run again"):  # fmt: skip
            verb(recipe(), runs=runs)
    assert hf_of(runs).is_dir()
    assert not hf_of(runs).with_name("hf-damaged").exists()


def test_a_damaged_checkpoint_is_no_source_either(runs: Path) -> None:
    one_bit(hf_of(runs))
    [best] = hf_of(runs).parent.glob("checkpoints/step-000000003/model.safetensors")
    best.write_bytes(b"")
    with pytest.raises(UserError, match=r"the best checkpoint.* cannot be used: model.safetensors"):
        api.run(recipe(), runs=runs)


def test_a_second_damaged_folder_is_kept_beside_the_first(runs: Path) -> None:
    for kept in ("hf-damaged", "hf-damaged-2"):
        one_bit(hf_of(runs))
        api.evaluate(recipe(), runs=runs)
        shutil.rmtree(hf_of(runs).with_name("scores"))
        assert hf_of(runs).with_name(kept).is_dir()


def test_a_model_card_may_be_changed(runs: Path) -> None:
    (hf_of(runs) / "README.md").write_text("licence: mit")
    api.run(recipe(), runs=runs)
    assert (hf_of(runs) / "README.md").read_text() == "licence: mit"


def test_runs_of_an_earlier_version_are_used_as_before(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in runs.glob("damaged/*/seed-0/finished.json"):
        value = json.loads(file.read_text())
        del value["files"], value["checksum"]
        file.write_text(json.dumps(value))
    api.run(recipe(), runs=runs)
    assert " ".join(capsys.readouterr().err.split()).count("an earlier version finished have no checksums") == 1


@pytest.mark.parametrize("damage", [one_bit, empty_tokenizer])
def test_a_damaged_model_from_another_recipe_is_refused(
    runs: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(hf_of(runs))
    outside = recipe_from_text(RECIPE.replace("[teacher]", f"[{hf_of(runs)}]").replace("name: damaged", "name: other"))
    with pytest.raises(UserError, match=r"is damaged: hf/.*run the recipe it belongs to again"):
        api.run(outside, runs=tmp_path)
    with pytest.raises(UserError, match=r"is damaged: hf/.*run the recipe it belongs to again"):
        api.evaluate_models([hf_of(runs)], ["starter-pairs"], out=tmp_path / "out")
