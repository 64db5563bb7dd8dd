"""Texts in, token ids out, in bounded memory and on all cores.

A long text is encoded in segments. GPT-2's splitting rule never joins across the places where they are cut (before a
newline that something visible follows, or before a space between two letters), so the segments give the very tokens of
the whole; only the first one may get a prefix space. Reserved tokens are never made from text: a literal `</s>` in a
corpus is spelled out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tutelage.base.threads import beside_main
from tutelage.corpus.tokenizer import lost_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEGMENT = 1 << 15  # characters after which a text is cut at the next safe place
BATCH = 1 << 20  # characters handed to the tokenizer's threads at once

_PLACE = re.compile(r"\n(?=(\S))|(?<=[A-Za-z]) (?=[A-Za-z])")


@dataclass(frozen=True)
class Text:
    """One text to encode: its words, and its characters in chunks."""

    words: int
    chunks: Iterable[str]
    joins: bool = False  # whether it continues the document of the text before it: the second text of a pair


@dataclass(frozen=True)
class Segment:
    """A part of a text."""

    text: str
    opens: bool  # whether it is the first of its text
    closes: bool  # whether it is the last
    words: int  # of the whole text, told with its first segment; else 0
    joins: bool = False  # as its text does


@dataclass(frozen=True)
class Encoded:
    """A segment and its tokens."""

    segment: Segment
    ids: npt.NDArray[np.uint32]
    lost: int  # bytes that the tokenizer dropped


def segments(text: Text, size: int = SEGMENT) -> Iterator[Segment]:
    """Cut a text at safe places at least `size` characters apart; nothing comes of an empty text."""
    parts, opens = _parts(text.chunks, size), True
    part = next(parts, None)
    while part is not None:
        following = next(parts, None)
        yield Segment(part, opens, following is None, text.words if opens else 0, text.joins)
        part, opens = following, False


def _parts(chunks: Iterable[str], size: int) -> Iterator[str]:
    waiting, searched = "", size
    for chunk in chunks:
        waiting += chunk
        while (place := _next_place(waiting, searched)) is not None:
            yield waiting[:place]
            waiting, searched = waiting[place:], size
        # A place needs the character after it, so the last two are looked at again.
        searched = max(size, len(waiting) - 2)
    if waiting:
        yield waiting


def _next_place(text: str, start: int) -> int | None:
    for match in _PLACE.finditer(text, start):
        # NFKC turns some visible characters into a space with a mark, which the newline would join.
        if match[1] is None or not unicodedata.normalize("NFKC", match[1])[0].isspace():
            return match.start()
    return None


class Encoder:
    """A tokenizer set up to encode a corpus."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import Tokenizer

        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["padding"] = state["truncation"] = None
        splitting = state["pre_tokenizer"] or {}
        # Whether segments give the same tokens as the whole text.
        self.exact = splitting.get("type") == "ByteLevel" and bool(splitting.get("use_regex"))
        self._first = Tokenizer.from_str(json.dumps(state))
        self._rest = self._first
        if splitting.get("add_prefix_space"):
            state["pre_tokenizer"] = splitting | {"add_prefix_space": False}
            self._rest = Tokenizer.from_str(json.dumps(state))
        for backend in (self._first, self._rest):
            backend.encode_special_tokens = True
        self._lost = bytes(sorted(lost_bytes(tokenizer)))
        self.unknown_id: int | None = tokenizer.unk_token_id

    def encode(self, texts: Iterable[Text]) -> Iterator[Encoded]:
        """Encode texts in order, a batch of segments at a time."""
        batch: list[Segment] = []
        size = 0
        for segment in (segment for text in texts for segment in segments(text)):
            batch.append(segment)
            size += len(segment.text)
            if size >= BATCH:
                yield from self._flush(batch)
                batch, size = [], 0
        yield from self._flush(batch)

    def word_places(self, text: str, words: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return the first and last token of each word of a text; None of a word that has no token of its own.

        `words` are without white space; in the text, single spaces stand between them.
        """
        offsets = self._first.encode(text, add_special_tokens=False).offsets
        found: list[tuple[int, int] | None] = []
        begin, token = 0, 0
        for word in words:
            end = begin + len(word)
            # A token may bring the space before its word along.
            while token < len(offsets) and offsets[token][1] <= begin:
                token += 1
            first = token
            while token < len(offsets) and offsets[token][0] < end and offsets[token][1] > begin:
                token += 1
            found.append((first, token - 1) if token > first else None)
            begin = end + 1
        return found

    def _flush(self, batch: list[Segment]) -> Iterator[Encoded]:
        found: list[Any] = [None] * len(batch)
        # One call where all segments are treated the same way, which is the common case.
        for backend in {id(b): b for b in (self._first, self._rest)}.values():
            mine = [i for i, segment in enumerate(batch) if (self._first if segment.opens else self._rest) is backend]
            texts = [batch[i].text for i in mine]
            encodings = beside_main(partial(backend.encode_batch_fast, texts, add_special_tokens=False))
            for i, encoding in zip(mine, encodings, strict=True):
                found[i] = encoding
        normalizer = self._first.normalizer
        for segment, encoding in zip(batch, found, strict=True):
            lost = 0
            if self._lost:
                data = (normalizer.normalize_str(segment.text) if normalizer else segment.text).encode()
                lost = len(data) - len(data.translate(None, self._lost))
            yield Encoded(segment, np.asarray(encoding.ids, dtype=np.uint32), lost)
