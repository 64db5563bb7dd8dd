"""How much of a GPU's arithmetic training the papers' models uses, and how long BabyLlama's whole recipe would take.

    python benchmarks/gpu.py                                   # on a machine with one GPU; 6 to 10 minutes
    python benchmarks/gpu.py --modes 705M --modes 360M         # only these, each some two minutes
    python benchmarks/gpu.py --quick                           # a rehearsal with tiny shapes, on a CPU as well

Needs nothing beyond tutelage. Every mode is a process of its own: the real training loop on made-up text, in the
mode of execution that a run of the recipe's length chooses, with the recipe's batch. The clock waits for the device
where the timed steps begin and where they end, not between them, so that nothing that goes on by itself is disturbed;
both lie between two groups of steps that teachers read ahead.

Model FLOPs are those of `tutelage.models.cost` (matrix products of forward and backward, attention with its causal
half), and what teachers do in the same steps. Their share is told of 989 TFLOP/s (an H100's or H200's bf16 peak on
paper) and of the faster of two large products of matrices, measured here. A text of 10M words is taken to be 14M
tokens.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import Json, MemoryClock, Modes, Runs, Work, arguments, child, filled_cache, median, run_rounds, table
from common import write as write_page

from tutelage import recipe
from tutelage.base import machine
from tutelage.bench.timed import Clock, Enough, MadeUpText, MadeUpTokenizer, product_rate, time_training
from tutelage.corpus.batches import BatchSource
from tutelage.experiment import caches
from tutelage.models.build import build, shape
from tutelage.models.cost import cost_of
from tutelage.teaching.cache import TeacherCache
from tutelage.teaching.signal import TeacherSource
from tutelage.teaching.teachers import Ensemble
from tutelage.training.execution import ExecutionMode

ON_PAPER = 989e12
EPOCH = 14e6
"""Tokens of 10M words."""
WARM = 16
"""Steps before the clock starts: two groups that teachers read ahead, and one look at the numbers."""


@dataclass(frozen=True)
class Case:
    """A model as the recipes train it.

    Attributes:
        preset: its shape.
        rows: in a step.
        steps: of the recipe's run, which the mode of execution is chosen for.
        micro_rows: rows at once, if not all.
        teachers: presets.
        cache: kind of cache that what they say comes from.
        aim: share of the peak on paper.
    """

    preset: str
    rows: int
    steps: int
    micro_rows: int | None = None
    teachers: tuple[str, ...] = ()
    cache: str | None = None
    aim: float | None = None


BABYLLAMA = ("llama-360m", "gpt2-705m")
CASES = {
    "58M": Case("llama-58m", 32, 20_508, aim=0.20),
    "58M online": Case("llama-58m", 32, 20_508, teachers=BABYLLAMA, aim=0.20),
    "58M cached hidden": Case("llama-58m", 32, 20_508, teachers=BABYLLAMA, cache="hidden", aim=0.20),
    "58M cached sparse": Case("llama-58m", 32, 20_508, teachers=BABYLLAMA, cache="sparse", aim=0.20),
    "345M": Case("llama-345m", 128, 6_836, aim=0.40),
    "360M": Case("llama-360m", 128, 3_418, aim=0.40),
    # Activations of all 256 rows would not fit 80 GB.
    "705M": Case("gpt2-705m", 256, 2_564, micro_rows=64, aim=0.45),
}
TINY = {"llama-58m": "llama-1m", "llama-345m": "llama-2m", "llama-360m": "llama-2m", "gpt2-705m": "gpt2-2m"}


@dataclass
class Span(Clock):
    """A clock that waits for the device at the first timed step and after the last one."""

    warm: int = 0
    marks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """Note that a step begins."""
        if torch.cuda.is_available() and len(self.marks) in (self.warm, self.steps):
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())
        if len(self.marks) > self.steps:
            raise Enough

    @property
    def mean(self) -> float:
        """Seconds of a timed step; their median would leave out what teachers do every few steps."""
        return (self.marks[self.steps] - self.marks[self.warm]) / (self.steps - self.warm)


# --- ways


def product(work: Work, clock: MemoryClock) -> Json:
    """Time a product of large matrices."""
    machine.set_up()
    return {"rate": product_rate(torch.bfloat16, work.options["side"], repeats=work.options["repeats"])}


def training(work: Work, clock: MemoryClock) -> Json:
    """Train a case by the real loop."""
    machine.set_up()
    case, warm = Case(**work.options["case"]), work.options["warm"]
    text = MadeUpText(np.load(Path(work.folder) / "tokens.npy"), np.zeros(1, dtype=np.int64))
    span = Span(work.steps, warm=warm)
    spent = Spent()
    with teachers_of(case, work, text, spent) as teachers:
        lines, execution = time_training(model_of(case), text, work.vocabulary, work.length, span, teachers)
    losses = [line["loss"] for line in lines if "loss" in line]
    on_gpu = torch.cuda.is_available()
    return {
        "step_seconds": span.mean,
        "execution": asdict(execution),
        "losses": losses[:1] + losses[-1:],
        "gpu_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "cache_tokens_per_second": spent.tokens / spent.seconds if spent.seconds else None,
        "timed_steps": work.steps - warm,
    }


@dataclass
class Spent:
    """What it took to fill a cache."""

    tokens: int = 0
    seconds: float = 0.0


def model_of(case: Case) -> recipe.Model:
    """Say in a recipe's words what is trained."""
    stage: Json = {"objectives": {"next_token": 1.0}}
    if case.teachers:
        distill = {"weight": 0.5, "temperature": 2, "temperature_squared": False}
        stage = {"teachers": case.teachers, "objectives": {"next_token": 0.5, "distill": distill}, "cache": case.cache}
    optim = {"lr": 3e-4, "schedule": "constant", "batch_rows": case.rows, "micro_batch_rows": case.micro_rows}
    # Nothing is saved or evaluated within the timed steps.
    said = {"preset": case.preset, "steps": case.steps, "stages": [stage], "optim": optim, "save_minutes": 1e6}
    return recipe.Model.model_validate(said)


@contextlib.contextmanager
def teachers_of(case: Case, work: Work, text: MadeUpText, spent: Spent) -> Iterator[Any]:
    """Make the case's teachers, live or as a full cache; yield what `time_training` wants, or None."""
    if not case.teachers:
        yield None
        return

    def live(execution: ExecutionMode | None = None) -> Ensemble:
        shapes = [recipe.Model(preset=preset, steps=1) for preset in case.teachers]
        models = [build(model, MadeUpTokenizer(work.vocabulary), work.length, seed=1) for model in shapes]
        return Ensemble([execution.apply(model) for model in models] if execution else models)

    stage, precision = model_of(case).stages[0], machine.precision("auto")
    if stage.cache is None:
        yield live
        return
    widths = [cost_of_preset(preset, work).output_width for preset in case.teachers]
    cache = TeacherCache(
        Path(work.folder) / "caches",
        {"vocabulary": work.vocabulary, "teachers": list(case.teachers)},
        caches.encoding_of(stage, widths, precision, work.vocabulary, varies=False),
        BatchSource(text, recipe.Rows(length=work.length), case.rows, seed=0),
        live=live,
        precision=precision,
        seed=0,
    )
    with filled_cache(cache, stage.cache) as opened:
        spent.tokens, spent.seconds = len(text.tokens), opened.info()["seconds"]

        def source(_: ExecutionMode) -> TeacherSource:
            return opened

        yield source


def cost_of_preset(preset: str, work: Work) -> Any:
    """Count what a preset costs."""
    hf = shape(recipe.Model(preset=preset, steps=1), MadeUpTokenizer(work.vocabulary), work.length)
    return cost_of(hf, "causal", work.length)


WAYS = {"product": product, "ours-on-gpu": training}


# --- measuring


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=1, steps=WARM + 200)
    common.HIDDEN.clear()
    args.dropped = 1 if args.quick else WARM
    cases = {name: _tiny(case) for name, case in CASES.items()} if args.quick else CASES
    vocabulary, length = (500, 16) if args.quick else (16_000, 128)
    with tempfile.TemporaryDirectory() as folder:
        # Enough for 64 steps of the student; rows repeat, as in epochs.
        np.save(Path(folder) / "tokens.npy", MadeUpText.of((8 if args.quick else 2048) * length, vocabulary).tokens)
        modes: Modes = {}
        for side in (64, 128) if args.quick else (4096, 8192):
            modes[f"product {side}"] = ("product", Work(folder, vocabulary, options={"side": side, "repeats": 10}))
        for name, case in cases.items():
            options = {"case": asdict(case), "warm": args.dropped}
            work = Work(folder, vocabulary, rows=case.rows, length=length, steps=args.steps, options=options)
            modes[name] = ("ours-on-gpu", work)
        runs = run_rounds(modes, args)
        peak = max((run["rate"] for name in modes if "product" in name for run in _good(runs, name)), default=None)
        found = {name: _sum_up(runs, name, cases[name], modes[name][1]) for name in cases if name in runs}
    text = _page(found, cases, peak, runs)
    data: Json = {"peak": peak, "modes": found, "recipe_minutes": _recipe(found), "epoch_tokens": EPOCH}
    write_page("gpu", "Share of a GPU's peak, training the papers' models", text, data, args)


def _tiny(case: Case) -> Case:
    teachers = tuple(TINY[preset] for preset in case.teachers)
    return Case(TINY[case.preset], 4, 5_000, case.micro_rows and 2, teachers, case.cache, case.aim)


def _good(runs: Runs, name: str) -> list[Json]:
    return [run for run in runs.get(name, []) if "failed" not in run]


def _sum_up(runs: Runs, name: str, case: Case, work: Work) -> Json:
    good = _good(runs, name)
    if not good:
        return {"failed": (runs[name] or [{"failed": "not run"}])[0]["failed"]}
    own = cost_of_preset(case.preset, work).training_flops
    teaching = [cost_of_preset(preset, work) for preset in case.teachers]
    if case.cache is None:
        others = sum(cost.forward_flops for cost in teaching)
    else:
        others = sum(2.0 * cost.output_width * work.vocabulary for cost in teaching) if case.cache == "hidden" else 0.0
    step = median(run["step_seconds"] for run in good)
    filling = [run["cache_tokens_per_second"] for run in good if run["cache_tokens_per_second"]]
    return {
        "tokens_per_second": work.tokens / step,
        "step_seconds": step,
        "student_flops_per_token": own,
        "teacher_flops_per_token": others,
        "flops_per_second": (own + others) * work.tokens / step,
        "cache_tokens_per_second": median(filling) if filling else None,
        "timed_steps": good[0]["timed_steps"],
        "execution": good[0]["execution"],
        "gpu_gb": good[0]["gpu_gb"],
        "losses": good[0]["losses"],
    }


def _recipe(found: dict[str, Json]) -> dict[str, float]:
    """Extrapolate BabyLlama on 10M words, in minutes: both teachers, and one student in each way of teaching."""
    rates = {name: one["tokens_per_second"] for name, one in found.items() if "failed" not in one}
    if not {"705M", "360M"} <= rates.keys():
        return {}
    both = EPOCH * (6 / rates["705M"] + 4 / rates["360M"])
    minutes = {}
    for name in ("58M online", "58M cached hidden", "58M cached sparse"):
        if name in rates:
            filling = found[name]["cache_tokens_per_second"]
            student = EPOCH * (6 / rates[name] + (1 / filling if filling else 0.0))
            minutes[name] = (both + student) / 60
    return minutes


def _page(found: dict[str, Json], cases: dict[str, Case], peak: float | None, runs: Runs) -> str:
    rows = []
    for name, one in found.items():
        if "failed" in one:
            rows.append((name, one["failed"], *[""] * 7))
            continue
        execution, rate, aim = ExecutionMode(**one["execution"]), one["flops_per_second"], cases[name].aim
        rows.append((
            name, str(execution), f"{one['tokens_per_second']:,.0f}", f"{1e3 * one['step_seconds']:.2f}",
            f"{rate / 1e12:,.1f}", f"{rate / ON_PAPER:.1%}", f"{rate / peak:.1%}" if peak else "",
            f"{aim:.0%}" if aim else "", f"{one['gpu_gb']:.1f}" if one["gpu_gb"] else "",
        ))  # fmt: skip
    columns = ("mode", "execution", "tokens/s", "ms a step", "TFLOP/s", "of 989", "of the product", "aim, of 989", "GB")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: this is a rehearsal"
    products = [f"{name}: {max(r['rate'] for r in _good(runs, name)) / 1e12:,.1f}" for name in runs if _good(runs, name)
                and "product" in name]  # fmt: skip
    text = f"GPU: {gpu}. Products in bf16, TFLOP/s: {', '.join(products) or 'not run'}. Means over all timed steps.\n\n"
    text += table(columns, rows, left=2)
    minutes = _recipe(found)
    if minutes:
        text += (
            "\n\nBabyLlama's recipe on 10M words (705M for 6 epochs, 360M for 4, one student for 6), extrapolated:\n\n"
        )
        text += table(("student", "minutes", "aim"), [(name, f"{m:.1f}", "under 45") for name, m in minutes.items()])
    return text


if __name__ == "__main__" and not child(WAYS):
    main()
