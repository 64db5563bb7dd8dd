"""Ways of training: ours, a plain loop, Hugging Face's Trainer. Same weights, rows, AdamW and clipping for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Json, MemoryClock, Work
from torch import Tensor

from tutelage import recipe
from tutelage.base import machine
from tutelage.bench.timed import LONG_RUN, Enough, MadeUpText, MadeUpTokenizer, choose_mode, time_training
from tutelage.corpus.batches import BatchSource
from tutelage.models.build import load
from tutelage.teaching.teachers import Ensemble
from tutelage.training import session
from tutelage.training.execution import ExecutionMode


def text_of(work: Work) -> MadeUpText:
    """Load the tokens that all modes train on."""
    return MadeUpText(np.load(Path(work.folder) / "tokens.npy"), np.zeros(1, dtype=np.int64))


def rows_of(work: Work) -> list[Tensor]:
    """Return the batches of all steps, the same that `ours` draws, `(rows, length)` each."""
    source = BatchSource(text_of(work), recipe.Rows(length=work.length), work.rows, seed=0)
    return [source.batch(step).tokens_BT for step in range(work.steps + 1)]


def hf_model(work: Work, name: str) -> Any:
    """Load a model as transformers does by default."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(Path(work.folder) / name, dtype=torch.float32)


def autocast(work: Work) -> torch.autocast:
    """The arithmetic that the work asks for."""
    return torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16")


def model_of(work: Work, **settings: Any) -> recipe.Model:
    """Say in a recipe's words what tutelage trains."""
    stage: Json = {"objectives": {"next_token": 1.0}}
    if work.teachers:
        distill = {"weight": 0.5, "temperature": work.temperature}
        stage = {"teachers": work.teachers, "objectives": {"next_token": 0.5, "distill": distill}}
    said: Json = {
        "weights": str(Path(work.folder) / work.student),
        "steps": LONG_RUN,
        "precision": work.precision,
        "attention": work.attention,
        "compile": work.compile,
        "stages": [stage],
        "optim": {"lr": work.lr, "schedule": "constant", "batch_rows": work.rows},
    }
    return recipe.Model.model_validate(said | settings)


def ours(work: Work, clock: MemoryClock, source: Callable[[ExecutionMode], Any] | None = None) -> Json:
    """Train by tutelage's own loop, from a recipe's model."""
    # A line of metrics for every step: the losses are compared with those of others.
    session.LOG_LINES = 10**9
    teachers = source or ((lambda mode: ensemble(work, mode)) if work.teachers else None)
    lines, _ = time_training(model_of(work), text_of(work), work.vocabulary, work.length, clock, teachers)
    if [line["step"] for line in lines] != list(range(1, work.steps + 1)):
        raise RuntimeError(f"{len(lines)} lines of metrics for {work.steps} steps")
    if not work.teachers:
        return {"losses": [line["loss"] for line in lines]}
    return {"losses": [0.5 * line["loss"] + 0.5 * work.temperature**2 * line["kl"] for line in lines]}


def mode_of(work: Work, clock: MemoryClock) -> Json:
    """Choose the mode of execution as a long run does."""
    machine.set_up()
    model = model_of(work, attention="auto", compile="auto")
    mode, measured = choose_mode(model, text_of(work), work.vocabulary, work.length)
    return asdict(mode) | measured


def ensemble(work: Work, mode: ExecutionMode | None = None) -> Ensemble:
    """Load the teachers as tutelage does, in their student's mode."""
    vocabulary = MadeUpTokenizer(work.vocabulary)
    models = [load(str(Path(work.folder) / name), vocabulary, "causal") for name in work.teachers]
    return Ensemble([mode.apply(model) for model in models] if mode else models)


def plain_loop(work: Work, clock: MemoryClock, loss_of: Callable[[Any, Tensor], Tensor] | None = None) -> Json:
    """Train by a loop as one would write it; the loss is the model's own unless another one is given."""
    model, rows = hf_model(work, work.student), rows_of(work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.lr, weight_decay=0.0, fused=True)
    losses = []
    with contextlib.suppress(Enough):
        for tokens_BT in rows:
            clock.tick()
            with autocast(work):
                if loss_of is None:
                    loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
                else:
                    loss = loss_of(model, tokens_BT)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    return {"losses": losses}


def hf_trainer(work: Work, clock: MemoryClock, loss_of: Callable[[Any, Json], Tensor] | None = None) -> Json:
    """Train by Hugging Face's Trainer; its own loss unless another one is given."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    losses: list[Tensor] = []

    class Ticking(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    class Noting(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            losses.append(super().training_step(*args, **kwargs))
            return losses[-1]

        def compute_loss(self, model: Any, inputs: Json, *args: Any, **kwargs: Any) -> Any:
            if loss_of is None:
                return super().compute_loss(model, inputs, *args, **kwargs)
            return loss_of(model, inputs)

    rows = torch.cat(rows_of(work))
    # Trainer divides by its count of labels before the model shifts them; without the first one the count is right.
    labels = rows.clone()
    labels[:, 0] = -100
    settings = TrainingArguments(
        output_dir=str(Path(work.folder) / "trainer"),
        max_steps=work.steps + 1,
        per_device_train_batch_size=work.rows,
        learning_rate=work.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=work.precision == "bf16",
        use_cpu=True,
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Noting(
        model=hf_model(work, work.student),
        args=settings,
        train_dataset=[{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)],
        callbacks=[Ticking()],
    )
    with contextlib.suppress(Enough):
        trainer.train()
    return {"losses": [float(loss) for loss in losses]}
