"""Texts that begin alike, read by a causal model together: the prefix that they share is computed once.

Rows are sorted, so that those with a common beginning are neighbours, and cut into bundles. A bundle is a prefix tree
in preorder: each distinct beginning is one position, which sees its ancestors and itself and stands at its own depth.
Of BLiMP's tokens 65 % remain.

Shapes: R rows, S tokens of all rows, F positions of all bundles, B bundles of a batch, T positions of a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.base.types import Ints
from tutelage.evaluation.benchmarks.items import TokenRows
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.signal import DenseSignal
from tutelage.teaching.teachers import Ensemble

BUNDLE = 48
"""Positions of a bundle unless one row is longer: more share more and attend to more for nothing."""
TOLERANCE = 1e-4
"""Difference, relative to the largest hidden value, up to which a model is held to read shared prefixes rightly."""


@dataclass(frozen=True)
class Bundles:
    """The prefix trees of many rows, end to end."""

    place_F: Ints
    """Where a position's token stands in `TokenRows.tokens_S`."""
    depth_F: Ints
    """Tokens before it in its row."""
    starts: Ints
    """Where each bundle begins, with F appended."""
    position_S: Ints
    """The position that has read a row up to and with a token; -1 where that is never asked."""


def nodes(rows: TokenRows) -> Ints:
    """Return for each token the place of the first token with the same beginning, itself included, `(S,)`.

    Depth by depth, rows are grouped by the group of their previous token and their present one.
    """
    node_S = np.arange(len(rows.tokens_S))
    group_R = np.zeros(len(rows.lengths_R), dtype=np.int64)
    vocabulary = int(rows.tokens_S.max(initial=0)) + 1
    for depth in range(int(rows.lengths_R.max(initial=0))):
        deep = np.flatnonzero(rows.lengths_R > depth)
        place = rows.starts_R[deep] + depth
        keys = group_R[deep] * vocabulary + rows.tokens_S[place]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        group_R[deep] = group
        node_S[place] = place[first[group]]
    return node_S


def bundle(rows: TokenRows, node_S: Ints, widths_R: Ints, size: int = BUNDLE) -> Bundles:
    """Cut rows into bundles, with `node_S` from `nodes`.

    Args:
        widths_R: tokens of each row to read, from its first; at least one row has some.
        size: positions of a bundle, if its rows are no longer; 0 keeps every row by itself.
    """
    width = int(widths_R.max())
    inside = np.arange(width) < widths_R[:, None]
    node_RT = np.where(inside, node_S[np.where(inside, rows.starts_R[:-1, None] + np.arange(width), 0)], -1)
    order = np.lexsort(node_RT.T[::-1])
    order = order[widths_R[order] > 0]
    sorted_RT = node_RT[order]
    agree = (sorted_RT[1:] == sorted_RT[:-1]) & (sorted_RT[1:] >= 0)
    shared = np.concatenate([[0], np.logical_and.accumulate(agree, axis=1).sum(axis=1)])
    shared, starts = _cut(shared[: len(order)], widths_R[order], size)
    fresh = widths_R[order] - shared
    row = np.repeat(np.arange(len(order)), fresh)
    depth_F = np.arange(len(row)) - np.repeat(np.cumsum(fresh) - fresh, fresh) + shared[row]
    place_F = rows.starts_R[order][row] + depth_F
    position_S = np.full(len(rows.tokens_S), -1)
    position_S[node_S[place_F]] = np.arange(len(row))
    return Bundles(place_F, depth_F, starts, position_S[node_S])


def _cut(shared: Ints, widths: Ints, size: int) -> tuple[Ints, Ints]:
    """Begin a bundle where the next row would not fit; its first row shares nothing.

    Rows longer than a bundle leave half a bundle for those that begin like them, up to the longest row of all: were
    every bundle as large as that, one long row among short ones would make all of them attend to it for nothing.
    """
    kept, starts, total, filled, longest = shared.copy(), [0], 0, 0, 0
    widest = int(widths.max(initial=0))
    for index, (common, width) in enumerate(zip(shared.tolist(), widths.tolist(), strict=True)):
        longest = max(longest, width)
        room = max(size, min(widest, longest + size // 2)) if size else 0
        if filled and filled + width - common > room:
            kept[index] = common = 0
            starts.append(total)
            filled, longest = 0, width
        filled += width - common
        total += width - common
    return kept, np.array([*starts, total])


def ancestors(depth_BT: Tensor) -> Tensor:
    """Return which positions each position sees, `(B, T, T)`: itself, and those before it that nothing has left since.

    In preorder a subtree is contiguous: it ends where the depth falls back to that of its root.
    """
    T = depth_BT.shape[1]
    later = torch.ones(T, T, dtype=torch.bool, device=depth_BT.device).triu(1)
    deepest = depth_BT[:, None, :].masked_fill(~later, torch.iinfo(depth_BT.dtype).max)
    return (deepest.cummin(-1).values > depth_BT[:, :, None]).logical_and(later | later.new_ones(T).diag()).mT


def read_bundles(ensemble: Ensemble, tokens_BT: Tensor, depth_BT: Tensor, precision: str) -> DenseSignal:
    """Read bundles: the same as `Ensemble.signal` gives for every row of theirs by itself."""
    models = [model for model in ensemble.models if isinstance(model, LanguageModel)]
    mask = torch.zeros(depth_BT.shape[0], 1, *depth_BT.shape[1:], depth_BT.shape[1], device=depth_BT.device)
    mask.masked_fill_(~ancestors(depth_BT)[:, None], torch.finfo(mask.dtype).min)
    with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=precision == "bf16"):
        inputs = {"input_ids": tokens_BT, "attention_mask": mask, "use_cache": False}
        hidden = tuple(model.hf(**inputs, position_ids=depth_BT).logits for model in models)
    heads = tuple(model.head for model in models)
    return DenseSignal(hidden, heads, ensemble.shares, ensemble.combine)


def shares_prefixes(ensemble: Ensemble, length: int) -> bool:
    """Return whether the models read bundles as they read each row, tried on two rows of a length with half in common.

    Recurrent models do not, nor those with a window narrower than the row, or positions of their own making.
    """
    # RoBERTa's kind takes positions from the tokens themselves, and leaves the padding's out.
    if any(isinstance(model, LanguageModel) and model.first_position for model in ensemble.models):
        return False
    device = next(ensemble.parameters()).device
    half, rest = length // 2, length - length // 2
    one = torch.arange(length, device=device) % ensemble.vocab_size
    other = torch.cat([one[:half], (one[half:] + length) % ensemble.vocab_size])
    depth = torch.arange(length, device=device)
    try:
        bundle, depths = torch.cat([one, other[half:]]), torch.cat([depth, depth[half:]])
        shared = read_bundles(ensemble, bundle[None], depths[None], "fp32")
    except Exception:  # each architecture refuses in its own way what it does not know
        return False
    plain = ensemble.dense_signal(torch.stack([one, other]))
    return all(
        found.shape[1] == length + rest
        and bool((found[0] - torch.cat([rows[0], rows[1, half:]])).abs().max() <= TOLERANCE * rows.abs().max())
        for found, rows in zip(shared.hidden, plain.hidden, strict=True)
    )
