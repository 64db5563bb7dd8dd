"""Stopping in order: signals are noted and answered between steps."""

from __future__ import annotations

import contextlib
import signal as signals
from collections.abc import Iterator
from types import FrameType

from tutelage.base.progress import console


class Stop:
    """The number of the signal that asked to stop; 0 until one does."""

    number = 0


@contextlib.contextmanager
def stop_flag(told: str = "stopping after this step; once more to stop at once (the last checkpoint stays)"
              ) -> Iterator[Stop]:  # fmt: skip
    """Let SIGTERM and the first Ctrl-C, which is answered `told`, end the current step and save; a second Ctrl-C ends
    at once, losing nothing that was saved.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.number:
            # A third one shall not disturb the way out.
            signals.signal(signals.SIGINT, signals.SIG_IGN)
            raise KeyboardInterrupt
        stop.number = number
        console.print(f"\n{told}")

    before = {number: signals.signal(number, handle) for number in (signals.SIGTERM, signals.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if signals.getsignal(number) is not signals.SIG_IGN:
                signals.signal(number, handler)
