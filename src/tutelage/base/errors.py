"""What goes wrong through a user's input or machine, told in a sentence that names the remedy."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """An error to be shown without a traceback: it names the key or file, the value and what to do."""


class MissingData(UserError):
    """Files of a benchmark are not on this machine; it names where to get them and where to put them."""


class InUse(UserError):
    """Another process holds the lock of what was asked for."""


class OtherSettings(UserError):
    """What lies in a folder was made with other settings: `found` tells which, the message also what to do."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}{remedy}")
        self.found = found


class Interrupted(Exception):
    """Training was asked to stop, by the signal `number`; everything is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command again to resume")
        self.number = number


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the choice closest to `word`, or nothing where none is close."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
