"""Rows that are read whole: which, what is hidden, and what is asked."""

import numpy as np
import pytest
import torch

from tutelage import recipe
from tutelage.corpus.batches import IGNORE, BatchSource, Hybrid, Masking

MASK = 3
SPECIAL = (0, 1, 2, 3, 4, 5)


class Store:
    tokens = np.random.default_rng(0).integers(6, 60, 4000).astype(np.uint16)
    document_starts = np.arange(0, 4000, 37)


def hybrid(share: float = 0.5, **settings) -> Hybrid:
    return Hybrid(share, Masking(0.3, MASK, 60, SPECIAL, seed=1, **settings), (True, True))


def source(what: Hybrid, kind: str = "chunks") -> BatchSource:
    return BatchSource(Store(), recipe.Rows(kind=kind, length=16, buckets=(8,)), 32, seed=0, hybrid=what)


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_hidden_tokens_are_asked_for_at_the_place_before(kind: str) -> None:
    rows = source(hybrid(), kind)
    plain = BatchSource(Store(), recipe.Rows(kind=kind, length=16, buckets=(8,)), 32, seed=0)
    for step in range(8):
        found, text = rows.batch(step), plain.batch(step)
        assert torch.equal(found.rows_B, text.rows_B)
        for b in range(len(found.rows_B)):
            targets, tokens, before = found.targets_BT[b], found.tokens_BT[b], text.tokens_BT[b]
            if not found.whole_B[b]:
                assert torch.equal(tokens, before)
                assert torch.equal(targets, text.targets_BT[b])
                continue
            asked = (targets != IGNORE).nonzero().squeeze(1)
            assert torch.equal(targets[asked], before[asked + 1])
            changed = (tokens != before).nonzero().squeeze(1)
            assert set(changed.tolist()) <= set((asked + 1).tolist())
            assert tokens[0] == before[0]


def test_shares_and_rates_are_kept() -> None:
    rows = source(hybrid(0.25, final_rate=0.1, passes=3))
    for epoch, rate in enumerate((0.3, 0.2, 0.1, 0.1)):
        batches = list(rows.once(epoch))
        whole = torch.cat([batch.whole_B for batch in batches])
        assert float(whole.float().mean()) == pytest.approx(0.25, abs=0.09)
        asked = torch.cat([(batch.targets_BT[:, :-1] != IGNORE)[batch.whole_B] for batch in batches]).float()
        assert float(asked.mean()) == pytest.approx(rate, abs=0.05)


def test_every_share_draws_the_same_masks() -> None:
    few, all_ = source(hybrid(0.3)).batch(3), source(hybrid(1.0)).batch(3)
    assert all_.whole_B.all()
    assert 0 < few.whole_B.sum() < 32
    assert torch.equal(few.tokens_BT[few.whole_B], all_.tokens_BT[few.whole_B])


def test_rows_change_from_pass_to_pass_and_repeat_by_themselves() -> None:
    rows, again = source(hybrid()), source(hybrid())
    assert rows.varies
    one, other = next(rows.once(0)), next(rows.once(1))
    assert not torch.equal(one.whole_B, other.whole_B)
    again.batch(5)
    for step in (0, 7, 3):
        for name in ("tokens_BT", "targets_BT", "whole_B", "taught_B"):
            assert torch.equal(getattr(rows.batch(step), name), getattr(again.batch(step), name))
