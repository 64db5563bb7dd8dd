"""The clock of the benchmarks, and the verb at a size of seconds."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from tutelage import api, recipe
from tutelage.base.errors import UserError
from tutelage.bench.bench import table
from tutelage.bench.timed import Clock, Enough, MadeUpText, product_rate, time_plain_loop, time_training


def test_made_up_text_repeats_and_can_be_learned() -> None:
    text, again = MadeUpText.of(4000, 50), MadeUpText.of(4000, 50)
    assert np.array_equal(text.tokens, again.tokens)
    assert text.tokens.max() < 50
    followers = np.zeros((50, 50))
    np.add.at(followers, (text.tokens[:-1], text.tokens[1:]), 1)
    # Half of all tokens follow from the one before, so the commonest follower takes at least about that share.
    assert (followers.max(1).sum() / followers.sum()) > 0.5


def test_clock_ends_after_its_steps() -> None:
    clock = Clock(2)
    clock.tick()
    clock.tick()
    with pytest.raises(Enough):
        clock.tick()
    assert len(clock.seconds) == 2


def test_both_loops_take_the_steps_asked_for_and_ours_learns() -> None:
    model = recipe.Model(
        preset="llama-1m",
        steps=5000,
        attention="sdpa",
        precision="fp32",
        optim=recipe.Optim(batch_rows=4, schedule="constant", lr=3e-3),
    )
    text = MadeUpText.of(20_000, 100)
    ours, plain = Clock(30), Clock(3)
    lines, form = time_training(model, text, 100, 16, ours)
    time_plain_loop(model, text, 100, 16, plain, "fp32")
    assert (len(ours.seconds), len(plain.seconds)) == (30, 3)
    assert min(ours.seconds + plain.seconds) > 0
    assert form.attention == "sdpa"
    assert lines[-1]["loss"] < np.log(100)


def test_product_rate_is_that_of_a_computer() -> None:
    assert 1e7 < product_rate(torch.float32, side=64, repeats=3) < 1e16


def test_bench_measures_every_way_of_training() -> None:
    found = api.bench("llama-1m", vocabulary=100, rows=2, length=16, steps=1)
    who = {name for name, _ in found.rates}
    assert who == {"plain PyTorch loop", "tutelage"}
    assert set(found.peaks) == {precision for _, precision in found.rates}
    assert min(found.rates.values()) > 0
    assert table(found).row_count == len(found.rates)


def test_bench_refuses_a_preset_that_is_none() -> None:
    with pytest.raises(UserError, match="llama-4m"):
        api.bench("llama-4")


@pytest.mark.slow
def test_bench_on_the_command_line() -> None:
    command = "bench --preset llama-1m --vocabulary 100 --rows 2 --length 16 --steps 1"
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", *command.split()], capture_output=True, text=True, check=True
    )
    assert re.search(r"tutelage +(fp32|bf16) +[\d,]+", done.stdout)
