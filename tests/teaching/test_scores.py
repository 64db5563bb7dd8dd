"""The scoring pass: numbers against plain softmaxes, the store, interruptions, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import IGNORE, BatchSource
from tutelage.models.logits import LOSS
from tutelage.teaching import scores as module
from tutelage.teaching.scores import FIELDS, Scores, _in_one_loop, compiled_measures, in_tiles, measures
from tutelage.teaching.teachers import Ensemble

CPU = torch.device("cpu")


def source(store, kind: str = "chunks", rows: int = 4) -> BatchSource:
    return BatchSource(store, recipe.Rows(kind=kind, length=16, buckets=(8,)), rows, seed=5)


@pytest.fixture
def sharp(make_model):
    model = make_model(seed=2)
    with torch.no_grad():
        model.weight_VD.mul_(8)  # distributions with a shape
    return Ensemble([model])


def opened(folder: Path, rows: BatchSource, model: Ensemble, **key: object) -> Scores:
    found = Scores(folder, {"tokens": "these", **key}, rows, lambda compiled: model, "fp32")
    found.create()
    found.open()
    return found


def built(folder: Path, rows: BatchSource, model: Ensemble) -> Scores:
    found = opened(folder, rows, model)
    assert found.build(CPU, 0, 1, lambda: False, "test")
    return found


def test_six_bytes_a_token() -> None:
    assert sum(field.bytes for field in FIELDS) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("N", "V"), [(1, 7), (37, 61), (500, 1003)])
def test_all_forms_equal_the_definitions(N: int, V: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS.tile, "cpu", 4 * 17 * V)
    torch.manual_seed(N)
    logits, targets = (5 * torch.randn(N, V)).to(dtype), torch.randint(0, V, (N,))
    log_p = F.log_softmax(logits.double(), -1)
    gold = log_p.gather(1, targets[:, None])
    expected = -gold.squeeze(1), 1 + (log_p > gold).sum(1), -(log_p.exp() * log_p).sum(1)
    for form in (measures, in_tiles, _in_one_loop):
        nll, rank, entropy = form(logits, targets)
        torch.testing.assert_close(nll.double(), expected[0], rtol=1e-5, atol=2e-5)
        assert torch.equal(rank, expected[1])
        torch.testing.assert_close(entropy.double(), expected[2], rtol=1e-5, atol=2e-5)


def test_equal_logits_give_the_target_the_best_rank() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert [int(measures(logits, torch.tensor([target]))[1]) for target in range(4)] == [3, 1, 1, 4]


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_every_token_of_every_row_is_scored(store, sharp, tmp_path: Path, kind: str) -> None:
    rows = source(store, kind)
    found = built(tmp_path / "scores", rows, sharp)
    seen = []
    for numbers, values in found.blocks(tokens=100):
        for place, row in enumerate(numbers.tolist()):
            tokens = torch.from_numpy(rows.rows.row(row, 0))[None]
            log_p = F.log_softmax(sharp.models[0].logits(tokens)[0, :-1].double(), -1)
            gold = log_p.gather(1, tokens[0, 1:, None]).squeeze(1)
            np.testing.assert_allclose(values["nll"][place], -gold.detach(), rtol=1e-3, atol=1e-3)
            assert values["rank"][place].tolist() == (1 + (log_p > gold[:, None]).sum(1)).tolist()
            entropy = -(log_p.exp() * log_p).sum(1).detach()
            np.testing.assert_allclose(values["entropy"][place], entropy, rtol=1e-3, atol=1e-3)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(rows.count))
    assert found.complete
    size = (tmp_path / "scores" / "signal.bin").stat().st_size
    assert size == 6 * rows.tokens_per_epoch


def test_an_interrupted_pass_ends_with_the_same_bytes(store, sharp, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(module.BATCH_TOKENS, "cpu", 16 * 7)
    built(tmp_path / "whole", source(store), sharp).close()
    calls = iter(range(100))
    found = opened(tmp_path / "parts", source(store), sharp)
    assert not found.build(CPU, 0, 1, lambda: next(calls) == 5, "test")
    assert not found.complete
    found.close()
    again = opened(tmp_path / "parts", source(store), sharp)
    assert 0 < again.store.filled.sum() < source(store).count
    assert again.build(CPU, 0, 1, lambda: False, "test")
    again.close()
    for name in ("signal.bin", "checksums.bin"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_processes_share_the_work(store, sharp, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(module.BATCH_TOKENS, "cpu", 16 * 7)
    found = opened(tmp_path / "scores", source(store), sharp)
    for rank in range(3):
        assert not found.complete
        found.build(CPU, rank, 3, lambda: False, "test")
    assert found.complete


def test_scores_of_other_text_or_tokenizer_are_refused(store, sharp, tmp_path: Path) -> None:
    opened(tmp_path / "scores", source(store), sharp, tokenizer="one").close()
    with pytest.raises(UserError, match=r"score store of another content:\n  tokenizer: 'one' there, 'two' now"):
        opened(tmp_path / "scores", source(store), sharp, tokenizer="two")


def test_damaged_scores_are_named(store, sharp, tmp_path: Path) -> None:
    built(tmp_path / "scores", source(store), sharp).close()
    data = bytearray((tmp_path / "scores" / "signal.bin").read_bytes())
    data[6 * 16 * 3 + 1] ^= 1
    (tmp_path / "scores" / "signal.bin").write_bytes(data)
    found = opened(tmp_path / "scores", source(store), sharp)
    with pytest.raises(UserError, match=r"the scores of row 3 are missing or do not fit their checksum; delete"):
        list(found.blocks())


def test_a_broken_model_is_told(store, sharp, tmp_path: Path) -> None:
    with torch.no_grad():
        sharp.models[0].weight_VD[3] = float("nan")
    with pytest.raises(UserError, match="predictions are not finite"):
        built(tmp_path / "scores", source(store), sharp)


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_a_subset_shows_each_of_its_rows_once_an_epoch(store, kind: str) -> None:
    whole = source(store, kind)
    only = np.arange(2, whole.count, 3)
    part = whole.with_rows(only)
    seen: list[int] = []
    step = 0
    while len(seen) < 2 * len(only):
        batch = part.batch(step)
        seen += batch.rows_B.tolist()
        step += 1
        row = int(batch.rows_B[0])
        assert batch.tokens_BT[0, : len(whole.rows.row(row, 0))].tolist() == whole.rows.row(row, 0).tolist()
    for epoch in range(2):
        assert sorted(seen[epoch * len(only) : (epoch + 1) * len(only)]) == only.tolist()
    assert seen[: len(only)] != seen[len(only) : 2 * len(only)]
    assert sorted(row for batch in part.once() for row in batch.rows_B.tolist()) == only.tolist()
    assert part.tokens_per_epoch == sum(batch.token_count for batch in part.once())
    assert whole.batch(3).rows_B.tolist() == source(store, kind).batch(3).rows_B.tolist()


@pytest.mark.parametrize("kind", ["chunks", "examples"])
def test_selected_targets_are_those_that_stay(store, kind: str) -> None:
    whole = source(store, kind)
    kept = np.random.default_rng(0).random(whole.tokens_per_epoch) < 0.3
    part = whole.with_rows(np.arange(whole.count), kept)
    starts = np.append(0, np.cumsum(whole.row_lengths))
    for step in range(30):
        before, after = whole.batch(step), part.batch(step)
        assert torch.equal(before.tokens_BT, after.tokens_BT)
        for place, row in enumerate(before.rows_B.tolist()):
            for position, target in enumerate(before.targets_BT[place].tolist()):
                length = int(whole.row_lengths[row])
                stays = position < length and kept[starts[row] + position]
                assert after.targets_BT[place, position] == (target if stays else IGNORE)


@pytest.mark.parametrize("rows", [[], [3, 3], [5, 4], [-1, 2], [0, 10**6]])
def test_a_subset_without_sense_is_refused(store, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rising order, none twice"):
        source(store).with_rows(np.array(rows, dtype=np.int64))


def test_a_long_pass_is_compiled_and_finds_the_same(store, sharp, make_model, tmp_path: Path, monkeypatch) -> None:
    plain = built(tmp_path / "plain", source(store), sharp)
    monkeypatch.setattr(module, "COMPILED_TOKENS", 0)
    asked = []

    def load(compiled: bool) -> Ensemble:
        asked.append(compiled)
        return sharp

    found = Scores(tmp_path / "compiled", {"tokens": "these"}, source(store), load, "fp32")
    found.create()
    found.open()
    assert found.build(CPU, 0, 1, lambda: False, "test")
    assert asked == [True]
    for (_, ours), (_, theirs) in zip(found.blocks(), plain.blocks(), strict=True):
        np.testing.assert_allclose(ours["nll"], theirs["nll"], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(ours["entropy"], theirs["entropy"], rtol=2e-3, atol=2e-3)
        assert (ours["rank"] == theirs["rank"]).mean() > 0.999


def test_the_compiled_loop_takes_blocks_of_all_sizes() -> None:
    torch.manual_seed(0)
    for size in (37, 5, 64):
        logits, targets = 5 * torch.randn(size, 61), torch.randint(0, 61, (size,))
        for ours, theirs in zip(compiled_measures()(logits, targets), measures(logits, targets), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


def test_a_model_that_cannot_be_compiled_runs_as_it_is(store, sharp, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "COMPILED_TOKENS", 0)

    class Broken(Ensemble):
        def signal(self, batch, precision):
            raise RuntimeError("no code for this")

    def load(compiled: bool) -> Ensemble:
        return Broken(list(sharp.models)) if compiled else sharp

    found = Scores(tmp_path / "scores", {"tokens": "these"}, source(store), load, "fp32")
    found.create()
    found.open()
    assert found.build(CPU, 0, 1, lambda: False, "test")
    assert "scoring cannot be compiled, and is slower: RuntimeError" in capsys.readouterr().err
