"""What an optimizer, an average of weights or rows read whole cost a step, beside AdamW on rows from left to right.

    python benchmarks/optimizers.py          # a Llama of 10M parameters, 4,096 tokens a step; needs an idle machine
    python benchmarks/optimizers.py --quick  # a rehearsal

All kinds take turns in one process, through the real training loop; ratios are those of a round's medians to the
faster of the two plain runs of that round.

Aims: Muon takes at most 12 % longer than AdamW, an average of weights at most 3 %, rows read whole at most 5 %.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

LENGTH, ROWS, VOCABULARY = 128, 32, 8000
HYBRID = {"stages": [{"objectives": {"hybrid": {"share": 0.5, "rate": 0.3}}}]}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], float | None]] = {
    "adamw": ({}, {}, None),
    "muon": ({"kind": "muon"}, {}, 0.12),
    "muon, bfloat16": ({"kind": "muon", "muon": {"dtype": "bfloat16"}}, {}, 0.12),
    "muon, all options": ({"kind": "muon", "muon": {"heads": True, "normalise": True, "cautious": True}}, {}, None),
    "adamw, ema": ({}, {"average": "ema"}, 0.03),
    "adamw, tail": ({}, {"average": {"kind": "tail", "share": 1.0}}, 0.03),
    "adamw, hybrid": ({}, HYBRID, 0.05),
    "adamw again": ({}, {}, None),
}
"""Settings of the optimizer and of the model, and the aim."""


def seconds(kind: str, args: Any) -> list[float]:
    """Train for some steps; return what each took."""
    from tutelage import recipe
    from tutelage.bench.timed import Clock, MadeUpText, time_training
    from tutelage.corpus.batches import Hybrid, Masking

    optim, settings, _ = KINDS[kind]
    model = recipe.Model.model_validate(
        {"preset": args.preset, "steps": 5000, "precision": args.precision, "attention": "eager", "compile": "off",
         "cuda_graphs": "off", "save_minutes": 1000, "optim": {"batch_rows": ROWS, "lr": 1e-3} | optim} | settings
    )  # fmt: skip
    whole = None
    if model.hybrid is not None:
        masking = Masking(model.hybrid.rate, VOCABULARY - 1, VOCABULARY, (), seed=0)
        whole = Hybrid(model.hybrid.share, masking, (True, True))
    text, clock = MadeUpText.of((args.steps + 2) * ROWS * LENGTH, VOCABULARY), Clock(args.steps)
    time_training(model, text, VOCABULARY, LENGTH, clock, hybrid=whole)
    return clock.seconds


def main() -> None:
    """Measure and write down."""
    from common import arguments, table, write

    from tutelage.base import machine

    args = arguments(
        __doc__, rounds=5, steps=10,
        preset={"default": "llama-10m", "help": "shape (llama-10m)"},
        precision={"choices": ("fp32", "bf16"), "default": machine.precision("auto"), "help": "arithmetic (auto)"},
    )  # fmt: skip
    kinds = [kind for kind in KINDS if not args.modes or kind in args.modes or kind.removesuffix(" again") == "adamw"]
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            found[kind].append(statistics.median(seconds(kind, args)[args.dropped :]))
            print(f"{kind}: {ROWS * LENGTH / found[kind][-1]:,.0f} tokens/s", file=sys.stderr, flush=True)
    plain = [min(pair) for pair in zip(found["adamw"], found["adamw again"], strict=True)]
    over = {kind: [one / base - 1 for one, base in zip(steps, plain, strict=True)] for kind, steps in found.items()}
    rows = [
        (
            kind,
            f"{ROWS * LENGTH / statistics.median(found[kind]):,.0f}",
            f"{100 * statistics.median(more):+.1f} %",
            f"{100 * min(more):+.1f} to {100 * max(more):+.1f} %",
            "" if KINDS[kind][2] is None else f"at most {100 * KINDS[kind][2]:.0f} %",
        )
        for kind, more in over.items()
    ]
    text = table(("kind", "tokens/s", "longer than adamw", "rounds", "aim"), rows)
    text += (
        "\n\n`adamw` is the faster of the two plain runs of a round; `adamw again` shows the noise. A tail average "
        "takes part in every step here, in a run only in its last ones."
    )
    how = (
        f"`{args.preset}`, {VOCABULARY:,} tokens; {args.precision}, {ROWS} rows of {LENGTH} tokens; made-up text; "
        f"{args.rounds} rounds in one process, {args.steps} steps a run of which the first {args.dropped} do not "
        "count; medians."
    )
    write("optimizers", "What a step costs with other optimizers, averages and rows", text,
          {"seconds": found, "longer_than_adamw": over}, args, how)  # fmt: skip


if __name__ == "__main__":
    main()
