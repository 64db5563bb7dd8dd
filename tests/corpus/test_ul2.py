"""Mixtures of denoisers: rows keep their length, lose no text but their end, and are functions of integers."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.corpus.ul2 import Mixture, mixture_of, span_count

SENTINELS = tuple(range(1000, 1400))
SHORT, LONG, DENSE = (0.15, 3.0), (0.15, 64.0), (0.5, 3.0)


def mixture(shares=(0.0, 0.0, 1.0), denoisers=(SHORT,), seed: int = 9) -> Mixture:
    return Mixture(shares, denoisers, SENTINELS, seed)


def source(store, kind: str = "chunks", rows: int = 4, shares=(0.3, 0.3, 0.4), **more) -> BatchSource:
    settings = recipe.Rows(kind=kind, length=16, buckets=(8,))
    return BatchSource(store, settings, rows, seed=5, mixture=mixture(shares, (SHORT, DENSE)), **more)


def restored(row_T: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Put the spans of a row back, token by token; return the text, which of it was hidden, and the spans' lengths."""
    second = row_T.index(SENTINELS[0], row_T.index(SENTINELS[0]) + 1)
    spans: dict[int, list[int]] = {}
    for token in row_T[second:]:
        if token in SENTINELS:
            last = token
            spans[last] = []
        else:
            spans[last].append(token)
    assert list(spans) == list(SENTINELS[: len(spans)])  # in order, each once
    assert spans.pop(last) == []  # the last one only closes
    text, hidden = [], []
    for token in row_T[:second]:
        found = spans.pop(token, None)
        text += [token] if found is None else found
        hidden += [0] if found is None else [1] * len(found)
        assert found is None or found
    assert not spans
    return text, hidden, second


@pytest.mark.parametrize("denoiser", [SHORT, LONG, DENSE, (0.5, 1.0), (0.9, 9.0), (0.01, 1.0), (0.15, 1000.0)])
@pytest.mark.parametrize("size", [5, 6, 7, 8, 15, 16, 17, 64, 129, 500])
def test_the_text_can_be_put_together_again(denoiser, size) -> None:
    mixed, row = mixture(denoisers=(denoiser,)), np.arange(100, 100 + size)
    for number in range(50):
        tokens, asked_from = mixed.rewrite(row, 0, number)
        assert len(tokens) == size
        text, hidden, second = restored(tokens.tolist())
        spans = span_count(size, *denoiser)
        assert text == row[: size - 2 * spans - 1].tolist()
        assert asked_from == second + 1
        assert sum(hidden) + spans == size - asked_from  # every hidden token and every later sentinel is asked for
        # Spans never touch, and something is left to read.
        assert np.count_nonzero(np.diff([0, *hidden]) == 1) == spans >= 1
        assert sum(hidden) < len(hidden)


def test_rows_without_room_stay_as_they_are() -> None:
    for size in (2, 3, 4):
        tokens, asked_from = mixture().rewrite(np.arange(size), 0, 0)
        assert tokens.tolist() == list(range(size))
        assert asked_from == 1


@pytest.mark.parametrize(("rate", "mean"), [SHORT, DENSE, (0.3, 8.0)])
def test_rates_and_lengths_hold(rate, mean) -> None:
    text, hidden, _ = restored(mixture(denoisers=((rate, mean),)).rewrite(np.arange(500) + 2000, 0, 0)[0].tolist())
    assert sum(hidden) / len(text) == pytest.approx(rate, abs=0.005)
    assert sum(hidden) / span_count(500, rate, mean) == pytest.approx(mean, rel=0.03)


def test_every_place_is_hidden_alike() -> None:
    """Spans lie anywhere, also at both ends; only the very ends, which no span reaches from two sides, are rarer."""
    mixed, row = mixture(denoisers=((0.3, 2.0),)), np.arange(100, 140)
    places = np.mean([restored(mixed.rewrite(row, 0, number)[0].tolist())[1] for number in range(4000)], axis=0)
    assert places.mean() == pytest.approx(0.3, abs=0.02)
    assert (abs(places[3:-3] - 0.3) < 0.06).all()
    assert places[[0, -1]].min() > 0.1


def test_kinds_are_drawn_by_their_shares() -> None:
    mixed, row = mixture((0.6, 0.2, 0.2), (SHORT, LONG)), np.arange(100, 228)
    kinds: Counter[str] = Counter()
    prefixes = []
    for number in range(5000):
        tokens, asked_from = mixed.rewrite(row, 1, number)
        if SENTINELS[0] in tokens:
            kinds[f"{max(tokens) - SENTINELS[0]} spans"] += 1
        else:
            kinds["whole" if asked_from == 1 else "prefix"] += 1
            prefixes += [asked_from] if asked_from > 1 else []
    assert kinds["whole"] / 5000 == pytest.approx(0.6 + 0.2 / 127, abs=0.03)
    assert kinds["prefix"] / 5000 == pytest.approx(0.2, abs=0.03)
    assert kinds[f"{span_count(128, *SHORT)} spans"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert kinds[f"{span_count(128, *LONG)} spans"] / 5000 == pytest.approx(0.1, abs=0.02)
    # A prefix may have any length that leaves a token to predict.
    assert np.mean(prefixes) == pytest.approx(64.5, abs=4)
    assert (min(prefixes), max(prefixes)) == (2, 127)


def test_draws_follow_from_seed_epoch_and_row() -> None:
    row = np.arange(100, 164)

    def rows(seed: int, epoch: int) -> list[list[int]]:
        return [mixture(seed=seed).rewrite(row, epoch, number)[0].tolist() for number in range(8)]

    assert rows(9, 2) == rows(9, 2)
    assert rows(9, 2) != rows(9, 3)
    assert rows(9, 2) != rows(8, 2)
    assert len({tuple(one) for one in rows(9, 2)}) == 8


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_batches_ask_for_the_next_token_from_a_place_on(store, kind) -> None:
    plain = BatchSource(store, recipe.Rows(kind=kind, length=16, buckets=(8,)), 4, seed=5)
    mixed = source(store, kind)
    changed = 0
    for step in range(60):
        batch, before = mixed.batch(step), plain.batch(step)
        assert batch.rewritten
        assert torch.equal(batch.rows_B, before.rows_B)
        lengths = batch.lengths_B if batch.lengths_B is not None else torch.full((len(batch.rows_B),), 16)
        for b, length in enumerate(lengths.tolist()):
            text = plain.rows.row(int(batch.rows_B[b]), int(batch.epochs_B[b]))
            tokens, asked_from = mixed.mixture.rewrite(text, int(batch.epochs_B[b]), int(batch.rows_B[b]))
            width = batch.tokens_BT.shape[1]
            assert batch.tokens_BT[b].tolist() == [*tokens, *[0] * (width - length)]
            wanted = [tokens[t + 1] if asked_from <= t + 1 < length else IGNORE for t in range(width)]
            assert batch.targets_BT[b].tolist() == wanted
            assert (batch.targets_BT[b] != IGNORE).any()
            changed += tokens.tolist() != text.tolist()
    assert 0 < changed < 240


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_neither_history_nor_the_batch_decides(store, kind) -> None:
    forward, alone, small = source(store, kind), source(store, kind), source(store, kind, rows=3, shuffle=False)
    for step in range(100):
        forward.batch(step)
    again, fresh = forward.batch(57), alone.batch(57)
    assert torch.equal(again.tokens_BT, fresh.tokens_BT)
    assert torch.equal(again.targets_BT, fresh.targets_BT)
    by_row = {}
    for batch in small.once(epoch=int(fresh.epochs_B[0])):
        for row, tokens, targets in zip(batch.rows_B.tolist(), batch.tokens_BT, batch.targets_BT, strict=True):
            by_row[row] = tokens.tolist(), targets.tolist()
    for b, row in enumerate(fresh.rows_B.tolist()):
        assert by_row[row] == (fresh.tokens_BT[b].tolist(), fresh.targets_BT[b].tolist())
    assert forward.varies
    assert not forward.shifts  # the same text, read in another way


def tokenizer(sentinels: int) -> SimpleNamespace:
    ids = {f"<extra_id_{number}>": 7 * number + 5 for number in range(sentinels)}
    return SimpleNamespace(backend_tokenizer=SimpleNamespace(token_to_id=ids.get))


def test_sentinels_are_looked_up_and_suffice() -> None:
    settings = recipe.Ul2(denoisers=(recipe.Denoiser(), recipe.Denoiser(rate=0.5)))
    needed = span_count(128, 0.5, 3.0) + 1
    made = mixture_of(settings, tokenizer(needed), 128, 0)
    assert made == Mixture((0.6, 0.2, 0.2), ((0.15, 3.0), (0.5, 3.0)), tuple(7 * n + 5 for n in range(needed)), 0)
    with pytest.raises(UserError, match=rf"has no '<extra_id_{needed - 1}>': put '<extra_id_0\.\.{needed - 1}>'"):
        mixture_of(settings, tokenizer(needed - 1), 128, 0)
    # Shorter rows never need more.
    assert all(span_count(size, 0.5, 3.0) < needed for size in range(2, 129))
    # Rows without spans need none.
    assert mixture_of(recipe.Ul2(causal=0.5, prefix=0.5, span=0), tokenizer(0), 128, 0).sentinel_ids == ()
