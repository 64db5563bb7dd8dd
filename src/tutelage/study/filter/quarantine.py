"""What was not taken, and why: `quarantine/<stage>.jsonl`, an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.base.files import write_lines


@dataclass(frozen=True)
class Refused:
    """One thing that was not taken.

    Attributes:
        reason: why.
        origin: key of the stored request that it came from.
        content: the thing: a text, a pair, or the id of a text with the task whose label is missing.
    """

    reason: str
    origin: str
    content: Any


def write_refused(path: Path, refused: Iterable[Refused]) -> None:
    """Write a stage's quarantine, whole or not at all; an empty one leaves an empty file."""
    # ASCII with escapes: what is refused may hold lone surrogates or control characters.
    write_lines(path, (f"{json.dumps(asdict(thing), ensure_ascii=True)}\n" for thing in refused))
