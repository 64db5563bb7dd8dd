"""Plain cross-entropy training of a 10M-parameter Llama: ours, Hugging Face's Trainer, a plain PyTorch loop.

    python benchmarks/trainers.py                  # vocabulary of 8,000
    python benchmarks/trainers.py --vocabulary 16000
    python benchmarks/trainers.py --quick          # a rehearsal

Needs `accelerate` for Trainer; how to set up: see `common.py`. A Llama of 8 layers, width 256, 8 heads, feed-forward
1,024, tied embeddings; 32 rows of 128 tokens a step. Trainer runs at its defaults (fp32, fused AdamW, SDPA), without
logging, saving or evaluating. Ours is the loop behind `tutelage train`, writing its metrics at every step, in the mode
(attention, compiled layers) that a long run chooses, and in the plain mode of runs too short to choose.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from common import (
    BODY_10M,
    LONG,
    Json,
    Modes,
    Work,
    against,
    arguments,
    child,
    in_mode,
    run_rounds,
    save_inputs,
    speed,
    table,
)
from common import write as write_page
from ways import hf_trainer, mode_of, ours, plain_loop

WAYS = {"ours": ours, "mode": mode_of, "plain": plain_loop, "trainer": hf_trainer}
BARS = (
    ("ours bf16", "Trainer fp32", "3.5, better 5"),
    ("ours bf16", "Trainer bf16", "1.8"),
    ("ours fp32", "Trainer fp32", "1.3 (stands for machines without bf16)"),
    ("ours bf16", "plain loop bf16", ""),
    ("ours bf16", "ours bf16, plain mode", ""),
)


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=3, steps=6, vocabulary={"type": int, "default": 8000})
    with tempfile.TemporaryDirectory() as folder:
        tokens = (args.steps + 2) * 32 * 128
        save_inputs(Path(folder), {"student": BODY_10M}, args.vocabulary, tokens)
        fp32 = Work(folder, args.vocabulary, steps=args.steps)
        bf16 = replace(fp32, precision="bf16")
        modes: Modes = {
            "Trainer fp32": ("trainer", fp32),
            "Trainer bf16": ("trainer", bf16),
            "plain loop fp32": ("plain", fp32),
            "plain loop bf16": ("plain", bf16),
            "ours fp32": ("ours", in_mode(fp32, args)),
            "ours bf16": ("ours", in_mode(bf16, args)),
            "ours bf16, plain mode": ("ours", bf16),
        }
        runs = run_rounds(modes, args)
    speeds = {name: speed(found, fp32, args.dropped) for name, found in runs.items()}
    text = "\n\n".join((_table(speeds), against(speeds, BARS), _losses(speeds, args.dropped)))
    name = "trainers" if args.vocabulary == 8000 else f"trainers-{args.vocabulary // 1000}k"
    title = f"Cross-entropy training of a 10M Llama, vocabulary {args.vocabulary:,}"
    write_page(name, title, text, {"speeds": speeds}, args)


def _table(speeds: dict[str, Json]) -> str:
    slowest = min(s["tokens_per_second"] for s in speeds.values() if "failed" not in s)
    rows = [
        (name, s["failed"], *[""] * 6)
        if "failed" in s
        else (
            name,
            f"{s['tokens_per_second']:,.0f}",
            f"{s['slowest_round']:,.0f}-{s['fastest_round']:,.0f}",
            f"{s['tokens_per_second'] / slowest:.2f}",
            f"{s['start_up_seconds_cold']:.1f}",
            f"{s['tokens_per_second_of_300_steps_cold']:,.0f} / {s['tokens_per_second_of_300_steps_warm']:,.0f}",
            f"{s['peak_mb']:,.0f}",
            f"{s['losses'][0]:.4f}",
        )
        for name, s in speeds.items()
    ]
    columns = (
        "mode",
        "tokens/s",
        "rounds",
        "ratio",
        "start-up s",
        f"tokens/s of {LONG} steps",
        "peak MB",
        "first loss",
    )
    return (
        table(columns, rows) + "\n\nStart-up: loading the model, compiling, and what the first steps take longer than "
        f"later ones. Tokens/s of {LONG} steps include it: with nothing compiled before / with the compiler's cache "
        "of an earlier run."
    )


def _losses(speeds: dict[str, Json], dropped: int) -> str:
    curves = {name: s["losses"] for name, s in speeds.items() if "failed" not in s}
    first = [losses[0] for losses in curves.values()]
    said = f"First-step losses differ by {max(first) - min(first):.1e} at most."
    base = curves.get("Trainer fp32")
    if base is not None:
        rows = []
        for name, losses in curves.items():
            apart = [abs(a - b) for a, b in list(zip(losses, base, strict=True))[dropped:]]
            rows.append((name, f"{sum(apart) / len(apart):.1e}", f"{max(apart):.1e}", f"{losses[-1]:.4f}"))
        columns = ("mode", "mean difference of losses to Trainer fp32", "largest", "last loss")
        said += "\n\n" + table(columns, rows)
    return said


if __name__ == "__main__" and not child(WAYS):
    main()
