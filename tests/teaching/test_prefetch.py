"""Teachers that read ahead say what they would have said step by step."""

import gc
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch

from tutelage import recipe
from tutelage.base.run_folder import RunFolder
from tutelage.corpus.batches import BatchSource, Masking
from tutelage.teaching import prefetch
from tutelage.teaching.prefetch import PrefetchingTeachers, prefetching
from tutelage.teaching.teachers import Ensemble
from tutelage.training import loop
from tutelage.training.objectives import Learner
from tutelage.training.parallel import Group
from tutelage.training.plan import Plan

CPU = torch.device("cpu")
ROWS, LENGTH = 6, 16
MASKING = Masking(rate=0.3, mask_id=3, vocab_size=60, special_ids=(0, 1, 2, 3, 4, 5), seed=9)


@pytest.fixture
def four_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of four steps in a process that has all rows."""
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cpu", 4 * ROWS * LENGTH + LENGTH)


def source_of(store, masked: bool = False, chunking: str = "fixed") -> BatchSource:
    rows = recipe.Rows(length=LENGTH, chunking=chunking)
    return BatchSource(store, rows, ROWS, seed=0, masking=MASKING if masked else None)


def ensemble(make_model, masked: bool = False, combine: str = "mean_logits") -> Ensemble:
    shapes = ("modernbert", "modernbert") if masked else ("llama", "gpt2")
    return Ensemble([make_model(shapes[0], 1), make_model(shapes[1], 2, width=48)], [1.0, 2.0], combine)


def cut(rank: int, size: int, rows: int, batch):
    return Group(rank, size, CPU).micro_batches(batch, rows)


def forwards(teachers: Ensemble) -> list[int]:
    """Note how many rows each forward pass of the first teacher reads."""
    seen: list[int] = []
    teachers.models[0].hf.register_forward_pre_hook(
        lambda _, __, named: seen.append(len(named["input_ids"])), with_kwargs=True
    )
    return seen


@pytest.mark.usefixtures("four_steps")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("masked", "combine", "chunking"), [
    (False, "mean_logits", "epoch_offset"), (False, "mean_probabilities", "fixed"), (True, "mean_logits", "fixed"),
])  # fmt: skip
@pytest.mark.parametrize(
    ("rank", "size", "micro_rows", "per_group"),
    [(0, 1, 6, 4), (0, 1, 4, 4), (1, 2, 2, 8), (3, 4, 1, 12)],  # the last one has fewer rows, and a row without loss
)
def test_signals_are_those_of_every_step_by_itself(
    store, make_model, masked, combine, chunking, precision, rank, size, micro_rows, per_group
) -> None:
    source, micros = source_of(store, masked, chunking), partial(cut, rank, size, micro_rows)
    plain, teachers = ensemble(make_model, masked, combine), ensemble(make_model, masked, combine)
    teacher_source, seen = prefetching(teachers, source, 0, micros), forwards(teachers)
    steps = 2 * per_group + 3  # past the end of an epoch too: it has 20 steps
    for step in range(steps):
        for micro in micros(source.batch(step)):
            found, expected = teacher_source.signal(micro, precision), plain.signal(micro, precision)
            assert [h.shape for h in found.hidden] == [h.shape for h in expected.hidden]
            close = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0, "atol": 0.05}
            torch.testing.assert_close(found.log_probs(2.0), expected.log_probs(2.0), **close)
    rows = sum(len(micro.rows_B) for micro in micros(source.batch(0))) * per_group
    assert seen == [rows] * 3, "three groups, all of one shape"


@pytest.mark.usefixtures("four_steps")
def test_going_on_inside_a_group_repeats_every_bit(store, make_model) -> None:
    source, micros = source_of(store), partial(cut, 0, 1, 4)
    whole, resumed = (prefetching(ensemble(make_model), source, step, micros) for step in (0, 6))
    for step in range(9):
        for micro in micros(source.batch(step)):
            said = whole.signal(micro, "bf16")
            if step >= 6:
                assert all(map(torch.equal, resumed.signal(micro, "bf16").hidden, said.hidden))


@pytest.mark.usefixtures("four_steps")
def test_rows_of_another_step_are_refused(store, make_model) -> None:
    source, micros = source_of(store), partial(cut, 0, 1, ROWS)
    with pytest.raises(ValueError, match="not among those of the steps that come next"):
        prefetching(ensemble(make_model), source, 0, micros).signal(micros(source.batch(9))[0], "fp32")


def test_who_does_not_read_ahead(store, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers, micros = ensemble(make_model), partial(cut, 0, 1, ROWS)
    assert prefetching(teachers, source_of(store), 0, micros) is teachers, "a CPU gains nothing"
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cpu", 2 * ROWS * LENGTH - 1)
    assert prefetching(teachers, source_of(store), 0, micros) is teachers, "two steps do not fit"
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cpu", 1 << 20)
    examples = BatchSource(store, recipe.Rows(kind="examples", length=LENGTH), ROWS, seed=0)
    assert prefetching(teachers, examples, 0, micros) is teachers, "batches differ in shape"
    assert isinstance(prefetching(teachers, source_of(store), 0, micros), PrefetchingTeachers)


# --- in a run


def run(store, make_model, folder: Path, steps: int = 22, sources: list | None = None, **settings) -> list[dict]:
    """Train with one teacher in the first stage and another one in the second, 13 steps each at most."""
    stages = [{"span": 13}, {}]
    distill = {"teachers": ["t"], "objectives": {"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2}}}
    usual = {"preset": "llama-1m", "steps": 22, "stages": [stage | distill for stage in stages]}
    usual |= {"optim": {"batch_rows": ROWS, "lr": 1e-2}}
    model = recipe.Model.model_validate(usual | settings)
    source = source_of(store)

    def teachers(index: int) -> Ensemble:
        gc.collect()
        if sources is not None:
            assert all(made() is None for made in sources), "the stage before holds on to its teachers"
        found = Ensemble([make_model(("gpt2", "llama")[index], 2 + index, width=48)])
        if sources is not None:
            sources.append(weakref.ref(found))
        return found

    plan = Plan(22, (13, 22), frozenset({7, 22}))
    job = loop.Job("x", model, 0, source, source, 1.0, plan, frozenset(), teachers, "fp32")
    folder.mkdir(exist_ok=True)
    loop.train(job, Learner(make_model("gpt2", 1, dropout=0.1)), RunFolder(folder), Group(0, 1, CPU))
    return RunFolder(folder).lines()


def test_training_is_the_same(store, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(store, make_model, tmp_path / "plain", optim={"batch_rows": ROWS, "lr": 1e-2, "micro_batch_rows": 4})
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cpu", 5 * ROWS * LENGTH)
    sources: list = []
    found = run(store, make_model, tmp_path / "ahead", sources=sources,
                optim={"batch_rows": ROWS, "lr": 1e-2, "micro_batch_rows": 4})  # fmt: skip
    assert len(sources) == 2
    for one, other in zip(found, plain, strict=True):
        one, other = one.get("val", one), other.get("val", other)
        assert one == pytest.approx(other, rel=1e-4)
        assert "perplexity" in one or one["kl"] > 0


def test_a_run_that_goes_on_inside_a_group_repeats_every_bit(
    store, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prefetch.PREFETCH_TOKENS, "cpu", 5 * ROWS * LENGTH)
    expected = run(store, make_model, tmp_path / "whole")
    original = BatchSource.batch

    def dying(self, step):
        if self.batch_rows == ROWS and step == 9:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(BatchSource, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        run(store, make_model, tmp_path / "broken")
    monkeypatch.setattr(BatchSource, "batch", original)
    assert run(store, make_model, tmp_path / "broken") == expected
