"""Progress for everything that takes more than a few seconds: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tutelage.base.console import console as console
from tutelage.base.console import output as output

LOG_SECONDS = 15.0
"""On something that is not a terminal, and in a log, a line at most this often."""
LOOK_SECONDS = 1.0
"""Between two looks at how far the whole is."""


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


class Overall:
    """How far the whole is of which a bar shows a part, and how long the rest will take at the speed so far.

    `state` returns what is done in words ("2 of 6 trainings") and as a share of the whole, from 0 to 1.
    """

    def __init__(self, state: Callable[[], tuple[str, float]]) -> None:
        self._state, self._began = state, time.monotonic()
        self._first = state()[1]
        self._looked, self._text = -LOOK_SECONDS, ""

    def __str__(self) -> str:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            words, share = self._state()
            gained = share - self._first
            left = duration((now - self._began) * (1 - share) / gained) if gained > 0 else ""
            self._looked, self._text = now, f"{words}, about {left} left in all" if left else words
        return self._text


_overall: Overall | None = None
_bars: list[Progress] = []


@contextmanager
def overall(state: Callable[[], tuple[str, float]]) -> Iterator[None]:
    """Show how far the whole is, above the bars and behind the log lines of what is done inside; see `Overall`."""
    global _overall
    before, _overall = _overall, Overall(state)
    try:
        yield
    finally:
        _overall = before


class _Bars(Progress):
    """Bars, the outermost with a line for the whole above."""

    def get_renderables(self) -> Iterator[RenderableType]:
        if _overall is not None and _bars and _bars[0] is self:
            yield Text(str(_overall), style="bold", no_wrap=True, overflow="ellipsis")
        yield from super().get_renderables()


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
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            rate = self._done / (now - self._began)
            share = f"{100 * self._done / self._total:.0f} %, " if self._total else ""
            left = f", {duration((self._total - self._done) / rate)} left" if self._total and rate else ""
            whole = f" ({_overall})" if _overall is not None else ""
            line = f"{self._label}: {share}{human(rate)} {self._unit}/s{left} {note}".rstrip() + whole
            if self._bar is None:
                console.print(line, markup=False)
            else:
                console.write_log(line)


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
    bar = _Bars(*columns, console=console, transient=True)
    _bars.append(bar)
    try:
        with bar:
            tracker = Tracker(label, total, unit, bar)
            if done and tracker._task is not None:
                bar.update(tracker._task, completed=done)
            yield tracker
    finally:
        _bars.remove(bar)
