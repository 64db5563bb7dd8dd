"""What only a GPU can show."""

import pytest
import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.teaching.teachers import Ensemble
from tutelage.training.objectives import Learner, count, scales_for

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
