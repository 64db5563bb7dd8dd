"""Letting teachers go in the middle of a run, and telling what that brought: speed and memory."""

from __future__ import annotations

import time
from collections import deque

from tutelage.base import machine
from tutelage.base.progress import console, human

KEPT = 100
"""Looks whose mean is the speed before teachers go."""
TOLD_AFTER = 20
"""Looks after which the new speed is told."""


class Pace:
    """Tokens per second over the last looks; evaluations and saves between them are left out."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self.start()

    def start(self) -> None:
        """Begin to count time; to be called after whatever is no training."""
        self._from = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Count the tokens that were read since the last call, or since the start."""
        now = time.perf_counter()
        self._looks.append((tokens, now - self._from))
        self._from = now

    @property
    def looks(self) -> int:
        """How many looks there were, at most `KEPT`."""
        return len(self._looks)

    def rate(self) -> float | None:
        """Return tokens per second; None before the first look."""
        seconds = sum(seconds for _, seconds in self._looks)
        return sum(tokens for tokens, _ in self._looks) / seconds if seconds else None

    def forget(self) -> None:
        """Begin anew."""
        self._looks.clear()
        self.start()


class Release:
    """Measures before and after: make it while the teachers are there, call `done` once nothing refers to them."""

    def __init__(self, pace: Pace, step: int) -> None:
        self._pace, self._step, self._rate, self._memory = pace, step, pace.rate(), machine.memory_held()

    def done(self) -> None:
        """Give the teachers' memory back."""
        machine.release_memory()
        self._held = machine.memory_held()
        self._pace.forget()

    @property
    def known(self) -> bool:
        """Whether the new speed is known by now."""
        return self._pace.looks >= TOLD_AFTER

    def tell(self, label: str, aloud: bool) -> None:
        """Say what the release brought; of several processes, one says it aloud."""
        if not aloud:
            return
        before, after = self._rate, self._pace.rate()
        said = [f"{before:,.0f} -> {after:,.0f} tok/s"] if before and after else []
        said += [f"memory {human(self._memory)}B -> {human(self._held)}B"] if self._memory and self._held else []
        console.print(f"{label}: teachers released after step {self._step}" + (f": {', '.join(said)}" if said else ""))
