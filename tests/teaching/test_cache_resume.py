"""Killed anywhere while a cache is filled, ahead or in training, and restarted: the same bytes in the end."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers.models.gpt2.modeling_gpt2  # once here, rather than in every forked attempt
import transformers.models.llama.modeling_llama  # noqa: F401
import yaml

import tutelage.api.recipes  # noqa: F401 - likewise
from tutelage import api
from tutelage.base.checksums import digests
from tutelage.base.errors import Interrupted, UserError
from tutelage.base.files import locked
from tutelage.experiment.caches import cache_of, opened_at
from tutelage.experiment.setup import Experiment
from tutelage.recipe import Teacher
from tutelage.recipe.load import recipe_from_text
from tutelage.teaching.cache import TeacherCache
from tutelage.training.outcome import Finished
from tutelage.training.parallel import Group

CONTEXT = multiprocessing.get_context("fork")
RECIPE = """
name: kept
data: {corpus: starter, words: 12000, tokenizer: {vocab_size: 400}, rows: {length: 16}}
models:
  big: &small
    config: {model_type: gpt2, n_embd: 24, n_layer: 1, n_head: 2, n_positions: 32}  # dropout 0.1: randomness counts
    steps: 6
    evaluations: 1
    save_minutes: 0.000001
    optim: {batch_rows: 6, micro_batch_rows: 4, lr: 1.0e-2, warmup_steps: 3}
  other: {<<: *small, config: {model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 32}}
  student:
    <<: *small
    steps: 24
    evaluations: 3
    stages:
      - span: 50%
        teachers: [big@step-4, other]
        objectives: {next_token: 0.5, distill: {weight: 0.5, temperature: 2}}
        cache: {kind: hidden}
      - {objectives: {next_token: 1}}
"""

STUDENT = Teacher(model="student", seed=0)


def recipe(kind: str = "hidden", fill: str = "ahead", **changes: object) -> str:
    tree = yaml.safe_load(RECIPE)
    tree["models"]["student"]["stages"][0]["cache"] = {"kind": kind, "fill": fill}
    tree["models"]["student"] |= changes
    return yaml.safe_dump(tree)


def deadly(what: str, when: int) -> None:
    """Make the `when`-th call of an operation the last thing this process does."""
    calls = itertools.count(1)
    step, write = torch.optim.AdamW.step, os.pwrite

    def last_step(*args: object, **kwargs: object) -> object:
        result = step(*args, **kwargs)
        if next(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def last_write(file: int, data: memoryview, offset: int) -> int:
        if next(calls) == when:
            write(file, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data, offset)

    if what == "step":
        torch.optim.AdamW.step = last_step
    else:
        os.pwrite = last_write


def attempt(work: Callable[[], object], fault: tuple[str, int] | None) -> int | None:
    """Do something in a process of its own, which may die of a fault; return its exit code."""

    def child() -> None:
        torch.set_num_threads(1)
        if fault is not None:
            deadly(*fault)
        work()
        os._exit(0)

    process = CONTEXT.Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


def test_build_killed_ten_times_ends_with_the_same_bytes(bench, monkeypatch) -> None:
    monkeypatch.setattr("tutelage.teaching.cache.BUILD_TOKENS", {"cpu": 64})
    quiet = bench.built(bench.cache("sparse"))
    folder = bench.folder.with_name("disturbed")
    cache = TeacherCache(folder, {**quiet.key}, quiet.encoding, quiet.source, quiet._load, "fp32", seed=7)
    cache.create(range(1), 1e9)

    def build() -> None:
        cache.open()
        assert cache.build(range(1), 0, 1, lambda: False, "test")
        cache.close()

    draw = random.Random(1)
    for _ in range(10):
        assert attempt(build, ("write", draw.randrange(1, 24))) == -signal.SIGKILL
    assert attempt(build, None) == 0
    for name in ("signal.bin", "checksums.bin"):
        assert (cache.folder / name).read_bytes() == (quiet.folder / name).read_bytes()


def test_a_row_is_not_computed_twice(bench, monkeypatch) -> None:
    monkeypatch.setattr("tutelage.teaching.cache.BUILD_TOKENS", {"cpu": 64})
    source = bench.source()
    cache = bench.opened(bench.cache("sparse", source))
    count, seen = itertools.count(), []
    monkeypatch.setattr(cache.encoding.__class__, "encode", counting(cache.encoding.__class__.encode, seen))
    assert not cache.build(range(1), 0, 1, lambda: next(count) == 5, "test")
    assert sum(seen) == 5 * 64
    assert cache.build(range(1), 0, 1, lambda: False, "test")
    assert sum(seen) == source.tokens_per_epoch


def counting(encode: Callable, seen: list[int]) -> Callable:
    def counted(self, said, targets_N, uniforms_N):
        seen.append(len(targets_N))
        return encode(self, said, targets_N, uniforms_N)

    return counted


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and trained teachers."""
    runs = tmp_path_factory.mktemp("taught")

    def teachers() -> None:
        api.train(recipe_from_text(recipe()), runs=runs, model="big")
        api.train(recipe_from_text(recipe()), runs=runs, model="other")

    # The checkpoints a student names are kept only if the recipe has that student, which it has.
    assert attempt(teachers, None) == 0
    return runs


def fresh(taught: Path, tmp_path: Path, name: str) -> Path:
    runs = tmp_path / name
    (runs / "kept").mkdir(parents=True)
    for part in ("data", "big", "other"):
        (runs / "kept" / part).symlink_to(taught / "kept" / part)
    return runs


def outcome(runs: Path) -> dict[str, bytes]:
    kept = ("model.safetensors", "optimizer.safetensors", "metrics.jsonl", "signal.bin", "checksums.bin")
    places = [*(runs / "kept" / "student").rglob("*"), *(runs / "kept" / "caches").rglob("*")]
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(places) if path.name in kept}


@pytest.mark.parametrize(
    ("kind", "fill"),
    [
        ("hidden", "first_epoch"),
        ("sparse", "first_epoch"),
        pytest.param("hidden", "ahead", marks=pytest.mark.slow),
        pytest.param("top_k", "ahead", marks=pytest.mark.slow),
    ],
)
def test_student_killed_while_a_cache_is_filled_equals_undisturbed(taught, tmp_path, kind, fill) -> None:
    text = recipe(kind, fill)
    quiet, disturbed = fresh(taught, tmp_path, "quiet"), fresh(taught, tmp_path, "disturbed")
    assert attempt(lambda: api.train(recipe_from_text(text), runs=quiet), None) == 0
    draw = random.Random(2)
    faults = [("write", draw.randrange(1, 30)), ("write", draw.randrange(1, 30)), ("step", draw.randrange(1, 8))]
    for fault in faults:
        assert attempt(lambda: api.train(recipe_from_text(text), runs=disturbed), fault) == -signal.SIGKILL
    assert attempt(lambda: api.train(recipe_from_text(text), runs=disturbed), None) == 0
    expected, found = outcome(quiet), outcome(disturbed)
    assert len(expected) >= 6
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name


def experiment(runs: Path, text: str) -> Experiment:
    return Experiment(recipe_from_text(text), runs, Group(0, 1, torch.device("cpu")))


def student_cache(one: Experiment, seed: int = 0) -> TeacherCache:
    return cache_of(one, one.run(Teacher(model="student", seed=seed)), 0)


def losses(runs: Path) -> list[float]:
    lines = (runs / "kept/student/seed-0/metrics.jsonl").read_text().splitlines()
    return [entry["loss"] if "loss" in entry else entry["val"]["loss"] for entry in map(json.loads, lines)]


def test_cached_student_learns_what_a_live_one_does_and_costs_less(taught, tmp_path) -> None:
    found, costs = {}, {}
    for kind in (None, "hidden", "sparse"):
        tree = yaml.safe_load(recipe(kind or "hidden", precision="fp32"))
        tree = json.loads(json.dumps(tree))  # aliases written out
        tree["models"]["student"] |= {"epochs": 3, "evaluations": 1}
        del tree["models"]["student"]["steps"]
        stage = tree["models"]["student"]["stages"][0] | {"cache": kind}
        del stage["span"]
        tree["models"]["student"]["stages"] = [stage]
        tree["models"]["student"]["optim"]["batch_rows"] = 128
        del tree["models"]["student"]["optim"]["micro_batch_rows"]
        # Not so fast that rounding grows from step to step: the cache rounds hidden states to float16.
        tree["models"]["student"]["optim"]["lr"] = 1e-3
        runs = fresh(taught, tmp_path, str(kind))
        api.train(recipe_from_text(yaml.safe_dump(tree)), runs=runs)
        found[kind] = losses(runs)
        done = json.loads((runs / "kept/student/seed-0/finished.json").read_text())
        costs[kind] = done["teacher_flops"]
    assert found["hidden"] == pytest.approx(found[None], rel=1e-4)
    assert found["hidden"] != found[None]  # float16: another path was gone
    assert found["sparse"][-1] == pytest.approx(found[None][-1], rel=0.02)
    assert costs["sparse"] == pytest.approx(costs[None] / 3, rel=0.02)  # one pass of three
    assert costs["sparse"] < costs["hidden"] < costs[None]


def test_seeds_and_students_share_one_cache_and_changed_teachers_do_not(taught, tmp_path) -> None:
    runs = fresh(taught, tmp_path, "shared")
    text = recipe("sparse", seeds=2)
    api.train(recipe_from_text(text), runs=runs)
    one = experiment(runs, text)
    folder = student_cache(one).folder
    assert [path.name for path in (runs / "kept/caches").iterdir()] == [folder.name]
    assert student_cache(one, seed=1).folder == folder
    assert student_cache(experiment(runs, recipe("sparse", "first_epoch"))).folder == folder
    # The same settings, other weights: as if another version had trained them.
    teacher = runs / "kept/other/seed-0"
    weights, told = teacher / "hf/model.safetensors", teacher / "finished.json"
    before = {path: path.read_bytes() for path in (weights, told)}
    try:
        weights.write_bytes(before[weights][:-1] + bytes([before[weights][-1] ^ 1]))
        done = Finished.read(told)
        replace(done, files=(done.files or {}) | digests(teacher, "hf")).write(told)
        assert student_cache(experiment(runs, text)).folder != folder
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_edited_rows_are_refused(taught, tmp_path) -> None:
    runs = tmp_path / "edited"
    (runs / "kept").mkdir(parents=True)
    (runs / "kept/data").mkdir()
    for path in (taught / "kept/data").iterdir():
        if path.is_file():
            (runs / "kept/data" / path.name).write_bytes(path.read_bytes())
        else:
            (runs / "kept/data" / path.name).symlink_to(path)
    for part in ("big", "other"):
        (runs / "kept" / part).symlink_to(taught / "kept" / part)
    data = bytearray((runs / "kept/data/train.bin").read_bytes())
    data[100] ^= 1
    (runs / "kept/data/train.bin").write_bytes(data)
    with pytest.raises(UserError, match=r"train.bin is damaged"):
        student_cache(experiment(runs, recipe()))


def test_verbs_build_tell_and_verify(taught, tmp_path, capsys) -> None:
    runs = fresh(taught, tmp_path, "verbs")
    text = recipe("top_k", "first_epoch")
    (before,) = api.cache_info(recipe_from_text(text), runs=runs)
    assert "not built" in before.text
    api.cache_build(recipe_from_text(text), runs=runs)
    told = capsys.readouterr().err
    assert "biased" in told
    assert "missing mass" in told
    (info,) = api.cache_info(recipe_from_text(text), runs=runs)
    assert info.models == ("student",)
    assert "top_k, 260 bytes a token" in info.text
    assert "100.0 % filled" in info.text
    assert "missing mass" in info.text
    (report,) = api.cache_verify(recipe_from_text(text), runs=runs)
    assert report.damaged == ()
    path = info.folder / "signal.bin"
    data = bytearray(path.read_bytes())
    data[3 * 16 * 260] ^= 1
    path.write_bytes(data)
    (report,) = api.cache_verify(recipe_from_text(text), runs=runs)
    assert report.damaged == ((0, 3),)
    assert "row 3 of epoch 0" in str(report)
    api.cache_build(recipe_from_text(text), runs=runs)
    (report,) = api.cache_verify(recipe_from_text(text), runs=runs)
    assert report.damaged == ()
    others = api.cache_info(recipe_from_text(recipe("sparse")), runs=runs)
    assert [found.models for found in others] == [("student",), ()]
    with pytest.raises(UserError, match="no stage with a cache"):
        api.cache_build(recipe_from_text(RECIPE.replace("cache: {kind: hidden}", "")), runs=runs)


def test_stop_in_the_middle_of_a_build_is_answered_and_goes_on(taught, tmp_path, monkeypatch) -> None:
    runs = fresh(taught, tmp_path, "stopped")
    monkeypatch.setattr("tutelage.teaching.cache.BUILD_TOKENS", {"cpu": 256})
    asked = itertools.count(1)
    fill = TeacherCache._fill

    def stopping(self, *args):
        fill(self, *args)
        if next(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TeacherCache, "_fill", stopping)
    with pytest.raises(Interrupted):
        api.cache_build(recipe_from_text(recipe("sparse")), runs=runs)
    (info,) = api.cache_info(recipe_from_text(recipe("sparse")), runs=runs)
    assert "100.0 % filled" not in info.text
    api.cache_build(recipe_from_text(recipe("sparse")), runs=runs)
    (info,) = api.cache_info(recipe_from_text(recipe("sparse")), runs=runs)
    assert "100.0 % filled" in info.text


def test_show_tells_what_a_cache_will_be(taught, tmp_path) -> None:
    runs = fresh(taught, tmp_path, "shown")
    texts = {"kept": recipe("sparse"), "live": RECIPE.replace("cache: {kind: hidden}", "")}
    estimates = {
        key: next(e for e in api.show(recipe_from_text(text), runs=runs, probe=False) if e.name == "student")
        for key, text in texts.items()
    }
    shown, plain = estimates["kept"], estimates["live"]
    (text,) = shown.caches
    assert text.startswith("sparse, 132 bytes a token, ")
    one = experiment(runs, RECIPE)
    tokens = one.rows.training(one.recipe.models["student"]).with_batch_rows(6).tokens_per_epoch
    assert shown.disk - plain.disk == 132 * tokens
    assert plain.caches == ()


def test_a_cache_beyond_its_limit_is_refused_before_teachers_are_trained(tmp_path) -> None:
    text = recipe().replace("kind: hidden", "kind: hidden\n        limit_gib: 0.001")
    assert "limit_gib" in text
    with pytest.raises(UserError, match=r"limit is 1\.07MB: models\.student\.stages\.0: take `kind: sparse`"):
        api.train(recipe_from_text(text), runs=tmp_path)
    assert not (tmp_path / "kept/big").exists()


def test_how_a_cache_is_filled_does_not_change_what_is_learned(taught, tmp_path) -> None:
    runs = fresh(taught, tmp_path, "wish")
    specs = [experiment(runs, text).run(STUDENT).spec for text in (recipe("sparse"), recipe("sparse", "first_epoch"))]
    assert specs[0] == specs[1]
    assert specs[0]["model"]["stages"][0]["cache"] == {"kind": "sparse"}
    assert experiment(runs, recipe("hidden")).run(STUDENT).spec != specs[0]


def test_a_student_waits_while_another_process_fills_the_cache(taught, tmp_path) -> None:
    runs = fresh(taught, tmp_path, "waiting")
    one = experiment(runs, recipe("sparse"))
    folder = student_cache(one).folder
    holder = CONTEXT.Process(target=hold, args=(folder / "lock",))
    holder.start()
    while not (folder / "lock").is_file() or not (folder / "lock").read_text():
        time.sleep(0.01)
    with opened_at(one, one.run(STUDENT), 0) as cache:
        assert (folder / "released").is_file()
        assert cache.complete(range(1))
    holder.join(60)


def hold(path: Path) -> None:
    with locked(path, "a cache"):
        time.sleep(2)
        path.with_name("released").touch()
    os._exit(0)


@pytest.mark.parametrize(("fill", "sharding"), [("ahead", "none"), ("first_epoch", "none"), ("first_epoch", "fsdp")])
def test_two_ranks_fill_and_read_one_cache(taught, tmp_path, fill, sharding) -> None:
    text = recipe("hidden", fill, precision="fp32", sharding=sharding)
    text = text.replace(
        "n_positions: 32", "n_positions: 32\n      resid_pdrop: 0\n      embd_pdrop: 0\n      attn_pdrop: 0"
    )
    runs = {size: fresh(taught, tmp_path, f"ranks{size}") for size in (1, 2)}
    tree = yaml.safe_load(text)
    for name in ("big", "other"):
        tree["models"][name] = yaml.safe_load(RECIPE)["models"][name]
    tree["models"]["student"]["optim"] = {"batch_rows": 7, "lr": 1.0e-2}
    text = json.dumps(tree)
    for size, folder in runs.items():
        together(text, folder, size)
    assert losses(runs[1]) == pytest.approx(losses(runs[2]), rel=5e-5)
    one, two = ((api.cache_info(recipe_from_text(text), runs=runs[size]))[0] for size in (1, 2))
    assert one.folder.name == two.folder.name
    share = "100.0 % filled" if fill == "ahead" else "% filled"
    assert share in one.text
    assert share in two.text
    assert api.cache_verify(recipe_from_text(text), runs=runs[2])[0].damaged == ()


def test_ranks_agree_on_what_is_left_to_do(taught, tmp_path) -> None:
    """One row is missing, which one process makes before the other has looked."""
    runs, text = fresh(taught, tmp_path, "agree"), recipe("sparse", precision="fp32")
    api.cache_build(recipe_from_text(text), runs=runs)
    (info,) = api.cache_info(recipe_from_text(text), runs=runs)
    with (info.folder / "checksums.bin").open("r+b") as file:
        file.write(bytes(4))
    together(text, runs, 2)
    assert api.cache_verify(recipe_from_text(text), runs=runs)[0].damaged == ()
    assert "100.0 % filled" in api.cache_info(recipe_from_text(text), runs=runs)[0].text


def together(text: str, runs: Path, size: int) -> None:
    """Train in a group of processes, as `torchrun` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [CONTEXT.Process(target=rank_of, args=(text, runs, rank, size, port)) for rank in range(size)]
    for process in group:
        process.start()
    for process in group:
        process.join(120)
        assert process.exitcode == 0


def rank_of(text: str, runs: Path, rank: int, size: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    torch.set_num_threads(1)
    api.train(recipe_from_text(text), runs=runs)
    os._exit(0)
