"""Scoring rows for selections: time a token against the model's plain forward pass, and bytes a token.

    python benchmarks/scoring.py

Four ways go through the same rows in turn, in one process: the stock transformers model with the logits of all
positions (under autocast, and with its weights in bf16), tutelage's trunk and output product, and the scoring pass with
everything it writes to disk. Needs nothing but tutelage. `--steps` is the number of batches of a round.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from common import Json, arguments, median, table
from common import write as write_page
from transformers import AutoConfig, AutoModelForCausalLM

from tutelage import recipe
from tutelage.base import machine
from tutelage.bench.timed import MadeUpText
from tutelage.corpus.batches import BatchSource
from tutelage.models.build import attention
from tutelage.models.language_model import LanguageModel
from tutelage.models.logits import LOSS
from tutelage.models.presets import PRESETS
from tutelage.teaching import scores
from tutelage.teaching.teachers import Ensemble
from tutelage.training.execution import ExecutionMode

SHAPES = (("llama-2m", 4000), ("llama-10m", 8000))
LENGTH = 128
WHOLE = 14e6
"""Tokens of a BabyLM corpus of 10M words, for which the time is told."""


def ways(preset: str, vocabulary: int, batches: int, folder: Path) -> tuple[dict[str, Callable[[], float | None]], int]:
    """Return each way through all rows, and the number of tokens."""
    rows = scores.BATCH_TOKENS["cpu"] // LENGTH
    store = MadeUpText.of(batches * rows * LENGTH, vocabulary)
    source = BatchSource(store, recipe.Rows(length=LENGTH), rows, seed=0, shuffle=False)
    settings = dict(PRESETS[preset])
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=vocabulary, **settings)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config).eval()
    narrow = copy.deepcopy(hf).bfloat16()
    precision = machine.precision("auto")

    @cache
    def load(compiled: bool) -> Ensemble:
        mode = ExecutionMode(attention(), compiled=compiled)
        return Ensemble([mode.apply(LanguageModel(copy.deepcopy(hf), "causal", vocabulary))])

    model, runs = load(False), iter(range(10**6))

    @torch.inference_mode()
    def stock() -> None:
        for batch in source.once():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                hf(input_ids=batch.tokens_BT, use_cache=False).logits  # noqa: B018

    @torch.inference_mode()
    def stock_bf16() -> None:
        for batch in source.once():
            narrow(input_ids=batch.tokens_BT, use_cache=False).logits  # noqa: B018

    @torch.inference_mode()
    def trunk_and_product() -> None:
        block = LOSS.block_rows("cpu", vocabulary, 2)
        for batch in source.once():
            signal = model.signal(batch, precision)
            for start in range(0, batch.tokens_BT.numel(), block):
                signal.at(slice(start, start + block)).products()

    def scoring() -> float:
        one = scores.Scores(folder / str(next(runs)), {}, source, load, precision)
        one.create()
        one.open()
        one.build(torch.device("cpu"), 0, 1, lambda: False, "scoring")
        one.close()
        # Without making the files, which a long pass does once as well.
        return one.seconds

    found: dict[str, Callable[[], float | None]]
    found = {"stock, autocast": stock, "trunk and product": trunk_and_product, "scoring": scoring}
    return found | ({"stock, bf16 weights": stock_bf16} if precision == "bf16" else {}), source.tokens_per_epoch


def measure(preset: str, vocabulary: int, rounds: int, batches: int) -> Json:
    """Return microseconds a token of each way, and bytes a token on disk."""
    with tempfile.TemporaryDirectory() as folder:
        found, tokens = ways(preset, vocabulary, batches, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds + 1):
            for name, way in found.items():
                began = time.perf_counter()
                took = way()
                seconds[name].append(took or time.perf_counter() - began)
        size = (Path(folder) / "0" / "signal.bin").stat().st_size
    # The first round compiles.
    return {
        "microseconds": {name: 1e6 * median(times[1:]) / tokens for name, times in seconds.items()},
        "bytes": size / tokens,
    }


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=5, steps=4)
    machine.set_up()
    # As for a long pass.
    scores.COMPILED_TOKENS = 0
    data: Json = {f"{preset}, V = {size:,}": measure(preset, size, args.rounds, args.steps) for preset, size in SHAPES}
    rows = []
    for shape, found in data.items():
        times = found["microseconds"]
        plain = min(value for name, value in times.items() if name.startswith("stock"))
        for name, value in times.items():
            ratios = [times["scoring"] / value if name != "scoring" else None, value * WHOLE / 1e6]
            rows.append(
                (shape, name, f"{value:.1f}", "" if ratios[0] is None else f"{ratios[0]:.2f}", f"{ratios[1]:,.0f}")
            )
        rows.append((shape, "fastest stock forward", f"{plain:.1f}", f"{times['scoring'] / plain:.2f}", ""))
    text = table(("model", "way", "µs a token", "scoring / it", "14M tokens, s"), rows, left=2)
    text += "\n\nOn disk: " + ", ".join(f"{found['bytes']:g} bytes a token ({shape})" for shape, found in data.items())
    batch = scores.BATCH_TOKENS["cpu"]
    how = (
        f"Made-up text, random weights, rows of {LENGTH} tokens, {machine.precision('auto')}; {args.rounds} rounds of "
        f"{args.steps} batches of {batch:,} tokens, interleaved in one process; medians. Aim: scoring takes at most "
        "1.1 times the plain forward pass, and at most 6 bytes a token. Compiling, once a process, is left out."
    )
    write_page("scoring", "Scoring rows for selections", text, {"scoring": data}, args, how)


if __name__ == "__main__":
    main()
