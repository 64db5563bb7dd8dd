"""Recipes: what is read, what is refused and in which words."""

import time

import pytest
import yaml

from tutelage.base.errors import UserError
from tutelage.recipe import Recipe, Teacher
from tutelage.recipe.load import load_recipe, recipe_from_text
from tutelage.recipe.shipped import shipped
from tutelage.recipe.words import read_words, revision, write_words

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


@pytest.mark.parametrize("name", shipped("recipe"))
def test_shipped_recipes_load_and_survive_being_written_out(name: str) -> None:
    what = load_recipe(name)
    assert what.name == name
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(what.model_dump(mode="json")))) == what
    for taught in (lambda stage: stage.teachers, lambda stage: stage.objectives.tasks):
        learners = [model for model in what.models.values() if any(map(taught, model.stages))]
        relatives = {model.like for model in learners} | {name for name, model in what.models.items() if model.without}
        plain = [what.models[name] for name in relatives - {None}]
        assert not learners or any(not any(map(taught, model.stages)) for model in plain), (
            "what is taught has a control"
        )


@pytest.mark.parametrize(("key", "value"), [("gate", "advantage"), ("schedule", "linear")])
def test_teachers_that_lose_their_weight_need_a_text(key: str, value: str) -> None:
    text = BASE.partition("  control")[0]
    silenced = ("next_token: 0.2, distill: {weight: 0.6", f"distill: {{{key}: {value}")
    refused(text.replace(*silenced), rf"x\.yaml:11: .*`distill.{key}` takes weight from the teachers")


@pytest.mark.parametrize("kind", ["sparse", "top_k"])
def test_a_temperature_that_changes_needs_the_whole_distribution(kind: str) -> None:
    changing = ("temperature: 2}}", f"temperature: {{start: 4, end: 1}}}}}}\n        cache: {kind}")
    refused(BASE.replace(*changing), f"`cache: {kind}` keeps teachers' output at one temperature")
    recipe_from_text(BASE.replace(*changing).replace(kind, "hidden"))


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
        (("temperature: 2}", "temperature: 2, schedule: step}"), r"x\.yaml:11: .*schedule: `kind: step` needs `over`"),
        (("temperature: 2}", "schedule: {kind: linear, warmup: 3}}"), "`warmup` goes with `kind: wsd`"),
        (("temperature: 2}", "schedule: {kind: linear, over: 30 %}}"), r"'30 %' is neither a share like 17%"),
        (("temperature: 2}", "schedule: {kind: linear, over: 0%}}"), "a length of 0% is none"),
        (("temperature: 2}", "schedule: {kind: linear, over: -3}}"), "a length of -3 is none"),
        (("temperature: 2}", "schedule: slow}"), r"distill\.schedule: .*'ratio_linear' \(given: 'slow'\)"),
        (("temperature: 2}", "gate: {kind: confidence, share: 0.3}}"), "`share` goes with `kind: skip_certain`"),
        (("temperature: 2}", "temperature: {start: 4}}"), r"temperature\.end: Field required"),
        (
            ("like: student", "like: studet"),
            r"x\.yaml:12: models\.control\.like names 'studet', .*did you mean 'student'",
        ),
        (("like: student", "like: control"), "like` goes in a circle"),
        (("without: teachers", "without: tasks"), "names 'tasks', which 'student' does not have"),
        (("name: base", "name: Bäse/"), "name"),
        (("name: base", "name: base\napi_key: x"), "looks like a secret"),
        (("preset: llama-1m, epochs: 4", "epochs: 4"), "give its shape"),
        (("seeds: 3", "seeds: [1, 1]"), "not distinct"),
        (("seeds: 3", "seeds: 1" + "0" * 12), r"x\.yaml:8: models\.student\.seeds: .*less than or equal to 1000"),
        (("name: base", "name: base\ncompare: {models: [nobody]}"), "names 'nobody'"),
        (("name: base", "name: base\ncompare: {models: ['student[0]']}"), r"names 'student\[0\]'"),
        (("name: base", "name: base\ncompare: {models: [student], pairs: [[student, control]]}"), "names 'control'"),
        (("name: base", "name: !!python/object/apply:os.system ['true']"), "not valid YAML"),
        (("name: base", "name: [base"), "not valid YAML"),
        (("epochs: 6", "steps: 1:30"), r"x\.yaml:7: models\.student\.steps: .*'1:30'"),
        (("epochs: 6", "steps: 0x10"), r"x\.yaml:7: models\.student\.steps: .*'0x10'"),
        (("lr: 3e-4", "betas: [0.9, 1.0]"), r"x\.yaml:4: models\.teacher\.optim\.betas\.1: .*less than 1"),
        (("lr: 3e-4", "betas: [-0.1, 0.9]"), r"x\.yaml:4: models\.teacher\.optim\.betas\.0: .*greater than or equal"),
        (("  teacher: {", "  te.acher: {"), r"x\.yaml:4: models\.te\.acher: .*letters, digits"),
        (("  control:", "  report.html:"), r"models\.report\.html: .*letters, digits"),
        (("  control:", "  data:"), r"x\.yaml:12: models\.data: the run keeps its own files"),
        (("  control:", "  Ensembles:"), r"models\.Ensembles: the run keeps its own files"),
        (("like: student, without: teachers", "preset: llama-1m, steps: 1, without: teachers"), "goes with `like`"),
        (("name: base", "name: base\ncompare: {models: ['ensemble(teacher, a[)']}"), r"names 'a\['"),
    ],
)
def test_refusals_name_line_key_and_remedy(change: tuple[str, str], message: str) -> None:
    refused(BASE.replace(*change), message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.student.optim.lr", "is no override"),
        ("models.student.stages.3.combine=x", "no index of a list of 1"),
        ("name.x=1", "nothing lies above .x. that holds keys"),
        ("models.student.optim.learning=1", "unknown key 'models.student.optim.learning'"),
        ("models.student.optim=&a [*a]", "override .*: nested more than 50"),
        ("models.student.optim={lr: 1, lr: 2}", "override .*: the key 'lr' stands here a second time"),
        ("models.student.stages.²=x", "no index of a list of 1"),
        ("models.student.optim.lr=\udcff", "not valid YAML"),
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
    began = time.process_time()
    refused(f"l0: &l0 [x]\n{levels}", "aliases")
    assert time.process_time() - began < 1


def test_teacher_references() -> None:
    full = Teacher.model_validate("big[2]@step-40")
    assert (full.model, full.seed, full.checkpoint, str(full)) == ("big", 2, "step-40", "big[2]@step-40")
    assert Teacher.model_validate("org/model-1").model == "org/model-1"
    assert Teacher.model_validate({"model": "big", "weight": 2}).weight == 2
    assert (
        Teacher.model_validate("big@words-3M").words == Teacher.model_validate("big@words-3000000").words == 3_000_000
    )
    assert full.words is None


def test_budgets_in_words() -> None:
    data = recipe_from_text(BASE, overrides=("data.words=3M", "data.test_words=200K")).data
    assert (data.words, data.test_words) == (3_000_000, 200_000)


def test_checkpoints_by_words() -> None:
    def words(written: str) -> tuple[int, ...]:
        return (
            recipe_from_text(BASE, overrides=(f"models.control.checkpoints={written}",))
            .models["control"]
            .checkpoint_words
        )

    small, strict = words("babylm-strict-small"), words("babylm-strict")
    assert (len(small), len(strict)) == (19, 28)
    assert [revision(count) for count in strict] == [
        *(f"chck_{n}M" for n in range(1, 10)), *(f"chck_{n}0M" for n in range(1, 10)),
        *(f"chck_{n}00M" for n in range(1, 11)),
    ]  # fmt: skip
    assert small == strict[:19]
    assert words("[500, 100K, 1M, 2000000, 1B]") == (500, 100_000, 1_000_000, 2_000_000, 10**9)
    assert [read_words(write_words(count)) for count in (500, 1500, 100_000, 10**9)] == [500, 1500, 100_000, 10**9]
    refused(BASE, "not in rising order", ("models.control.checkpoints=[2M, 1M]",))
    refused(BASE, "is no number", ("models.control.checkpoints=[3 million]",))


def test_show_writes_the_weights_of_objectives_out() -> None:
    from tutelage.experiment.show import _resolved

    tree = _resolved(load_recipe("studyplan-starter"))
    [stage] = tree["models"]["all-labels"]["stages"]
    assert stage == {"objectives": {"masked": {"weight": 1.0}, "tasks": {"weight": 0.5}}}
    assert Recipe.model_validate(tree) == load_recipe("studyplan-starter")


def test_what_is_wrong_on_the_command_line_is_told_so_once() -> None:
    with pytest.raises(UserError, match=r"^on the command line: models\.teacher\.steps: ") as told:
        recipe_from_text(BASE, "x.yaml", ("models.teacher.steps=-1",))
    assert "x.yaml:" not in str(told.value)
    refused(BASE, r"^on the command line: unknown key 'models\.teacher\.lr'; did you mean 'optim\.lr'\?$",
            ("models.teacher.lr=3",))  # fmt: skip


def test_numbers_are_numbers_and_words_are_words() -> None:
    what = recipe_from_text(BASE + "description: on\n")
    assert what.models["teacher"].optim.lr == 3e-4
    assert what.description == "on"


LIKE = """
name: base
models:
  a: {preset: llama-1m, steps: 9, stages: STAGES}
  b: {like: a, without: next_token}
"""


def like(stages: str, without: str = "next_token") -> str:
    return LIKE.replace("STAGES", stages).replace("next_token}\n", f"{without}}}\n")


def test_labels_come_on_top_of_the_text_and_give_it_no_weight() -> None:
    head = (
        "name: x\ndata: {separator: brackets, rows: {kind: examples}}\nmodels:\n  t: {preset: modernbert-2m, steps: 1, "
    )
    head += "stages: [{objectives: {masked: 1}}]}\n"
    objectives = "{masked: 0.5, distill: 0.5, tasks: {weight: 0.5, tagging_weight: 0.25}}"
    models = f"  a: {{preset: modernbert-2m, steps: 1, stages: [{{teachers: [t], objectives: {objectives}}}]}}\n"
    what = recipe_from_text(f"{head}{models}  b: {{like: a, without: teachers}}\n")
    left = what.models["b"].stages[0].objectives
    assert left.masked is not None
    assert left.tasks is not None
    assert (left.masked.weight, left.tasks.weight, left.tasks.tagging_weight) == (1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:\n  a:\n  b: {like: a}", r"models\.b\.like names 'a', which is no mapping"),
        ("models:\n  a: [3]\n  b: {like: a}", r"models\.b\.like names 'a', which is no mapping"),
        ("models:\n  a: {preset: b, steps: 1}\n  b: {like: [a]}", r"x\.yaml:3: models\.b\.like: .*valid string"),
        ("models: [a]", r"x\.yaml:1: models: Input should be a mapping"),
        (like("{teachers: [x]}"), r"x\.yaml:4: models\.a\.stages: .*a list"),
        (like("[3]"), r"x\.yaml:4: models\.a\.stages\.0: .*a mapping \(given: 3\)"),
        (like("[{objectives: 3}]"), r"x\.yaml:4: models\.a\.stages\.0\.objectives: .*mapping \(given: 3\)"),
        (like("[{objectives: null}]"), r"x\.yaml:4: models\.a\.stages\.0\.objectives: .*a mapping"),
        (like("[{objectives: {next_token: 1, masked: 0}}]"), r"models\.b: .*`masked` has the weight 0; give"),
        (like("[{objectives: {next_token: 1, masked: x}}]"), r"models\.b: .*has the weight 'x'"),
        (like("[{}]", "3"), r"x\.yaml:5: models\.b\.without: .*a list \(given: 3\)"),
        (like("[{}]", "{a: 1}"), r"x\.yaml:5: models\.b\.without: .*a list"),
        (like("[{}]"), r"models\.b: without next_token a stage has nothing left"),
        ("a: &a [*a]", r"x\.yaml:1: nested more than 50 levels"),
        ("a: &a {<<: *a}", r"x\.yaml:1: nested more than 50 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested more than 50 levels"),
        ("? [a, b]\n: 1", r"x\.yaml:1: a list or mapping cannot be a key"),
        ("3: x", r"x\.yaml:1: the key '3' is no text; put it in quotes"),
        ("a: !!timestamp x", r'not valid YAML: tags(.|\n)*"x\.yaml", line 1'),
        ("a: 1" + "0" * 5000, r"x\.yaml: Exceeds the limit"),
        ("a: 1\n---\na: 2", "not valid YAML"),
        ("", "a recipe is a mapping"),
        ("[a]", "a recipe is a mapping"),
    ],
)
def test_malformed_recipes_are_refused_in_words(text: str, message: str) -> None:
    refused(text, message)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seeds: 3", "seeds: x"), "x.yaml:8: models.student.seeds: Input should be a valid integer, unable to parse "
         "string as an integer, or a list (given: 'x')"),
        (("seeds: 3", "seeds: [0, x]"), "x.yaml:8: models.student.seeds.1: Input should be a valid integer, unable to "
         "parse string as an integer (given: 'x')"),
        (("weight: 0.6", "weight: -1"), "x.yaml:11: models.student.stages.0.objectives.distill.weight: Input should be "
         "greater than 0 (given: -1)"),
        (("next_token: 0.2", "next_token: -1"), "x.yaml:12: models.control: the objective `next_token` has the weight "
         "-1; give a number greater than 0"),
        (("seeds: 3", "precision: fp8"), "x.yaml:8: models.student.precision: Input should be 'auto', 'fp32' or 'bf16' "
         "(given: 'fp8')"),
        (("seeds: 3", "seed: 3"), "x.yaml:8: unknown key 'models.student.seed'; did you mean 'seeds'?"),
    ],
)  # fmt: skip
def test_one_mistake_is_told_once(change: tuple[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe_from_text(BASE.replace(*change), "x.yaml")
    assert str(caught.value) == said


KINDS = """
name: kinds
models:
  reader: {preset: llama-1m, steps: 9}
  hider: {preset: modernbert-149m, steps: 9, stages: [{objectives: {masked: 1}}]}
  student:
    preset: any
    steps: 9
    stages:
      - teachers: [TEACHER]
        objectives: {TERM: 0.5, distill: 0.5}
"""


def kinds(term: str, teacher: str) -> str:
    return KINDS.replace("TERM", term).replace("TEACHER", teacher)


def test_teachers_read_like_their_students() -> None:
    message = r"x\.yaml:10: models\.student\.stages\.0\.teachers: the teacher '{}' is {}, its student {}; choose"
    refused(kinds("next_token", "hider@last"), message.format("hider@last", "masked", "causal"))
    refused(kinds("masked", "reader"), message.format("reader", "causal", "masked"))
    for term, teacher in (("next_token", "reader"), ("masked", "hider"), ("masked", "org/outside")):
        recipe_from_text(kinds(term, teacher))


def test_distill_alone_goes_with_either_kind() -> None:
    text = kinds("next_token", "hider").replace("next_token: 0.5, ", "")
    refused(text, "the teacher 'hider' is masked, its student causal")
    what = recipe_from_text(text.replace("preset: any", "preset: any\n    kind: masked"))
    assert what.models["student"].reads == "masked"


def test_ensembles_are_of_one_kind() -> None:
    text = kinds("next_token", "reader") + "compare: {models: ['ensemble(reader, hider@last)']}\n"
    refused(text, r"x\.yaml:12: compare\.models: .* mixes kinds \(reader is causal, hider is masked\)")
    recipe_from_text(text.replace("hider@last)", "student[0])"))


def test_a_model_hides_one_share_of_tokens() -> None:
    stages = "[{span: 2, objectives: {masked: {rate: 0.3}}}, {objectives: {masked: {rate: RATE}}}]"
    text = f"name: x\nmodels:\n  a: {{preset: any, steps: 9, stages: {stages}}}\n"
    refused(text.replace("RATE", "0.15"), r"x\.yaml:3: models\.a: .*`masked\.rate` \(0\.3, 0\.15\); give all the same")
    recipe_from_text(text.replace("RATE", "0.3"))


def test_without_distill_is_without_teachers() -> None:
    like_teachers = recipe_from_text(BASE).models["control"]
    like_distill = recipe_from_text(BASE.replace("without: teachers", "without: distill")).models["control"]
    assert like_distill == like_teachers.model_copy(update={"without": ("teachers",)})
    refused(BASE.replace("without: teachers", "without: [distill, next_token]"), "nothing left to learn")


def test_plain_numbers_are_decimal() -> None:
    what = recipe_from_text(BASE.replace("epochs: 6", "steps: 0100").replace("lr: 3e-4", "batch_rows: 1_000"))
    assert what.models["student"].steps == 100
    assert what.models["teacher"].optim.batch_rows == 1000


@pytest.mark.parametrize("item", ["[*l{0}, *l{0}]", "{{<<: [*l{0}, *l{0}]}}", "{{a: *l{0}, b: *l{0}}}"])
def test_doubling_aliases_are_refused_at_once(item: str) -> None:
    levels = "\n".join(f"l{i}: &l{i} {item.format(i - 1)}" for i in range(1, 23))
    began = time.process_time()
    refused(f"l0: &l0 {{x: 1}}\n{levels}", r"x\.yaml:\d+: more than 100,000 values with all aliases written out")
    assert time.process_time() - began < 1


def test_cuda_graphs_and_what_they_exclude() -> None:
    text = """
name: graphs
data: {corpus: starter, rows: {length: 16}}
models: {one: {preset: llama-1m, steps: 3, cuda_graphs: on, attention: causal}}
"""
    assert recipe_from_text(text).models["one"].cuda_graphs == "on"
    with pytest.raises(UserError, match="`cuda_graphs: on` and `sharding` exclude each other"):
        recipe_from_text(text.replace("cuda_graphs: on", "cuda_graphs: on, sharding: fsdp"))
    with pytest.raises(UserError, match="rows of kind `examples` have many lengths, a graph only one"):
        recipe_from_text(text.replace("{length: 16}", "{kind: examples, length: 16}"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mend",
            r"x\.yaml:2: data\.cleaning: Input should be 'none', .* or a function, written package.module:function",
        ),
        ("no_such_module:clean", "a function that is there: 'no_such_module:clean' cannot be imported"),
        ("tutelage.corpus.cleaning:spacin", "has no function 'spacin'; did you mean 'spacing'"),
        ("os:getcwd", "'os' has no function 'getcwd', but something else of that name"),
        ("tutelage.corpus.cleaning:clean", r"declared as \(text: str\) -> str"),
    ],
)
def test_a_cleaning_function_is_looked_at_before_anything_is_read(name: str, message: str) -> None:
    refused(BASE.replace("name: base", f"name: base\ndata: {{cleaning: '{name}'}}").lstrip(), message)


def test_a_cleaning_function_can_be_named() -> None:
    what = recipe_from_text(BASE, overrides=["data.cleaning=tutelage.corpus.cleaning:spacing"])
    assert what.data.cleaning == "tutelage.corpus.cleaning:spacing"
