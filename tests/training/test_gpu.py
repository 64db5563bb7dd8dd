"""What only a GPU can show."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.one_step import BuiltJob
from torch.nn.attention import SDPBackend, sdpa_kernel

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.run_folder import RunFolder
from tutelage.bench.timed import MadeUpTokenizer
from tutelage.corpus.batches import BatchSource
from tutelage.models.attention import attends_without_masks, set_attention
from tutelage.models.build import build
from tutelage.models.language_model import LanguageModel
from tutelage.teaching import prefetch
from tutelage.teaching.teachers import Ensemble
from tutelage.training import execution as modes
from tutelage.training import loop
from tutelage.training.execution import ExecutionMode
from tutelage.training.objectives import Learner, count, scales_for
from tutelage.training.optim import adamw
from tutelage.training.parallel import Group
from tutelage.training.plan import Plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_and_cpu_agree(store, make_model, precision: str) -> None:
    torch.set_float32_matmul_precision("highest")
    batch = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0)
    what = recipe.Objectives.model_validate({"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}})
    results = []
    for device in ("cpu", "cuda"):
        there = batch.to(torch.device(device))
        learner, teacher = Learner(make_model("llama", 1)).to(device), Ensemble([make_model("gpt2", 2)]).to(device)
        signal = teacher.dense_signal(there.tokens_BT, None, precision)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = learner(there, scales_for(what, count(there)), signal)
        loss.backward()
        results.append((loss.item(), torch.cat([p.grad.flatten().cpu() for p in learner.parameters()])))
    (one, gradient), (other, same) = results
    close = 1e-5 if precision == "fp32" else 3e-2
    assert other == pytest.approx(one, rel=close)
    assert (same - gradient).norm() < 10 * close * gradient.norm()


MODES = [ExecutionMode("sdpa"), ExecutionMode("causal"), ExecutionMode("causal", graphed=True)]
CUDA = torch.device("cuda")


def job(store, make_model, mode: ExecutionMode = ExecutionMode("sdpa"), dropout: float = 0.0, **settings) -> BuiltJob:  # noqa: B008
    """A student of 40 steps with a teacher."""
    stage = {"teachers": ["t"], "objectives": {"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}}}
    optim = {"batch_rows": 8, "lr": 1e-2}
    model = recipe.Model.model_validate(
        {"preset": "llama-1m", "steps": 40, "stages": [stage], "optim": optim, **settings}
    )
    source = BatchSource(store, recipe.Rows(length=16), 8, seed=0)
    student = "gpt2" if dropout else "llama"

    def teachers(_: int) -> Ensemble:
        return Ensemble([mode.apply(make_model(name, 2)) for name in ("gpt2", "llama")])

    return BuiltJob("x", model, 0, source, source, 1.0, Plan(40, (40,), frozenset({20, 40})), frozenset(), teachers,
                    "bf16", build=lambda: mode.apply(make_model(student, 1, dropout=dropout)))  # fmt: skip


def run(what: BuiltJob, folder: Path) -> list[dict]:
    folder.mkdir(exist_ok=True)
    loop.train(what, what.learner(), RunFolder(folder), Group(0, 1, CUDA))
    return RunFolder(folder).lines()


@pytest.mark.parametrize("ahead_tokens", [0, 4 * 8 * 16])
@pytest.mark.parametrize("mode", MODES[1:], ids=str)  # transformers' masks wait
def test_nothing_in_a_step_waits_for_the_device(
    store, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: ExecutionMode, ahead_tokens: int
) -> None:
    """Steps between two looks run with waiting forbidden; the first ones, which allocate and record, may wait."""
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cuda", ahead_tokens)
    steps, original = [], BatchSource.batch

    def watched(self, step):
        if self.batch_rows == 8:  # else it is what teachers read ahead
            steps.append(step)
            torch.cuda.set_sync_debug_mode("error" if step > 21 and 1 < step % 16 < 15 else "default")
        return original(self, step)

    monkeypatch.setattr(BatchSource, "batch", watched)
    try:
        run(job(store, make_model, mode), tmp_path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) >= 40


def test_rows_of_one_of_several_processes_are_copied_without_waiting(store) -> None:
    """They stand apart in memory."""
    batch = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0)
    mine = Group(1, 2, CUDA).micro_batches(batch, 2)[0]
    mine.to(CUDA)  # pinned memory is made at first
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = mine.to(CUDA)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.tokens_BT.cpu(), batch.tokens_BT[1::2][:2])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_deterministic_runs_repeat_to_the_bit(store, make_model, tmp_path: Path, mode: ExecutionMode) -> None:
    machine.set_up()
    what = job(store, make_model, mode, dropout=0.1)
    with machine.deterministic(True):
        assert run(replace(what), tmp_path / "a") == run(replace(what), tmp_path / "b")


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_run_that_goes_on_repeats_every_bit(
    store, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: ExecutionMode
) -> None:
    """It goes on from step 20, records its graphs there, and is inside a group of steps that teachers read ahead."""
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cuda", 3 * 8 * 16)
    machine.set_up()
    what = job(store, make_model, mode, dropout=0.1)

    original = BatchSource.batch

    def dying(self, step):
        if self.batch_rows == 8 and step == 25:
            raise KeyboardInterrupt
        return original(self, step)

    with machine.deterministic(True):
        expected = run(what, tmp_path / "whole")
        monkeypatch.setattr(BatchSource, "batch", dying)
        with pytest.raises(KeyboardInterrupt):
            run(what, tmp_path / "broken")
        monkeypatch.setattr(BatchSource, "batch", original)
        assert run(what, tmp_path / "broken") == expected


@pytest.mark.parametrize("attention", ["sdpa", "causal"])
def test_flash_attention_takes_what_the_models_ask(store, make_model, attention: str) -> None:
    """With every other kernel forbidden, a mask or an odd type would be an error."""
    batch = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0).to(CUDA)
    for architecture in ("llama", "gpt2"):
        model = make_model(architecture, 1).to("cuda")
        set_attention(model.hf, attention, "causal")
        assert attends_without_masks(model.hf) == (attention == "causal")
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", torch.bfloat16):
            model.hidden(batch.tokens_BT).sum().backward()


def test_flash_attention_takes_grouped_queries(store) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", vocab_size=60, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                                  num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    model = LanguageModel(AutoModelForCausalLM.from_config(config), "causal", 60).to("cuda")
    set_attention(model.hf, "causal", "causal")
    tokens = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0).to(CUDA).tokens_BT
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", torch.bfloat16):
        model.hidden(tokens).sum().backward()


# --- CUDA graphs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # an output layer of its own, and a tied one
def test_graphs_give_the_plain_form_s_losses_and_gradients(
    store, make_model, architecture: str, dropout: float, precision: str
) -> None:
    """On five different batches, with steps of the optimizer between them, and dropout that draws the same."""
    source = BatchSource(store, recipe.Rows(length=16), 8, seed=0)
    results = []
    for graphed in (False, True):
        model = ExecutionMode("causal", graphed=graphed).apply(make_model(architecture, 1, dropout=dropout)).to("cuda")
        learner = Learner(model).train()
        names, optimizer, found = list(learner.state_dict()), adamw(learner, recipe.Optim(lr=1e-3)), []
        for step in range(5):
            batch = source.batch(step)
            scales = scales_for(recipe.Objectives(next_token=recipe.Objective()), count(batch))
            torch.manual_seed(step)
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                loss, _ = learner(batch.to(CUDA), scales)
            loss.backward()
            found.append((loss.item(), torch.cat([p.grad.flatten().cpu() for p in learner.parameters()])))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert list(learner.state_dict()) == names
        results.append(found)
    close = 1e-5 if precision == "fp32" else 2e-3
    for (loss, gradient), (expected, plain) in zip(results[1], results[0], strict=True):
        assert loss == pytest.approx(expected, rel=close)
        assert (gradient - plain).norm() < 10 * close * plain.norm()


def test_graphs_are_left_out_of_evaluations_and_other_shapes(store, make_model) -> None:
    batch = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0).to(CUDA)
    plain = make_model("gpt2", 1, dropout=0.5).to("cuda").eval()
    model = ExecutionMode("causal", graphed=True).apply(make_model("gpt2", 1, dropout=0.5)).to("cuda").train()
    model.hidden(batch.tokens_BT)
    assert model.hidden(batch.tokens_BT[:3]).shape[0] == 3
    with torch.no_grad():
        found = model.eval().hidden(batch.tokens_BT[:5])
        torch.testing.assert_close(found, plain.hidden(batch.tokens_BT[:5]), rtol=1e-3, atol=1e-4)
    first = model.train().hidden(batch.tokens_BT).clone()
    assert not torch.equal(model.hidden(batch.tokens_BT), first), "dropout draws anew in every replay"


def test_a_run_by_graphs_learns_what_a_plain_run_learns(store, make_model, tmp_path: Path) -> None:
    found, expected = (
        run(job(store, make_model, mode, dropout=0.1), tmp_path / str(index))
        for index, mode in enumerate((ExecutionMode("causal", graphed=True), ExecutionMode("causal")))
    )
    for one, other in zip(found, expected, strict=True):
        loss, same = (line["loss"] if "loss" in line else line["val"]["loss"] for line in (one, other))
        assert loss == pytest.approx(same, rel=5e-3)


def test_the_choice_tries_every_form(store, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """None of them may be refused on this device."""
    for name in ("MEASURED_FROM", "COMPILED_FROM"):
        monkeypatch.setattr(modes, name, {"cpu": 0.0, "cuda": 0.0} if name == "MEASURED_FROM" else 0.0)
    model = recipe.Model(preset="llama-1m", steps=10_000)
    source = BatchSource(store, recipe.Rows(length=128), 8, seed=0)
    found, measured = modes.choose(
        model, lambda: build(model, MadeUpTokenizer(60), 128, seed=0).to("cuda"), source, "bf16", 10_000, at_once=True
    )
    assert "not causal" not in capsys.readouterr().err
    assert len(measured["steps"]) == 4
    assert found.attention == "causal"
