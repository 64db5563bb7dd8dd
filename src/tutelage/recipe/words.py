"""Numbers of words: how recipes and BabyLM write them (`3M`), and at which of them checkpoints are asked for."""

from __future__ import annotations

import re

UNITS = {"B": 10**9, "M": 10**6, "K": 10**3}
_SMALL = (*range(10**6, 10**7, 10**6), *range(10**7, 10**8 + 1, 10**7))
SCHEDULES: dict[str, tuple[int, ...]] = {
    "babylm-strict-small": _SMALL,
    "babylm-strict": (*_SMALL, *range(2 * 10**8, 10**9 + 1, 10**8)),
}
"""Checkpoints that BabyLM 2025 and 2026 ask for, in words seen, repeats included: 1M to 9M by 1M, 10M to 100M by 10M
(19 of them), in all tracks but strict-small on to 1000M by 100M (28). They are named `chck_1M` and so on."""

ALMOST = 0.99
"""A run's end stands for the next checkpoint of these schedules if it saw at least this share of its words: ten passes,
the most that are allowed, over what cleaning and a small held-out part leave of 10M words are a little less than 100M.
"""


def read_words(written: str) -> int:
    """Read `3000000`, `100K`, `3M` or `1B`; refuse with `ValueError` what is none."""
    found = re.fullmatch(r"([1-9]\d*)([KMB]?)", written)
    if found is None:
        raise ValueError(f"'{written}' is no number: write a whole number, or one with K, M or B, such as 3M")
    return int(found[1]) * UNITS.get(found[2], 1)


def write_words(words: int) -> str:
    """Write a number of words as `read_words` reads it, with the largest unit that it is a multiple of."""
    return next((f"{words // size}{unit}" for unit, size in UNITS.items() if words % size == 0), str(words))


def revision(words: int) -> str:
    """Name the revision of a checkpoint as BabyLM does: `chck_1000M`, never in billions."""
    return f"chck_{words // 10**6}M" if words % 10**6 == 0 else f"chck_{write_words(words)}"
