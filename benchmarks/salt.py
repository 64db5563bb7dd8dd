"""What a teacher costs while it teaches, and what is left of that once it is released.

    python benchmarks/salt.py                # a student of 1.3M parameters, vocabulary 4,000; needs an idle machine
    python benchmarks/salt.py --case 10m     # a student of 10M parameters, vocabulary 8,000
    python benchmarks/salt.py --quick        # a rehearsal

A Llama learns from one of about half its size, rows of 128 tokens, at temperature 1: SALT's first stage. After so many
steps the teacher is released, and as many more follow: SALT's second stage. The same student without a teacher is
trained before and after. All runs take turns in one process, through the real training loop; ratios are those of a
round's medians. `small` also times gates and temperature 2.

Aims: while it teaches, a step takes no longer than plain ones plus the share (teacher's forward FLOPs / student's
training FLOPs) + 10 %; afterwards, within 2 % of plain training.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import Any

LENGTH = 128


@dataclass(frozen=True)
class Case:
    """Shapes, and how much to measure."""

    student: str
    teacher: str
    vocabulary: int
    rounds: int
    steps: int


CASES = {
    "small": Case("llama-2m", "llama-1m", 4000, rounds=5, steps=14),
    "10m": Case("llama-10m", "llama-4m", 8000, rounds=3, steps=8),
}
DISTILL: dict[str, dict[str, Any]] = {
    "taught": {},
    "temperature 2": {"temperature": 2},
    "skip_certain": {"gate": "skip_certain"},
    "advantage": {"gate": "advantage"},
    "confidence": {"gate": "confidence"},
}
AIM_TAUGHT, AIM_AFTER = 0.10, 0.02


def student(case: Case, distill: dict[str, Any] | None, rows: int, precision: str) -> Any:
    """Return the student as a recipe says it; without `distill`, it is not taught."""
    from tutelage import recipe

    terms = {"next_token": 0.333, "distill": {"weight": 0.667, **distill}} if distill is not None else {"next_token": 1}
    stage = {"objectives": terms} | ({"teachers": ["small"]} if distill is not None else {})
    return recipe.Model.model_validate(
        {"preset": case.student, "steps": 5000, "precision": precision, "optim": {"batch_rows": rows},
         "stages": [stage], "attention": "eager", "compile": "off", "cuda_graphs": "off", "save_minutes": 1000}
    )  # fmt: skip


def seconds(distill: dict[str, Any] | None, args: Any, taught_steps: int | None = None) -> list[float]:
    """Train for some steps, twice as many where the teacher is released in the middle; return what each took."""
    from tutelage import recipe
    from tutelage.bench.timed import Clock, MadeUpText, MadeUpTokenizer, time_training
    from tutelage.models.build import build
    from tutelage.teaching.teachers import Ensemble

    case = CASES[args.case]

    def teachers(_form: Any) -> Ensemble:
        model = recipe.Model(preset=case.teacher, steps=1)
        return Ensemble([build(model, MadeUpTokenizer(case.vocabulary), LENGTH, 1)])

    text = MadeUpText.of((args.steps + 2) * args.rows * LENGTH, case.vocabulary)
    clock = Clock(args.steps * (2 if taught_steps else 1))
    time_training(
        student(case, distill, args.rows, args.precision), text, case.vocabulary, LENGTH, clock,
        teachers if distill is not None else None, taught_steps,
    )  # fmt: skip
    return clock.seconds


def share_of_flops(case: Case) -> float:
    """Return the teacher's forward operations over the student's training operations, per token."""
    from tutelage import recipe
    from tutelage.bench.timed import MadeUpTokenizer
    from tutelage.models.build import shape
    from tutelage.models.cost import cost_of

    one, other = (
        cost_of(shape(recipe.Model(preset=name, steps=1), MadeUpTokenizer(case.vocabulary), LENGTH), "causal", LENGTH)
        for name in (case.teacher, case.student)
    )
    return one.forward_flops / other.training_flops


def measure(args: Any) -> dict[str, list[float]]:
    """Return the median step of each kind in each round; the first steps, also after a release, do not count."""
    found: dict[str, list[float]] = {}

    def note(kind: str, steps: list[float]) -> None:
        found.setdefault(kind, []).append(statistics.median(steps[args.dropped :]))
        print(f"{kind}: {args.rows * LENGTH / found[kind][-1]:,.0f} tokens/s", file=sys.stderr, flush=True)

    for _ in range(args.rounds):
        note("plain", seconds(None, args))
        both = seconds({}, args, taught_steps=args.steps)
        note("taught", both[: args.steps])
        note("released", both[args.steps :])
        note("plain again", seconds(None, args))
        for kind, distill in DISTILL.items():
            if distill and args.case == "small" and not args.modes:
                note(kind, seconds(distill, args))
    return found


def main() -> None:
    """Measure and write down."""
    from common import arguments, table, write

    from tutelage.base import machine

    args = arguments(
        __doc__, rounds=0, steps=0,
        case={"choices": sorted(CASES), "default": "small", "help": "sizes (small)"},
        rows={"type": int, "default": 32, "help": "rows in a step (32)"},
        precision={"choices": ("fp32", "bf16"), "default": machine.precision("auto"), "help": "arithmetic (auto)"},
    )  # fmt: skip
    case = CASES[args.case]
    args.rounds, args.steps = args.rounds or case.rounds, args.steps or case.steps
    args.dropped = min(2, args.steps - 1)
    found = measure(args)
    plain = [min(pair) for pair in zip(found["plain"], found["plain again"], strict=True)]
    over = {
        kind: statistics.median(one / base - 1 for one, base in zip(steps, plain, strict=True))
        for kind, steps in found.items()
    }
    share = share_of_flops(case)
    aims = dict.fromkeys(DISTILL, share + AIM_TAUGHT) | {"released": AIM_AFTER}
    rows = [
        (
            kind,
            f"{args.rows * LENGTH / statistics.median(steps):,.0f}",
            f"{100 * over[kind]:+.1f} %",
            f"{100 * min(o / b - 1 for o, b in zip(steps, plain, strict=True)):+.1f} to "
            f"{100 * max(o / b - 1 for o, b in zip(steps, plain, strict=True)):+.1f} %",
            f"at most {100 * aims[kind]:.1f} %" if kind in aims else "",
        )
        for kind, steps in found.items()
    ]
    text = table(("step", "tokens/s", "longer than plain", "rounds", "aim"), rows)
    text += (
        f"\n\nThe teacher's forward pass is {100 * share:.1f} % of the student's training in FLOPs. `plain` is the "
        "faster of the two plain runs around a round's taught one; `plain again` beside it shows the noise."
    )
    how = (
        f"`{case.student}` taught by `{case.teacher}`, {case.vocabulary:,} tokens; {args.precision}, {args.rows} rows "
        f"of {LENGTH} tokens; made-up text; {args.rounds} rounds in one process, {args.steps} steps a run of which the "
        f"first {args.dropped} do not count; medians."
    )
    data = {"seconds": found, "longer_than_plain": over, "teacher_forward_over_student_training": share, "aims": aims}
    write(f"salt-{args.case}", f"A teacher that teaches for a while, student `{args.case}`", text, data, args, how)


if __name__ == "__main__":
    main()
