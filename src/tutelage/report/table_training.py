"""Tables of students and controls while they train; see `over_training`."""

from __future__ import annotations

from statistics import fmean

from tutelage.compare.metrics import MISSING
from tutelage.compare.over_training import AMOUNTS
from tutelage.compare.summary import Summary
from tutelage.compare.summary_pairs import CurvePoint, Reached
from tutelage.report.tables import Table, levels, signed

ROWS = 20
"""Steps that a table of differences shows, evenly chosen where there are more."""


def reached_table(summary: Summary, brief: bool = False) -> Table:
    """One row a student and control: when the control's loss was reached, as shares of what the control took.

    `brief` leaves the intervals out.
    """
    rows = [
        (
            entry.a,
            entry.b,
            f"{fmean(seed.loss for seed in entry.seeds):.3f}",
            f"{sum(seed.student is not None for seed in entry.seeds)} of {len(entry.seeds)}",
            _steps(entry),
            *(share(entry, amount, brief) for amount in AMOUNTS),
        )
        for entry in summary.reached
    ]
    means = "means over seeds" if brief else f"means over seeds with their {levels(summary.reached)} intervals"
    note = (
        "The control's lowest validation loss, the seeds whose student reaches it, and what the student took "
        f"until then as a share of what the control took: {means}. FLOPs and time hold the teachers' forward passes; "
        "“+ teachers” adds all of the teachers' training. A student that never gets there has no share."
    )
    shares = ("% steps", "% FLOPs", "+ teachers", "% time", "+ teachers")
    header = ("student", "control", "loss", "seeds", "steps", *shares)
    return Table("Until the control's loss is reached", header, rows, note, left=2)


def curve_table(summary: Summary) -> Table:
    """One row a step at which validation was measured, one column a student and control."""
    entries = summary.curve_differences
    cells = {(i, point.step): point_text(point) for i, entry in enumerate(entries) for point in entry.points}
    steps = sorted({step for _, step in cells})
    if len(steps) > ROWS:
        steps = [steps[round(i * (len(steps) - 1) / (ROWS - 1))] for i in range(ROWS)]
    rows = [(f"{step:,}", *(cells.get((i, step), MISSING) for i in range(len(entries)))) for step in steps]
    note = f"Differences in nats per token with {levels(entries)} intervals over seeds, each alone; below zero the "
    note += "student is ahead."
    note += " Without an interval: one pair of seeds." if any(entry.n < 2 for entry in entries) else ""
    header = ("step", *(f"{entry.a} − {entry.b}" for entry in entries))
    return Table("Validation loss at the same steps", header, rows, note, parts=True)


def point_text(point: CurvePoint) -> str:
    """A difference with its interval, where there is one."""
    if point.interval is None:
        return signed(point.mean, 3)
    low, high = (signed(end, 3) for end in point.interval)
    return f"{signed(point.mean, 3)} ({low} to {high})"


def share(entry: Reached, amount: str, brief: bool = False) -> str:
    """A share of the control's amount in percent, with its interval unless `brief`."""
    found = entry.shares.get(amount)
    if found is None:
        return MISSING
    if found.interval is None or brief:
        return f"{100 * found.mean:.0f} %"
    low, high = (signed(100 * end, 0).removeprefix("+") for end in found.interval)
    return f"{100 * found.mean:.0f} % ({low} to {high})"


def _steps(entry: Reached) -> str:
    taken = [seed.student.steps for seed in entry.seeds if seed.student is not None]
    if len(taken) < len(entry.seeds):
        return "never" if not taken else MISSING
    return f"{fmean(taken):,.0f} of {fmean(seed.control.steps for seed in entry.seeds):,.0f}"
