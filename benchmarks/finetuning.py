"""Fine-tuning a 10M-parameter Llama on five tasks: ours against Hugging Face's Trainer, same data and settings.

    TUTELAGE_DATA=... python benchmarks/finetuning.py               # about 40 minutes on two cores
    TUTELAGE_DATA=... python benchmarks/finetuning.py --whole       # the five tasks in full, ours alone, 10 epochs
    TUTELAGE_DATA=... python benchmarks/finetuning.py --quick       # a rehearsal

Needs `accelerate` for Trainer; how to set up: see `common.py`. Rows are those of `$TUTELAGE_DATA/glue`, where it is
set, else made-up texts of like lengths; only scores and speeds are written. The model is the Llama of `trainers.py`
with random weights (so that scores say little) over a tokenizer of 8,000 tokens trained on the tasks' own texts.

Both train `--rows` rows of each task for `--epochs` epochs at batch 32, length 128, AdamW, a linear schedule without
warm-up, clipping at 1, and score the task's file (300 rows of it) after each epoch, 64 rows at once in Trainer.
Trainer reads rows through `DataCollatorWithPadding`, which pads each batch to its longest row, at its defaults
otherwise (fp32 or bf16 autocast, fused AdamW, SDPA), without logging or saving. A run is a process of its own; what
counts are the seconds from the first step to the end of the last evaluation.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import BODY_10M, Json, Work, arguments, child, median, run_rounds, table
from common import write as write_page

TASKS = ("rte", "mrpc", "wsc", "cola", "boolq")
BATCH, LENGTH, LR, SCORED = 32, 128, 1e-4, 300
LENGTHS = {"rte": 70, "mrpc": 55, "wsc": 40, "cola": 11, "boolq": 150}
"""Words of a made-up text, about, where no data is at hand."""
MODES = {"ours bf16": ("ours", "bf16"), "Trainer bf16": ("trainer", "bf16"), "ours fp32": ("ours", "fp32"),
         "Trainer fp32": ("trainer", "fp32")}  # fmt: skip


def main() -> None:
    """Measure and write down."""
    numbers = {"type": int, "default": None}
    args = arguments(__doc__, rounds=3, steps=1, rows=numbers, epochs=numbers, whole={"action": "store_true"})
    rows, epochs = args.rows or (64 if args.quick else 512), args.epochs or (1 if args.quick else 2)
    with tempfile.TemporaryDirectory() as folder:
        save_tasks(Path(folder))
        save_model(Path(folder))
        work = Work(folder, 8000, rows=BATCH, length=LENGTH, lr=LR, options={"rows": rows, "epochs": epochs})
        if args.whole:
            work = replace(work, options={"rows": None, "epochs": args.epochs or (1 if args.quick else 10)})
        modes = {
            f"{task}, {name}": (way, replace(work, precision=precision, options=work.options | {"task": task}))
            for task in TASKS
            for name, (way, precision) in MODES.items()
            if not args.whole or name == "ours bf16"
        }
        runs = run_rounds(modes, args)
    found = {
        name: {key: median(run[key] for run in each) for key in ("fit", "cpu", "rows_a_second", "score", "peak_mb")}
        if not any("failed" in run for run in each)
        else {"failed": next(run["failed"] for run in each if "failed" in run)}
        for name, each in runs.items()
    }
    name = "finetuning-whole" if args.whole else "finetuning"
    how = (
        f"Random weights; {args.rounds} interleaved rounds; medians." if args.rounds > 1 else "Random weights; one run."
    )
    text, data = page(found, work, args.whole), {"runs": found, "options": work.options}
    write_page(name, title(args.whole), text, data, args, how)


def title(whole: bool) -> str:
    """The page's title."""
    return "Five tasks in full" if whole else "Fine-tuning a 10M Llama against Trainer"


def page(found: dict[str, Json], work: Work, whole: bool) -> str:
    """Lay the seconds, speeds and ratios out."""
    data = "GLUE and SuperGLUE rows" if os.environ.get("TUTELAGE_DATA") else "made-up rows"
    many = "all" if work.options["rows"] is None else work.options["rows"]
    said = f"{data}: {many} training rows a task, {work.options['epochs']} epochs, batch {BATCH}, length {LENGTH}.\n\n"
    lines: list[tuple[object, ...]] = []
    for task in TASKS:
        for name in MODES:
            one = found.get(f"{task}, {name}")
            if one is None:
                continue
            if "failed" in one:
                lines.append((task, name, one["failed"], *[""] * 5))
                continue
            other = found.get(f"{task}, {name.replace('ours', 'Trainer')}", {})
            compared = name.startswith("ours") and "fit" in other
            ratios = [f"{other[key] / one[key]:.2f}" if compared else "" for key in ("fit", "cpu")]
            cells = (f"{one['fit']:.1f}", f"{one['cpu']:.1f}", f"{one['rows_a_second']:.1f}", *ratios,
                     f"{one['score']:.3f}")  # fmt: skip
            lines.append((task, name, *cells))
    columns = ("task", "mode", "seconds", "CPU seconds", "training rows/s", "times as fast as Trainer (aim 2)",
               "by CPU seconds", "accuracy")  # fmt: skip
    if whole:
        columns, lines = columns[:5] + columns[7:], [line[:5] + line[7:] for line in lines]
    total = sum(one.get("fit", 0.0) for name, one in found.items() if name.endswith("ours bf16"))
    tail = f"\n\nAll five: {total / 60:.1f} minutes (aim: below 30)." if whole else ""
    return said + table(columns, lines, left=2) + tail


# --- inputs


def save_tasks(folder: Path) -> None:
    """Copy the tasks' files to a folder of their own, or make such up."""
    import numpy as np

    from tutelage.evaluation.finetune.tasks import find_task

    data = os.environ.get("TUTELAGE_DATA")
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), int(draw.integers(2, 9)))) for _ in range(3000)]
    for task in TASKS:
        for split, count in (("train", 2000), ("valid", 300)):
            target = folder / f"{task}.{split}.jsonl"
            if data:
                target.write_bytes((Path(data) / "glue" / target.name).read_bytes())
                continue
            keys = find_task(task).keys
            rows = [
                {key: " ".join(draw.choice(words, max(2, int(draw.gamma(3) * LENGTHS[task] / 3 / len(keys)))))
                 for key in keys} | {"label": number % 2}
                for number in range(count)
            ]  # fmt: skip
            target.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def save_model(folder: Path) -> None:
    """Save a Llama with random weights and a tokenizer of 8,000 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, logging

    from tutelage import recipe
    from tutelage.corpus import tokenizer

    logging.disable_progress_bar()
    lines = (line for task in TASKS for line in (folder / f"{task}.train.jsonl").open(encoding="utf-8"))
    trained = tokenizer.train(lines, recipe.Tokenizer(vocab_size=8000))
    torch.manual_seed(0)
    ids = {"vocab_size": len(trained), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**ids, **BODY_10M)).save_pretrained(folder / "model")
    tokenizer.save(trained, folder / "model")


def examples(work: Work) -> tuple[list[Any], list[Any]]:
    """The rows that both ways train on and score."""
    from tutelage.evaluation.finetune.tasks import read_scored, read_train

    task, folder = work.options["task"], Path(work.folder)
    train, scored = read_train(task, folder), read_scored(task, folder)
    if work.options["rows"] is None:
        return train, scored
    return train[: work.options["rows"]], scored[:SCORED]


# --- ways


def ours(work: Work, clock: Any) -> Json:
    """Fine-tune by tutelage's loop, choosing on the scored rows as Trainer does."""
    from tutelage.base import machine
    from tutelage.corpus import tokenizer
    from tutelage.evaluation.finetune.classifier import build
    from tutelage.evaluation.finetune.loop import Reading, fit
    from tutelage.evaluation.finetune.rows import encode
    from tutelage.models.build import load
    from tutelage.recipe.finetune import TaskFinetuning

    machine.set_up()
    words = tokenizer.load(f"{work.folder}/model")
    model = load(f"{work.folder}/model", words, "causal")
    train, scored = (encode(words, rows, LENGTH, "rows") for rows in examples(work))
    settings = TaskFinetuning(
        lr=LR, batch_rows=BATCH, epochs=work.options["epochs"], patience=None, warmup_share=0.0, weight_decay=0.0,
        max_length=LENGTH, dropout=0.0, select="scored",
    )  # fmt: skip
    classifier = build([model], 2, settings, words, seed=0)
    began, cpu = time.perf_counter(), time.process_time()
    fitted = fit(classifier, train, scored, "accuracy", settings, Reading(0, LENGTH, work.precision, "rows"), seed=0)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return report(work, seconds, cpu, len(train), fitted.scores[-1])


def trainer(work: Work, clock: Any) -> Json:
    """Fine-tune by Hugging Face's Trainer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        logging,
    )

    logging.set_verbosity_error()
    words = AutoTokenizer.from_pretrained(f"{work.folder}/model")
    model = AutoModelForSequenceClassification.from_pretrained(
        f"{work.folder}/model", num_labels=2, dtype=torch.float32
    )

    def encoded(rows: list[Any]) -> list[Json]:
        texts = [[row.first for row in rows]] + ([[row.second for row in rows]] if rows[0].second is not None else [])
        found = words(*texts, truncation=True, max_length=LENGTH)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": row.label}
            for ids, mask, row in zip(found["input_ids"], found["attention_mask"], rows, strict=True)
        ]

    train, scored = map(encoded, examples(work))
    settings = TrainingArguments(
        output_dir=f"{work.folder}/trainer", num_train_epochs=work.options["epochs"], use_cpu=True,
        per_device_train_batch_size=BATCH, per_device_eval_batch_size=64, learning_rate=LR, lr_scheduler_type="linear",
        weight_decay=0.0, max_grad_norm=1.0, bf16=work.precision == "bf16", eval_strategy="epoch", save_strategy="no",
        logging_strategy="no", report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    found = Trainer(
        model=model, args=settings, train_dataset=train, eval_dataset=scored,
        data_collator=DataCollatorWithPadding(words),
        compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(1) == said.label_ids).mean())},
    )  # fmt: skip
    began, cpu = time.perf_counter(), time.process_time()
    # It prints its evaluations, which would stand where the result is looked for.
    output, sys.stdout = sys.stdout, sys.stderr
    try:
        found.train()
    finally:
        sys.stdout = output
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    scores = [line["eval_accuracy"] for line in found.state.log_history if "eval_accuracy" in line]
    return report(work, seconds, cpu, len(train), scores[-1])


def report(work: Work, seconds: float, cpu: float, rows: int, score: float) -> Json:
    """What a run found."""
    return {"fit": seconds, "cpu": cpu, "rows_a_second": rows * work.options["epochs"] / seconds, "score": score}


if __name__ == "__main__" and not child({"ours": ours, "trainer": trainer}):
    main()
