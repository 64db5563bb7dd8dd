"""What a study leaves on disk, `studies/<name>/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyFolder:
    """The files of a study.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """The study as it was resolved (YAML)."""
        return self.path / "study.yaml"

    @property
    def requests(self) -> Path:
        """All requests and answers, append-only."""
        return self.path / "requests.jsonl"

    @property
    def plan(self) -> Path:
        """The plan (YAML)."""
        return self.path / "plan.yaml"

    @property
    def written(self) -> Path:
        """Texts as written, well-formed ones (examples)."""
        return self.path / "written.jsonl"

    @property
    def ledger(self) -> Path:
        """Words written and kept, by task (JSON)."""
        return self.path / "ledger.json"

    @property
    def labelled(self) -> Path:
        """The same texts with labels (examples)."""
        return self.path / "labelled.jsonl"

    @property
    def quarantine(self) -> Path:
        """Folder of what was not taken, and why: a file for each stage, `{reason, origin, content}` a line."""
        return self.path / "quarantine"

    @property
    def corpus(self) -> Path:
        """What students read: `plan.yaml` and `examples.jsonl`; a recipe names this folder as `data.corpus`."""
        return self.path / "corpus"

    @property
    def audit(self) -> Path:
        """The audit: `audit.json` and `index.html`."""
        return self.path / "audit"
