"""Evaluations that are no choice between options: named, checked early, measured once, compared and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.evaluation import named
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.finetune.tasks import TASKS
from tutelage.evaluation.likelihood.causal import log_probs
from tutelage.evaluation.named import MEASUREMENTS, find
from tutelage.evaluation.names import ARGUMENTS, check_name, names
from tutelage.recipe import Evaluation
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: measured
data: {corpus: starter, tokenizer: {vocab_size: 400}, rows: {length: 32}}
models:
  student:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 4
    seeds: 2
    evaluations: 2
    checkpoints: [100, 200]
    stages: [{teachers: [wide], objectives: {next_token: 0.5, distill: 0.5}}]
    optim: {batch_rows: 8, lr: 1.0e-2}
  control: {like: student, without: teachers}
  wide: {like: control, seeds: 1, config: {hidden_size: 32, intermediate_size: 48}}
evaluate: [test, starter-pairs, surprise, "months:late"]
compare: {models: [student, control, wide, "ensemble(wide, control)"], values: all}
"""
SENTENCES = ("The dog sleeps.", "Two dogs sleep here.", "A cat.")
CALLS: list[str] = []


def surprise(context: Context) -> MeasuredResult:
    """A real measurement: mean surprisal of three sentences, by part; and one number that cannot be told."""

    def mean() -> float:
        CALLS.append(f"{context.label} {context.name}")
        items = [Item(text) for text in SENTENCES]
        said = log_probs(context.ensemble, context.tokenizer, items, context.convention)
        return float(-said.sum_N.sum() / said.tokens_N.sum())

    value = context.part("mean", mean)
    values = {
        "fit": MeasuredValue(value, "percent", n=len(SENTENCES)),
        "slow_fit": MeasuredValue(None, "percent", note="no variance"),
        "rank": MeasuredValue(value / 100, "correlation", n=len(SENTENCES)),
    }
    return MeasuredResult(context.name, context.convention.name, "fit", values, [{"id": 0, "pred": value}])


def months(context: Context) -> MeasuredResult:
    """Uses what training kept, and fresh copies of the models."""
    [model] = context.fresh() if len(context.ensemble.models) == 1 else [None]
    assert model is None or model is not context.ensemble.models[0]
    seen = [checkpoint.words_seen for checkpoint in context.checkpoints]
    assert all(checkpoint.load().kind == "causal" for checkpoint in context.checkpoints)
    note = "" if seen else "an ensemble has no checkpoints"
    value = MeasuredValue(float(len(seen)) if seen else None, "months", "lower", len(seen), note)
    return MeasuredResult(context.name, "2026", "late", {"late": value})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "surprise": Measurement(surprise, lambda argument, settings: {"sentences": len(SENTENCES)}),
        "months": Measurement(months, lambda argument, settings: {"argument": argument}),
    }
    monkeypatch.setattr(named, "MEASUREMENTS", made)
    monkeypatch.setattr("tutelage.evaluation.names.ARGUMENTS", {"surprise": (), "months": ("early", "late")})


@pytest.fixture
def done(registered: None, tmp_path: Path) -> tuple[Path, Any]:
    CALLS.clear()
    return tmp_path, api.run(recipe_from_text(RECIPE), runs=tmp_path, publish=tmp_path / "published")


def test_measured_once_kept_and_compared(done: tuple[Path, Any]) -> None:
    runs, summary = done
    student = summary.models["student"].seeds["0"].measures
    assert list(student) == ["surprise", "months:late"]
    assert student["surprise"].values["slow_fit"].value is None
    assert student["months:late"].values["late"].n == 2
    entries = {c.metric: c for c in summary.comparisons if (c.a, c.b) == ("student", "control")}
    assert {"surprise.fit", "surprise.rank", "months:late.late"} <= entries.keys()
    assert "surprise.slow_fit" not in entries
    fit, late = entries["surprise.fit"], entries["months:late.late"]
    assert (fit.unit, fit.better, fit.n) == ("percent", "higher", 2)
    assert (late.unit, late.better) == ("months", "lower")
    values = [
        summary.models[name].seeds["1"].measures["surprise"].values["fit"].value for name in ("student", "control")
    ]
    assert fit.pairs[1] == (1, *values)
    ensemble = summary.models["ensemble(wide, control)"].seeds["0"].measures["months:late"]
    assert ensemble.values["late"].note == "an ensemble has no checkpoints"

    scores = runs / "measured" / "student" / "seed-0" / "scores"
    assert json.loads((scores / "surprise.predictions.json").read_text()) == [
        {"id": 0, "pred": student["surprise"].values["fit"].value}
    ]
    assert "\n" not in (scores / "surprise.predictions.json").read_text().strip()
    assert not list((scores / "parts").glob("*"))
    assert (scores / "months-late.json").is_file()

    calls = list(CALLS)
    assert len(calls) == len(set(calls)) == 6
    again = api.run(recipe_from_text(RECIPE), runs=runs)
    assert calls == CALLS
    assert again.models == summary.models

    for text in ((runs / "published" / "report.md").read_text(), (runs / "measured" / "report.html").read_text()):
        assert "slow fit" in text
        assert "no variance" in text
        assert "late (months) ↓" in text


def test_log_probabilities_of_items_are_kept_beside_the_score(done: tuple[Path, Any]) -> None:
    scores = done[0] / "measured" / "student" / "seed-1" / "scores"
    with (
        np.load(scores / "starter-pairs.log_probs.npz") as said,
        np.load(scores / "starter-pairs.items.npz") as margins,
    ):
        assert set(said.files) == set(margins.files)
        for key in said.files:
            assert said[key].dtype == np.float32
            assert said[key].shape == (len(margins[key]), 2)
            np.testing.assert_allclose(said[key][:, 0] - said[key][:, 1], margins[key], atol=2e-5)
        right = np.concatenate([margins[key] >= 0 for key in margins.files])
    suite = json.loads((scores / "starter-pairs.json").read_text())["score"]
    total = sum(paradigm["accuracy"] * paradigm["n"] for paradigm in suite["paradigms"].values())
    assert right.sum() == pytest.approx(total)


def test_parts_survive_a_stop(registered: None, tmp_path: Path) -> None:
    context = Context(
        name="surprise", label="x", tokenizer=None, settings=Evaluation(), precision="fp32",
        models=None, parts=tmp_path,
    )  # fmt: skip
    assert context.part("one", lambda: {"a": 1}) == {"a": 1}
    assert context.part("one", lambda: pytest.fail("computed again")) == {"a": 1}
    assert context.part("two", lambda: 2.5) == 2.5


def test_a_broken_evaluation_leaves_no_score(done: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = RECIPE.replace("values: all}", 'values: all}\nevaluation: {convention: "2026"}')
    broken = dict(named.MEASUREMENTS)
    broken["surprise"] = Measurement(lambda context: 1 / 0, lambda argument, settings: {})
    monkeypatch.setattr(named, "MEASUREMENTS", broken)
    with pytest.raises(ZeroDivisionError):
        api.evaluate(recipe_from_text(text), runs=done[0])
    score = json.loads((done[0] / "measured" / "student" / "seed-0" / "scores" / "surprise.json").read_text())
    assert score["of"]["convention"] == "2025"
    assert score["precision"] in ("fp32", "bf16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blmip", "unknown evaluation 'blmip'; did you mean 'blimp'"),
        ("surprize", "did you mean 'surprise'"),
        ("months:lat", "'months' has no 'lat'; did you mean 'late'"),
        ("surprise:x", "'surprise' stands alone"),
        ("tset", "did you mean 'test'"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_prepared(
    registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("tutelage.experiment.setup.prepare", lambda *a: pytest.fail("prepared"))
    text = RECIPE.replace("starter-pairs", f'"{name}"')
    for verb in (api.show, api.train, api.run):
        with pytest.raises(UserError, match=message):
            verb(recipe_from_text(text), runs=tmp_path)


def test_missing_files_are_told_before_training(
    registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(argument: str, settings: Evaluation) -> dict[str, Any]:
        raise UserError("the files of 'surprise' are not on this machine")

    monkeypatch.setattr(named, "MEASUREMENTS", {"surprise": Measurement(surprise, gone)})
    monkeypatch.setattr("tutelage.evaluation.names.ARGUMENTS", {"surprise": ()})
    monkeypatch.setattr("tutelage.experiment.train.train", lambda *a: pytest.fail("trained"))
    text = RECIPE.replace(', "months:late"', "")
    with pytest.raises(UserError, match="not on this machine"):
        api.run(recipe_from_text(text), runs=tmp_path)


def test_every_name_that_is_listed_is_known() -> None:
    for name in names():
        check_name(name)
    assert find("starter-pairs", Evaluation()).texts


OWN = """
from pathlib import Path

from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.suites.questions import Paradigm, Question


def pairs(good, bad):
    return Question((Item(good), Item(bad)))


def agreement():
    return [Paradigm("number", (pairs("The dogs sleep.", "The dogs sleeps."), pairs("A cat sits.", "A cat sit.")))]


def from_file(path):
    lines = Path(path).read_text().splitlines()
    return [Paradigm("lines", tuple(pairs(*line.split("|")) for line in lines))]


def empty():
    return []


def single():
    return [Paradigm("one", (Question((Item("a"),)),))]


@Measurement
def parameters(context: Context) -> MeasuredResult:
    count = sum(p.numel() for p in context.ensemble.parameters()) + len(context.argument)
    return MeasuredResult(context.name, context.convention.name, "count", {"count": MeasuredValue(count, "share")})


LIMIT = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module on the path."""
    module = tmp_path / "path" / "own_evaluations.py"
    module.parent.mkdir()
    module.write_text(OWN)
    (module.parent / "own_broken.py").write_text("1 / 0")
    (module.parent / "own_lacking.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(str(module.parent))
    return module


def test_own_suites_and_measurements_are_scored_and_depend_on_their_source(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("It rains.|It rain.\n")
    suite, file, measure = (f"own_evaluations:{name}" for name in ("agreement", f"from_file:{lines}", "parameters:abc"))
    text = RECIPE.partition("    stages")[0].replace("seeds: 2", "seeds: 1")
    text += f'    optim: {{batch_rows: 8, lr: 1.0e-2}}\nevaluate: ["{suite}", "{file}", "{measure}"]\n'
    text += f'evaluation: {{along: ["{suite}"]}}\n'
    run = api.run(recipe_from_text(text), runs=tmp_path).models["student"].seeds["0"]
    assert run.suites[suite].paradigms["number"].n == 2
    assert run.suites[file].items == 1
    size = run.measures[measure].values["count"].value
    scores = tmp_path / "measured/student/seed-0"
    kept = {
        path.name: json.loads(path.read_text())["of"] for path in (scores / "scores").glob("own_evaluations-*-*.json")
    }
    assert len(kept) == 3
    assert all(len(of["source"]) == 64 for of in kept.values())
    assert len(list(scores.rglob("own_evaluations-agreement-????????.json"))) == 3
    out = tmp_path / "out"
    shown = api.evaluate_models([scores / "hf"], [suite, "own_evaluations:parameters"], out).models
    [model] = shown.values()
    assert model.seeds["0"].suites[suite].accuracy == run.suites[suite].accuracy
    assert model.seeds["0"].measures["own_evaluations:parameters"].values["count"].value == size - 3
    before = find(suite, Evaluation()).inputs
    own.write_text(OWN + "# changed\n")
    assert find(suite, Evaluation()).inputs["source"] != before["source"]
    assert find(suite, Evaluation()).inputs["items"] == before["items"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_evaluatoins:agreement", "'own_evaluatoins:agreement' cannot be imported.*PYTHONPATH"),
        ("own_evaluations:agreemen", "has no function 'agreemen'; did you mean 'agreement'"),
        ("readng:published", "cannot be imported.*did you mean 'reading'"),
        ("own_broken:suite", r"'own_broken:suite' cannot be imported \(ZeroDivisionError"),
        ("own_lacking:suite", "'own_lacking:suite' cannot be imported.*not_there_at_all"),
        ("own_evaluations:LIMIT", "'own_evaluations:LIMIT' is neither a function nor a Measurement"),
        ("own_evaluations:from_file", "'own_evaluations:from_file' must be a function of no argument"),
        ("own_evaluations:agreement:x", "'own_evaluations:agreement' must be a function of one argument"),
        ("own_evaluations:empty", "'own_evaluations:empty' must return a list of `Paradigm`"),
        ("own_evaluations:single", "paradigm 'one' must have a name of its own, and questions of two options or more"),
    ],
)
def test_own_evaluations_that_cannot_be_used_say_why_before_training(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("tutelage.experiment.train.train", lambda *a: pytest.fail("trained"))
    text = RECIPE.replace('starter-pairs, surprise, "months:late"', f'"{name}"')
    with pytest.raises(UserError, match=message):
        api.run(recipe_from_text(text), runs=tmp_path)


def test_an_own_suite_has_a_file_name_of_its_own() -> None:
    assert named.file_name("blimp:fast") not in ("blimp-fast", named.file_name("blimp:fast:x"))


def test_every_measurement_has_a_name_and_glue_the_names_of_its_tasks() -> None:
    assert list(ARGUMENTS) == list(MEASUREMENTS)
    assert ARGUMENTS["glue"] == tuple(TASKS)
