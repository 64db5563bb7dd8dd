"""What a local teacher may write next: a JSON schema, a list of words or a set of tokens, as masks of its vocabulary.

`llguidance` follows the grammar; it works on bytes, so words may be cut into tokens in any way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import llguidance
import numpy as np
import torch
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tutelage.base.types import Bools
from tutelage.study.client.client import Constraint, Request

WORDS = r"""
start: WORD (BREAK WORD)* END?
WORD: {words}
BREAK: /[,;:.!?]? /
END: /[.!?]/
"""
JSON_TEXT = {"whitespace_flexible": False, "json_allowed_escapes": 'nt"\\'}
"""No space between the parts, of which a lost model could write any amount, and no control characters by escapes."""


Rule = Callable[[int | None], Bools]
"""What one row may write: takes the token that came since the last call (None at the first) and returns which tokens
may come next, (V,), at least one of them True."""


def token_rule(tokens: Sequence[int], ends: Sequence[int], width: int) -> Rule:
    """Return the rule of nothing but a set of tokens, and the end."""
    if outside := [token for token in (*tokens, *ends) if not 0 <= token < width]:
        raise ValueError(f"token {outside[0]} is not in the teacher's vocabulary of {width}")
    allowed_V = np.zeros(width, dtype=np.bool_)
    allowed_V[[*tokens, *ends]] = True
    return lambda last: allowed_V


def grammar_rule(grammar: str, tokenizer: llguidance.LLTokenizer, width: int) -> Rule:
    """Return the rule of nothing but what a grammar can still make whole."""
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    if matcher.is_error():
        raise ValueError(f"no grammar: {matcher.get_error()}")
    bits = allocate_token_bitmask(1, width)
    ended_V = np.zeros(width, dtype=np.bool_)
    ended_V[tokenizer.eos_tokens] = True

    def allowed(last: int | None) -> Bools:
        if last is not None and not matcher.is_stopped():
            matcher.consume_token(last)
        if matcher.is_stopped():
            return ended_V
        fill_next_token_bitmask(matcher, bits)
        allowed_V = np.unpackbits(bits.view(np.uint8)[0], bitorder="little")[:width].astype(np.bool_)
        return allowed_V if allowed_V.any() else ended_V

    return allowed


class AnswerRules:
    """The rules of the requests to a teacher whose output is V wide, and whose answers end with some tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: Sequence[int], width: int) -> None:
        self._tokenizer = from_tokenizer(tokenizer, n_vocab=width, eos_token=list(ends))
        self._ends, self._width = ends, width

    def rule(self, request: Request) -> Rule | None:
        """Return what binds the answer to a request; None if nothing does.

        Raises:
            ValueError: a schema, words or tokens that cannot be followed.
        """
        if request.schema is not None:
            schema, overrides = dict(request.schema), JSON_TEXT
            return self._grammar(llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=overrides))  # type: ignore[arg-type]
        constraint = request.constraint or Constraint()
        if constraint.words is not None:
            return self._grammar(word_grammar(constraint.words))
        return None if constraint.tokens is None else token_rule(constraint.tokens, self._ends, self._width)

    def _grammar(self, grammar: str) -> Rule:
        return grammar_rule(grammar, self._tokenizer, self._width)


def word_grammar(words: Sequence[str]) -> str:
    """Return the grammar of texts of these words, each with a capital or not, with one space between two.

    A punctuation mark may stand before the space.

    Raises:
        ValueError: no words, or one with white space in it.
    """
    if not words or any(word.split() != [word] for word in words):
        raise ValueError("a vocabulary is a list of words, each without white space")
    forms = dict.fromkeys(form for word in words for form in (word, word[0].upper() + word[1:]))
    choices = " | ".join(json.dumps(form, ensure_ascii=False) for form in forms)
    return llguidance.LLMatcher.grammar_from_lark(WORDS.format(words=choices))


def mask(scores_BV: Tensor, allowed: Sequence[Bools | None]) -> Tensor:
    """Return scores with all that is not allowed at minus infinity; rows with None keep theirs."""
    bound = [row for row, allowed_V in enumerate(allowed) if allowed_V is not None]
    if not bound:
        return scores_BV
    keep_RV = torch.from_numpy(np.stack([allowed_V for allowed_V in allowed if allowed_V is not None]))
    scores_BV = scores_BV.clone()
    scores_BV[bound] = scores_BV[bound].masked_fill(~keep_RV.to(scores_BV.device), -torch.inf)
    return scores_BV
