"""Batches are functions of integers: nothing else may change them."""

import numpy as np
import pytest
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE, BatchSource, Masking

MASKING = Masking(rate=0.3, mask_id=3, vocab_size=60, special_ids=(0, 1, 2, 3, 4, 5), seed=9)


def source(store, kind: str = "chunks", chunking: str = "fixed", masking: Masking | None = None, rows: int = 4, **more):
    settings = recipe.Rows(kind=kind, length=16, chunking=chunking, buckets=(8,))
    return BatchSource(store, settings, rows, seed=5, masking=masking, **more)


@pytest.mark.parametrize("kind", ["chunks", "examples"])
@pytest.mark.parametrize("masking", [None, MASKING])
def test_a_step_does_not_depend_on_history(store, kind, masking) -> None:
    forward, alone = source(store, kind, masking=masking), source(store, kind, masking=masking)
    for step in range(100):
        forward.batch(step)
    again, fresh = forward.batch(57), alone.batch(57)
    assert torch.equal(again.tokens_BT, fresh.tokens_BT)
    assert torch.equal(again.targets_BT, fresh.targets_BT)


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_an_epoch_shows_every_row_once(store, kind) -> None:
    batches = source(store, kind)
    count = batches.rows.count
    seen: list[int] = []
    step = 0
    while len(seen) < 3 * count:
        seen += batches.batch(step).rows_B.tolist()
        step += 1
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert seen[:count] != seen[count : 2 * count]


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_step_at_is_the_first_step_that_reaches_so_many_tokens(store, kind) -> None:
    batches = source(store, kind)
    read = np.cumsum([batches.batch(step).token_count for step in range(120)])
    assert read[-1] > 2 * batches.tokens_per_epoch
    for tokens in (1, 63, 64, 65, 1000, batches.tokens_per_epoch, batches.tokens_per_epoch + 1, 2500, int(read[-1])):
        assert batches.step_at(tokens) == np.argmax(read >= tokens) + 1


def test_fixed_chunks_cover_the_text(store) -> None:
    rows = torch.cat([batch.tokens_BT for batch in source(store, shuffle=False).once()])
    assert rows.flatten().tolist() == store.tokens[: rows.numel()].tolist()


def test_epoch_offset_shifts_all_chunks_alike(store) -> None:
    chunks = source(store, chunking="epoch_offset").rows
    starts = set()
    for epoch in range(40):
        row = chunks.row(3, epoch)
        start = next(s for s in range(48, 64) if np.array_equal(store.tokens[s : s + 16], row))
        assert np.array_equal(chunks.row(7, epoch), store.tokens[start + 64 : start + 80])
        starts.add(start)
    assert len(starts) > 8


def test_random_chunks_begin_within_a_length_of_their_place(store) -> None:
    chunks = source(store, chunking="random").rows
    assert chunks.count == len(store) // 16 - 1  # as in BabyLlama's dataset
    offsets = set()
    for epoch in range(60):
        row = chunks.row(3, epoch)
        offsets.add(next(o for o in range(16) if np.array_equal(store.tokens[48 + o : 64 + o], row)))
    assert len(offsets) > 10


def test_examples_are_texts_padded_to_their_bucket(store) -> None:
    for batch in source(store, "examples").once():
        assert batch.tokens_BT.shape[1] in (8, 16)
        for tokens, targets, length in zip(batch.tokens_BT, batch.targets_BT, batch.lengths_B, strict=True):
            assert (tokens[length:] == 0).all()
            assert targets[: length - 1].tolist() == tokens[1:length].tolist()
            assert (targets[length - 1 :] == IGNORE).all()
            if batch.tokens_BT.shape[1] == 16:
                assert length > 8


def test_masks_are_keyed_by_epoch_and_row(store) -> None:
    row = store.tokens[:16].astype(np.int64)
    assert np.array_equal(MASKING.hide(row, 2, 7)[0], MASKING.hide(row, 2, 7)[0])
    assert not np.array_equal(MASKING.hide(row, 2, 7)[1], MASKING.hide(row, 3, 7)[1])


def test_masking_rates() -> None:
    row = np.full(100_000, 30)
    hidden, targets = MASKING.hide(row, 0, 0)
    chosen = targets != IGNORE
    assert chosen.mean() == pytest.approx(0.3, abs=0.01)
    assert (hidden[chosen] == 3).mean() == pytest.approx(0.8, abs=0.01)
    assert (hidden[chosen] == 30).mean() == pytest.approx(0.1, abs=0.01)
    assert (hidden[~chosen] == 30).all()


def test_special_tokens_are_never_hidden() -> None:
    hidden, targets = MASKING.hide(np.arange(6), 0, 0)
    assert hidden.tolist() == list(range(6))
    assert (targets == IGNORE).all()


def test_too_small_a_corpus_is_named(store) -> None:
    with pytest.raises(UserError, match=r"2000 tokens.*4096"):
        BatchSource(store, recipe.Rows(length=4096), 4, seed=0)


def test_split_keeps_everything(store) -> None:
    batch = source(store, "examples", rows=7).batch(3)
    parts = list(batch.split(3))
    assert torch.equal(torch.cat([part.tokens_BT for part in parts]), batch.tokens_BT)
    assert torch.equal(torch.cat([part.lengths_B for part in parts]), batch.lengths_B)
