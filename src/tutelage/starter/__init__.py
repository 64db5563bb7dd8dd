"""The starter corpus: about 90,000 words that an LLM teacher wrote after a study plan (CC0-1.0; see README.md here).

It is the default corpus of the toolkit, so that everything can be seen at work without a network.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

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


def example_text(record: dict[str, Any]) -> str:
    """Return an example as running text.

    Pairs become two lines. The words of a tagging example are joined by single spaces, punctuation included, as
    treebank and speech corpora print them: the tags then stay aligned with whitespace words.
    """
    if "words" in record:
        return " ".join(record["words"])
    return "\n".join(record[key] for key in ("text", "text_pair") if key in record)
