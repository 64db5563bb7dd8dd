"""Which tokens are hidden from a masked model, and random numbers that follow from integers alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tutelage.base.types import Ints
from tutelage.corpus.labels import IGNORE


def keyed_generator(*keys: int) -> np.random.Generator:
    """Return random numbers that follow from integers and from nothing before them."""
    # Philox is counter-based: nearby keys give unrelated streams.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([key % 2**64 for key in keys])))


@dataclass(frozen=True)
class Masking:
    """How a masked model's inputs are hidden (BERT: 80 % masked, 10 % random, 10 % kept)."""

    rate: float  # share of tokens to predict
    mask_id: int  # the mask token
    vocab_size: int  # random replacements come from all ids below it that are not special
    special_ids: tuple[int, ...]  # never hidden
    seed: int  # of the draws

    @cached_property
    def _plain_ids(self) -> Ints:
        return np.setdiff1d(np.arange(self.vocab_size), self.special_ids)

    def hide(self, tokens_T: Ints, epoch: int, row: int) -> tuple[Ints, Ints]:
        """Return the row to read and its targets; the draws depend on (seed, epoch, row) alone."""
        draw = keyed_generator(self.seed, 3, epoch, row)
        chosen = (draw.random(tokens_T.shape) < self.rate) & ~np.isin(tokens_T, self.special_ids)
        how = draw.random(tokens_T.shape)
        random = draw.choice(self._plain_ids, size=tokens_T.shape)
        hidden = np.where(chosen & (how < 0.8), self.mask_id, tokens_T)
        hidden = np.where(chosen & (how >= 0.8) & (how < 0.9), random, hidden)
        return hidden, np.where(chosen, tokens_T, IGNORE)
