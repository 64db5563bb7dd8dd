"""Log-probabilities of many texts, exact and fast, from causal and masked models.

Work is cut into batches of a number of tokens, sorted by length so that little is padding. A causal model needs no mask
for it: what stands to the right is never seen. What rows have in common at their beginning (a minimal pair up to the
word that matters) is read once (`prefixes.py`), and its log-probabilities are computed once: the output layer, the
widest product of a small model, runs only where a number is new. A masked model reads a copy of its row for every
scored token (`masked.py`).

Logits and their normalisation are in float32 whatever the model runs in; sums over a row are in float64.

Shapes: N items, R distinct rows, S tokens of all rows together, B rows of a batch, T tokens, M scored positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tutelage.base.errors import UserError
from tutelage.base.progress import progress
from tutelage.base.types import Bools, Floats, Ints, Precision
from tutelage.evaluation.benchmarks.conventions import Convention, MaskedRules, Reduction
from tutelage.evaluation.benchmarks.items import Item, TokenRows, encode, keep_ends
from tutelage.evaluation.likelihood.batching import batch_size, batches, places, target_log_probs, whole_float32
from tutelage.evaluation.likelihood.frozen import FrozenProducts
from tutelage.evaluation.likelihood.masked import masked_log_probs
from tutelage.evaluation.likelihood.prefixes import BUNDLE, Bundles, bundle, nodes, read_bundles, shares_prefixes
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble

Values = NDArray[np.float32]
WHOLE_LOGITS = 1 << 26
"""Most logits of a batch of a model that is not cut, which gives those of every position at once: 256 MiB."""


@dataclass(frozen=True)
class Likelihood:
    """What a model says of N items."""

    sum_N: Floats
    """Log-probability of each item's scored tokens, in nats; 0 where none is scored (an empty completion, or under the
    rules of 2025 a text of a single token)."""
    tokens_N: Ints
    """How many tokens were scored."""

    def reduced(self, reduction: Reduction) -> Floats:
        """Return the sum, or the mean over tokens, `(N,)` nats; the mean of no token is NaN."""
        if reduction == "sum":
            return self.sum_N
        with np.errstate(invalid="ignore"):
            return self.sum_N / self.tokens_N


def log_probs(
    ensemble: Ensemble,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    convention: Convention,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
    label: str = "scoring",
    cut: bool = False,
) -> Likelihood:
    """Score items by a year's rules.

    Args:
        batch_tokens: tokens of a batch, padding included; changes the speed and nothing else. By default what suits
            the device.
        precision: `bf16` runs the models under autocast.
        cut: leave the beginning of a text out where the models have no positions for all of it.

    Raises:
        UserError: a text longer than the models' learned positions, or one that the tokenizer cannot write.
    """
    rows, limit = encode(tokenizer, items, ensemble.kind, convention), row_limit(ensemble)
    rows = keep_ends(rows, limit) if cut and limit is not None else rows
    texts = [item.prefix + item.completion for item in items]
    return score_rows(ensemble, tokenizer, rows, texts, convention.masked, batch_tokens, precision, label)


def score_rows(
    ensemble: Ensemble,
    tokenizer: PreTrainedTokenizerFast,
    rows: TokenRows,
    texts: Sequence[str],
    rules: MaskedRules,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
    label: str = "scoring",
) -> Likelihood:
    """Score token rows that somebody else has made; otherwise as `log_probs`.

    `texts` are what each item is called in a message. A row longer than the models' learned positions is refused, and
    so are log-probabilities that are not finite.
    """
    _check(ensemble, rows, tokenizer, texts)
    size = batch_size(next(ensemble.parameters()).device.type, batch_tokens)
    if any(isinstance(model, LanguageModel) and model.whole for model in ensemble.models):
        size = min(size, max(1, WHOLE_LOGITS // ensemble.vocab_size))
    with torch.inference_mode(), whole_float32():
        if ensemble.kind == "causal":
            with FrozenProducts(ensemble.parameters()):
                values_S = _causal(ensemble, rows, size, precision, label)
        else:
            values_S = masked_log_probs(ensemble, rows, tokenizer, rules, size, precision, label)
    row_S = np.repeat(np.arange(len(rows.lengths_R)), rows.lengths_R)[rows.scored_S]
    refuse_broken(np.isin(rows.row_N, row_S[~np.isfinite(values_S[rows.scored_S])]), texts)
    sum_R = np.bincount(row_S, weights=values_S[rows.scored_S], minlength=len(rows.lengths_R))
    tokens_R = np.bincount(row_S, minlength=len(rows.lengths_R))
    return Likelihood(sum_R.astype(np.float64)[rows.row_N], tokens_R.astype(np.int64)[rows.row_N])


def refuse_broken(broken_N: Bools, texts: Sequence[str]) -> None:
    """Refuse to score by log-probabilities that are not finite: a NaN may pass for the best option.

    Raises:
        UserError: some texts' log-probabilities are NaN or infinite.
    """
    if broken_N.any():
        raise UserError(
            f"the model's log-probabilities of {int(broken_N.sum()):,} of {len(broken_N):,} texts are not finite (the "
            f"first: {texts[int(np.argmax(broken_N))][:80]!r}): its weights are damaged or too large; export it again "
            "from a checkpoint, or score in fp32"
        )


def position_limit(ensemble: Ensemble) -> int | None:
    """Return how many tokens the models can place, or None where positions are rotations and have no end."""
    limits = [model.positions for model in ensemble.models if isinstance(model, LanguageModel)]
    return min((limit for limit in limits if limit is not None), default=None)


def row_limit(ensemble: Ensemble) -> int | None:
    """Return how many tokens a row may have: the last of a causal one is predicted and never read."""
    limit = position_limit(ensemble)
    return limit if limit is None else limit + (ensemble.kind == "causal")


def _check(ensemble: Ensemble, rows: TokenRows, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
    limit, length_N = row_limit(ensemble), rows.lengths_R[rows.row_N]
    if limit is not None and (length_N > limit).any():
        first = int(np.argmax(length_N > limit))
        raise UserError(
            f"item {first} has {length_N[first]} tokens and the model has positions for {position_limit(ensemble)}: "
            f"{texts[first][:80]!r}; shorten it, or train with longer rows"
        )
    if (largest := int(rows.tokens_S.max(initial=0))) >= ensemble.vocab_size:
        raise UserError(
            f"the tokenizer writes {tokenizer.convert_ids_to_tokens(largest)!r} (token {largest}), and the model knows "
            f"{ensemble.vocab_size} tokens: score with the tokenizer the model was trained with"
        )


def _causal(ensemble: Ensemble, rows: TokenRows, batch_tokens: int, precision: Precision, label: str) -> Values:
    """Log-probability of each token given those before it, `(S,)`; computed where it is scored."""
    node_S = nodes(rows)
    # The first row that begins so may not score what a later one does.
    source_S = np.where(rows.scored_S[node_S], node_S, np.arange(len(node_S)))
    target_M = np.flatnonzero(rows.scored_S & (source_S == np.arange(len(source_S))))
    if not len(target_M):
        return np.zeros(len(node_S), dtype=np.float32)
    # As many inputs as the last wanted position has tokens before it: a row's last token is never one.
    row_M = np.repeat(np.arange(len(rows.lengths_R)), rows.lengths_R)[target_M]
    widths_R = np.zeros(len(rows.lengths_R), dtype=np.int64)
    np.maximum.at(widths_R, row_M, target_M - rows.starts_R[row_M])
    bundles, shared = _bundles(ensemble, rows, node_S, widths_R)
    asked_M = bundles.position_S[target_M - 1]
    target_M = target_M[np.argsort(asked_M, kind="stable")]
    first_F = np.searchsorted(np.sort(asked_M), np.arange(len(bundles.place_F) + 1))
    lengths, counts_F = np.diff(bundles.starts), np.diff(first_F)
    device = next(ensemble.parameters()).device
    values_S = torch.zeros(len(node_S), device=device)
    with progress(label, float(lengths.sum()), "tokens") as tracker:
        for batch_B in batches(lengths, batch_tokens):
            position_BT, inside_BT = places(bundles.starts[batch_B], lengths[batch_B])
            tokens_BT = torch.from_numpy(np.where(inside_BT, rows.tokens_S[bundles.place_F[position_BT]], 0)).to(device)
            if shared:
                depth_BT = np.where(inside_BT, bundles.depth_F[position_BT], 0)
                signal = read_bundles(ensemble, tokens_BT, torch.from_numpy(depth_BT).to(device), precision)
            else:
                signal = ensemble.dense_signal(tokens_BT, None, precision)
            # Where rows part, several tokens are asked of one position.
            asked = np.where(inside_BT, counts_F[position_BT], 0).ravel()
            index_M = np.repeat(np.arange(asked.size), asked)
            nth_M = np.arange(len(index_M)) - np.repeat(np.cumsum(asked) - asked, asked)
            wanted_M = target_M[first_F[position_BT.ravel()[index_M]] + nth_M]
            values_S[torch.from_numpy(wanted_M).to(device)] = target_log_probs(
                signal, torch.from_numpy(index_M).to(device), torch.from_numpy(rows.tokens_S[wanted_M]).to(device)
            )
            tracker.advance(float(inside_BT.sum()))
    values: Values = values_S.cpu().numpy()[source_S]
    return values


def _bundles(ensemble: Ensemble, rows: TokenRows, node_S: Ints, widths_R: Ints) -> tuple[Bundles, bool]:
    """Bundle rows by prefixes, or leave each by itself where the models do not read bundles rightly; and say which."""
    longest = int(widths_R.max())
    shared = longest > 1 and shares_prefixes(ensemble, longest)
    size = min(BUNDLE, position_limit(ensemble) or BUNDLE) if shared else 0
    return bundle(rows, node_S, widths_R, size), shared
