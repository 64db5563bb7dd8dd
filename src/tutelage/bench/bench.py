"""A short benchmark of the user's machine: `tutelage bench`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.table import Table

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.errors import UserError, nearest
from tutelage.base.progress import console, human
from tutelage.bench.timed import (
    LONG_RUN,
    Clock,
    MadeUpText,
    MadeUpTokenizer,
    product_rate,
    time_plain_loop,
    time_training,
)
from tutelage.models.build import shape
from tutelage.models.cost import Cost, cost_of
from tutelage.models.presets import PRESETS
from tutelage.training.execution import ExecutionMode

PATIENCE = 1.0
"""Seconds for one product of matrices; smaller ones are timed where larger ones would take longer."""


@dataclass(frozen=True)
class Bench:
    """What was measured."""

    preset: str
    cost: Cost
    rows: int
    """In a step."""
    length: int
    """Tokens in a row."""
    peaks: dict[str, float]
    """Operations per second of a large product of matrices, by precision."""
    rates: dict[tuple[str, str], float]
    """Tokens per second of training, by who trains and precision."""
    mode: ExecutionMode
    """Of the arithmetic, as a run of `LONG_RUN` steps chooses it."""


def measure(preset: str, vocabulary: int, rows: int, length: int, steps: int) -> Bench:
    """Time products of matrices, a plain PyTorch loop and the training loop, one after the other.

    The preset is a causal one; a step has so many rows of so many tokens, of which the made-up text has `vocabulary`.
    """
    if preset not in PRESETS or PRESETS[preset]["model_type"] == "modernbert":
        raise UserError(f"no causal preset '{preset}'{nearest(preset, PRESETS)}; `tutelage show --presets` lists them")
    fast = machine.precision("auto")
    precisions = sorted({"fp32", fast}, reverse=True)
    model = recipe.Model(preset=preset, steps=LONG_RUN, optim=recipe.Optim(batch_rows=rows))
    text = MadeUpText.of((steps + 3) * rows * length, vocabulary)
    warm_and_timed = steps + 2
    rates: dict[tuple[str, str], float] = {}
    # The plain loop comes first: our set-up of memory, which helps any loop, lasts as long as the process.
    for precision in precisions:
        console.print(f"plain PyTorch loop, {precision} ...")
        clock = Clock(warm_and_timed)
        time_plain_loop(model, text, vocabulary, length, clock, precision)
        rates["plain PyTorch loop", precision] = rows * length / clock.step()
    console.print(f"tutelage, {fast} ...")
    clock = Clock(warm_and_timed)
    _, mode = time_training(model, text, vocabulary, length, clock)
    rates["tutelage", fast] = rows * length / clock.step()
    console.print("products of matrices ...")
    peaks: dict[str, float] = {precision: _peak(precision) for precision in precisions}
    cost = cost_of(shape(model, MadeUpTokenizer(vocabulary), length), "causal", length)
    return Bench(preset, cost, rows, length, peaks, rates, mode)


def _peak(precision: str) -> float:
    """Return the best rate of a product as large as patience allows."""
    dtype, rate = torch.bfloat16 if precision == "bf16" else torch.float32, 0.0
    for side in (512, 1024, 2048, 4096):
        if rate and 2 * side**3 / rate > PATIENCE:
            break
        rate = max(rate, product_rate(dtype, side))
    return rate


def table(bench: Bench) -> Table:
    """Lay the measurements out."""
    about = machine.environment()
    slowest = min(bench.rates.values())
    compiled = "compiled" if bench.mode.compiled else "not compiled"
    laid = Table(
        title=f"Training {bench.preset} ({human(bench.cost.parameters)} parameters), {bench.rows} rows of "
        f"{bench.length} tokens a step",
        caption=f"{about['gpu'] or about['cpu']}, {about['cores']} cores, torch {about['torch']}. `auto` precision is "
        f"{machine.precision('auto')}; attention {bench.mode.attention}, {compiled}, as a run of {LONG_RUN:,} steps "
        "chooses. Median step on made-up text, start-up left out; "
        "`of peak`: the model's arithmetic as a share of what one large product of matrices reaches here, which is "
        + ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {precision}" for precision, peak in bench.peaks.items())
        + ".",
        title_justify="left",
        caption_justify="left",
        box=None,
    )
    for column in ("who trains", "precision"):
        laid.add_column(column)
    for column in ("tokens/s", "ratio", "GFLOP/s", "of peak"):
        laid.add_column(column, justify="right")
    for (who, precision), rate in bench.rates.items():
        reached = rate * bench.cost.training_flops
        laid.add_row(
            who, precision, f"{rate:,.0f}", f"{rate / slowest:.2f}", f"{reached / 1e9:,.0f}",
            f"{reached / bench.peaks[precision]:.0%}",
        )  # fmt: skip
    return laid
