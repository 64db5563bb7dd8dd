"""Rows read as trees give what each gives by itself; models that cannot branch are found out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from tutelage.evaluation.benchmarks.conventions import CONVENTIONS
from tutelage.evaluation.benchmarks.items import Item, encode
from tutelage.evaluation.likelihood.prefixes import ancestors, bundle, nodes, read_bundles, shares_prefixes

ODD = ["T", "T", "The", "The cats", "The cats sleep.", "The cats sleep.", "No.", ""]


def some_rows(world, texts):
    return encode(world.PLAIN, [Item(text) for text in texts], "causal", CONVENTIONS["2024"])


def parents(depths):
    """By hand: each position's parent is the last before it that is one less deep."""
    return [max((j for j in range(i) if depths[j] == d - 1), default=None) for i, d in enumerate(depths)]


@pytest.mark.parametrize("size", [0, 1, 8, 64, 10_000])
def test_every_row_is_a_path_of_its_bundle(world, size):
    rows = some_rows(world, ODD + world.TEXTS)
    found = bundle(rows, nodes(rows), rows.lengths_R, size)
    bundle_F = np.searchsorted(found.starts, np.arange(len(found.place_F)), side="right") - 1
    for begin, end in zip(rows.starts_R[:-1], rows.starts_R[1:], strict=True):
        position = int(found.position_S[end - 1])
        first = int(found.starts[bundle_F[position]])
        above = parents(found.depth_F[first : found.starts[bundle_F[position] + 1]].tolist())
        path, step = [], position - first
        while step is not None:
            path.append(int(rows.tokens_S[found.place_F[first + step]]))
            step = above[step]
        assert path[::-1] == rows.tokens_S[begin:end].tolist()


def test_what_bundles_save(world):
    rows = some_rows(world, world.TEXTS)
    alone, small, whole = (bundle(rows, nodes(rows), rows.lengths_R, size) for size in (0, 40, 10_000))
    distinct = {tuple(rows.tokens_S[a:i]) for a, b in zip(rows.starts_R, rows.starts_R[1:], strict=False)
                for i in range(a + 1, b + 1)}  # fmt: skip
    assert len(alone.place_F) == len(rows.tokens_S)
    assert len(whole.place_F) == len(distinct) < len(small.place_F) < len(rows.tokens_S)
    assert np.diff(small.starts).max() <= max(40, rows.lengths_R.max())
    assert sorted(np.diff(alone.starts)) == sorted(rows.lengths_R)


def test_one_long_row_does_not_widen_the_others_bundles(world):
    rows = some_rows(world, [*world.TEXTS, " ".join(world.TEXTS)])
    found = bundle(rows, nodes(rows), rows.lengths_R, 8)
    sizes, lengths = sorted(np.diff(found.starts)), sorted(rows.lengths_R)
    assert lengths[-1] <= sizes[-1] <= lengths[-1] + 4
    assert sizes[-2] <= lengths[-2] + 4 < lengths[-1]


def test_a_position_sees_its_ancestors_and_itself():
    depths = [[0, 1, 2, 3, 2, 3, 1, 0, 1], [0, 1, 1, 2, 2, 0, 0, 0, 0]]
    seen = ancestors(torch.tensor(depths))
    for row, depth in enumerate(depths):
        above = parents(depth)
        for i in range(len(depth)):
            expected, step = set(), i
            while step is not None:
                expected.add(step)
                step = above[step]
            assert set(seen[row, i].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_a_tree_reads_like_its_rows(world, architecture):
    ensemble = world.as_ensemble(world.hugging_face(architecture, len(world.PLAIN)), vocab_size=len(world.PLAIN))
    one, other = [5, 6, 7, 8, 9], [5, 6, 20, 21, 22]
    tree = read_bundles(ensemble, torch.tensor([[*one, *other[2:]]]), torch.tensor([[0, 1, 2, 3, 4, 2, 3, 4]]), "fp32")
    plain = ensemble.dense_signal(torch.tensor([one, other])).hidden[0]
    torch.testing.assert_close(tree.hidden[0][0], torch.cat([plain[0], plain[1, 2:]]), atol=1e-5, rtol=1e-5)
    assert shares_prefixes(ensemble, 30)


def recurrent(world):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=len(world.PLAIN), hidden_size=32, num_hidden_layers=2, state_size=4)
    return MambaForCausalLM(config).eval()


def test_a_recurrent_model_reads_every_row_by_itself(world):
    hf = recurrent(world)
    assert not shares_prefixes(world.as_ensemble(hf, vocab_size=len(world.PLAIN)), 30)
    found = world.score(hf, world.PLAIN, world.ITEMS, "2025", batch_tokens=64).sum_N
    for item, total in zip(world.ITEMS, found, strict=True):
        ids = world.plain_ids(item.completion)
        assert total == pytest.approx(world.slow_causal([hf], ids, list(range(1, len(ids)))), abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_odd_rows_score_as_each_by_itself(world, architecture, batch_tokens):
    hf, items = world.hugging_face(architecture, len(world.PLAIN)), [Item(text) for text in ODD]
    together = world.score(hf, world.PLAIN, items, "2024", batch_tokens=batch_tokens).sum_N
    alone = [world.score(hf, world.PLAIN, [item], "2024").sum_N[0] for item in items]
    assert world.score(hf, world.PLAIN, [Item(""), Item("T")], "2025").sum_N.tolist() == [0, 0]
    assert world.score(hf, world.PLAIN, [Item("")], "2025").sum_N.tolist() == [0]
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-6)
