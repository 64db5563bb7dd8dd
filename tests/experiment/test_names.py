"""Every name on the command line and in a recipe is looked up before torch is loaded and before any data is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.base import hub
from tutelage.base.errors import UserError
from tutelage.recipe import Recipe, foreign
from tutelage.recipe.load import _section_at, recipe_from_text

HERE = """
name: names
data: {corpus: starter, words: 3000, tokenizer: {vocab_size: 300}, rows: {length: 16}}
models:
  teacher: {preset: llama-1m, steps: 3}
  student:
    like: teacher
    stages: [{teachers: [teacher], objectives: {next_token: 0.5, distill: 0.5}}]
"""

COMMANDS = [
    (["run", "RECIPE", "models.student.preset=llama-2n"], "unknown preset 'llama-2n'; did you mean 'llama-2m'?"),
    (["run", "RECIPE", "models.studnet.optim.lr=1e-3"], "no model 'studnet' in this recipe; did you mean 'student'?"),
    (
        ["run", "RECIPE", "models.student.stages.0.teachers=[techer]"],
        "models.student.stages.0: 'techer' is no model of this recipe; did you mean 'teacher'?",
    ),
    (["run", "RECIPE", "models.student.stages.0.teachers=[./techer]"], "'./techer' is no model folder"),
    (["run", "RECIPE", "models.student.stages.0.teachers=['owner/name@step-3']"], "seeds and checkpoints"),
    (["run", "RECIPE", "models.student.stages.0.teachers=['teacher[4]']"], "names seed 4"),
    (["prepare", "RECIPE", "data.corpus=babylm-2024-10n"], "did you mean 'babylm-2024-10m'?"),
    (["evaluate", "RECIPE", "evaluate=[test, blimb]"], "unknown evaluation 'blimb'; did you mean 'blimp'?"),
    (["evaluate", "RECIPE", "evaluation.along=[blimp-fsat]"], "did you mean 'blimp-fast'?"),
    (["evaluate", "owner/name", "--suite", "glue:rtee"], "'glue' has no 'rtee'; did you mean 'rte'?"),
    (["evaluate", "RECIPE", "--model", "studen"], "no model 'studen' in this recipe; did you mean 'student'?"),
    (["train", "RECIPE", "--model", "studen"], "no model 'studen' in this recipe; did you mean 'student'?"),
    (["report", "RECIPE", "compare.models=[studen]"], "names 'studen', which is not among models"),
    (["export", "RECIPE", "studen", "out"], "no model 'studen' in this recipe; did you mean 'student'?"),
    (["export", "RECIPE", "student[3]", "out"], "names seed 3"),
    (["score", "RECIPE", "studen"], "'studen' is no model of this recipe; did you mean 'student'?"),
    (["cache", "build", "RECIPE", "--model", "studen"], "did you mean 'student'?"),
    (["submission", "write", "RECIPE", "student", "out", "--track", "babylm-2026-strickt"], "unknown track"),
    (["submission", "check", "out", "--track", "babylm-2026-strickt"], "unknown track"),
    (["check", "runs/names", "--track", "babylm-2026-strickt"], "unknown track"),
    (["show", "RECIPE", "models.student.preset=llama-2n"], "did you mean 'llama-2m'?"),
    (["show", "quikstart"], "did you mean 'quickstart'?"),
    (["bench", "--preset", "llama-2n"], "did you mean 'llama-2m'?"),
    (["study", "show", "nowhere.yaml"], "no study 'nowhere.yaml'"),
]

RUNNER = """
import json, sys
from tutelage.cli.main import app
from typer.testing import CliRunner
found = []
for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, command)
    found.append((str(done.exception), sorted({"torch", "transformers"} & sys.modules.keys())))
print(json.dumps(found))
"""


def test_misspelt_names_are_told_before_torch_is_loaded_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(HERE)
    commands = [["mine.yaml" if part == "RECIPE" else part for part in command] for command, _ in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(commands)], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for (command, message), (said, loaded) in zip(COMMANDS, json.loads(done.stdout), strict=True):
        assert message in said, command
        assert loaded == [], command
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("models.student.learning_rate=1e-3", "models.*.optim.lr"),
        ("models.student.optim.learning_rate=1e-3", "models.*.optim.lr"),
        ("learning_rate=1e-3", "models.*.optim.lr"),
        ("models.student.batch_size=8", "models.*.optim.batch_rows"),
        ("models.student.optim.batch_size=8", "models.*.optim.batch_rows"),
        ("per_device_train_batch_size=8", "models.*.optim.batch_rows"),
        ("num_train_epochs=3", "models.*.epochs"),
        ("models.student.optim.warmup_ratio=0.1", "models.*.optim.warmup_steps`, which counts steps"),
        ("models.student.gradient_accumulation_steps=4", "models.*.optim.micro_batch_rows"),
        ("max_length=128", "data.rows.length"),
        ("data.block_size=128", "data.rows.length"),
        ("models.student.max_grad_norm=1", "models.*.optim.clip"),
        ("output_dir=out", "`name`"),
    ],
)
def test_settings_of_other_trainers_lead_to_ours(override: str, ours: str) -> None:
    with pytest.raises(UserError, match=r"unknown key.*here it is") as refused:
        recipe_from_text(HERE, overrides=[override])
    assert ours in str(refused.value)


def test_what_settings_of_other_trainers_lead_to_is_there() -> None:
    places = [("models", "x", *ours.replace("stages.0.", "stages.").split(".")) for ours in foreign._MODEL.values()]
    for place in [*places, *(tuple(ours.split(".")) for ours in foreign._RECIPE.values())]:
        section = _section_at(tuple(part for part in place[:-1] if part != "x"), Recipe)
        assert section is not None, place
        assert place[-1] in section.model_fields, place


def test_fine_tuning_keeps_its_own_names() -> None:
    with pytest.raises(UserError, match="unknown key") as refused:
        recipe_from_text(HERE, overrides=["evaluation.finetune.learning_rate=1"])
    assert "models." not in str(refused.value)


def test_an_override_makes_a_new_model_only_as_a_whole() -> None:
    with pytest.raises(UserError, match=r"no model 'control' in this recipe.*models.control=\{like: NAME"):
        recipe_from_text(HERE, overrides=["models.control.like=student"])
    made = recipe_from_text(HERE, overrides=["models.control={like: teacher}", "models.control.steps=4"])
    assert made.models["control"].steps == 4


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_id_that_is_not_there_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    """transformers alone takes 50 seconds to say so."""
    from huggingface_hub import HfApi, constants

    asked = []

    def model_info(self: HfApi, source: str, timeout: float) -> None:
        asked.append(source)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if not offline:
        monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids" if offline else "no route to host; check the network"):
        hub.check_hub("owner/nmae")
    assert asked == ([] if offline else ["owner/nmae"])
