"""How much of the machine's arithmetic our training step of a 10M-parameter Llama uses, and where the rest goes.

    python benchmarks/utilisation.py
    python benchmarks/utilisation.py --quick       # a rehearsal

Needs nothing beyond tutelage. The peak is the best of some products of two 4096 x 4096 matrices, in the same rounds.
The model's arithmetic is counted by `tutelage.models.cost` (matrix products of forward and backward, attention with
its causal half). A second process runs the same steps under `torch.profiler`, whose self times are summed by kind; what
lies outside every operation is Python and waiting. Compiled parts are profiled kernel by kernel.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import (
    BODY_10M,
    Json,
    MemoryClock,
    Modes,
    Work,
    arguments,
    child,
    in_mode,
    median,
    run_rounds,
    save_inputs,
    speed,
    table,
)
from common import write as write_page
from ways import hf_model, mode_of, ours

from tutelage.base import machine
from tutelage.bench.timed import product_rate
from tutelage.models.cost import cost_of

VOCABULARY = 8000
AIM = "at least 20 %, better 30 %, in bf16"

KINDS = (
    # The first pattern that matches an operation's name decides; compiled kernels name all that they fuse.
    ("compiled elementwise kernels", r"cpp_fused|triton_|graph_\d"),
    ("attention products", r"bmm|baddbmm|scaled_dot_product|flash_attention"),
    ("matrix products", r"::(mm|addmm|matmul|linear|addmv|_addmm_activation)$|mkldnn|onednn|_mm\b"),
    ("optimizer and clipping", r"adam|_foreach|norm(?!al)|lerp|addcdiv|addcmul|Optimizer|clip"),
    ("softmax and losses", r"softmax|nll_loss|cross_entropy|logsumexp|::(amax|gather|scatter_add_?|exp_?|log)$|_Fused"),
    ("copies and casts", r"copy|clone|_to_copy|::(to|contiguous|cat|stack|fill_?|zero_?|index|index_select)$"),
    ("embeddings", r"embedding|index_(put|add)"),
    ("elementwise", r"::(mul|add|sub|div|neg|rsqrt|pow|mean|sum|silu|sigmoid|gelu|tanh|where|masked_fill|sin|cos)"),
)


def peak(work: Work, clock: MemoryClock) -> Json:
    """Time a product of large matrices."""
    machine.set_up()
    side = work.options["side"]
    return {"rate": product_rate(torch.bfloat16 if work.precision == "bf16" else torch.float32, side)}


class ProfilingClock(MemoryClock):
    """A clock that has the steps profiled once the first ones, which warm up, are over."""

    warm: int
    profiler: Any = None
    wall = 0.0

    def tick(self) -> None:
        """Note that a step begins."""
        if len(self.marks) == self.warm:
            self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self.profiler.__enter__()
            self.wall = -time.perf_counter()
        if len(self.marks) == self.steps:
            self.wall += time.perf_counter()
            self.profiler.__exit__(None, None, None)
        super().tick()


def profiled(work: Work, clock: MemoryClock) -> Json:
    """Sum the self times of operations by kind, in seconds a step."""
    import torch._inductor.config as inductor

    inductor.cpp.enable_kernel_profile = True
    inside = ProfilingClock(clock.steps)
    inside.warm = work.options["warm"]
    ours(work, inside)
    kinds: Counter[str] = Counter()
    names: Counter[str] = Counter()
    steps = work.steps - inside.warm
    for event in inside.profiler.key_averages():
        seconds = event.self_cpu_time_total / 1e6 / steps
        kinds[kind_of(event.key)] += seconds
        names[event.key] += seconds
    return {"kinds": dict(kinds), "names": dict(names.most_common(25)), "wall": inside.wall / steps}


def kind_of(name: str) -> str:
    """Sort an operation by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")


WAYS = {"ours": ours, "mode": mode_of, "peak": peak, "profiled": profiled}


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=2, steps=8)
    with tempfile.TemporaryDirectory() as folder:
        save_inputs(Path(folder), {"student": BODY_10M}, VOCABULARY, (args.steps + 2) * 32 * 128)
        options = {"side": 1024 if args.quick else 4096, "warm": args.dropped}
        work = Work(folder, VOCABULARY, steps=args.steps, options=options)
        cost = cost_of(hf_model(work, work.student), "causal", work.length)
        modes: Modes = {}
        for precision in ("bf16", "fp32"):
            this = in_mode(replace(work, precision=precision), args)
            modes |= {f"{way} {precision}": (way, this) for way in ("peak", "ours", "profiled")}
        runs = run_rounds(modes, args)
    data: Json = {"training_flops_per_token": cost.training_flops}
    rows = []
    for precision in ("bf16", "fp32"):
        best = max((run["rate"] for run in runs.get(f"peak {precision}", [])), default=None)
        found = speed(runs.get(f"ours {precision}") or [{"failed": "not run"}], work, args.dropped)
        if "failed" in found or best is None:
            rows.append((precision, found.get("failed", "no peak"), "", "", ""))
            continue
        rate = found["tokens_per_second"] * cost.training_flops
        data[precision] = {"peak": best, "reached": rate, "share": rate / best, "speed": found}
        tokens = f"{found['tokens_per_second']:,.0f}"
        rows.append((precision, f"{best / 1e9:,.0f}", tokens, f"{rate / 1e9:,.0f}", f"{rate / best:.1%}"))
    where = {precision: _where(runs.get(f"profiled {precision}", [])) for precision in ("bf16", "fp32")}
    side = options["side"]
    columns = ("precision", f"{side}-cubed product, GFLOP/s", "tokens/s", "step, GFLOP/s", "share of peak")
    text = table(columns, rows) + f"\n\nAim: {AIM}. Weights, gradients and optimizer are fp32 in both.\n\n"
    text += "Where a step's time goes:\n\n" + _where_table(where)
    data["where"] = {precision: found for precision, found in where.items() if found}
    write_page("utilisation", "Share of the machine's peak, training a 10M Llama", text, data, args)


def _where(runs: list[Json]) -> Json:
    """Return the median seconds of each kind a step, and the operations that took longest."""
    good = [run for run in runs if "failed" not in run]
    if not good:
        return {"failed": runs[0]["failed"]} if runs else {}
    kinds = sorted({kind for run in good for kind in run["kinds"]})
    seconds = {kind: median(run["kinds"].get(kind, 0.0) for run in good) for kind in kinds}
    wall = median(run["wall"] for run in good)
    seconds["Python, and outside every operation"] = max(0.0, wall - sum(seconds.values()))
    return {"wall": wall, "seconds": seconds, "operations": good[0]["names"]}


def _where_table(where: dict[str, Json]) -> str:
    kinds = sorted(
        {kind for found in where.values() for kind in found.get("seconds", {})},
        key=lambda kind: -max(found.get("seconds", {}).get(kind, 0.0) for found in where.values()),
    )
    rows = []
    for kind in kinds:
        cells: list[str] = []
        for found in where.values():
            spent = found.get("seconds", {}).get(kind)
            cells += ["", ""] if spent is None else [f"{1e3 * spent:,.1f}", f"{spent / found['wall']:.0%}"]
        rows.append((kind, *cells))
    failed = "".join(f"\n\n{precision}: {found['failed']}" for precision, found in where.items() if "failed" in found)
    columns = ("kind", *(column for precision in where for column in (f"{precision} ms", f"{precision} share")))
    return table(columns, rows) + failed


if __name__ == "__main__" and not child(WAYS):
    main()
