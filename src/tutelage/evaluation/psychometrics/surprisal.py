"""Surprisal of a word after a text: -ln of the probability that a model gives it, in nats.

Everything stays in logarithms: the product of probabilities that the published code of BabyLM takes underflows to zero
for very unlikely words, and its logarithm ends the run.

By default context and word are one text, a space between, and the word's tokens are scored one after the other.
`as_published` repeats the published code (2025, `evaluation_pipeline/reading/evaluation_functions.py`), whose numbers
differ from that:

- the word is tokenized by itself, without a space in front: after "the old", a byte-level tokenizer asks for the token
  of "dog", not of " dog" (tokenizers that put a space in front of every text are not affected);
- the tokens of a word are decoded to text again, glued to the context, and the longer context is tokenized again, so
  that tokens may come together otherwise than the word's own did, and of a decoded piece the first token is asked for;
- after a context to which the tokenizer appends a special token (as encoders' do), a causal model predicts behind it.

Masked models predict a token at the first of three masks behind the context (`mlm`), or one position
before it (`mntp`, models trained on masked next-token prediction).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.types import Floats, Ints, Precision
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Backend, Convention
from tutelage.evaluation.benchmarks.items import Item, TokenRows
from tutelage.evaluation.likelihood.causal import log_probs, score_rows
from tutelage.teaching.teachers import Ensemble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MASKS = 3
"""Masks behind the context, so that the word asked for is not the text's last (the published default)."""

LABEL = "scoring words"


@dataclass(frozen=True, slots=True)
class Following:
    """A word, and the text before it without the space between."""

    word: str
    context: str


class _Ask(NamedTuple):
    """A token at a place in a row of tokens; what stands in the row at that place is the token itself."""

    row: tuple[int, ...]
    place: int


def surprisals(
    ensemble: Ensemble,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Following],
    backend: Backend | None = None,
    as_published: bool = False,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Floats:
    """Return the surprisal of each word, `(N,)` nats.

    The tokenizer is a Hugging Face fast one. `backend` is how the model predicts, by default `causal` or `mlm`, as the
    model reads; `as_published` tokenizes as the published code does. `batch_tokens` are those of a batch, padding
    included; the precision `bf16` runs the models under autocast.

    Raises:
        UserError: a backend that does not fit the model, a tokenizer without mask or one that cannot write a word, an
            empty word or context, or a text longer than the model's positions.
    """
    backend = backend or ensemble.backend
    _check(ensemble, tokenizer, pairs, backend)
    if backend == "causal" and not as_published:
        items = [Item(f" {pair.word}", pair.context) for pair in pairs]
        return item_surprisals(ensemble, tokenizer, items, batch_tokens, precision)
    make = _published if as_published else _masked
    asked = [list(make(tokenizer, pair, backend)) for pair in pairs]
    index: dict[_Ask, int] = {}
    which = np.array([index.setdefault(ask, len(index)) for asks in asked for ask in asks], dtype=np.int64)
    rows = _rows(index, which)
    texts = [f"{pair.context} {pair.word}" for pair, asks in zip(pairs, asked, strict=True) for _ in asks]
    rules = rules_of(backend).masked
    scored = score_rows(ensemble, tokenizer, rows, texts, rules, batch_tokens, precision, LABEL)
    owner = np.repeat(np.arange(len(pairs)), [len(asks) for asks in asked])
    return np.bincount(owner, weights=-scored.sum_N, minlength=len(pairs)).astype(np.float64)


def item_surprisals(
    ensemble: Ensemble,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
    backend: Backend | None = None,
    cut: bool = False,
) -> Floats:
    """Return the surprisal of completions by the rules of 2025, `(N,)` nats; see `surprisals` for the settings.

    `cut` leaves the beginning of a prefix out where the models have no positions for all of it. A completion that the
    tokenizer writes with no token is a `UserError`.
    """
    rules = rules_of(backend or ensemble.backend)
    scored = log_probs(ensemble, tokenizer, items, rules, batch_tokens, precision, LABEL, cut)
    if not scored.tokens_N.all():
        item = items[int(np.argmin(scored.tokens_N))]
        raise _unwritable(item.completion.strip(), tokenizer)
    return -scored.sum_N


def rules_of(backend: Backend | None) -> Convention:
    """Return the rules of 2025, for models that predict one position early if that is the backend."""
    rules = CONVENTIONS["2025"]
    return replace(rules, masked=replace(rules.masked, logits="before_mask")) if backend == "mntp" else rules


def _check(
    ensemble: Ensemble, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Following], backend: Backend
) -> None:
    if (ensemble.kind == "causal") != (backend == "causal"):
        fitting = "causal" if ensemble.kind == "causal" else "mlm or mntp"
        raise UserError(f"backend '{backend}' does not fit a {ensemble.kind} model: {fitting}")
    if backend != "causal" and tokenizer.mask_token_id is None:
        raise UserError("a masked model is scored by masking, and its tokenizer has no mask token: name one")
    for pair in pairs:
        if not pair.word.strip() or not pair.context.strip():
            raise UserError(f"the word {pair.word!r} after {pair.context[-40:]!r}: neither may be empty")


def _rows(index: Iterable[_Ask], row_N: Ints) -> TokenRows:
    asks = list(index)
    starts = np.cumsum([0, *(len(ask.row) for ask in asks)], dtype=np.int64)
    scored = np.zeros(starts[-1], dtype=np.bool_)
    scored[starts[:-1] + [ask.place for ask in asks]] = True
    return TokenRows(np.array([token for ask in asks for token in ask.row], dtype=np.int64), scored, starts, row_N)


def _masked(tokenizer: PreTrainedTokenizerFast, pair: Following, backend: Backend) -> Iterable[_Ask]:
    """Each token of the word after the ones before it: that token and two masks, then what the template appends."""
    found = tokenizer(f"{pair.context} {pair.word}", return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, special = found["input_ids"], found["special_tokens_mask"]
    end = len(ids)
    while end and special[end - 1]:
        end -= 1
    places = [place for place, (_, stop) in enumerate(found["offset_mapping"]) if stop > len(pair.context)]
    if not places:
        raise _unwritable(pair.word, tokenizer)
    masks = [tokenizer.mask_token_id] * (MASKS - 1)
    for place in places:
        yield _Ask((*ids[: place + 1], *masks, *ids[end:]), place)


def _published(tokenizer: PreTrainedTokenizerFast, pair: Following, backend: Backend) -> Iterable[_Ask]:
    """The word's tokens one by one, each after a context that is text again."""
    tokens = tokenizer(pair.word, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise _unwritable(pair.word, tokenizer)
    context, target = pair.context, tokens[0]
    for number, token in enumerate(tokens):
        piece = tokenizer.decode(token)
        if number:
            again = tokenizer(piece, add_special_tokens=False)["input_ids"]
            if not again:
                raise _unwritable(pair.word, tokenizer)
            target = again[0]
        yield _published_ask(tokenizer, context, target, backend)
        context += piece


def _published_ask(tokenizer: PreTrainedTokenizerFast, context: str, target: int, backend: Backend) -> _Ask:
    if backend == "causal":
        ids = tokenizer(context)["input_ids"]
        if not ids:
            raise _unwritable(context, tokenizer)
        return _Ask((*ids, target), len(ids))
    ids = list(tokenizer(context + tokenizer.mask_token * MASKS)["input_ids"])
    place = len(ids) - MASKS - (0 if ids[-1] == tokenizer.mask_token_id else 1)
    ids[place] = target
    return _Ask(tuple(ids), place)


def _unwritable(word: str, tokenizer: PreTrainedTokenizerFast) -> UserError:
    return UserError(
        f"the tokenizer writes the word {word!r} behind its context with no token of its own "
        f"(alone: {tokenizer.tokenize(word)}): its characters are missing from the vocabulary, or nothing stands "
        "before it; score with the tokenizer the model was trained with"
    )
