"""Objectives of a user's own: cross-entropy learns what next_token does; others say what is wrong."""

import os
import socket
from pathlib import Path

import pytest
import torch
from fixtures.one_step import one_step
from torch import multiprocessing
from torch.nn import functional as F

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.run_folder import RunFolder
from tutelage.corpus.batches import BatchSource
from tutelage.models.logits import Budget
from tutelage.training import custom
from tutelage.training.job import Job
from tutelage.training.loop import train
from tutelage.training.objectives import Learner, count, effective_weights, scales_for, used_positions
from tutelage.training.parallel import Group, process_group
from tutelage.training.plan import Plan

MODULE = """
import torch
from torch.nn import functional as F

def cross_entropy(logits, targets):
    assert logits.dtype == torch.float32
    return F.cross_entropy(logits, targets, reduction="none")

def focal(logits, targets, gamma, floor=0.0):
    log_p = -F.cross_entropy(logits, targets, reduction="none")
    return -((1 - log_p.exp()) ** gamma) * log_p + floor

def mean(logits, targets):
    return F.cross_entropy(logits, targets)
"""
CPU = Group(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("path")
    (folder / "my_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))


def objectives(**terms: object) -> recipe.Objectives:
    return recipe.Objectives.model_validate({name.replace("__", ":"): term for name, term in terms.items()})


def source_of(store, kind: str = "chunks") -> BatchSource:
    return BatchSource(store, recipe.Rows(kind=kind, length=16, buckets=(8,)), 11, seed=0)


def gradient_of(
    learner: Learner, batch, what: recipe.Objectives, rows: int = 99
) -> tuple[float, torch.Tensor, torch.Tensor]:
    learner.zero_grad()
    scales, total, sums = scales_for(what, count(batch)), 0.0, 0.0
    for micro in batch.split(rows):
        loss, parts = learner(micro, scales, None, used_positions(micro, distills=False))
        loss.backward()
        total, sums = total + float(loss.detach()), sums + parts
    return total, torch.cat([p.grad.flatten() for p in learner.parameters()]), sums


@pytest.mark.parametrize("kind", ["chunks", "examples"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_cross_entropy_of_ones_own_is_next_token(store, make_model, monkeypatch, kind: str, architecture: str) -> None:
    monkeypatch.setattr(custom, "LOSS", Budget({"cpu": 37 * 4 * 60}, {"cpu": 1}))
    batch, learner = source_of(store, kind).batch(0), Learner(make_model(architecture, 1))
    loss, expected, sums = gradient_of(learner, batch, objectives(next_token=0.7))
    found = gradient_of(learner, batch, objectives(my_losses__cross_entropy=0.7))
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert (found[1] - expected).norm() < 1e-5 * expected.norm()
    assert float(found[2][3]) == pytest.approx(float(sums[0]), rel=1e-6)


def test_a_function_beside_others_with_settings_equals_plain_autograd(store, make_model) -> None:
    batch, learner = source_of(store, "examples").batch(1), Learner(make_model("llama", 1))
    what = objectives(next_token=0.5, my_losses__focal={"weight": 0.3, "gamma": 2.0})
    loss, found, _ = gradient_of(learner, batch, what)
    learner.zero_grad()
    logits, targets = learner.model.logits(batch.tokens_BT, batch.lengths_B).flatten(0, 1), batch.targets_BT.flatten()
    log_p = F.log_softmax(logits, -1)[targets >= 0].gather(1, targets[targets >= 0, None])
    expected = (-0.5 * log_p - 0.3 * (1 - log_p.exp()) ** 2 * log_p).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    plain = torch.cat([p.grad.flatten() for p in learner.parameters()])
    assert (found - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize("rows", [5, 1])
def test_cutting_a_batch_changes_nothing(store, make_model, rows: int) -> None:
    batch, learner = source_of(store, "examples").batch(0), Learner(make_model("llama", 1))
    what = objectives(my_losses__focal={"gamma": 1.5})
    whole, cut = gradient_of(learner, batch, what), gradient_of(learner, batch, what, rows)
    assert cut[0] == pytest.approx(whole[0], rel=1e-6)
    assert (cut[1] - whole[1]).norm() < 1e-5 * whole[1].norm()


def job(store, stages: tuple[recipe.Stage, ...], steps: int = 1, micro: int | None = 2) -> Job:
    model = recipe.Model(preset="llama-1m", steps=steps, stages=stages,
                         optim=recipe.Optim(batch_rows=11, micro_batch_rows=micro, clip=None))  # fmt: skip
    ends = (steps // 2, steps) if len(stages) > 1 else (steps,)
    source = source_of(store)
    return Job("x", model, 0, source, source, 1.0, Plan(steps, ends, frozenset({steps})), frozenset(), lambda _: None,
               "fp32")  # fmt: skip


def step(store, make_model, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    what = job(store, (recipe.Stage(objectives=objectives(my_losses__focal={"gamma": 2, "weight": 0.5})),))
    learner = Learner(make_model("llama", 1))
    _, sums = one_step(what, learner, group, what.source.batch(3))
    return torch.cat([p.grad.flatten() for p in learner.parameters()]), sums


def worker(rank: int, port: int, path: Path, store, make_model) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    with process_group() as group:
        found = step(store, make_model, group)
        if group.is_main:
            torch.save(found, path)
    os._exit(0)


def test_two_processes_give_the_gradient_of_one(store, make_model, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    arguments = (port, tmp_path / "found", store, make_model)
    processes = [fork.Process(target=worker, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    together, sums = torch.load(tmp_path / "found", weights_only=True)
    alone, expected = step(store, make_model, CPU)
    assert (together - alone).norm() < 1e-5 * alone.norm()
    assert torch.allclose(sums, expected, rtol=1e-5)


def test_metrics_name_it_in_the_stages_that_have_it(store, make_model, tmp_path: Path) -> None:
    stages = (recipe.Stage(span=2, objectives=objectives(my_losses__cross_entropy=1)), recipe.Stage())
    train(job(store, stages, steps=4), Learner(make_model("llama", 1)), RunFolder(tmp_path), CPU)
    lines = [line for line in RunFolder(tmp_path).lines() if "loss" in line]
    for line in lines[:2]:
        assert line["objectives"]["my_losses:cross_entropy"] == pytest.approx(line["loss"], rel=1e-6)
    assert [line["objectives"] for line in lines[2:]] == [{}, {}]
    assert effective_weights(stages[0].objectives, 16) == "my_losses:cross_entropy 1 per token"


def test_recipes_keep_it() -> None:
    what = objectives(next_token=1, my_losses__focal={"gamma": 2, "weight": 0.5})
    assert recipe.Objectives.model_validate(what.model_dump(mode="json")) == what
    assert objectives(next_token=1).model_dump(mode="json", exclude_none=True) == {"next_token": {"weight": 1.0}}
    assert list(what.named()) == ["next_token", "my_losses:focal"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"no_such_package__focal": 1}, "cannot be imported .*PYTHONPATH"),
        ({"my_losses__focl": {"gamma": 2}}, "'my_losses' has no function 'focl'; did you mean 'focal'"),
        ({"my_losses__focal": 1}, "missing a required argument: 'gamma'"),
        ({"my_losses__focal": {"gama": 2}}, "did you mean 'gamma'"),
        ({"my_losses__focal": {"gamma": 2, "weight": 0}}, "greater than 0"),
        ({"my_losses__": 1}, "write package.module:function"),
        ({"next_tokn": 1}, "next_tokn"),
    ],
)
def test_what_is_wrong_is_told_when_the_recipe_is_read(terms: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objectives(**terms)


def test_a_mean_is_refused(store, make_model) -> None:
    with pytest.raises(UserError, match=r"objectives.my_losses:mean must return the loss of each position"):
        gradient_of(Learner(make_model("llama", 1)), source_of(store).batch(0), objectives(my_losses__mean=1))
