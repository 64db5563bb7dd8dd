"""Mixtures of denoisers (UL2): rows read as they are, from a prefix on, or with spans moved to their end.

A decoder has no second text for its answers, so a row with hidden spans holds both:

    the text, a sentinel in each span's place | sentinel, span, sentinel, span, ..., sentinel

The targets are the next tokens of that second part. A row keeps its length: its sentinels take the places of its text's
last tokens. What a row becomes follows from (seed, epoch, row).

Sources: Tay et al. 2023 (UL2), section 3; spans as in Raffel et al. 2020 (T5), section 3.1.4.

Shapes: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.types import Ints
from tutelage.corpus.masking import keyed_generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RowKind = Literal["causal", "prefix", "span"]
KINDS: tuple[RowKind, ...] = get_args(RowKind)
STREAM = 6  # keeps these draws apart from those of offsets and masks


@dataclass(frozen=True)
class Mixture:
    """How rows are rewritten."""

    shares: tuple[float, float, float]  # of the rows, in the order of `KINDS`
    denoisers: tuple[tuple[float, float], ...]  # (rate, mean length of a span); rows with spans draw one of them
    sentinel_ids: tuple[int, ...]  # tokens that stand for spans, in order
    seed: int  # of the draws

    def rewrite(self, tokens_T: Ints, epoch: int, row: int) -> tuple[Ints, int]:
        """Return the row to read, as long as before, and the place of the first token that is asked for.

        The row comes without padding and has at least two tokens; with less than five, it has no room for spans and
        stays as it is.
        """
        draw = keyed_generator(self.seed, STREAM, epoch, row)
        kind = KINDS[draw.choice(len(KINDS), p=self.shares)]
        if kind == "prefix":
            return tokens_T, int(draw.integers(1, len(tokens_T)))
        rate, mean = self.denoisers[draw.integers(len(self.denoisers))]
        spans = span_count(len(tokens_T), rate, mean) if kind == "span" else 0
        return self._with_spans_behind(tokens_T, spans, rate, draw) if spans else (tokens_T, 1)

    def _with_spans_behind(self, tokens_T: Ints, spans: int, rate: float,
                           draw: np.random.Generator) -> tuple[Ints, int]:  # fmt: skip
        text = tokens_T[: len(tokens_T) - 2 * spans - 1]
        hidden = min(max(round(rate * len(text)), spans), len(text) - spans)
        lengths = _parts(hidden, spans, draw)
        # Between spans there is at least one token; before the first and behind the last there may be none.
        gaps = _parts(len(text) - hidden + 2, spans + 1, draw)
        gaps[[0, -1]] -= 1
        starts = np.cumsum(gaps[:-1] + lengths) - lengths
        front, back, read = [], [], 0
        for sentinel, start, length in zip(self.sentinel_ids, starts, lengths, strict=False):
            front += [text[read:start], [sentinel]]
            back += [[sentinel], text[start : start + length]]
            read = start + length
        row = np.concatenate([*front, text[read:], *back, [self.sentinel_ids[spans]]]).astype(np.int64)
        # The second part's first sentinel is given, not asked for: where the text ends cannot be known before it.
        return row, len(row) - hidden - spans


def span_count(size: int, rate: float, mean: float) -> int:
    """Return how many spans a row of `size` tokens hides; they need one more sentinel than that.

    Of `size` tokens, 2 for each span and 1 at the end are sentinels; of the `text` that is left, `rate` is hidden:
    spans * mean = rate * text  and  text = size - 1 - 2 * spans. Rows of less than five tokens have no room.
    """
    return min(max(1, round(rate * (size - 1) / (mean + 2 * rate))), (size - 1) // 4)


def mixture_of(settings: recipe.Ul2, tokenizer: PreTrainedTokenizerFast, row_length: int, seed: int) -> Mixture:
    """Make a recipe's mixture, with the tokenizer's sentinels; refuse if there are too few for the longest row."""
    denoisers = tuple((denoiser.rate, denoiser.mean) for denoiser in settings.denoisers)
    needed = max(span_count(row_length, *denoiser) + 1 for denoiser in denoisers) if settings.span else 0
    found = [tokenizer.backend_tokenizer.token_to_id(f"<extra_id_{number}>") for number in range(needed)]
    if None in found:
        raise UserError(f"objectives.ul2 needs {needed} sentinels for the {needed - 1} spans of a row of {row_length} "
                        f"tokens, but the tokenizer has no '<extra_id_{found.index(None)}>': put "
                        f"'<extra_id_0..{needed - 1}>' into data.tokenizer.extra_tokens, take longer or fewer spans, "
                        "or no rows with spans (`span: 0`)")  # fmt: skip
    return Mixture((settings.causal, settings.prefix, settings.span), denoisers, tuple(found), seed)


def _parts(total: int, count: int, draw: np.random.Generator) -> Ints:
    """Cut a total into so many parts of at least one; every way of cutting is equally likely."""
    cuts = np.sort(draw.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
