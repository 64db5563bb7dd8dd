"""The objective `ul2`: what recipes may say, and models that are trained and taught by it."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tutelage import api
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource
from tutelage.experiment.caches import cache_of
from tutelage.experiment.checks import checked
from tutelage.experiment.setup import Experiment
from tutelage.recipe import Objectives, Rows, Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.training.parallel import process_group
from tutelage.training.plan import plan

RECIPE = """
name: mixed
data: {corpus: starter, tokenizer: {vocab_size: 500, extra_tokens: EXTRA}, rows: {length: 32}}
models:
  teacher:
    config: {model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    steps: 6
    evaluations: 1
    optim: {batch_rows: 8, lr: 1.0e-2}
    stages: [{objectives: {ul2: 1}}]
  student:
    like: teacher
    stages:
      - {span: 50%, teachers: [teacher], objectives: {ul2: 0.5, distill: 0.5}CACHE}
      - {objectives: {ul2: 1}}
  control: {like: student, without: teachers}
  plain: {like: teacher, stages: [{}]}
"""


def written(extra: str = "['<mask>', '<extra_id_0..3>']", cache: str = "") -> str:
    return RECIPE.replace("EXTRA", extra).replace("CACHE", cache)


def refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from_text(text, "x.yaml")


def test_a_number_is_a_weight_and_controls_keep_the_mixture() -> None:
    models = recipe_from_text(written()).models
    assert models["control"].stages[0].objectives == Objectives.model_validate({"ul2": 1})
    assert models["control"].ul2 == models["student"].ul2
    assert models["student"].reads == "causal"
    assert models["plain"].ul2 is None


def test_a_weight_schedule_goes_with_a_mixture() -> None:
    text = written().replace("{ul2: 0.5, distill: 0.5}", "{ul2: 0.5, distill: {weight: 0.5, schedule: linear}}")
    model = recipe_from_text(text).models["student"]
    tokens = SimpleNamespace(tokens=np.zeros(4000, np.uint16), document_starts=np.zeros(1, np.int64))
    made = plan("student", model, BatchSource(tokens, Rows(length=16), model.optim.batch_rows, 0), 0.7)
    assert made.share_at(0) > made.share_at(made.ends[0] - 1) > 0


def test_the_rows_on_the_page_are_what_the_code_makes(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    code, shown = re.findall(r"```python\n([^`]*?)```\n\n```text\n(.*?)```", page, re.DOTALL)[0]
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_rows_of_extra_tokens_are_written_out() -> None:
    extra = recipe_from_text(written()).data.tokenizer.extra_tokens
    assert extra == ("<mask>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>", "<extra_id_3>")
    refused(written("['<x3..1>']"), r"'<x3\.\.1>' is no row of tokens: write the smaller number first")
    refused(written("['<x0..999999999>']"), r"at most 10,000 tokens")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{objectives: {ul2: 1, next_token: 1}}]", "`next_token` and `ul2` exclude each other"),
        ("[{objectives: {ul2: {span: 0.3}}}]", r"shares of the rows, but 0\.6, 0\.2, 0\.3 do not sum to 1"),
        ("[{objectives: {ul2: {span: 1.2}}}]", r"ul2\.span: .*less than or equal to 1"),
        ("[{objectives: {ul2: {denoisers: []}}}]", r"ul2\.denoisers: .*at least 1"),
        ("[{objectives: {ul2: {denoisers: [{rate: 0.8}]}}}]", r"spans of 3 tokens at a rate of 0\.8 would touch"),
        ("[{objectives: {ul2: {spam: 1}}}]", "did you mean 'span'"),
        ("[{span: 2, objectives: {ul2: 1}}, {}]", "stages differ in `ul2`; give all the same settings"),
        ("[{span: 2, objectives: {ul2: {causal: 0.5, span: 0.3}}}, {objectives: {ul2: 1}}]", "stages differ in `ul2`"),
        ("[{span: 2, objectives: {ul2: 1}}, {objectives: {masked: 1}}]", "disagree whether the model is causal"),
    ],
)
def test_mistakes_are_told(stages: str, message: str) -> None:
    refused(f"name: x\nmodels:\n  a: {{preset: llama-1m, steps: 9, stages: {stages}}}\n", message)


def test_a_tokenizer_without_sentinels_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs 2 sentinels .*, but the tokenizer has no '<extra_id_1>': put"):
        api.train(recipe_from_text(written("['<extra_id_0>']")), runs=tmp_path)
    assert not (tmp_path / "mixed" / "teacher").exists()


def test_a_teacher_that_never_read_sentinels_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = written().replace("teachers: [teacher]", "teachers: [plain]")
    with process_group() as group:
        experiment = Experiment(recipe_from_text(text), tmp_path, group)
        checked(experiment)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("has never read a row with sentinels") == 1
    assert "student: its teacher 'plain' has never" in said


@pytest.mark.parametrize("steps", [8, 10])
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Stopped within the student's first stage of three steps, and within its second; the teacher takes six."""
    what = recipe_from_text(written().replace("evaluations: 1", "evaluations: 1\n    save_minutes: 0.000001"))
    step, left = torch.optim.AdamW.step, iter(range(steps))

    def last_steps(optimizer: torch.optim.AdamW) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        step(optimizer)

    api.train(what, runs=tmp_path / "quiet", model="student")
    monkeypatch.setattr(torch.optim.AdamW, "step", last_steps)
    with pytest.raises(KeyboardInterrupt):
        api.train(what, runs=tmp_path / "stopped", model="student")
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / "mixed" / "student" / "seed-0" / "finished.json").exists()
    api.train(what, runs=tmp_path / "stopped", model="student")
    for name in ("metrics.jsonl", "hf/model.safetensors"):
        quiet, stopped = (tmp_path / which / "mixed/student/seed-0" / name for which in ("quiet", "stopped"))
        assert quiet.read_bytes() == stopped.read_bytes()


@pytest.mark.parametrize("cache", ["", ", cache: hidden"])
def test_teacher_student_and_control(tmp_path: Path, cache: str) -> None:
    text = written(cache=cache) + "evaluate: [test]\n"
    summary = api.run(recipe_from_text(text), runs=tmp_path)
    for model in summary.models.values():
        assert 0 < model.seeds["0"].test.loss < 7
    assert [point[0] for point in summary.models["student"].seeds["0"].curves["train_kl"]] == [1, 2, 3]
    with process_group() as group:
        experiment = Experiment(recipe_from_text(text), tmp_path, group)
        # Held-out rows are read as any causal model reads them.
        for name in ("teacher", "plain"):
            model = experiment.recipe.models[name]
            assert experiment.rows.held_out("val", model).mixture is None
        if cache:
            key = cache_of(experiment, experiment.run(Teacher(model="student", seed=0)), 0).key
            assert key["ul2"]["shares"] == [0.6, 0.2, 0.2]
