"""Tokens per second by model size, vocabulary, row length and number of teachers: ours against a plain loop.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --quick           # a rehearsal: the ends of each range

Needs nothing beyond tutelage. One thing changes at a time, from a Llama of 10M parameters, vocabulary 8,000, 4,096
tokens a step in rows of 128, no teachers. Ours runs in its plain mode (attention written out, nothing compiled), which
a long run may better. The plain loop holds full logits, and runs its teachers under `no_grad`; both
are bf16 where the machine has it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import (
    BODY_10M,
    Json,
    Modes,
    Work,
    arguments,
    child,
    gpt2,
    llama,
    ratio,
    run_rounds,
    save_inputs,
    speed,
    table,
)
from common import write as write_page
from distillation import loop_babyllama
from ways import ours, plain_loop

from tutelage.base import machine


def plain(work: Work, clock: object) -> Json:
    """A plain loop, with BabyLlama's loss where there are teachers."""
    return (loop_babyllama if work.teachers else plain_loop)(work, clock)  # type: ignore[arg-type]


WAYS = {"ours": ours, "plain": plain}

BODIES = {
    "2M": llama(128, 4, 384, 4),
    "5M": llama(192, 8, 512, 6),
    "10M": BODY_10M,
    "30M": llama(448, 10, 1344, 7),
}
TEACHERS = {
    "teacher-0": llama(256, 4, 768, 4),
    "teacher-1": gpt2(256, 4, 4),
    "teacher-2": llama(256, 4, 768, 8),
}
AXES: dict[str, tuple[object, ...]] = {
    "model": tuple(BODIES),
    "vocabulary": (4000, 8000, 16000, 32000, 64000),
    "row length": (64, 128, 256, 512),
    "teachers": (0, 1, 2, 3),
}
BASE = {"model": "10M", "vocabulary": 8000, "row length": 128, "teachers": 0}
TOKENS = 4096
"""In every step, whatever the length of its rows."""


def work_of(place: Json, folder: Path, steps: int) -> Work:
    """Save what a place on an axis needs, and describe its work."""
    inside = folder / "-".join(str(value) for value in place.values())
    inside.mkdir()
    teachers = dict(list(TEACHERS.items())[: place["teachers"]])
    models = {"student": BODIES[place["model"]], **teachers}
    save_inputs(inside, models, place["vocabulary"], (steps + 2) * TOKENS, sharp=tuple(teachers))
    return Work(
        str(inside), place["vocabulary"], machine.precision("auto"), teachers=tuple(teachers),
        rows=TOKENS // place["row length"], length=place["row length"], steps=steps,
    )  # fmt: skip


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=1, steps=6)
    axes = {axis: (values[0], values[-1]) if args.quick else values for axis, values in AXES.items()}
    with tempfile.TemporaryDirectory() as folder:
        modes: Modes = {}
        for axis, values in axes.items():
            for value in values:
                place = BASE | {axis: value}
                if f"ours {_name(place)}" not in modes:
                    work = work_of(place, Path(folder), args.steps)
                    modes |= {f"{who} {_name(place)}": (who, work) for who in WAYS}
        runs = run_rounds(modes, args)
    speeds = {name: speed(found, modes[name][1], args.dropped) for name, found in runs.items()}
    text = "\n\n".join(_table(axis, values, speeds) for axis, values in axes.items())
    write_page("scaling", "Training speed by size", text, {"speeds": speeds}, args)


def _name(place: Json) -> str:
    return ", ".join(str(value) for value in place.values())


def _table(axis: str, values: tuple[object, ...], speeds: dict[str, Json]) -> str:
    rows = []
    for value in values:
        name = _name(BASE | {axis: value})
        found = [speeds.get(f"{who} {name}", {"failed": "not run"}) for who in WAYS]
        cells = [f"{s['tokens_per_second']:,.0f}" if "failed" not in s else s["failed"] for s in found]
        peaks = [f"{s['peak_mb']:,.0f}" if "failed" not in s else "" for s in found]
        faster = ratio(speeds, f"ours {name}", f"plain {name}")
        rows.append(
            (f"{value:,}" if isinstance(value, int) else value, *cells, f"{faster:.2f}" if faster else "", *peaks)
        )
    columns = (axis, "ours, tokens/s", "plain loop, tokens/s", "ratio", "ours, peak MB", "plain loop, peak MB")
    return table(columns, rows)


if __name__ == "__main__" and not child(WAYS):
    main()
