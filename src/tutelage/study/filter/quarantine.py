"""What was not taken, and why: `quarantine/<stage>.jsonl`, an object a line; counted by what was wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.base.files import write_lines
from tutelage.corpus.reading import json_records


@dataclass(frozen=True)
class Refused:
    """One thing that was not taken, and the key of the stored request that it came from.

    The content is a text, a pair, or the id of a text with the task whose label is missing.
    """

    reason: str
    origin: str
    content: Any


def write_refused(path: Path, refused: Iterable[Refused]) -> None:
    """Write a stage's quarantine, whole or not at all; an empty one leaves an empty file."""
    # ASCII with escapes: what is refused may hold lone surrogates or control characters.
    write_lines(path, (f"{json.dumps(asdict(thing), ensure_ascii=True)}\n" for thing in refused))


def fault_of(reason: str) -> str:
    """Return a reason without its particulars, which stand behind a colon."""
    return reason.partition(":")[0]


def count_faults(folder: Path) -> dict[str, Counter[str]]:
    """Count refusals by stage (a file's name) and fault; empty where there is no such folder.

    Raises:
        UserError: a line that is no refusal.
    """
    found: dict[str, Counter[str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        counts = found[path.stem] = Counter()
        for number, record in json_records(path):
            reason = record.get("reason")
            if not isinstance(reason, str):
                raise UserError(f"{path}, line {number}: no 'reason'; delete the file and run its stage again")
            counts[fault_of(reason)] += 1
    return found
