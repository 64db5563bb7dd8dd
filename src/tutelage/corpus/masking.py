"""Which tokens are hidden from a masked model, and random numbers that follow from integers alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tutelage.base.types import Ints
from tutelage.corpus.labels import IGNORE

STREAM = 9
"""Keeps the draws of `Hybrid` apart from others of the same seed."""


def keyed_generator(*keys: int) -> np.random.Generator:
    """Return random numbers that follow from integers and from nothing before them."""
    # Philox is counter-based: nearby keys give unrelated streams.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([key % 2**64 for key in keys])))


@dataclass(frozen=True)
class Masking:
    """How a masked model's inputs are hidden (BERT: 80 % masked, 10 % random, 10 % kept)."""

    rate: float  # share of tokens to predict, in the first pass
    mask_id: int  # the mask token
    vocab_size: int  # random replacements come from all ids below it that are not special
    special_ids: tuple[int, ...]  # never hidden
    seed: int  # of the draws
    final_rate: float | None = None  # the share in the last of `passes`; the same in all unless given
    passes: int = 1

    def rate_in(self, epoch: int) -> float:
        """Return the share of tokens to predict in a pass, counted from 0."""
        if self.final_rate is None:
            return self.rate
        return self.rate + (self.final_rate - self.rate) * min(1.0, epoch / max(1, self.passes - 1))

    @cached_property
    def _plain_ids(self) -> Ints:
        return np.setdiff1d(np.arange(self.vocab_size), self.special_ids)

    def hide(self, tokens_T: Ints, epoch: int, row: int) -> tuple[Ints, Ints]:
        """Return the row to read and its targets; the draws depend on (seed, epoch, row) alone."""
        draw = keyed_generator(self.seed, 3, epoch, row)
        chosen = (draw.random(tokens_T.shape) < self.rate_in(epoch)) & ~np.isin(tokens_T, self.special_ids)
        how = draw.random(tokens_T.shape)
        random = draw.choice(self._plain_ids, size=tokens_T.shape)
        hidden = np.where(chosen & (how < 0.8), self.mask_id, tokens_T)
        hidden = np.where(chosen & (how >= 0.8) & (how < 0.9), random, hidden)
        return hidden, np.where(chosen, tokens_T, IGNORE)


@dataclass(frozen=True)
class Hybrid:
    """Which rows a causal model reads whole, with tokens hidden (Charpentier and Samuel 2024, GPT-BERT, section 2).

    A hidden token is predicted at the place before it, so that both ways of reading ask the same of the output.
    """

    share: float  # of the rows that are read whole
    masking: Masking
    taught: tuple[bool, bool]  # whether teachers count in rows that are read from left to right, and whole

    def read(self, tokens_T: Ints, epoch: int, row: int) -> tuple[Ints, Ints, bool]:
        """Return the row to read, its targets and whether it is read whole, by (seed, epoch, row) alone."""
        draw = keyed_generator(self.masking.seed, STREAM, epoch, row)
        if draw.random() >= self.share:
            return tokens_T, next_tokens(tokens_T), False
        hidden, targets = self.masking.hide(tokens_T, epoch, row)
        # Nothing stands before the first token, so that it stays as it is.
        return np.concatenate([tokens_T[:1], hidden[1:]]), np.append(targets[1:], IGNORE), True


def next_tokens(tokens_T: Ints) -> Ints:
    """Return the targets of a row that is read from left to right."""
    return np.append(tokens_T[1:], IGNORE)
