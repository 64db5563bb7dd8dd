"""Forms of arithmetic: the same numbers, chosen by measurement, kept for a whole run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.training import form
from tutelage.training.form import Form, choose, remembered
from tutelage.training.objectives import Learner, count, scales_for

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiled layers need a C++ compiler"
)
ROWS = recipe.Rows(length=16)
PLAIN = recipe.Objectives(next_token=recipe.Objective())


def step(learner: Learner, batch) -> tuple[float, torch.Tensor]:
    learner.zero_grad()
    loss, _ = learner(batch, scales_for(PLAIN, count(batch)))
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in learner.parameters()])


@needs_compiler
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_form_gives_the_same_loss_and_gradient(store, make_model, architecture: str) -> None:
    source = BatchSource(store, ROWS, 8, seed=0)
    learners = {
        taken: Learner(taken.give(make_model(architecture, 1))).train()
        for taken in (Form("eager"), Form("sdpa"), Form("eager", compiled=True))
    }
    names = [sorted(dict(learner.named_parameters())) for learner in learners.values()]
    assert names[0] == names[1] == names[2]
    for index in range(3):
        (loss, gradient), *others = [step(learner, source.batch(index)) for learner in learners.values()]
        for other_loss, other_gradient in others:
            assert other_loss == pytest.approx(loss, rel=1e-6)
            assert (other_gradient - gradient).norm() < 1e-5 * gradient.norm()


@needs_compiler
def test_no_recompilation_after_the_first_step(store, make_model) -> None:
    """Evaluations read other numbers of rows; they run uncompiled."""
    source = BatchSource(store, ROWS, 8, seed=0)
    learner = Learner(Form("eager", compiled=True).give(make_model("llama", 1))).train()
    step(learner, source.batch(0))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (3, 5):
            with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
                learner.eval()
                learner.model.hidden(source.batch(0).tokens_BT[:rows])
                learner.train()
            step(learner, source.batch(rows))


def test_layers_are_found(make_model) -> None:
    for architecture in ("llama", "gpt2", "modernbert"):
        assert len(make_model(architecture, 1).layers) == 2


def test_sdpa_is_given_no_mask(store, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask, even one that says no more than `causal`, would keep GPUs from their fastest attention."""
    asked, found = [], []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **rest):
        asked.append((attn_mask, is_causal))
        return original(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    for rows in (ROWS, recipe.Rows(kind="examples", length=16, buckets=(8,))):
        batch = BatchSource(store, rows, 4, seed=0).batch(0)
        for architecture in ("llama", "gpt2"):
            model = Form("sdpa").give(make_model(architecture, 1))
            asked.clear()
            model.hidden(batch.tokens_BT, batch.lengths_B)
            assert len(asked) == 2
            found += asked
    assert all(mask is None and causal for mask, causal in found)


@pytest.mark.parametrize(
    ("seconds", "steps", "chosen"),
    [
        ({"eager": 1.0, "sdpa": 0.5, "compiled": 0.1}, 200, Form("eager")),
        ({"eager": 0.5, "sdpa": 0.2, "compiled": 0.1}, 500, Form("eager")),
        ({"eager": 1.0, "sdpa": 0.5, "compiled": 0.1}, 600, Form("sdpa")),
        ({"eager": 1.0, "sdpa": 0.97, "compiled": 0.9}, 1000, Form("eager", compiled=True)),
        ({"eager": 1.0, "sdpa": 1.1, "compiled": 0.97}, 1000, Form("eager")),
        ({"eager": 1.0, "sdpa": 1.1, "compiled": None}, 1000, Form("eager")),
    ],
)
def test_choice_follows_the_clock(
    store, make_model, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], steps: int, chosen: Form
) -> None:
    if torch.cuda.is_available():
        pytest.skip("on a GPU attention is not chosen by the clock")

    def clock(model, *rest):
        name = "compiled" if model.given.compiled else model.given.attention
        if seconds[name] is None:
            raise RuntimeError("no working C++ compiler")
        return 20.0 if name == "compiled" else seconds[name], seconds[name]

    def give(self, model):
        model.given = self
        return model

    monkeypatch.setattr(form, "seconds_per_step", clock)
    monkeypatch.setattr(Form, "give", give)
    model = recipe.Model(preset="llama-1m", steps=steps)
    found, _ = choose(model, lambda: make_model("llama", 1), BatchSource(store, ROWS, 8, seed=0), "fp32", steps)
    assert found == chosen


def test_wishes_come_first(store, make_model) -> None:
    model = recipe.Model(preset="llama-1m", steps=10_000, attention="sdpa", compile="on")
    found, measured = choose(model, lambda: make_model("llama", 1), BatchSource(store, ROWS, 8, seed=0), "fp32", 10_000)
    assert found == Form("sdpa", compiled=True)
    assert measured == {}


def test_padded_rows_of_many_lengths_are_not_compiled(store, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "seconds_per_step", lambda *_: (10.0, 10.0))
    source = BatchSource(store, recipe.Rows(kind="examples", length=16, buckets=(8,)), 8, seed=0)
    found, _ = choose(recipe.Model(preset="llama-1m", steps=9000), lambda: make_model("llama", 1), source, "fp32", 9000)
    assert not found.compiled


def test_choices_are_shared_and_kept(tmp_path: Path) -> None:
    shared, runs = tmp_path / "forms.json", [tmp_path / "a.json", tmp_path / "b.json"]
    first = remembered(runs[0], shared, "k", lambda: (Form("sdpa", compiled=True), {"steps": []}))
    second = remembered(runs[1], shared, "k", lambda: pytest.fail("measured again"))
    assert first == second == Form("sdpa", compiled=True)
    shared.write_text(json.dumps({"k": {"attention": "eager", "compiled": False}}))
    assert remembered(runs[0], shared, "k", lambda: pytest.fail("measured again")) == first
    assert remembered(tmp_path / "c.json", shared, "other", lambda: (Form("eager"), {})) == Form("eager")
