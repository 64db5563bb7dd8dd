"""Progress for everything that takes more than a few seconds: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

# Results go to stdout, progress to stderr, so that output can be piped.
console = Console(stderr=True, highlight=False, soft_wrap=True)


def output() -> Console:
    """Return where results are printed: stdout, wide enough for tables where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=120)


LOG_SECONDS = 15.0  # on something that is not a terminal, a line at most this often


def human(number: float) -> str:
    """Write a count shortly: 950, 12.3k, 4.56M, 1.20G."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Write a time shortly: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{human(speed)} {task.fields['unit']}/s" if speed else "", style="cyan")


class Tracker:
    """Hands progress to a bar (terminal) or to occasional log lines (anything else)."""

    def __init__(self, label: str, total: float | None, unit: str, bar: Progress | None) -> None:
        self._label, self._total, self._unit, self._bar = label, total, unit, bar
        self._done, self._began, self._logged = 0.0, time.monotonic(), time.monotonic()
        self._task = bar.add_task(label, total=total, unit=unit, note="") if bar else None

    def advance(self, amount: float, note: str = "") -> None:
        """Count `amount` more units done; `note` is shown behind the rate, as it is: it may hold anybody's text."""
        self._done += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=amount, note=note)
            return
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            rate = self._done / (now - self._began)
            share = f"{100 * self._done / self._total:.0f} %, " if self._total else ""
            left = f", {duration((self._total - self._done) / rate)} left" if self._total and rate else ""
            line = f"{self._label}: {share}{human(rate)} {self._unit}/s{left} {note}".rstrip()
            console.print(line, markup=False)


@contextmanager
def progress(label: str, total: float | None, unit: str, done: float = 0) -> Iterator[Tracker]:
    """Show the progress of a loop; `total` and `done` count `unit`s. Only the first process of a group shows it."""
    first = os.environ.get("RANK", "0") == "0"
    if not (first and console.is_terminal and sys.stderr.isatty()):
        tracker = Tracker(label, total, unit, None)
        if not first:
            tracker._logged = float("inf")
        yield tracker
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %"),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tracker = Tracker(label, total, unit, bar)
        if done and tracker._task is not None:
            bar.update(tracker._task, completed=done)
        yield tracker
