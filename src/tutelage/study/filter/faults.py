"""What went into quarantine, counted by what was wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tutelage.base.errors import UserError
from tutelage.corpus.reading import json_records


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
