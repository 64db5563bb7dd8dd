import itertools

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from tutelage.recipe import Optim
from tutelage.training.optim import adamw, lr_at


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedules_follow_the_papers_trainer(schedule: str) -> None:
    """Beyond the warm-up they equal Hugging Face's, which BabyLlama used; its steps are 1/warmup of the peak above."""
    optim, total = Optim(lr=0.5, schedule=schedule, warmup_steps=7), 50
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    make = get_cosine_schedule_with_warmup if schedule == "cosine" else get_linear_schedule_with_warmup
    scheduler = make(reference, 7, total)
    for step in range(total):
        ahead = 0.5 / 7 if step < 7 else 0.0
        assert lr_at(optim, step, total) == pytest.approx(scheduler.get_last_lr()[0] + ahead)
        reference.step()
        scheduler.step()


def test_warmup_rises_in_equal_steps_from_the_first() -> None:
    optim = Optim(lr=1.0, warmup_steps=4)
    assert [lr_at(optim, step, 100) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_wsd_is_flat_then_falls_linearly() -> None:
    optim = Optim(lr=1.0, schedule="wsd", warmup_steps=10, decay_share=0.2, final_lr=0.1)
    rates = [lr_at(optim, step, 110) for step in range(10, 110)]
    assert rates[:78] == pytest.approx([1.0] * 78)
    falls = [a - b for a, b in itertools.pairwise(rates[79:])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert rates[-1] == pytest.approx(0.1 + falls[0])


def test_constant() -> None:
    assert lr_at(Optim(lr=1.0, schedule="constant"), 99, 100) == 1.0


def test_norms_and_biases_do_not_decay(make_model) -> None:
    model = make_model("gpt2")
    optimizer = adamw(model, Optim(weight_decay=5.0))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == ("ln_" not in name and not name.endswith("bias")), name
