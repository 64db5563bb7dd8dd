"""The starter corpus: about 90,000 words that an LLM teacher wrote after a study plan (CC0-1.0; see README.md here).

It is the default corpus of the toolkit, so that everything can be seen at work without a network.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

NAME = "starter"
"""What recipes and studies call it."""


def folder() -> Path:
    """Return the folder of the packaged data."""
    return Path(str(resources.files(__name__)))


def plan_file() -> Path:
    """Return the study plan: lessons, tasks, labels and their definitions (JSON)."""
    return folder() / "plan.json"


def example_files() -> list[Path]:
    """Return the parts of the corpus (JSON lines), sorted."""
    return sorted((folder() / "examples").glob("*.jsonl"))


def pairs_folder() -> Path:
    """Return the folder of minimal pairs: one JSON-lines file a phenomenon, `sentence_good` and `sentence_bad`."""
    return folder() / "pairs"
