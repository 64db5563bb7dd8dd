"""What a training came to: losses on held-out text, where a gate let the teachers in, and `finished.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt


@dataclass(frozen=True)
class HeldOut:
    """How well held-out text is predicted.

    Attributes:
        loss: cross-entropy in nats per predicted token.
        perplexity: its exponential.
        bits_per_byte: the same information per byte of text, comparable between tokenizers.
        tokens: predicted tokens; a run has their number, a summary leaves it out.
    """

    loss: float
    perplexity: float | None = None
    bits_per_byte: float | None = None
    tokens: Annotated[NonNegativeInt | None, Field(exclude=True)] = None
