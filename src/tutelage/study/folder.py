"""What a study leaves on disk, `studies/<name>/`."""

from __future__ import annotations

from pathlib import Path

from tutelage.base.errors import UserError


class StudyFolder:
    """The files of a study.

    Attributes:
        settings: the study as it was resolved (YAML).
        requests: all requests and answers, append-only.
        written, labelled: well-formed texts as written, and the same with labels (examples).
        ledger: words written and kept, by task (JSON).
        quarantine: folder of what was not taken, and why: a file for each stage, `{reason, origin, content}` a line.
        corpus: what students read: `plan.yaml` and `examples.jsonl`; a recipe names this folder as `data.corpus`.
        audit: folder of `audit.json` and `index.html`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings, self.plan = path / "study.yaml", path / "plan.yaml"
        self.requests, self.ledger = path / "requests.jsonl", path / "ledger.json"
        self.written, self.labelled = path / "written.jsonl", path / "labelled.jsonl"
        self.quarantine, self.corpus, self.audit = path / "quarantine", path / "corpus", path / "audit"


def needed(path: Path, verb: str) -> Path:
    """Return a path that `tutelage study VERB` makes; refuse where it is missing."""
    if not path.exists():
        raise UserError(f"{path} is not there; `tutelage study {verb}` comes first")
    return path
