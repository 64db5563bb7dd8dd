"""Masked scoring of BLiMP: how long does a ModernBERT of 10M parameters take for 67,000 pairs, against minicons?

    TUTELAGE_DATA=... python benchmarks/masked.py              # the peers' environment, with minicons 0.3.39
    TUTELAGE_DATA=... python benchmarks/masked.py --quick      # a rehearsal: one pair in 200

Every token of every sentence is masked in a copy of its own (the rules of 2025: BabyLM's, and minicons' `original`).
The model has random weights, so accuracies say nothing and are left out; its tokenizer of 8,000 tokens is trained on
`$TUTELAGE_DATA/babymix-10m`. tutelage scores all pairs. minicons would take hours: it scores one pair in 200, in the
batch size that suits it best of two, and so does tutelage for the ratio.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from blimp import write_pairs
from common import Json, Work, arguments, child, median, run_rounds, table, write

from tutelage.models.presets import _modernbert

SHAPE = _modernbert(256, 12, 8, 512)
MINICONS_BATCHES = (8, 32)
PART = 200
"""Of the pairs that both score, one in so many."""


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=1, steps=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(folder)
        work = Work(scratch, 8000)
        write_pairs(folder, 0.005 if args.quick else 1.0)
        part = {"every": PART if not args.quick else 10}
        modes = {
            "ours bf16": ("ours", Work(scratch, 8000, "bf16")),
            "ours fp32": ("ours", work),
            "ours fp32, part": ("ours", Work(scratch, 8000, options=part)),
            **{
                f"minicons fp32, part, batch {size}": ("minicons", Work(scratch, 8000, rows=size, options=part))
                for size in MINICONS_BATCHES
            },
        }
        runs = run_rounds(modes, args)
    write("masked", "Masked scoring of BLiMP", *page(runs), args, "Random weights; whole processes after imports.")


def page(runs: dict[str, list[Json]]) -> tuple[str, Json]:
    """Lay out minutes and ratios."""
    keys = ("pairs", "seconds_in_all", "cpu", "peak", "parameters")
    found: Json = {
        name: {"failed": one[0]["failed"]} if "failed" in one[0] else {k: median(run[k] for run in one) for k in keys}
        for name, one in runs.items()
    }
    ours = found.get("ours fp32, part", {}).get("seconds_in_all")
    rows = []
    for name, one in found.items():
        if "failed" in one:
            rows.append((name, one["failed"], *[""] * 4))
            continue
        times = f"{one['seconds_in_all'] / ours:.1f}" if ours and name.startswith("minicons") else ""
        rows.append((name, f"{one['pairs']:,.0f}", f"{one['seconds_in_all'] / 60:.2f}", f"{one['cpu'] / 60:.2f}",
                     f"{one['peak']:,.0f}", times))  # fmt: skip
    columns = ("run", "pairs", "minutes", "CPU minutes", "peak MB", "times ours")
    size = next((one["parameters"] for one in found.values() if "parameters" in one), 0)
    text = f"A ModernBERT of {size / 1e6:.1f}M parameters. Aim: all pairs in less than 30 minutes on two cores.\n\n"
    return text + table(columns, rows), {"runs": found}


def save_model(folder: Path) -> None:
    """Save a ModernBERT with random weights and a tokenizer of 8,000 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, logging

    from tutelage import recipe
    from tutelage.corpus import tokenizer

    logging.disable_progress_bar()
    files = sorted((Path(os.environ["TUTELAGE_DATA"]) / "babymix-10m").glob("*.dev"))
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    trained = tokenizer.train(lines, recipe.Tokenizer(vocab_size=8000))
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SHAPE, vocab_size=len(trained), **ids)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save(trained, folder / "model")


def ours(work: Work, clock: Any) -> Json:
    """Score by tutelage."""
    from tutelage.base import machine
    from tutelage.corpus import tokenizer
    from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
    from tutelage.evaluation.benchmarks.items import Item
    from tutelage.evaluation.likelihood.causal import log_probs
    from tutelage.models import build
    from tutelage.teaching.teachers import Ensemble

    machine.set_up()
    began, cpu = time.perf_counter(), time.process_time()
    words = tokenizer.load(f"{work.folder}/model")
    model = build.load(f"{work.folder}/model", words, "masked")
    texts = sentences(work)
    log_probs(Ensemble([model]), words, [Item(text) for text in texts], CONVENTIONS["2025"], precision=work.precision)
    return report(model.hf, texts, began, cpu)


def minicons(work: Work, clock: Any) -> Json:
    """Score by minicons."""
    from minicons.scorer import MaskedLMScorer
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    began, cpu = time.perf_counter(), time.process_time()
    words = AutoTokenizer.from_pretrained(f"{work.folder}/model")
    # Transformers 5 took away the method by which minicons calls a tokenizer.
    older = copy.copy(words)
    older.batch_encode_plus = older.__call__
    model = AutoModelForMaskedLM.from_pretrained(f"{work.folder}/model")
    scorer = MaskedLMScorer(model, "cpu", tokenizer=older)
    texts = sentences(work)
    for start in range(0, len(texts), work.rows):
        scorer.sequence_score(texts[start : start + work.rows], reduction=lambda x: x.sum(0), PLL_metric="original")
    return report(model, texts, began, cpu)


def sentences(work: Work) -> list[str]:
    """Both sentences of the pairs that a run scores."""
    import json

    lines = [line for file in sorted((Path(work.folder) / "pairs").iterdir()) for line in file.read_text().splitlines()]
    chosen = map(json.loads, lines[:: work.options.get("every", 1)])
    return [pair[key] for pair in chosen for key in ("sentence_good", "sentence_bad")]


def report(model: Any, texts: list[str], began: float, cpu: float) -> Json:
    """What a run found, loading included."""
    from common import peak_mb

    return {
        "pairs": len(texts) // 2,
        "seconds_in_all": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak": peak_mb(),
    }


if __name__ == "__main__" and not child({"ours": ours, "minicons": minicons}):
    main()
