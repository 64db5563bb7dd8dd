"""Peak memory of training a 10M-parameter body against the size of its vocabulary: ours and a plain loop.

    python benchmarks/memory.py
    python benchmarks/memory.py --quick            # a rehearsal: two sizes

Needs nothing beyond tutelage. 32 rows of 128 tokens. Of each process's peak, what no trainer can do without is taken
off: 16 bytes for every entry of the (tied) vocabulary matrix, which are its weight, gradient and two moments in fp32.
Python and the libraries themselves are taken off too where the table says so.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from common import BODY_10M, Json, Modes, Work, arguments, child, in_mode, median, run_rounds, save_inputs, table
from common import write as write_page
from ways import mode_of, ours, plain_loop

WAYS = {"ours": ours, "mode": mode_of, "plain": plain_loop}
TRAINERS = {"ours bf16": ("ours", "bf16"), "ours fp32": ("ours", "fp32"),
            "plain loop bf16": ("plain", "bf16"), "plain loop fp32": ("plain", "fp32")}  # fmt: skip
AIM = 0.05


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=1, steps=3)
    sizes = (8000, 16000) if args.quick else (8000, 16000, 32000, 64000)
    with tempfile.TemporaryDirectory() as folder:
        modes: Modes = {}
        for size in sizes:
            inside = Path(folder) / str(size)
            inside.mkdir()
            save_inputs(inside, {"student": BODY_10M}, size, (args.steps + 2) * 32 * 128)
            work = Work(str(inside), size, steps=args.steps)
            if size == sizes[0]:
                modes = {precision: in_mode(replace(work, precision=precision), args) for precision in ("bf16", "fp32")}
            for name, (way, precision) in TRAINERS.items():
                this = replace(modes[precision], folder=work.folder, vocabulary=size)
                modes[f"{name}, {size}"] = (way, this)
        runs = run_rounds(modes, args)
    found = {name: _memory(runs_, modes[name][1].vocabulary) for name, runs_ in runs.items()}
    text = (
        _table(found, sizes, "without_vocabulary_mb", "Peak of the process, the vocabulary's own memory taken off, MB")
        + f"\n\nAim for ours: growth under {AIM:.0%}.\n\n"
        + _table(found, sizes, "without_libraries_mb", "The same, what the process held before training taken off too")
        + "\n\n"
        + _table(found, sizes, "peak_mb", "Peak of the process as it is, MB")
    )
    write_page("memory", "Peak memory against vocabulary", text, {"modes": found}, args)


def _memory(runs: list[Json], vocabulary: int) -> Json:
    if any("failed" in run for run in runs):
        return {"failed": next(run["failed"] for run in runs if "failed" in run)}
    own = 16 * vocabulary * BODY_10M["hidden_size"] / 1e6
    peak = median(run["peak_mb"] for run in runs)
    imported = median(run["imported_mb"] for run in runs)
    return {
        "peak_mb": peak,
        "imported_mb": imported,
        "vocabulary_mb": own,
        "without_vocabulary_mb": peak - own,
        "without_libraries_mb": peak - own - imported,
    }


def _table(found: dict[str, Json], sizes: tuple[int, ...], key: str, title: str) -> str:
    rows = []
    for name in TRAINERS:
        values = [found.get(f"{name}, {size}", {"failed": "not run"}) for size in sizes]
        cells = [f"{value[key]:,.0f}" if key in value else value["failed"] for value in values]
        ends = values[0].get(key), values[-1].get(key)
        rows.append((name, *cells, f"{ends[1] / ends[0] - 1:+.1%}" if all(ends) else ""))
    return f"{title}:\n\n" + table(("mode", *(f"V = {size:,}" for size in sizes), "growth"), rows)


if __name__ == "__main__" and not child(WAYS):
    main()
