"""What a cache gives back is what the teachers said, and nothing else is ever given back for it."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.base.errors import UserError
from tutelage.teaching.cache import TeacherCache
from tutelage.teaching.cache_error import error_of
from tutelage.teaching.signal import DenseSignal, SparseSignal

KINDS = ["hidden", "sparse", "top_k"]


def real(batch) -> Tensor:
    return batch.real_BT.flatten().nonzero().squeeze(1)


def same(a, b, index: Tensor) -> bool:
    a, b = a.at(index), b.at(index)
    if isinstance(a, DenseSignal):
        return all(torch.equal(x, y) for x, y in zip(a.hidden, b.hidden, strict=True))
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("ids_NK", "shares_NK", "gold_N"))


@pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities"])
def test_hidden_states_in_bf16_are_those_of_live_teaching_bit_for_bit(bench, combine) -> None:
    source = bench.source()
    cache = bench.opened(bench.cache("hidden", source, "bf16", combine))
    live = bench.teachers(combine)
    for step in range(3):
        batch = source.batch(step)
        for _ in range(2):  # when it is filled, and when it is read
            kept, said = cache.signal(batch, "bf16"), live.signal(batch, "bf16").at(slice(None))
            assert [h.dtype for h in kept.hidden] == [torch.bfloat16] * len(said.hidden)
            assert all(torch.equal(a, b) for a, b in zip(kept.hidden, said.hidden, strict=True))
            assert torch.equal(kept.logits(2.0), said.logits(2.0))


@pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities"])
def test_hidden_states_in_float16_are_close_to_live_teaching(bench, combine) -> None:
    source = bench.source()
    cache = bench.built(bench.cache("hidden", source, "fp32", combine))
    live, batch = bench.teachers(combine), source.batch(0)
    log_q, log_kept = (
        teacher_source.signal(batch, "fp32").at(slice(None)).log_probs() for teacher_source in (live, cache)
    )
    kl = (log_q.double().exp() * (log_q.double() - log_kept.double())).sum(-1)
    assert log_q.exp().max() > 0.5  # sharp distributions, not noise
    assert kl.mean() < 1e-5
    assert error_of(cache, range(1))["kl"] < 1e-5


def test_hidden_states_beyond_float16_are_refused_with_a_remedy(bench) -> None:
    cache = bench.cache("hidden")
    live = bench.teachers()
    with torch.no_grad():
        live.models[0].hf.model.norm.weight.mul_(1e6)
    cache._load = lambda: live
    bench.opened(cache)
    with pytest.raises(UserError, match="precision: bf16"):
        cache.signal(bench.source().batch(0), "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sparse_signal_has_the_measures_of_the_whole_distribution(bench, precision) -> None:
    source = bench.source()
    cache = bench.built(bench.cache("sparse", source, precision, T=2.0))
    batch = source.batch(0)
    kept = cache.signal(batch, precision)
    log_q = bench.teachers().signal(batch, precision).at(slice(None)).log_probs(2.0)
    targets = batch.targets_BT.flatten()
    gold = torch.where(targets < 0, 0, log_q.gather(1, targets.clamp_min(0)[:, None]).squeeze(1))
    close = 1e-3 if precision == "fp32" else 0.05  # other batches, other rounding
    torch.testing.assert_close(kept.gold_N, gold, rtol=close, atol=close)
    torch.testing.assert_close(kept.entropy_N, -(log_q.exp() * log_q).sum(-1), rtol=close, atol=close)
    assert kept.temperature == 2.0
    assert torch.equal(kept.shares_NK, torch.full_like(kept.shares_NK, 1 / 8))
    assert kept.ids_NK.dtype == torch.int64


def test_every_epoch_reads_its_set_and_all_sets_are_unbiased(bench) -> None:
    source = bench.source()
    cache = bench.built(bench.cache("sparse", source, draws=4, sets=3))
    batch = source.batch(0)
    by_epoch = [
        cache.signal(replace(batch, epochs_B=torch.full_like(batch.epochs_B, e)), "fp32").ids_NK for e in range(6)
    ]
    for epoch in range(3):
        assert torch.equal(by_epoch[epoch], by_epoch[epoch + 3])
        assert not torch.equal(by_epoch[epoch], by_epoch[(epoch + 1) % 3])
    facts = error_of(cache, range(1))
    assert facts["bias"] < 1.5 * facts["bias_by_chance"]
    assert facts["noise_all_sets"] < 0.7 * facts["noise"]
    assert facts["noise"] < 0.5  # that of four independent draws


def test_top_k_keeps_the_most_likely_and_its_measured_bias_tells(bench) -> None:
    source = bench.source()
    cache = bench.built(bench.cache("top_k", source, k=4))
    batch = source.batch(0)
    kept, q = cache.signal(batch, "fp32"), bench.teachers().signal(batch, "fp32").at(slice(None)).log_probs().exp()
    top = q.topk(4, -1)
    assert torch.equal(kept.ids_NK, top.indices)
    torch.testing.assert_close(kept.shares_NK, top.values / top.values.sum(-1, keepdim=True), rtol=2e-3, atol=1e-5)
    facts = error_of(cache, range(1))
    assert 0 < facts["missing_mass"] < 1
    assert facts["bias"] > 2 * facts["bias_by_chance"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_examples_are_kept_without_their_padding(bench, kind) -> None:
    source = bench.source("examples")
    filled = bench.opened(bench.cache(kind, source))
    first = [filled.signal(source.batch(step), "fp32") for step in range(6)]
    assert filled.store.size(1) == source.tokens_per_epoch * filled.store.bytes_per_token
    assert (filled.store._data).stat().st_size == filled.store.size(1)
    widths = set()
    for step in range(6):
        batch = source.batch(step)
        widths.add(batch.tokens_BT.shape[1])
        assert len(first[step].at(slice(None)).hidden[0] if kind == "hidden" else first[step].ids_NK) == (
            batch.tokens_BT.numel()
        )
        assert same(filled.signal(batch, "fp32"), first[step], real(batch))
    assert widths == {8, 16}
    bench.built(filled)
    assert filled.complete(range(1))


@pytest.mark.parametrize(("chunking", "masked"), [("epoch_offset", False), ("random", False), ("fixed", True)])
def test_rows_that_change_with_the_epoch_have_a_slot_for_each(bench, read_epochs, chunking, masked) -> None:
    source = bench.source(chunking=chunking, masked=masked, rows=25)
    steps = int(source.steps_per_epoch * 2)
    epochs = read_epochs(source, 0, steps)
    assert epochs == range(2)
    cache = bench.built(bench.cache("hidden" if not masked else "top_k", source, masked=masked), epochs)
    assert cache.store.slots == 2 * source.rows.count
    live = cache._load()
    loads = len(bench.loads)
    for step in (0, steps - 2):
        batch = source.batch(step)
        kept, said = cache.signal(batch, "fp32"), live.signal(batch, "fp32")
        if masked:
            assert torch.equal(kept.ids_NK[:, 0], said.at(slice(None)).logits().argmax(-1))
        else:
            assert (kept.logits() - said.at(slice(None)).logits()).abs().max() < 0.05
    assert len(bench.loads) == loads  # nothing was missing


def test_room_grows_with_the_epochs_and_keeps_what_is_there(bench) -> None:
    source = bench.source(chunking="epoch_offset")
    cache = bench.built(bench.cache("sparse", source), range(2))
    cache.close()
    longer = bench.opened(bench.cache("sparse", source), range(3))
    assert longer.complete(range(2))
    assert not longer.complete(range(3))


def test_teachers_are_loaded_for_what_is_missing_only(bench) -> None:
    source = bench.source()
    cache = bench.built(bench.cache("sparse", source))
    cache.close()
    assert bench.loads == [1]
    again = bench.opened(bench.cache("sparse", source))
    for step in range(10):
        again.signal(source.batch(step), "fp32")
    assert bench.loads == [1]


def test_filling_while_training_gives_what_is_read_later(bench) -> None:
    """Also where a micro-batch is half filled, as after an interruption: its filled rows are read, not made again."""
    source = bench.source(rows=6)
    cache = bench.opened(bench.cache("hidden", source, "bf16"))
    half = cache.signal(source.batch(0).part(slice(0, 3)), "bf16")
    whole = cache.signal(source.batch(0), "bf16")
    assert torch.equal(whole.hidden[0][: 3 * 16], half.hidden[0])
    cache.close()
    again = bench.opened(bench.cache("hidden", source, "bf16"))
    assert torch.equal(again.signal(source.batch(0), "bf16").hidden[0], whole.hidden[0])


def test_a_stand_in_without_loss_writes_nothing(bench) -> None:
    source = bench.source()
    cache = bench.opened(bench.cache("sparse", source))
    signal = cache.signal(replace(source.batch(0).part(slice(0, 1)), silent=True), "fp32")
    assert isinstance(signal, SparseSignal)
    assert not cache.store.filled.any()
    assert bench.loads == []


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["signal.bin", "checksums.bin"])
def test_damage_is_told_once_and_mended(bench, capsys, kind, file) -> None:
    source = bench.source()
    cache = bench.built(bench.cache(kind, source))
    before = {step: cache.signal(source.batch(step), "fp32") for step in range(3)}
    cache.close()
    intact = (cache.folder / "signal.bin").read_bytes()
    rows = source.batch(1).rows_B.tolist()[:2]
    for row in rows:
        flip(cache.folder / file, row * (16 * cache.store.bytes_per_token if file == "signal.bin" else 4))
    capsys.readouterr()
    damaged = bench.opened(bench.cache(kind, source))
    assert sorted(damaged.damaged(lambda: False)) == sorted((0, row) for row in rows)
    for step in range(3):
        found = damaged.signal(source.batch(step), "fp32")
        if kind == "hidden":
            torch.testing.assert_close(found.hidden[0], before[step].hidden[0], rtol=1e-3, atol=1e-5)
        else:
            assert same(found, before[step], slice(None))
    told = capsys.readouterr().err.replace("\n", " ")
    assert told.count("checksum") == 1
    assert damaged.damaged(lambda: False) == []
    damaged.close()
    if kind != "hidden":
        assert (cache.folder / "signal.bin").read_bytes() == intact


def test_build_can_mend_what_it_finds(bench) -> None:
    source = bench.source()
    cache = bench.built(bench.cache("sparse", source))
    cache.close()
    intact = (cache.folder / "signal.bin").read_bytes()
    flip(cache.folder / "signal.bin", 100)
    again = bench.opened(bench.cache("sparse", source))
    assert again.build(range(1), 0, 1, lambda: False, "test", check=True)
    assert (cache.folder / "signal.bin").read_bytes() == intact


@pytest.mark.parametrize("change", [{"teachers": 2}, {"T": 2.0}, {"draws": 9}, {"sets": 2}, {"precision": "bf16"}])
def test_another_content_is_another_folder(bench, change) -> None:
    one = bench.built(bench.cache("sparse"))
    other = bench.cache("sparse", **change)
    assert other.folder != one.folder
    bench.opened(other)
    assert not other.store.filled.any()


def test_weights_of_teachers_are_no_part_of_hidden_states(bench) -> None:
    one, other = bench.cache("hidden"), bench.cache("hidden")
    other.encoding = replace(other.encoding, weights=(0.9, 0.1))
    assert one.encoding.key == other.encoding.key
    assert bench.cache("sparse").encoding.key != replace(bench.encoding("sparse"), mixture={}).key


def test_a_folder_of_another_content_is_refused_with_the_difference(bench) -> None:
    cache = bench.built(bench.cache("sparse"))
    cache.close()
    path = cache.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["key"]["tokens"] = "those"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"tokens: 'those' there, 'these' now"):
        bench.opened(bench.cache("sparse"))


@pytest.mark.parametrize(("file", "size"), [("signal.bin", 1000), ("checksums.bin", 10), ("signal.bin", None)])
def test_cut_or_missing_files_are_refused(bench, file, size) -> None:
    cache = bench.built(bench.cache("sparse"))
    cache.close()
    if size is None:
        (cache.folder / file).unlink()
    else:
        os.truncate(cache.folder / file, size)
    with pytest.raises(UserError, match=r"broken.*delete that folder"):
        bench.opened(bench.cache("sparse"))


def test_damaged_heads_are_refused(bench) -> None:
    cache = bench.built(bench.cache("hidden"))
    cache.close()
    flip(cache.folder / "heads.safetensors", -1)
    with pytest.raises(UserError, match=r"heads.safetensors"):
        bench.opened(bench.cache("hidden"))


def test_a_cache_beyond_its_limit_or_the_disk_is_refused_before_it_is_begun(bench, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"limit is 10kB.*cache\.limit_gib"):
        bench.opened(bench.cache("sparse"), limit=1e4)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"disk has 1kB.*free some space"):
        bench.opened(bench.cache("sparse"))
    assert not bench.cache("sparse").store._data.exists() or bench.cache("sparse").store._data.stat().st_size == 0


def test_full_disk_leaves_a_cache_that_goes_on(bench, monkeypatch) -> None:
    whole = bench.built(bench.cache("sparse"))
    whole.close()
    expected = (whole.folder / "signal.bin").read_bytes()
    bench.folder = bench.folder.with_name("full")
    cache = bench.opened(bench.cache("sparse"))
    written = os.pwrite
    calls = iter(range(100))

    def full(file, data, offset):
        if next(calls) == 9:
            raise OSError(28, "No space left on device")
        return written(file, data[: max(1, len(data) // 2)], offset)  # in pieces, as the system may

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(UserError, match=r"is full.*continue"):
        cache.build(range(1), 0, 1, lambda: False, "test")
    monkeypatch.setattr("os.pwrite", written)
    cache.close()
    again = bench.built(bench.cache("sparse"))
    assert (again.folder / "signal.bin").read_bytes() == expected


def share(cache: TeacherCache, rank: int) -> None:
    torch.set_num_threads(1)
    cache.open()
    done = cache.build(range(1), rank, 2, lambda: False, "test")
    cache.close()
    os._exit(0 if done else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_fill_their_shares_of_one_cache(bench, kind, monkeypatch) -> None:
    monkeypatch.setattr("tutelage.teaching.cache.BUILD_TOKENS", {"cpu": 64})
    alone = bench.built(bench.cache(kind))
    alone.close()
    expected = {name: (alone.folder / name).read_bytes() for name in ("signal.bin", "checksums.bin")}
    bench.folder = bench.folder.with_name("shared")
    cache = bench.cache(kind)
    cache.create(range(1), 1e9)
    cache.release()
    context = multiprocessing.get_context("fork")
    group = [context.Process(target=share, args=(cache, rank)) for rank in range(2)]
    for process in group:
        process.start()
    for process in group:
        process.join(60)
        assert process.exitcode == 0
    for name, data in expected.items():
        assert (cache.folder / name).read_bytes() == data


def test_large_vocabularies_need_wider_ids(bench) -> None:
    wide = replace(bench.encoding("sparse"), vocab_size=70_000)
    assert wide.fields[0].bytes == 4 * 8
    kept = [torch.from_numpy(np.array([[69_999, 3]], dtype="<u4").view("<i4"))] + [torch.zeros(1, 1)] * 2
    assert wide.decode(kept).ids_NK.tolist() == [[69_999, 3]]
    small = replace(bench.encoding("sparse"), vocab_size=65_536)
    kept[0] = torch.from_numpy(np.array([[65_535, 3]], dtype="<u2").view("<i2"))
    assert small.decode(kept).ids_NK.tolist() == [[65_535, 3]]


def test_bytes_a_token(bench) -> None:
    assert replace(bench.encoding("sparse"), draws=16, sets=1).fields
    assert sum(f.bytes for f in replace(bench.encoding("sparse"), draws=16, sets=1).fields) == 36
    assert sum(f.bytes for f in replace(bench.encoding("sparse"), draws=16, sets=4).fields) == 132
    assert sum(f.bytes for f in replace(bench.encoding("top_k"), k=64).fields) == 260
    assert sum(f.bytes for f in bench.encoding("hidden").fields) == 2 * (32 + 48)


def test_teachers_that_broke_are_not_kept(bench) -> None:
    cache = bench.opened(bench.cache("sparse"))
    live = bench.teachers()
    with torch.no_grad():
        live.models[0].weight_VD[3, 0] = torch.nan
    cache._load = lambda: live
    with pytest.raises(UserError, match="not finite"):
        cache.signal(bench.source().batch(0), "fp32")
    assert not cache.store.filled.any()
