"""Training by the clock, for benchmarks: the real loop, a plain one beside it, and the machine's matrix products.

The loop that is timed is `training.loop.train`, on made-up text held in memory. A clock ticks whenever it asks for a
batch, so that everything a step costs lies between two ticks. `tutelage bench` and the scripts in `benchmarks/` use it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage import recipe
from tutelage.base import machine
from tutelage.base.run_folder import RunFolder
from tutelage.base.types import Json
from tutelage.corpus.batches import Batch, BatchSource, Hybrid, Tokens
from tutelage.models.build import build, config_for
from tutelage.models.products import product
from tutelage.teaching.schedule import WeightSchedule
from tutelage.teaching.teachers import Ensemble
from tutelage.training.execution import ExecutionMode, choose
from tutelage.training.loop import Job, train
from tutelage.training.objectives import Learner
from tutelage.training.parallel import process_group
from tutelage.training.plan import Plan

LONG_RUN = 5000
"""Steps that a timed run pretends to have, so that choices which depend on its length are those of real training."""


@dataclass(frozen=True)
class MadeUpText:
    """A token store in memory: token frequencies as uneven as in real text, and some order to learn."""

    tokens: npt.NDArray[np.uint32]
    document_starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, size: int, vocabulary: int, seed: int = 0) -> MadeUpText:
        """Draw `size` tokens by Zipf's law; every other one, on average, follows from the one before it."""
        draw = np.random.default_rng(seed)
        shares = 1 / np.arange(1, vocabulary + 1)
        tokens = draw.permutation(vocabulary)[draw.choice(vocabulary, size, p=shares / shares.sum())]
        follower = draw.permutation(vocabulary)
        for place in np.flatnonzero(draw.random(size - 1) < 0.5) + 1:
            tokens[place] = follower[tokens[place - 1]]
        return cls(tokens.astype(np.uint32), np.zeros(1, dtype=np.int64))


@dataclass(frozen=True)
class MadeUpTokenizer:
    """As much of a tokenizer as building a model takes."""

    size: int
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    cls_token_id: int = 1
    sep_token_id: int = 2

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        """Return its last token."""
        return {"": self.size - 1}


class Enough(Exception):
    """The clock has seen as many steps as it was asked for."""


@dataclass
class Clock:
    """Notes when each step begins; raises `Enough` when `steps` of them are over."""

    steps: int
    marks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """Note that a step begins, and that the one before it is over."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())
        if len(self.marks) > self.steps:
            raise Enough

    @property
    def seconds(self) -> list[float]:
        """What each step took."""
        return [end - start for start, end in zip(self.marks, self.marks[1:], strict=False)]

    def step(self) -> float:
        """Return the median seconds of a step; the first two, which warm up, do not count where there are more."""
        return statistics.median(self.seconds[2:] or self.seconds)


class _ClockedSource(BatchSource):
    clock: Clock

    def batch(self, step: int) -> Batch:
        self.clock.tick()
        return super().batch(step)

    def with_batch_rows(self, batch_rows: int) -> BatchSource:
        # For teachers that read ahead, which is no step.
        other = super().with_batch_rows(batch_rows)
        other.__class__ = BatchSource
        return other


def time_training(
    model: recipe.Model,
    text: Tokens,
    vocabulary: int,
    row_length: int,
    clock: Clock,
    teachers: Callable[[ExecutionMode], Ensemble] | None = None,
    taught_steps: int | None = None,
    hybrid: Hybrid | None = None,
) -> tuple[list[Json], ExecutionMode]:
    """Train by the real loop until the clock says enough; return the lines of metrics, and the mode.

    The model's `steps` are many more than the clock's, so that the mode of arithmetic is what a long run would take,
    unless it names one. `teachers` makes them in a mode; they are released after `taught_steps`, never unless given.
    `hybrid` has rows read whole.
    """
    machine.set_up()
    total = model.steps or LONG_RUN
    mode, _ = choose_mode(model, text, vocabulary, row_length)
    source = _ClockedSource(text, recipe.Rows(length=row_length), model.optim.batch_rows, seed=0, hybrid=hybrid)
    source.clock = clock
    schedules = {0: WeightSchedule("step", 0, taught_steps)} if taught_steps else {}
    with TemporaryDirectory() as folder, process_group() as group:
        job = Job(
            name="bench",
            model=model,
            seed=0,
            source=source,
            val=source,
            val_bytes_per_token=1.0,
            plan=Plan(total, (total,), frozenset(), weight_schedules=schedules),
            milestones=frozenset(),
            teachers=lambda stage: teachers(mode) if teachers and stage is not None else None,
            precision=machine.precision(model.precision),
        )
        run = RunFolder(Path(folder))
        learner = Learner(mode.apply(build(model, MadeUpTokenizer(vocabulary), row_length, seed=0)))
        with contextlib.suppress(Enough):
            train(job, learner, run, group)
        return run.lines(), mode


def choose_mode(model: recipe.Model, text: Tokens, vocabulary: int, row_length: int) -> tuple[ExecutionMode, Json]:
    """Choose the mode of a model's arithmetic as an experiment does; also return what was measured for it."""
    source = BatchSource(text, recipe.Rows(length=row_length), model.optim.batch_rows, seed=0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return choose(
        model,
        lambda: build(model, MadeUpTokenizer(vocabulary), row_length, seed=0).to(device),
        source,
        machine.precision(model.precision),
        model.steps or LONG_RUN,
        at_once=(model.optim.micro_batch_rows or model.optim.batch_rows) >= model.optim.batch_rows,
    )


def time_plain_loop(
    model: recipe.Model, text: Tokens, vocabulary: int, row_length: int, clock: Clock, precision: str
) -> None:
    """Train by the loop one would write first: transformers' model and loss, AdamW, clipped gradients."""
    from transformers import AutoModelForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = BatchSource(text, recipe.Rows(length=row_length), model.optim.batch_rows, seed=0)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config_for(model, MadeUpTokenizer(vocabulary), row_length)).to(device)
    optimizer = torch.optim.AdamW(hf.parameters(), lr=model.optim.lr, weight_decay=0.0, fused=True)
    with contextlib.suppress(Enough):
        for step in itertools.count():
            clock.tick()
            tokens_BT = rows.batch(step).tokens_BT.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss: Tensor = hf(input_ids=tokens_BT, labels=tokens_BT).loss
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def product_rate(dtype: torch.dtype, side: int = 4096, repeats: int = 5) -> float:
    """Return the operations per second of the product of two square matrices, the best of some tries.

    Multiplied as training multiplies here: the peak is that of the faster library.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(side, side, dtype=torch.float32, device=device).to(dtype) for _ in range(2))
    clock = Clock(repeats + 1)
    with contextlib.suppress(Enough):
        while True:
            clock.tick()
            product(a, b)
    return 2 * side**3 / min(clock.seconds[1:])
