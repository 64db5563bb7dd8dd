"""What only a GPU can show."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tutelage import machine, recipe
from tutelage.corpus.batches import BatchSource
from tutelage.run_folder import RunFolder
from tutelage.teaching.teachers import Ensemble
from tutelage.training import loop
from tutelage.training.objectives import Learner, count, scales_for
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
        signal = teacher.signal(there.tokens_BT, None, precision)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = learner(there, scales_for(what, count(there)), signal)
        loss.backward()
        results.append((loss.item(), torch.cat([p.grad.flatten().cpu() for p in learner.parameters()])))
    (one, gradient), (other, same) = results
    close = 1e-5 if precision == "fp32" else 3e-2
    assert other == pytest.approx(one, rel=close)
    assert (same - gradient).norm() < 10 * close * gradient.norm()


def job(store, make_model, **settings) -> loop.Job:
    """A student of 40 steps with a teacher."""
    stage = {"teachers": ["t"], "objectives": {"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}}}
    model = recipe.Model.model_validate({"preset": "llama-1m", "steps": 40, "stages": [stage], **settings})
    source = BatchSource(store, recipe.Rows(length=16), 8, seed=0)
    return loop.Job("x", model, 0, source, source, 1.0, Plan(40, (40,), frozenset({40})), frozenset(),
                    lambda: make_model("llama", 1), lambda i: Ensemble([make_model("gpt2", 2)]), "bf16")  # fmt: skip


def test_nothing_in_a_step_waits_for_the_device(store, make_model, tmp_path: Path, monkeypatch) -> None:
    """Steps between two looks run with waiting forbidden; the first ones, which allocate, may wait."""
    what, steps = job(store, make_model), []

    def watched(original):
        def batch(step):
            steps.append(step)
            torch.cuda.set_sync_debug_mode("error" if step > 16 and 1 < step % 16 < 15 else "default")
            return original(step)

        return batch

    monkeypatch.setattr(what.source, "batch", watched(what.source.batch))
    try:
        loop.train(what, RunFolder(tmp_path), Group(0, 1, torch.device("cuda")))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) >= 40


def test_deterministic_runs_repeat_to_the_bit(store, make_model, tmp_path: Path) -> None:
    machine.set_up()
    what = job(store, make_model)
    for name in "ab":
        with machine.deterministic(True):
            loop.train(replace(what), RunFolder(tmp_path / name), Group(0, 1, torch.device("cuda")))
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


def test_flash_attention_takes_what_the_models_ask(store, make_model) -> None:
    """With every other kernel forbidden, a mask or an odd type would be an error."""
    batch = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0).to(torch.device("cuda"))
    for architecture in ("llama", "gpt2"):
        model = make_model(architecture, 1).to("cuda")
        model.hf.set_attn_implementation("sdpa")
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", torch.bfloat16):
            model.hidden(batch.tokens_BT)
