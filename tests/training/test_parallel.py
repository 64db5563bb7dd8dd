"""Two processes with gloo against one: the same gradient."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from fixtures.one_step import one_step

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.teaching.teachers import Ensemble
from tutelage.training.job import Job
from tutelage.training.objectives import Learner
from tutelage.training.parallel import Group, process_group
from tutelage.training.plan import Plan


def gradient(
    store, make_model, kind: str, reduction: str, micro: int, rows: int, group: Group
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step's gradient and sums, as the loop computes them."""
    stage = recipe.Stage.model_validate(
        {"teachers": ["t"], "objectives": {"next_token": 0.5, "distill": {"weight": 0.5, "temperature": 2,
                                                                      "reduction": reduction}}})  # fmt: skip
    model = recipe.Model(preset="llama-1m", steps=1, stages=(stage,),
                         optim=recipe.Optim(batch_rows=11, micro_batch_rows=micro, clip=None))  # fmt: skip
    source = BatchSource(store, recipe.Rows(kind=kind, length=16, buckets=(8,)), 11, seed=0)
    job = Job("x", model, 0, source, source, 1.0, Plan(1, (1,), frozenset({1})), frozenset(),
              lambda i: Ensemble([make_model("gpt2", 2)]), "fp32")  # fmt: skip
    learner = Learner(make_model("llama", 1))
    _, sums = one_step(job, learner, group, source.batch(3).part(slice(0, rows)))
    return torch.cat([p.grad.flatten() for p in learner.parameters()]), sums[:2]


def worker(rank: int, port: int, path: Path, arguments: tuple) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    with process_group() as group:
        found = gradient(*arguments, group)
        if group.is_main:
            torch.save(found, path)
    os._exit(0)


def in_two_processes(path: Path, arguments: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """`gradient` by two processes with gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    group = [fork.Process(target=worker, args=(rank, port, path, arguments)) for rank in range(2)]
    for process in group:
        process.start()
    for process in group:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    together, sums = torch.load(path, weights_only=True)
    return together, sums


@pytest.mark.parametrize(
    ("kind", "reduction", "micro", "rows"),
    [
        ("chunks", "per_token", 11, 11),
        # Eleven rows leave the processes unequal numbers of rows and micro-batches.
        ("chunks", "per_row", 4, 11),
        ("examples", "per_token", 3, 11),
        # The last batch of a bucket may have a single row: the other process then adds exactly nothing.
        ("examples", "per_token", 3, 1),
    ],
)
def test_two_processes_give_the_gradient_of_one(
    store, make_model, tmp_path: Path, kind: str, reduction: str, micro: int, rows: int
) -> None:
    arguments = (store, make_model, kind, reduction)
    alone, sums = gradient(*arguments, 11, rows, Group(0, 1, torch.device("cpu")))
    together, same = in_two_processes(tmp_path / "found", (*arguments, micro, rows))
    assert (together - alone).norm() < 1e-5 * alone.norm()
    torch.testing.assert_close(same, sums, rtol=1e-6, atol=0)
