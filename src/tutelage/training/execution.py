"""The mode of a model's arithmetic: attention, compilation, CUDA graphs. Results differ by rounding alone.

What is fastest depends on the processor and the shape, so a run that is long enough to repay it begins with a few timed
steps of each mode. A mode that fails, or comes to another loss or gradient than the plain one, is left out, with a
message. What was chosen is kept for the whole run: resuming must repeat every bit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.files import read_json, write_json
from tutelage.base.progress import console, duration
from tutelage.base.types import Json
from tutelage.corpus.batches import BatchSource, Chunks
from tutelage.models.attention import CAUSAL, attends_without_masks, set_attention
from tutelage.models.build import attention
from tutelage.models.language_model import LanguageModel
from tutelage.training.probe import Probe, probe

MEASURED_FROM = {"cpu": 300.0, "cuda": 60.0}
"""Seconds of training from which on modes are timed."""
COMPILED_FROM = 900.0
"""Seconds of training from which on compiling is tried: it takes half a minute, and gains a quarter at most."""
WORTH = 0.05
"""Share of the time that a mode must save to be preferred to the plain one."""
MEASURED_STEPS = 500
"""Shorter runs are not worth the timing."""
TOLERANCE = {"bf16": 2e-3, "fp32": 1e-5}
"""Relative difference up to which the losses of two modes' first steps are held to be the same."""


@dataclass(frozen=True)
class ExecutionMode:
    """A mode of arithmetic."""

    attention: str
    """`causal` (see `models.attention`), or the name of a transformers implementation."""
    compiled: bool = False
    """Whether the layers run as code made for their shapes (`torch.compile`)."""
    graphed: bool = False
    """Whether the trunk trains by CUDA graphs (see `models.recorded`)."""

    def apply(self, model: LanguageModel) -> LanguageModel:
        """Let a model compute in this mode; its weights and their names stay."""
        set_attention(model.hf, self.attention, model.kind)
        if self.compiled:
            # Layer by layer: they are alike, so that one compilation serves all, and what surrounds them (masks,
            # embeddings) stays out of it.
            for layer in model.layers:
                layer.compile(dynamic=False)
        if self.graphed:
            model.record()
        return model

    def __str__(self) -> str:
        compiled = "compiled" if self.compiled else "not compiled"
        return f"{self.attention} attention, {compiled}{', CUDA graphs' if self.graphed else ''}"


def plain_mode(model: recipe.Model) -> ExecutionMode:
    """Return what a recipe's model computes in where nothing is measured."""
    graphed = model.cuda_graphs == "on"
    # With masks, nothing can be recorded.
    unless_named = CAUSAL if graphed and model.reads == "causal" else attention()
    return ExecutionMode(unless_named if model.attention == "auto" else model.attention, model.compile == "on", graphed)


def check(name: str, model: recipe.Model, processes: int) -> None:
    """Refuse `cuda_graphs: on` without a GPU, with several processes or with several micro-batches."""
    key, optim = f"models.{name}.cuda_graphs=on", model.optim
    if model.cuda_graphs != "on":
        return
    if not on_gpu():
        raise UserError(f"{key} needs a CUDA GPU, and there is none here; leave it out, or set it to auto")
    if processes > 1:
        raise UserError(f"{key} needs a single process, and there are {processes}; set it to off, or start one")
    if (optim.micro_batch_rows or optim.batch_rows) < optim.batch_rows:
        raise UserError(
            f"{key} needs the whole batch at once, and models.{name}.optim.micro_batch_rows={optim.micro_batch_rows} "
            f"cuts its {optim.batch_rows} rows; leave one of the two out"
        )


def choose(
    model: recipe.Model,
    build: Callable[[], LanguageModel],
    source: BatchSource,
    precision: str,
    steps: int,
    at_once: bool = False,
) -> tuple[ExecutionMode, Json]:
    """Choose the mode for a run, by measurement where the recipe leaves it open and the run is long.

    Args:
        model: the recipe's model, whose settings come first.
        build: makes the model, on its device.
        source: training batches of one process, one micro-batch each.
        precision: `bf16` or `fp32`.
        steps: micro-batches of the whole run.
        at_once: whether a step is one micro-batch of one process, as CUDA graphs need it.

    Returns the mode, and seconds of a step by mode, for the record.
    """
    mode, gpu = plain_mode(model), on_gpu()
    static = isinstance(source.rows, Chunks)
    open_attention = model.attention == "auto" and mode.attention != CAUSAL
    open_compile = model.compile == "auto" and static
    open_graphs = model.cuda_graphs == "auto" and static and at_once and gpu and model.hybrid is None
    if steps < MEASURED_STEPS or not (open_attention or open_compile or open_graphs):
        return mode, {}
    trials = Trials(mode, build, source, precision, steps)
    long = trials.seconds > MEASURED_FROM["cuda" if gpu else "cpu"]
    if open_attention and long:
        # On a GPU it is taken unless it is slower: the clock stops at every step, and so does not see that the host
        # no longer waits inside one; and CUDA graphs need it.
        trials.consider(replace(trials.mode, attention=CAUSAL), -WORTH if gpu else WORTH)
    if open_graphs and long:
        trials.consider(replace(trials.mode, graphed=True))
    if open_compile and trials.seconds > COMPILED_FROM:
        console.print("timing compiled layers ...")
        trials.consider(replace(trials.mode, compiled=True))
    rate = source.batch_rows * source.row_length * steps / trials.seconds
    console.print(f"{trials.mode}: {rate:,.0f} tokens/s without teachers, about {duration(trials.seconds)}")
    return trials.mode, {"steps": trials.measured}


class Trials:
    """Times modes against a plain one, which is taken to run; see `choose` for the arguments.

    Attributes:
        mode: the best so far.
        measured: seconds by mode, for the record.
    """

    def __init__(
        self,
        plain: ExecutionMode,
        build: Callable[[], LanguageModel],
        source: BatchSource,
        precision: str,
        steps: int,
    ) -> None:
        self._build, self._source, self._precision, self._steps = build, source, precision, steps
        self.mode = plain
        self.measured: list[Json] = []
        model = plain.apply(build())
        # Where dropout draws, modes draw in other orders. Configurations have many names for it.
        settings = model.hf.config.to_dict().items()
        drops = any("drop" in key and isinstance(value, float) and value > 0 for key, value in settings)
        self._tolerance = 0.03 if drops else TOLERANCE[precision]
        self._plain = self._best = self._time(plain, model)

    @property
    def seconds(self) -> float:
        """How long the whole run would take in the best mode."""
        return self._best.usual * self._steps

    def consider(self, other: ExecutionMode, worth: float = WORTH) -> None:
        """Time a mode; take it if it saves that share of the run's time, its first step counted.

        A mode that fails is left out: there is no compiler, the device runs out of memory, the model does not have it;
        the errors are of many kinds. So is one that learns something else.
        """
        try:
            other, found = self._try(other)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            console.print(f"not {other}: {type(error).__name__}: {reason}")
            return
        finally:
            # Models that are recorded or compiled hold on to themselves, and to a GPU's memory.
            gc.collect()
        if not self._agrees(found):
            console.print(
                f"[yellow]not {other}: its first step has loss {found.loss:.6g} and a gradient of norm "
                f"{found.norm:.6g}; in the plain mode they are {self._plain.loss:.6g} and {self._plain.norm:.6g}"
            )
        elif self.seconds - found.usual * self._steps - found.first > worth * self.seconds:
            self.mode, self._best = other, found

    def _try(self, mode: ExecutionMode) -> tuple[ExecutionMode, Probe]:
        model = mode.apply(self._build())
        if mode.attention == CAUSAL and not attends_without_masks(model.hf):
            mode = replace(mode, attention="sdpa")
        return mode, self._best if mode == self.mode else self._time(mode, model)

    def _time(self, mode: ExecutionMode, model: LanguageModel) -> Probe:
        found = probe(model, self._source, self._precision, 5)
        self.measured.append(asdict(mode) | {"first": round(found.first, 3), "usual": round(found.usual, 4)})
        return found

    def _agrees(self, found: Probe) -> bool:
        # The norm of a gradient may differ by ten times as much.
        pairs = (found.loss, self._plain.loss, 1.0), (found.norm, self._plain.norm, 10.0)
        return all(abs(one - other) <= times * self._tolerance * abs(other) for one, other, times in pairs)


def remembered(run: Path, shared: Path, key: str, choose: Callable[[], tuple[ExecutionMode, Json]]) -> ExecutionMode:
    """Return the mode that a run began with, by the file in its folder; a new run takes that of its like, or chooses.

    Models that are compared compute in the same mode: the file `shared`, in the experiment's folder, has it by `key`,
    a digest of whatever the choice depends on.
    """
    if not run.is_file():
        known = read_json(shared) if shared.is_file() else {}
        if key not in known:
            mode, measured = choose()
            known[key] = asdict(mode) | measured
            write_json(shared, known)
        write_json(run, known[key])
    found = read_json(run)
    return ExecutionMode(found["attention"], found["compiled"], found.get("graphed", False))


def on_gpu() -> bool:
    """Tell whether training goes on a GPU here."""
    return torch.cuda.is_available()
