"""A cleaning function: `data: {cleaning: "own_parts.cleaning:without_notes"}`."""

from __future__ import annotations

import re

_NOTE = re.compile(r" ?\[\d+\]")


def without_notes(text: str) -> str:
    """Remove the marks of footnotes: `It rained [12].` becomes `It rained.`"""
    return _NOTE.sub("", text)
