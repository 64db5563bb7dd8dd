"""The rules of BabyLM's tracks, as far as run folders can show whether they were kept, each with its source.

Read in the call of 2025 (arXiv 2502.10645) with the questions and answers of https://babylm.github.io, and in excerpts
of the call of 2026 (arXiv 2602.20092) with the site of July 2026. What was not found there is marked as unverified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tutelage.base.errors import UserError, nearest
from tutelage.recipe.words import SCHEDULES

CALL = {
    "2025": "call of 2025, arXiv 2502.10645",
    "2026": "call of 2026, arXiv 2602.20092 (excerpts), and babylm.github.io, July 2026",
}
ANSWERS = "questions and answers of babylm.github.io, 2025, all tracks"
PIPELINE = {
    "2025": "github.com/babylm/evaluation-pipeline-2025, README, Submission Requirements",
    "2026": "github.com/babylm-org/babylm-eval, strict/README, Submission Requirements",
}

_LLAMAS = r"Llama-3\.1-8B-Instruct|Llama-3\.2-[13]B-Instruct"
_QWENS = r"Qwen(2\.5|3|3\.5)-(\d+(\.\d+)?)B\b.*"


@dataclass(frozen=True)
class TrackRules:
    """What a track allows."""

    year: str
    words: int
    """Of training text, in whitespace words; that of ancillary models counts."""
    epochs: int
    """Passes over the training text."""
    schedule: tuple[int, ...]
    """Numbers of words seen at which checkpoints are asked for."""
    interaction: bool = False
    """Whether an external model may teach, as a black box: its text and labels may reach the model that is handed in,
    its weights, hidden states and output distribution may not."""
    feedback: bool = False
    """Whether approved teachers may give feedback. (That their output distribution must not reach the model, as in the
    interaction track of 2025, is unverified for 2026.)"""

    @property
    def words_seen(self) -> int:
        """Words read in training, repeats included."""
        return self.words * self.epochs

    def approves(self, name: str) -> bool | None:
        """Tell whether a model from outside is an approved teacher, by its name; None where its size would tell."""
        short = name.rstrip("/").rsplit("/", 1)[-1]
        if re.fullmatch(_LLAMAS, short):
            return True
        if qwen := re.fullmatch(_QWENS, short):
            return float(qwen[2]) < 1 or (self.feedback and float(qwen[2]) <= 9)
        return None


_SMALL, _LARGE = SCHEDULES["babylm-strict-small"], SCHEDULES["babylm-strict"]
TRACKS: Mapping[str, TrackRules] = {
    "babylm-2025-strict-small": TrackRules("2025", 10**7, 10, _SMALL),
    "babylm-2025-strict": TrackRules("2025", 10**8, 10, _LARGE),
    "babylm-2025-interaction": TrackRules("2025", 10**8, 10, _LARGE, interaction=True),
    "babylm-2026-strict-small": TrackRules("2026", 10**7, 10, _SMALL, feedback=True),
    "babylm-2026-strict": TrackRules("2026", 10**8, 10, _LARGE, feedback=True),
}
APPROVED = {
    False: "Llama-3.1-8B-Instruct, Llama-3.2-3B-Instruct, Llama-3.2-1B-Instruct, language models below 1B parameters",
    True: "Llama-3.1-8B-Instruct, Llama-3.2-3B-Instruct, Llama-3.2-1B-Instruct, Qwen 2.5, 3 and 3.5 up to 9B, language "
    "models below 1B parameters",
}
"""External models of the interaction track of 2025, and (True) teachers of 2026."""


def rules_of(track: str) -> TrackRules:
    """Return a track's rules; an unknown one is refused with the nearest."""
    if track not in TRACKS:
        raise UserError(f"unknown track '{track}'{nearest(track, TRACKS)} (known: {', '.join(TRACKS)})")
    return TRACKS[track]
