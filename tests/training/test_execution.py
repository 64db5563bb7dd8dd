"""Forms of arithmetic: the same numbers, chosen by measurement, kept for a whole run."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource
from tutelage.training import execution
from tutelage.training.execution import ExecutionMode, choose, remembered
from tutelage.training.objectives import Learner, count, scales_for
from tutelage.training.probe import Probe

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
        mode: Learner(mode.apply(make_model(architecture, 1))).train()
        for mode in (
            ExecutionMode("eager"),
            ExecutionMode("sdpa"),
            ExecutionMode("causal"),
            *(ExecutionMode(a, True) for a in ("eager", "causal")),
        )
    }
    names = [sorted(dict(learner.named_parameters())) for learner in learners.values()]
    assert all(other == names[0] for other in names)
    for index in range(3):
        (loss, gradient), *others = [step(learner, source.batch(index)) for learner in learners.values()]
        for other_loss, other_gradient in others:
            assert other_loss == pytest.approx(loss, rel=1e-6)
            assert (other_gradient - gradient).norm() < 1e-5 * gradient.norm()


@needs_compiler
def test_no_recompilation_after_the_first_step(store, make_model) -> None:
    """Evaluations read other numbers of rows; they run uncompiled."""
    source = BatchSource(store, ROWS, 8, seed=0)
    learner = Learner(ExecutionMode("eager", compiled=True).apply(make_model("llama", 1))).train()
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
            model = ExecutionMode("sdpa").apply(make_model(architecture, 1))
            asked.clear()
            model.hidden(batch.tokens_BT, batch.lengths_B)
            assert len(asked) == 2
            found += asked
    assert all(mask is None and causal for mask, causal in found)


FAKE_LOSS = 4.0


def pretend(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | None], gpu: bool, **others: Probe
) -> list[ExecutionMode]:
    """Let a table say how fast modes are, by their parts, and some of them come to something else; note them."""
    tried: list[ExecutionMode] = []

    def measure(model, *rest):
        mode = model.given
        names = [mode.attention, *(["graphed"] if mode.graphed else []), *(["compiled"] if mode.compiled else [])]
        tried.append(mode)
        if seconds[names[-1]] is None:
            raise RuntimeError("no working C++ compiler")
        usual = seconds[names[-1]]
        return others.get(names[-1], Probe(20.0 if mode.compiled else usual, usual, FAKE_LOSS, 1.0))

    apply = ExecutionMode.apply

    def apply_and_note(self, model):
        apply(self, model).given = self
        return model

    monkeypatch.setattr(execution, "probe", measure)
    monkeypatch.setattr(ExecutionMode, "apply", apply_and_note)
    monkeypatch.setattr(execution, "on_gpu", lambda: gpu)
    monkeypatch.setattr(execution, "attention", lambda: "sdpa" if gpu else "eager")
    return tried


@pytest.mark.parametrize(
    ("seconds", "steps", "chosen"),
    [
        ({"eager": 1.0, "causal": 0.5, "compiled": 0.1}, 200, ExecutionMode("eager")),
        ({"eager": 0.5, "causal": 0.2, "compiled": 0.1}, 500, ExecutionMode("eager")),
        ({"eager": 1.0, "causal": 0.5, "compiled": 0.1}, 600, ExecutionMode("causal")),
        ({"eager": 1.0, "causal": 0.97, "compiled": 0.9}, 1000, ExecutionMode("eager", compiled=True)),
        ({"eager": 1.0, "causal": 1.1, "compiled": 0.97}, 1000, ExecutionMode("eager")),
        ({"eager": 1.0, "causal": 1.1, "compiled": None}, 1000, ExecutionMode("eager")),
    ],
)
def test_choice_follows_the_clock(store, make_model, monkeypatch, seconds, steps: int, chosen: ExecutionMode) -> None:
    tried = pretend(monkeypatch, seconds, gpu=False)
    model = recipe.Model(preset="llama-1m", steps=steps)
    source = BatchSource(store, ROWS, 8, seed=0)
    found, _ = choose(model, lambda: make_model("llama", 1), source, "fp32", steps, at_once=True)
    assert found == chosen
    assert not any(mode.graphed for mode in tried)


@pytest.mark.parametrize(
    ("seconds", "steps", "chosen"),
    [
        # Too short a run, by steps or by seconds.
        ({"sdpa": 1.0, "causal": 0.9, "graphed": 0.1, "compiled": 0.1}, 400, ExecutionMode("sdpa")),
        ({"sdpa": 0.1, "causal": 0.09, "graphed": 0.01, "compiled": 0.1}, 500, ExecutionMode("sdpa")),
        # Attention without masks is mode unless it is slower; nobody compiles for ten minutes.
        ({"sdpa": 0.5, "causal": 0.51, "graphed": 0.2, "compiled": 0.1}, 1000, ExecutionMode("causal", graphed=True)),
        ({"sdpa": 0.5, "causal": 0.51, "graphed": 0.50, "compiled": 0.1}, 1000, ExecutionMode("causal")),
        ({"sdpa": 0.5, "causal": None, "graphed": None, "compiled": 0.1}, 1000, ExecutionMode("sdpa")),
        ({"sdpa": 2.0, "causal": 1.9, "graphed": 1.5, "compiled": 1.0}, 1000, ExecutionMode("causal", True, True)),
        ({"sdpa": 2.0, "causal": 1.9, "graphed": 1.9, "compiled": 1.0}, 1000, ExecutionMode("causal", True, False)),
        ({"sdpa": 2.0, "causal": 1.9, "graphed": 1.5, "compiled": None}, 1000, ExecutionMode("causal", graphed=True)),
    ],
)
def test_choice_on_a_gpu(store, make_model, monkeypatch, seconds, steps: int, chosen: ExecutionMode) -> None:
    pretend(monkeypatch, seconds, gpu=True)
    model = recipe.Model(preset="llama-1m", steps=steps)
    source = BatchSource(store, ROWS, 8, seed=0)
    found, measured = choose(model, lambda: make_model("llama", 1), source, "bf16", steps, at_once=True)
    assert found == chosen
    assert bool(measured) == (steps >= 500)


def test_graphs_need_a_whole_step_at_once(store, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, {"sdpa": 1.0, "causal": 1.0, "graphed": 0.1}, gpu=True)
    examples = BatchSource(store, recipe.Rows(kind="examples", length=16, buckets=(8,)), 8, seed=0)
    for source, at_once, wish in (
        (BatchSource(store, ROWS, 8, seed=0), False, "auto"),
        (examples, True, "auto"),
        (BatchSource(store, ROWS, 8, seed=0), True, "off"),
    ):
        model = recipe.Model(preset="llama-1m", steps=800, cuda_graphs=wish)
        found, _ = choose(model, lambda: make_model("llama", 1), source, "bf16", 800, at_once)
        assert found == ExecutionMode("causal")
    assert not any(mode.graphed for mode in tried)


@pytest.mark.parametrize(
    ("precision", "loss", "norm", "mode"),
    [
        ("bf16", 1.0019, 1.019, True), ("bf16", 1.0021, 1.0, False), ("bf16", 1.0, 0.97, False),
        ("fp32", 1.000009, 1.00009, True), ("fp32", 0.99998, 1.0, False), ("fp32", 1.0, 1.0002, False),
        ("bf16", float("nan"), 1.0, False), ("fp32", 1.0, float("inf"), False),
    ],
)  # fmt: skip
def test_forms_that_learn_something_else_are_refused(
    store, make_model, monkeypatch, capsys, precision: str, loss: float, norm: float, mode: bool
) -> None:
    other = Probe(0.1, 0.1, loss * FAKE_LOSS, norm)
    pretend(monkeypatch, {"sdpa": 1.0, "causal": 1.0, "graphed": 0.1}, gpu=True, graphed=other)
    model = recipe.Model(preset="llama-1m", steps=800)
    source = BatchSource(store, ROWS, 8, seed=0)
    found, _ = choose(model, lambda: make_model("llama", 1), source, precision, 800, at_once=True)
    assert found == ExecutionMode("causal", graphed=mode)
    said = "not causal attention, not compiled, CUDA graphs: its first step has loss"
    assert (said in " ".join(capsys.readouterr().err.split())) == (not mode)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_real_forms_agree_and_wrong_ones_do_not(
    store, make_model, monkeypatch, architecture: str, dropout: float
) -> None:
    """Nothing is pretended here: one step finds attention out that looks ahead."""
    source = BatchSource(store, recipe.Rows(length=64), 16, seed=0)

    def build():
        return make_model(architecture, 1, dropout=dropout)

    trials = execution.Trials(ExecutionMode("eager"), build, source, "fp32", 1000)
    for name in ("sdpa", "causal"):
        trials.mode = ExecutionMode("eager")
        trials.consider(ExecutionMode(name), worth=-1000.0)
        assert trials.mode == ExecutionMode(name)

    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention",
                        lambda *args, is_causal=False, **rest: original(*args, **rest))  # fmt: skip
    if architecture == "llama" and dropout == 0:
        trials.mode = ExecutionMode("eager")
        trials.consider(ExecutionMode("sdpa"), worth=-1000.0)
        assert trials.mode == ExecutionMode("eager")


def test_models_with_windows_are_timed_with_sdpa(store, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tutelage.models.language_model import LanguageModel

    config = AutoConfig.for_model("mistral", vocab_size=60, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                  num_attention_heads=4, num_key_value_heads=4, sliding_window=4)  # fmt: skip
    tried = pretend(monkeypatch, {"eager": 1.0, "sdpa": 0.5, "causal": 0.5}, gpu=False)
    found, measured = choose(
        recipe.Model(preset="llama-1m", steps=600, compile="off"),
        lambda: LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), "causal", 60),
        BatchSource(store, ROWS, 8, seed=0), "fp32", 600,
    )  # fmt: skip
    assert found == ExecutionMode("sdpa")
    assert [line["attention"] for line in measured["steps"]] == ["eager", "sdpa"]
    assert len(tried) == 2


def test_wishes_come_first(store, make_model) -> None:
    model = recipe.Model(preset="llama-1m", steps=10_000, attention="sdpa", compile="on")
    found, measured = choose(model, lambda: make_model("llama", 1), BatchSource(store, ROWS, 8, seed=0), "fp32", 10_000)
    assert found == ExecutionMode("sdpa", compiled=True)
    assert measured == {}


def test_padded_rows_of_many_lengths_are_not_compiled(store, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "probe", lambda *_: Probe(10.0, 10.0, 4.0, 1.0))
    source = BatchSource(store, recipe.Rows(kind="examples", length=16, buckets=(8,)), 8, seed=0)
    found, _ = choose(recipe.Model(preset="llama-1m", steps=9000), lambda: make_model("llama", 1), source, "fp32", 9000)
    assert not found.compiled


def test_choices_are_shared_and_kept(tmp_path: Path) -> None:
    shared, runs = tmp_path / "executions.json", [tmp_path / "a.json", tmp_path / "b.json"]
    first = remembered(runs[0], shared, "k", lambda: (ExecutionMode("sdpa", compiled=True), {"steps": []}))
    second = remembered(runs[1], shared, "k", lambda: pytest.fail("measured again"))
    assert first == second == ExecutionMode("sdpa", compiled=True)
    shared.write_text(json.dumps({"k": {"attention": "eager", "compiled": False}}))  # as older versions wrote it
    assert remembered(tmp_path / "d.json", shared, "k", lambda: pytest.fail("measured again")) == ExecutionMode("eager")
    graphed = ExecutionMode("causal", graphed=True)
    assert remembered(tmp_path / "e.json", shared, "graphed", lambda: (graphed, {})) == graphed
    assert remembered(tmp_path / "e.json", shared, "graphed", lambda: pytest.fail("measured again")) == graphed
    assert remembered(runs[0], shared, "k", lambda: pytest.fail("measured again")) == first
    assert remembered(tmp_path / "c.json", shared, "other", lambda: (ExecutionMode("eager"), {})) == ExecutionMode(
        "eager"
    )


def test_wish_for_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = recipe.Model(preset="llama-1m", steps=10, cuda_graphs="on", optim=recipe.Optim(batch_rows=8))
    monkeypatch.setattr(execution, "on_gpu", lambda: False)
    execution.check("x", model.model_copy(update={"cuda_graphs": "auto"}), 3)
    with pytest.raises(UserError, match=r"models\.x\.cuda_graphs=on needs a CUDA GPU"):
        execution.check("x", model, 1)
    monkeypatch.setattr(execution, "on_gpu", lambda: True)
    execution.check("x", model, 1)
    with pytest.raises(UserError, match="needs a single process, and there are 2"):
        execution.check("x", model, 2)
    cut = model.model_copy(update={"optim": recipe.Optim(batch_rows=8, micro_batch_rows=4)})
    with pytest.raises(UserError, match="micro_batch_rows=4 cuts its 8 rows"):
        execution.check("x", cut, 1)
    monkeypatch.setattr(execution, "attention", lambda: "sdpa")
    assert execution.plain_mode(model) == ExecutionMode("causal", graphed=True)
    assert execution.plain_mode(model.model_copy(update={"kind": "masked"})) == ExecutionMode("sdpa", graphed=True)
