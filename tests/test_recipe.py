"""Recipes: what is read, what is refused and in which words."""

import time

import pytest
import yaml

from tutelage.errors import UserError
from tutelage.recipe import Recipe, Teacher
from tutelage.recipe_file import load_recipe, recipe_from_text, shipped_recipes

BASE = """
name: base
models:
  teacher: {preset: llama-1m, epochs: 4, optim: {lr: 3e-4}}
  student:
    preset: llama-1m
    epochs: 6
    seeds: 3
    stages:
      - teachers: [teacher]
        objectives: {next_token: 0.2, distill: {weight: 0.6, temperature: 2}}
  control: {like: student, without: teachers}
"""


def refused(text: str, message: str, overrides: tuple[str, ...] = ()) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from_text(text, "x.yaml", overrides)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_survive_being_written_out(name: str) -> None:
    what = load_recipe(name)
    assert what.name == name
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(what.model_dump(mode="json")))) == what
    assert any(model.without for model in what.models.values()), "a recipe that distils ships its control"


def test_control_is_the_student_without_teachers() -> None:
    what = recipe_from_text(BASE)
    student, control = what.models["student"], what.models["control"]
    assert control.stages[0].teachers == ()
    assert control.stages[0].objectives.model_dump(exclude_none=True) == {"next_token": {"weight": 1.0}}
    assert (control.epochs, control.seeds, control.optim) == (student.epochs, student.seeds, student.optim)


def test_like_takes_another_length_and_deep_changes() -> None:
    what = recipe_from_text(BASE.replace("without: teachers", "without: teachers, steps: 9, optim: {clip: null}"))
    assert (what.models["control"].steps, what.models["control"].epochs) == (9, None)
    assert what.models["control"].optim.clip is None


def test_overrides_come_before_like() -> None:
    what = recipe_from_text(BASE, overrides=["models.student.optim.lr=1e-3", "models.student.stages.0.combine="
                                             "mean_probabilities", "data.rows.length=64"])  # fmt: skip
    assert what.models["control"].optim.lr == 1e-3
    assert what.models["student"].stages[0].combine == "mean_probabilities"
    assert what.data.rows.length == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs: 4", "epoch: 4"), r"x\.yaml:4: unknown key 'models\.teacher\.epoch'; did you mean 'epochs'"),
        (("lr: 3e-4", "lr: fast"), r"x\.yaml:4: models\.teacher\.optim\.lr: .*'fast'"),
        (("lr: 3e-4", "lr: .nan"), r"x\.yaml:4: models\.teacher\.optim\.lr"),
        (("lr: 3e-4", "lr: -1"), r"x\.yaml:4: .*greater than 0"),
        (("lr: 3e-4", "lr: 1, lr: 2"), r"x\.yaml:4: the key 'lr' stands here a second time"),
        (("epochs: 6", "epochs: 6\n    steps: 7"), "exactly one of `epochs`, `steps`"),
        ((", distill: {weight: 0.6, temperature: 2}", ""), "`teachers` and `objectives.distill` go together"),
        (("next_token: 0.2", "next_token: 0.2, masked: 1"), "exclude each other"),
        (("like: student", "like: studet"), "did you mean 'student'"),
        (("like: student", "like: control"), "like` goes in a circle"),
        (("without: teachers", "without: tasks"), "names 'tasks', which 'student' does not have"),
        (("name: base", "name: Bäse/"), "name"),
        (("name: base", "name: base\napi_key: x"), "looks like a secret"),
        (("preset: llama-1m, epochs: 4", "epochs: 4"), "give its shape"),
        (("seeds: 3", "seeds: [1, 1]"), "not distinct"),
        (("name: base", "name: base\ncompare: {models: [nobody]}"), "names 'nobody'"),
        (("name: base", "name: base\ncompare: {models: ['student[0]']}"), r"names 'student\[0\]'"),
        (("name: base", "name: base\ncompare: {models: [student], pairs: [[student, control]]}"), "names 'control'"),
        (("name: base", "name: !!python/object/apply:os.system ['true']"), "not valid YAML"),
        (("name: base", "name: [base"), "not valid YAML"),
    ],
)
def test_refusals_name_line_key_and_remedy(change: tuple[str, str], message: str) -> None:
    refused(BASE.replace(*change), message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.student.optim.lr", "is no override"),
        ("models.student.stages.3.combine=x", "no index of a list of 1"),
        ("name.x=1", "holds no keys|nothing lies below"),
        ("models.student.optim.learning=1", "unknown key 'models.student.optim.learning'"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    refused(BASE, message, (override,))


def test_an_override_stays_where_it_was_put() -> None:
    text = BASE.replace("optim: {lr: 3e-4}", "optim: &o {lr: 3e-4}").replace("seeds: 3", "seeds: 3\n    optim: *o")
    what = recipe_from_text(text, overrides=["models.student.optim.lr=1e-5"])
    assert [what.models[name].optim.lr for name in ("teacher", "student", "control")] == [3e-4, 1e-5, 1e-5]


def test_years_may_be_written_as_numbers() -> None:
    assert recipe_from_text(BASE, overrides=["evaluation.convention=2026"]).evaluation.convention == "2026"


def test_alias_bomb_is_refused_at_once() -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 20))
    began = time.monotonic()
    refused(f"l0: &l0 [x]\n{levels}", "aliases")
    assert time.monotonic() - began < 1


def test_teacher_references() -> None:
    full = Teacher.model_validate("big[2]@step-40")
    assert (full.model, full.seed, full.checkpoint, str(full)) == ("big", 2, "step-40", "big[2]@step-40")
    assert Teacher.model_validate("org/model-1").model == "org/model-1"
    assert Teacher.model_validate({"model": "big", "weight": 2}).weight == 2


def test_numbers_are_numbers_and_words_are_words() -> None:
    what = recipe_from_text(BASE + "description: on\n")
    assert what.models["teacher"].optim.lr == 3e-4
    assert what.description == "on"
