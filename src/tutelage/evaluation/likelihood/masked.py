"""Log-probabilities from masked models: each scored token is masked in a copy of its row.

Copies are what costs: a text of n tokens is read n times. So no position is padding (only copies of one length share a
batch), what is equal is read once (the two copies of a minimal pair that mask the very token in which it differs, texts
that occur twice), and the output layer runs at the masked position alone.

Shapes: S tokens of all rows together, M copies, C distinct copies of one length, B of them in a batch, T tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Ints
from tutelage.evaluation.benchmarks.conventions import MaskedRules
from tutelage.evaluation.benchmarks.items import TokenRows
from tutelage.evaluation.likelihood.batching import target_log_probs
from tutelage.evaluation.likelihood.frozen import FrozenProducts
from tutelage.teaching.teachers import Ensemble

Work = TypeVar("Work")
Done = TypeVar("Done")

AHEAD = 2
"""Batches handed out to each thread; more would only take memory."""


@dataclass(frozen=True)
class Copies:
    """Distinct copies of one length: what is read, `tokens_CT`, and what is asked of it."""

    tokens_CT: Ints
    copy_M: Ints
    """The copy that each target is read from, ascending."""
    column_M: Ints
    """The position of that copy that predicts it."""
    target_M: Ints
    """The target's place in `TokenRows.tokens_S`."""

    def parts(self, batch_tokens: int) -> Iterator[Copies]:
        """Cut into batches of about so many tokens."""
        count, T = self.tokens_CT.shape
        step = max(1, batch_tokens // T)
        for begin in range(0, count, step):
            some = slice(*np.searchsorted(self.copy_M, [begin, begin + step]))
            tokens_BT, copy_M = self.tokens_CT[begin : begin + step], self.copy_M[some] - begin
            yield Copies(tokens_BT, copy_M, self.column_M[some], self.target_M[some])


def masked_log_probs(
    ensemble: Ensemble, rows: TokenRows, tokenizer: PreTrainedTokenizerFast, rules: MaskedRules, batch_tokens: int,
    precision: str, label: str,
) -> NDArray[np.float32]:  # fmt: skip
    """Return the log-probability of each scored token given the others, `(S,)` nats; 0 where none is scored.

    A tokenizer without a mask token is refused.
    """
    if tokenizer.mask_token_id is None:
        raise UserError("a masked model is scored by masking, and its tokenizer has no mask token: name one")
    device = next(ensemble.parameters()).device
    values_S = torch.zeros(len(rows.tokens_S), device=device)
    groups = list(copies(rows, int(tokenizer.mask_token_id), rules))
    products = FrozenProducts(ensemble.parameters())

    @contextmanager
    def inside() -> Iterator[None]:
        with torch.inference_mode(), products:
            yield

    def read(part: Copies) -> tuple[Copies, Tensor]:
        T = part.tokens_CT.shape[1]
        signal = ensemble.dense_signal(torch.from_numpy(part.tokens_CT).to(device), None, precision)
        index_M = torch.from_numpy(part.copy_M * T + part.column_M).to(device)
        return part, target_log_probs(signal, index_M, torch.from_numpy(rows.tokens_S[part.target_M]).to(device))

    with progress(label, float(sum(group.tokens_CT.size for group in groups)), "tokens") as tracker:
        parts = (part for group in groups for part in group.parts(batch_tokens))
        with closing(side_by_side(read, parts, device.type, inside)) as found:
            for part, values_M in found:
                values_S[torch.from_numpy(part.target_M).to(device)] = values_M
                tracker.advance(float(part.tokens_CT.size))
    values: NDArray[np.float32] = values_S.cpu().numpy()
    return values


def copies(rows: TokenRows, mask: int, rules: MaskedRules) -> Iterator[Copies]:
    """Yield the copies of each length, longest first: what does not fit in memory fails at once."""
    target_S = np.flatnonzero(rows.scored_S)
    row_S = np.repeat(np.arange(len(rows.lengths_R)), rows.lengths_R)[target_S]
    for T in np.unique(rows.lengths_R[row_S])[::-1].tolist():
        chosen = rows.lengths_R[row_S] == T
        target_M, start_M = target_S[chosen], rows.starts_R[row_S[chosen]]
        column_M = target_M - start_M
        place_MT = start_M[:, None] + np.arange(T)
        hidden_MT = place_MT == target_M[:, None]
        if rules.masking == "rest_of_word":
            assert rows.word_S is not None
            same_MT = rows.word_S[place_MT] == rows.word_S[target_M][:, None]
            hidden_MT |= same_MT & rows.scored_S[place_MT] & (place_MT > target_M[:, None])
        tokens_CT, copy_M = np.unique(np.where(hidden_MT, mask, rows.tokens_S[place_MT]), axis=0, return_inverse=True)
        if rules.logits == "before_mask":
            # Position 0 has none before it: the published code then reads index -1, the last of the row.
            column_M = (column_M - 1) % T
        order = np.argsort(copy_M, kind="stable")
        yield Copies(tokens_CT, copy_M[order], column_M[order], target_M[order])


def side_by_side(
    do: Callable[[Work], Done],
    batches: Iterable[Work],
    device: str,
    inside: Callable[[], AbstractContextManager[object]],
) -> Generator[Done]:
    """Work on batches, as many at once as torch has threads, and yield the results in order.

    Between a small model's products, threads hardly help each other; so each thread has a batch of its own, which is
    taken when it is needed. Any device but `cpu` does one after the other, in this thread. `inside` makes the context
    of each batch: such modes of torch belong to a thread.
    """

    def alone(batch: Work) -> Done:
        torch.set_num_threads(1)
        with inside():
            return do(batch)

    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1:
        for batch in batches:
            with inside():
                yield do(batch)
        return
    left, waiting = iter(batches), deque[Future[Done]]()
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                waiting.extend(pool.submit(alone, batch) for batch in islice(left, AHEAD * threads))
                while waiting:
                    found = waiting.popleft().result()
                    waiting.extend(pool.submit(alone, batch) for batch in islice(left, 1))
                    yield found
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        # Threads that torch starts later take the number that was set last.
        torch.set_num_threads(threads)
