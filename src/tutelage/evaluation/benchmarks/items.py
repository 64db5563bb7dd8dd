"""What is scored, and how a convention turns it into token rows.

An item is a completion that may follow a prefix; only the completion is scored. Texts are tokenized once each, whatever
the number of items that hold them. A character that the tokenizer cannot write becomes its unknown token, which is
scored like any other, or is dropped, as the tokenizer has it; a text of which nothing is left is refused.

Shapes: N items, R distinct rows, S tokens of all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.types import Bools, Ints
from tutelage.evaluation.benchmarks.conventions import CausalRules, Convention, MaskedRules

if TYPE_CHECKING:
    # Slow to import, and names of benchmarks are checked before anything is.
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Item:
    """A text to score, and what comes before it. The text is `prefix + completion`: no space is put between."""

    completion: str
    prefix: str = ""


@dataclass(frozen=True)
class TokenRows:
    """Distinct token rows, end to end, and which of them each item is."""

    tokens_S: Ints
    """Token ids."""
    scored_S: Bools
    """Whether a token counts towards its row's score."""
    starts_R: Ints
    """Where each row begins, with S appended: `(R + 1,)`."""
    row_N: Ints
    """The row of each item."""
    word_S: Ints | None = None
    """Which word of its row a token belongs to, as the tokenizer splits words, -1 for special tokens; None where the
    rules do not ask."""

    @property
    def lengths_R(self) -> Ints:
        """Tokens of each row."""
        return np.diff(self.starts_R)


@dataclass(frozen=True, slots=True)
class _Text:
    """An item as a tokenizer reads it."""

    text: str
    begin: int
    """Scored are the tokens that end behind this character."""
    prefix: str = ""
    """Where tokens are counted instead: text whose tokens are not scored."""
    start: int | None = None
    """Special token put before the row."""


def encode(
    tokenizer: PreTrainedTokenizerFast, items: Sequence[Item], kind: Literal["causal", "masked"], convention: Convention
) -> TokenRows:
    """Tokenize items by a year's rules.

    Raises:
        UserError: the tokenizer lacks a special token that the rules ask for, or writes a text with no token at all.
    """
    if kind == "causal":
        start = _start_token(tokenizer, convention)
        texts = [_causal_text(item, convention.causal, start) for item in items]
        specials, counted = convention.causal.own_specials, convention.causal.completion == "tokens"
    else:
        texts = [_masked_text(item, convention.masked, str(tokenizer.eos_token)) for item in items]
        specials, counted = True, False
    index: dict[_Text, int] = {}
    row_N = np.array([index.setdefault(text, len(index)) for text in texts], dtype=np.int64)
    encoded = tokenizer([text.text for text in index], add_special_tokens=specials, return_offsets_mapping=not counted,
                        return_attention_mask=False, return_token_type_ids=False, verbose=False)  # fmt: skip
    if counted:
        prefixes = sorted({text.prefix for text in index})
        alone = tokenizer(prefixes, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        before = {prefix: len(ids) for prefix, ids in zip(prefixes, alone, strict=True)}
        marks = [[position >= before[text.prefix] for position in range(len(ids))]
                 for text, ids in zip(index, encoded["input_ids"], strict=True)]  # fmt: skip
    else:
        # Special tokens of the template have the offset (0, 0).
        marks = [[end > text.begin for _, end in offsets]
                 for text, offsets in zip(index, encoded["offset_mapping"], strict=True)]  # fmt: skip
    rows = [_row(text, ids, scored) for text, ids, scored in zip(index, encoded["input_ids"], marks, strict=True)]
    packed = _pack(rows, row_N)
    first_S = packed.starts_R[:-1][packed.lengths_R > 0]
    # Whether the tokenizer puts a token for beginnings in front, where it defines one, is another matter.
    unstarted = tokenizer.cls_token_id is None and tokenizer.bos_token_id is None
    if kind == "causal" or (convention.masked.logits == "before_mask" and unstarted):
        packed.scored_S[first_S] = False
    if kind == "masked" and convention.masked.masking == "rest_of_word":
        words = (-1 if word is None else word for row in range(len(index)) for word in encoded.word_ids(row))
        return replace(packed, word_S=np.fromiter(words, dtype=np.int64))
    return packed


def keep_ends(rows: TokenRows, limit: int) -> TokenRows:
    """Leave rows of more than `limit` tokens their last ones, as a model without further positions needs it.

    For rows whose scored tokens stand at the end, such as words behind a long context.

    Raises:
        UserError: what is scored has so many tokens that none is left before it.
    """
    kept_S = np.arange(len(rows.tokens_S)) >= np.repeat(rows.starts_R[1:] - limit, rows.lengths_R)
    starts_R = np.cumsum([0, *np.minimum(rows.lengths_R, limit)], dtype=np.int64)
    scored_S = rows.scored_S[kept_S]
    if (scored_S[starts_R[:-1]] & (rows.lengths_R > limit)).any():
        raise UserError(f"a word has {limit} tokens or more, and the model takes rows of {limit} at most")
    word_S = None if rows.word_S is None else rows.word_S[kept_S]
    return TokenRows(rows.tokens_S[kept_S], scored_S, starts_R, rows.row_N, word_S)


def _causal_text(item: Item, rules: CausalRules, start: int | None) -> _Text:
    if item.prefix:
        return _Text(item.prefix + item.completion, len(item.prefix), prefix=item.prefix.rstrip())
    space = " " if rules.leading_space and item.completion else ""
    return _Text(space + item.completion, 0, start=start)


def _masked_text(item: Item, rules: MaskedRules, eos: str) -> _Text:
    space = " " if rules.leading_space and item.completion and not item.prefix else ""
    if rules.prefix == "ignored":
        return _Text(space + item.completion, 0)
    if rules.prefix == "as_is":
        return _Text(item.prefix + space + item.completion, len(item.prefix))
    prefix, separator = item.prefix or eos, " " if item.completion else ""
    return _Text(prefix + separator + space + item.completion, len(prefix))


def _start_token(tokenizer: PreTrainedTokenizerFast, convention: Convention) -> int | None:
    """The special token that a year puts before a text."""
    names = convention.causal.start
    known = [int(token) for name in names if (token := getattr(tokenizer, f"{name}_token_id")) is not None]
    if names and not known:
        raise UserError(
            f"the convention of {convention.name} starts every sentence with the tokenizer's {' or '.join(names)} "
            "token, and this tokenizer has none: choose the convention of 2025, which needs none, or name a token"
        )
    return known[0] if known else None


def _row(text: _Text, ids: list[int], scored: list[bool]) -> tuple[list[int], list[bool]]:
    """Tokens of one text behind its start token, and which of them are scored."""
    if not ids and text.text:
        raise UserError(
            f"the tokenizer writes {text.text[:80]!r} with no token at all, not even an unknown one: its characters "
            "are missing from the vocabulary; score with the tokenizer the model was trained with"
        )
    return (ids, scored) if text.start is None else ([text.start, *ids], [False, *scored])


def _pack(rows: list[tuple[list[int], list[bool]]], row_N: Ints) -> TokenRows:
    tokens_S = np.fromiter(chain.from_iterable(ids for ids, _ in rows), dtype=np.int64)
    scored_S = np.fromiter(chain.from_iterable(scored for _, scored in rows), dtype=np.bool_)
    return TokenRows(tokens_S, scored_S, np.cumsum([0, *(len(ids) for ids, _ in rows)], dtype=np.int64), row_N)
